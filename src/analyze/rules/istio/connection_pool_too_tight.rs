//! ISTIO125.

use crate::model::json::{Value, json};

use super::egress;
use super::support::{parts, take_out_policy, traffic_policy};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, Part, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::full_host;
use crate::model::network::{ServiceName, ServicePort, TargetPort};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{ClusterName, Reporter};

crate::rule! {
    /// A DestinationRule or a Sidecar limits connections or requests below what the load needs.
    ///
    /// ## What it detects
    /// Requests that callers' proxies reject with `UO`, together with the `connectionPool` that counts for them, set against
    /// the requests that are under way at once: their rate times how long they take (Little's law). So too where the callee's
    /// own proxy rejects them: Istio sets the limits of the DestinationRule on both sides, and those of a Sidecar on the callee's.
    /// ## Why it matters
    /// The rejected requests are never sent, and the callee may be idle. The limits count for each proxy: on the callers' side
    /// for its own requests alone, on the callee's for those of all callers together.
    /// ## Evidence
    /// The flag `UO` in access logs or `upstream_rq_pending_overflow`; the limits; rate and latency.
    /// ## How to confirm
    /// `trafficPolicy.connectionPool` of the DestinationRule, `inboundConnectionPool` of the callee's Sidecar, and the requests
    /// in flight of each caller.
    /// ## How to fix
    /// Raise the limits to a multiple of the requests that are under way at once.
    /// ## False positives
    /// A limit that protects a callee which really cannot take more: then the callee needs capacity.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#ConnectionPoolSettings>
    ConnectionPoolTooTight {
        code: "ISTIO125", name: "connection-pool-too-tight", family: Mesh, severity: Error,
        needs: [Istio, Requests], aliases: [],
    }
}

/// Limits that reject requests, with Istio's names for them.
const LIMITS: &[&str] =
    &["tcp.maxConnections", "http.http1MaxPendingRequests", "http.http2MaxRequests", "http.maxRetries"];

/// A limit this many times the requests that are under way at once leaves room for bursts.
const ROOM: f64 = 4.0;
/// The least that is proposed.
const LEAST: f64 = 100.0;

/// Limits that requests ran into.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// Where `connectionPool` stands.
    path: String,
    pool: &'a Value,
    /// Limit, its value.
    limits: Vec<(&'static str, i64)>,
    group: Failures,
    service: ServiceName,
    /// Requests per second of the busiest proxy, and how long they take in seconds.
    load: Option<(f64, f64)>,
}

impl Fact<'_> {
    /// Requests that are under way at once in the busiest proxy.
    fn concurrency(&self) -> Option<f64> {
        self.load.map(|(rate, seconds)| rate * seconds)
    }

    /// Whether the callee has slowed down so much that limits with room for bursts were filled.
    fn ample(&self) -> bool {
        self.limits.iter().all(|(_, limit)| *limit as f64 >= LEAST)
    }
}

impl Check for ConnectionPoolTooTight {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for group in failures(snapshot, Way::Overflow) {
            let Some(service) = group.callee.service.clone() else { continue };
            let Some(part) = group.parts.first() else { continue };
            let found = match group.callee.reporter {
                Reporter::Source => outbound(snapshot, part, &service),
                Reporter::Destination => inbound(snapshot, part, &service),
            };
            let Some((object, path, pool)) = found else { continue };
            let limits: Vec<(&'static str, i64)> =
                LIMITS.iter().filter_map(|name| Some((*name, pool.int(name)?))).collect();
            if limits.is_empty() {
                continue;
            }
            out.push(Fact { object, path, pool, limits, load: load(snapshot, &service), group, service });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.object.reference.field(&fact.path);
        let name = &fact.service.name;
        let limits: Vec<String> = fact
            .limits
            .iter()
            .map(|(limit, value)| format!("{} {value}", limit.rsplit('.').next().unwrap_or(limit)))
            .collect();
        let limits = limits.join(", ");
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let arithmetic = match (fact.load, fact.concurrency()) {
            (Some((rate, seconds)), Some(at_once)) => format!(
                "The busiest caller's proxy sends {rate:.1} requests a second that take {} each, so {at_once:.1} are under way at once on average, and several times that in bursts.",
                text::milliseconds((seconds * 1000.0).round() as u64)
            ),
            _ => "Rate and latency of the callers were not seen.".to_owned(),
        };
        let ample = fact.ample();
        let verdict = if ample {
            format!(
                "The limits leave room for ordinary load: {name} answers too slowly, and requests pile up."
            )
        } else {
            "The limits are below what this load needs.".to_owned()
        };
        let inbound = fact.group.callee.reporter == Reporter::Destination;
        let who = if inbound { format!("The proxy of {name}") } else { "Callers' proxies".to_owned() };
        // What the callee's proxy turns away callers see as an answer or, without HTTP, as a connection that is cut.
        let flags: &[&str] = if inbound { &["UO", "5xx", "UF", "reset"] } else { &["UO"] };
        let severity = fact.group.severity().unwrap_or(Severity::Warning);
        Finding::new(Self::META, subject.clone(), &[name])
            .title(format!("{} limits calls to {name} to {limits}: {figures} overflow", fact.object.reference))
            .message(format!("{who} rejected {figures} to {name} because the connection pool was full ({limits} for each proxy). {arithmetic} {verdict}"))
            .mechanism("connection pool overflow: circuit breaker limits too tight")
            .severity(if ample { severity.min(Severity::Warning) } else { severity })
            .role(Role::Cause, if ample { Confidence::Configured } else { Confidence::Observed })
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, limits))
            .evidences(parts(&fact.group))
            .effect(Effect::requests(&fact.service, flags))
            .maybe_remedy(raise(fact))
            .maybe_remedy(take_out_policy(
                fact.object,
                &fact.path,
                "Remove connectionPool: Istio's own limits are far above any ordinary load",
            ))
            .prevention(Prevention::alert(
                "Alert when proxies reject requests",
                format!("sum(rate(istio_requests_total{{response_flags=~\".*UO.*\",destination_service_name=\"{}\"}}[2m])) > 0", text::plain(name, 63)),
            ))
    }
}

