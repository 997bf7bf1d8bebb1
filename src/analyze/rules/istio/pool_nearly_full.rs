//! ISTIO156.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::support::traffic_policy;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::{Protocol, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Reporter};

crate::rule! {
    /// The limits of a connection pool leave no room over the requests that are under way at once.
    ///
    /// ## What it detects
    /// Limits of a DestinationRule (`maxConnections` for HTTP/1, `http2MaxRequests`) against the requests that are under way at
    /// once in one caller's proxy: their rate times how long they take (Little's law), on average and in the busiest second. No
    /// request has been rejected yet.
    /// ## Why it matters
    /// A little more load, or a callee that answers a little slower, and the proxy rejects requests with `503 UO` or lets them
    /// wait, although the callee has room.
    /// ## Evidence
    /// The limit; rate, latency and proxies of the caller in access logs; the product.
    /// ## How to confirm
    /// `envoy_cluster_upstream_rq_active` of the callers' proxies against the limit.
    /// ## How to fix
    /// Set the limit to some four times what is under way at once on average.
    /// ## False positives
    /// A limit that is meant to shed load at this point. Below four fifths on average it is information.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#ConnectionPoolSettings>
    PoolNearlyFull {
        code: "ISTIO156", name: "connection-pool-nearly-full", family: Mesh, severity: Info,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// Fewer requests than this say nothing about a rate.
const ENOUGH: u64 = 100;
/// From this share of the limit on, on average, bursts are over it.
const FULL: f64 = 0.8;
/// From this share on in the busiest second it is worth knowing.
const NEAR: f64 = 0.8;
/// A limit this many times the average leaves room for bursts.
const ROOM: f64 = 4.0;

/// What is under way at once in one proxy.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Requests a second.
    rate: f64,
    /// Requests in the busiest second.
    peak: f64,
    /// How long one takes, in seconds.
    takes: f64,
}

impl Load {
    fn average(&self) -> f64 {
        self.rate * self.takes
    }

    fn busiest(&self) -> f64 {
        self.peak * self.takes
    }
}

/// A pool without room.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    path: String,
    limit: i64,
    caller: &'a ObjectRef,
    service: ServiceName,
    load: Load,
}

impl Check for PoolNearlyFull {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        if snapshot.istio.destination_rules.is_empty() {
            return out;
        }
        for edge in snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Source && e.requests >= ENOUGH)
        {
            let Some(service) = edge.service.clone().filter(|s| snapshot.in_scope(&s.namespace)) else {
                continue;
            };
            if edge.outcomes.iter().any(|o| o.has_flag("UO")) {
                continue;
            }
            let host = full_host(&service.name, &service.namespace);
            let rules = snapshot.istio.destination_rules_for(&host, &edge.workload.namespace);
            let found = rules
                .into_iter()
                .find_map(|rule| Some((rule, traffic_policy(rule, &edge.cluster, "connectionPool")?)));
            let Some((rule, (path, pool))) = found else { continue };
            let Some(load) = load(edge) else { continue };
            let second = edge
                .cluster
                .port
                .and_then(|port| snapshot.service(&service)?.port(port).map(|p| p.protocol()));
            let field = match second {
                Some(Protocol::Http2 | Protocol::Grpc) => "http.http2MaxRequests",
                _ => "tcp.maxConnections",
            };
            let Some(limit) = pool.int(field).filter(|limit| *limit > 0) else { continue };
            if load.busiest() < limit as f64 * NEAR {
                continue;
            }
            out.push(Fact {
                rule,
                path: format!("{path}.{field}"),
                limit,
                caller: &edge.workload,
                service,
                load,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.rule.reference().field(&fact.path);
        let name = &fact.service.name;
        let field = fact.path.rsplit('.').next().unwrap_or_default();
        let (average, busiest) = (fact.load.average(), fact.load.busiest());
        let full = average >= fact.limit as f64 * FULL;
        let takes = text::milliseconds((fact.load.takes * 1000.0).round() as u64);
        let needed = (average * ROOM).max(busiest * 2.0).ceil().max(1.0) as i64;
        Finding::new(Self::META, subject.clone(), &[name, &fact.caller.to_string()])
            .title(format!("{} has {busiest:.1} requests to {name} under way at once; {field} is {}", fact.caller.name, fact.limit))
            .message(format!(
                "One proxy of {} sends {:.1} requests a second to {name} that take {takes} each: {average:.1} are under way at once on average, {busiest:.1} in its busiest second ({:.0} requests). {field} of {} is {} for each proxy, so what is more waits or is rejected.",
                fact.caller, fact.load.rate, fact.load.peak, fact.rule.reference(), fact.limit
            ))
            .mechanism("connection pool nearly full: Little's law against the limit")
            .severity(if full { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Configured)
            .service(Some(fact.service.clone()))
            .evidence(Evidence::object(&subject, format!("{field} {}", fact.limit)))
            .evidence(Evidence::new(
                "AccessLog",
                format!("istio-proxy of {}", fact.caller),
                format!("{:.1} requests a second × {takes} = {average:.1} at once", fact.load.rate),
            ))
            .effect(Effect::requests(&fact.service, &["UO", "slow"]))
            .maybe_remedy(Remedy::patch(
                &fact.rule.object,
                &json!([{"op": "replace", "path": pointer(&fact.path), "value": needed.max(fact.limit.saturating_mul(2))}]),
                format!("Raise {field} to {}", needed.max(fact.limit.saturating_mul(2))),
            ))
            .prevention(Prevention::alert(
                "Alert when a pool is four fifths full",
                format!("max by (pod) (envoy_cluster_upstream_rq_active{{cluster_name=~\"outbound.*{}.*\"}}) > {}", text::plain(name, 63), (fact.limit as f64 * FULL).round()),
            ))
    }
}

/// Rate, peak and latency of one proxy of an edge.
fn load(edge: &EdgeTraffic) -> Option<Load> {
    let (first, last) = (edge.seconds.keys().next()?, edge.seconds.keys().next_back()?);
    let pods = edge.outcomes.iter().flat_map(|o| &o.pods).collect::<BTreeSet<_>>().len().max(1) as f64;
    let durations: Vec<u64> = edge
        .outcomes
        .iter()
        .filter(|o| !o.failed && !o.connection)
        .flat_map(|o| o.durations.iter().copied())
        .collect();
    if durations.is_empty() || last - first < 10 {
        return None;
    }
    let takes = durations.iter().sum::<u64>() as f64 / durations.len() as f64 / 1000.0;
    let peak = edge.seconds.values().map(|(all, _)| *all).max()? as f64;
    Some(Load { rate: edge.requests as f64 / (last - first) as f64 / pods, peak: peak / pods, takes })
}
