//! ISTIO145.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::support::since;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService, full_host, host_matches};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;
use crate::model::traffic::Reporter;

crate::rule! {
    /// Retries multiply the load of a callee that is in trouble already.
    ///
    /// ## What it detects
    /// An edge on which the callee's proxies count more than one and a half times the requests that the callers' proxies
    /// count over the same time, and the VirtualService whose `retries` do it.
    /// ## Why it matters
    /// Each failing request arrives `attempts` + 1 times; where several hops retry, the factors multiply. What was slow
    /// becomes overloaded.
    /// ## Evidence
    /// Requests of both sides over the time that both logs cover; `attempts` and `retryOn` of the route.
    /// ## How to confirm
    /// `istio_requests_total` by `reporter`, or `envoy_cluster_upstream_rq_retry` of the callers.
    /// ## How to fix
    /// Retry at one hop alone, once, and only what never reached the application.
    /// ## False positives
    /// Callers without a proxy are counted by the callee alone; the rule compares only callers that were seen on both sides.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#HTTPRetry>
    RetriesAmplify {
        code: "ISTIO145", name: "retries-amplify", family: Mesh, severity: Warning,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// From this factor on it is no accident of two logs that do not begin together.
const FACTOR: f64 = 1.5;
/// Fewer requests than this prove nothing.
const ENOUGH: u64 = 50;

/// A route that multiplies requests.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    route: &'a Route,
    attempts: i64,
    caller: ObjectRef,
    service: ServiceName,
    /// Requests that callers sent, that arrived, that failed on arrival, and the seconds that both logs cover.
    sent: u64,
    arrived: u64,
    failed: u64,
    span: (i64, i64),
}

impl Check for RetriesAmplify {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        // Seconds of each side, by caller and callee: requests and failures.
        type Side = BTreeMap<i64, (u64, u64)>;
        let mut edges: BTreeMap<(ObjectRef, ServiceName), (Side, Side)> = BTreeMap::new();
        for edge in &snapshot.traffic {
            let Some(service) = edge.service.clone().filter(|s| snapshot.in_scope(&s.namespace)) else {
                continue;
            };
            let caller = match edge.reporter {
                Reporter::Source => Some(edge.workload.clone()),
                Reporter::Destination => edge.peer.clone(),
            };
            let Some(caller) = caller else { continue };
            let sides = edges.entry((caller, service)).or_default();
            let side = if edge.reporter == Reporter::Source { &mut sides.0 } else { &mut sides.1 };
            for (second, (requests, failures)) in &edge.seconds {
                let slot = side.entry(*second).or_default();
                slot.0 += requests;
                slot.1 += failures;
            }
        }
        let mut out = vec![];
        for ((caller, service), (source, destination)) in edges {
            let start = source.keys().next().max(destination.keys().next()).copied();
            let end = source.keys().next_back().min(destination.keys().next_back()).copied();
            let (Some(start), Some(end)) = (start, end) else { continue };
            if source.is_empty() || destination.is_empty() || end <= start {
                continue;
            }
            let sum = |side: &Side| {
                side.range(start..=end).fold((0, 0), |(a, f), (_, (all, failed))| (a + all, f + failed))
            };
            let ((sent, _), (arrived, failed)) = (sum(&source), sum(&destination));
            if sent < ENOUGH || (arrived as f64) < sent as f64 * FACTOR || failed == 0 {
                continue;
            }
            if let Some((virtual_service, route, attempts)) = retrying(snapshot, &service) {
                out.push(Fact {
                    virtual_service,
                    route,
                    attempts,
                    caller,
                    service,
                    sent,
                    arrived,
                    failed,
                    span: (start, end),
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.virtual_service.object;
        let subject = object.reference.field(format!("{}.retries", fact.route.path));
        let name = &fact.service.name;
        let factor = fact.arrived as f64 / fact.sent as f64;
        let on = fact
            .route
            .body
            .text("retries.retryOn")
            .unwrap_or("connect-failure,refused-stream,unavailable,cancelled");
        let at = from_unix(fact.span.0 as f64);
        let counts = format!(
            "{} requests sent, {} arrived, {} of them failed",
            text::number(fact.sent),
            text::number(fact.arrived),
            text::number(fact.failed)
        );
        Finding::new(Self::META, subject.clone(), &[name, &fact.caller.name])
            .title(format!("Retries of {} bring {name} {factor:.1} times the requests", object.reference))
            .message(format!(
                "{} sent {} requests to {name}{}, and {} arrived: {factor:.1} times as many. {} tries each failing one up to {} times more ({}), so {} arrivals of one request in the worst case, times those of every hop above that retries as well.",
                fact.caller,
                text::number(fact.sent),
                since(at),
                text::number(fact.arrived),
                subject,
                fact.attempts,
                text::plain(on, 80),
                fact.attempts + 1
            ))
            .mechanism("retry storm: retries amplify the load")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Possible)
            .service(Some(fact.service.clone()))
            .onset(at)
            .evidence(Evidence::object(&subject, format!("attempts {}, retryOn {}", fact.attempts, text::plain(on, 80))))
            .evidence(Evidence::new("AccessLog", format!("both sides of {} → {name}", fact.caller), counts))
            .effect(Effect::requests(&fact.service, &["slow", "UO", "URX"]))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "replace", "path": pointer(&format!("{}.retries", fact.route.path)), "value": {"attempts": 1, "retryOn": "connect-failure,refused-stream,reset-before-request"}}]),
                "Set retries to one attempt and to failures that never reached the application",
            ))
            .maybe_remedy(
                Remedy::patch(
                    object,
                    &json!([{"op": "replace", "path": pointer(&format!("{}.retries", fact.route.path)), "value": {"attempts": 0}}]),
                    "Set retries.attempts to 0 until the callee is well",
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            )
            .prevention(Prevention::alert(
                "Alert when a callee gets one and a half times what its callers send",
                format!(
                    "sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[5m])) / sum(rate(istio_requests_total{{reporter=\"source\",destination_service_name=\"{0}\"}}[5m])) > 1.5",
                    text::plain(name, 63)
                ),
            ))
    }
}

/// The route to a Service that retries most.
fn retrying<'a>(
    snapshot: &'a Snapshot,
    service: &ServiceName,
) -> Option<(&'a VirtualService, &'a Route, i64)> {
    let host = full_host(&service.name, &service.namespace);
    let routes =
        snapshot.istio.virtual_services.iter().flat_map(|vs| vs.routes.iter().map(move |route| (vs, route)));
    let leads = |(vs, route): &(&VirtualService, &Route)| {
        vs.covers(&host)
            || route
                .destinations
                .iter()
                .any(|d| host_matches(&full_host(&d.host, vs.object.namespace()), &host))
    };
    routes
        .filter(leads)
        .filter_map(|(vs, route)| Some((vs, route, route.body.int("retries.attempts").filter(|n| *n > 0)?)))
        .max_by_key(|(_, _, attempts)| *attempts)
}