/// A `connectionPool` with the object that has it, and where.
type Pool<'a> = (&'a Object, String, &'a Value);

/// What counts for a caller's proxy.
fn outbound<'a>(snapshot: &'a Snapshot, part: &Part, service: &ServiceName) -> Option<Pool<'a>> {
    let host = full_host(&service.name, &service.namespace);
    let cluster = ClusterName::read(&part.cluster);
    let rules = snapshot.istio.destination_rules_for(&host, &part.workload.namespace);
    rules.into_iter().find_map(|rule| {
        let (path, pool) = traffic_policy(rule, &cluster, "connectionPool")?;
        Some((&*rule.object, path, pool))
    })
}

/// What counts for the callee's own proxy: its Sidecar, by port and then for all; else the DestinationRule, without its subsets
/// and, if it has a selector, not at all. See `buildInboundCluster` of istiod.
fn inbound<'a>(snapshot: &'a Snapshot, part: &Part, service: &ServiceName) -> Option<Pool<'a>> {
    let namespace = part.workload.namespace.as_str();
    let cluster = ClusterName::read(&part.cluster);
    let pod = snapshot.pods_of(&part.workload).next();
    if let Some(sidecar) = pod.and_then(|pod| egress::sidecar(snapshot, namespace, &pod.object.labels)) {
        let body = &sidecar.object.body;
        let listeners = body.list("spec.ingress").iter().enumerate();
        let own =
            listeners.filter(|(_, one)| cluster.port.is_some() && one.int("port.number") == cluster.port);
        let mut own = own.filter_map(|(at, one)| {
            Some((format!("spec.ingress[{at}].connectionPool"), one.child("connectionPool")?))
        });
        let all = || Some(("spec.inboundConnectionPool".to_owned(), body.at("spec.inboundConnectionPool")?));
        if let Some((path, pool)) = own.next().or_else(all) {
            return Some((&*sidecar.object, path, pool));
        }
    }
    let called = snapshot.service(service)?;
    let leads = |port: &&ServicePort| match pod {
        Some(pod) => called.pod_port(port, pod) == cluster.port,
        None => port.target == TargetPort::Number(cluster.port.unwrap_or_default()),
    };
    let port = called.ports.iter().find(leads).map(|port| port.number);
    let host = full_host(&service.name, &service.namespace);
    let rules = snapshot.istio.destination_rules_for(&host, namespace);
    let mut rules = rules.into_iter().filter(|rule| rule.object.body.at("spec.workloadSelector").is_none());
    let rule = rules.next()?;
    let (path, pool) = rule.policy(port, "connectionPool")?;
    Some((&*rule.object, path, pool))
}

/// Rate and latency of the busiest proxy, from the requests of callers that were not rejected.
fn load(snapshot: &Snapshot, service: &ServiceName) -> Option<(f64, f64)> {
    snapshot
        .traffic_to(service, Reporter::Source)
        .filter_map(|edge| {
            let (first, last) = (edge.seconds.keys().next()?, edge.seconds.keys().next_back()?);
            let pods =
                edge.outcomes.iter().flat_map(|o| &o.pods).collect::<std::collections::BTreeSet<_>>().len();
            let rate = edge.requests as f64 / (last - first).max(1) as f64 / pods.max(1) as f64;
            let answered = edge.outcomes.iter().filter(|outcome| !outcome.failed).max_by_key(|o| o.count)?;
            Some((rate, answered.duration(0.5)? as f64 / 1000.0))
        })
        .max_by(|a, b| (a.0 * a.1).total_cmp(&(b.0 * b.1)))
}

/// Room for bursts over what is under way at once, and never less than what is ordinary.
fn raise(fact: &Fact<'_>) -> Option<Remedy> {
    let needed = (fact.concurrency().unwrap_or(0.0) * ROOM).max(LEAST).ceil() as i64;
    let mut pool = fact.pool.clone();
    for (limit, value) in fact.limits.iter().filter(|(limit, _)| *limit != "http.maxRetries") {
        let raised = needed.max(value.saturating_mul(2));
        if let Some(slot) = pool.pointer_mut(&pointer(limit)) {
            *slot = json!(raised);
        }
    }
    Remedy::patch(
        fact.object,
        &json!([{"op": "replace", "path": pointer(&fact.path), "value": pool}]),
        format!("Raise the limits of connectionPool to {needed} and more"),
    )
}
