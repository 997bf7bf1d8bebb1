//! PROXY105.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, concerns, evidence, service_of};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::mesh::istio::full_host;
use crate::model::network::ServiceName;
use crate::model::proxy::Proxy;
use crate::model::proxy::cluster::{PoolLimits, ProxyCluster};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A caller's connection pool is full.
    ///
    /// ## What it detects
    /// A cluster whose circuit breaker is open (`circuit_breakers.default.*_open`), or whose connections or requests under
    /// way have reached a limit that somebody set.
    /// ## Why it matters
    /// Each request beyond the limit is rejected at once with `503 UO`, although the callee would serve it.
    /// ## Evidence
    /// The limits beside what was under way, and the requests that overflowed since the proxy started.
    /// ## How to confirm
    /// `/clusters` of the caller: `cx_active` and `rq_active` against `max_connections` and `max_requests`.
    /// ## How to fix
    /// Raise the limits of the DestinationRule's `connectionPool`, or find out why the callee has become slower: requests
    /// under way are rate times latency.
    /// ## False positives
    /// A limit that is meant to shed load. A pool that is full for a moment without rejecting anything is left out, as far as
    /// the proxy counts overflows.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/circuit_breaking>
    PoolFull {
        code: "PROXY105", name: "pool-full", family: Traffic, severity: Warning,
        needs: [Proxies], aliases: [],
    }
}

/// One full pool of one proxy.
#[derive(Debug)]
struct Full<'a> {
    proxy: &'a Proxy,
    cluster: &'a ProxyCluster,
    limits: PoolLimits,
    /// Requests and connections that were rejected.
    overflowed: i64,
    open: bool,
}

/// The full pools of callers of one Service.
#[derive(Debug)]
pub struct Fact<'a> {
    service: ServiceName,
    pools: Vec<Full<'a>>,
}

impl Check for PoolFull {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_service: BTreeMap<ServiceName, Vec<Full<'a>>> = BTreeMap::new();
        for proxy in &snapshot.proxies {
            for cluster in &proxy.clusters {
                let Some(full) = full(proxy, cluster) else { continue };
                let Some(service) = service_of(snapshot, proxy, &cluster.parts()) else { continue };
                if concerns(snapshot, proxy, Some(&service)) {
                    by_service.entry(service).or_default().push(full);
                }
            }
        }
        by_service.into_iter().map(|(service, pools)| Fact { service, pools }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let overflowed: i64 = fact.pools.iter().map(|pool| pool.overflowed).sum();
        let first = fact.pools.first();
        let limits = first.map(|pool| words(&pool.limits)).unwrap_or_default();
        let client = first.map(|pool| pool.proxy.namespace.as_str()).unwrap_or_default();
        let caller = first.map(|pool| snapshot.owner_by_name(&pool.proxy.namespace, &pool.proxy.pod).name);
        let caller = caller.unwrap_or_default();
        let rejected = if overflowed > 0 {
            format!("{overflowed} requests or connections were rejected since the proxies started.")
        } else {
            "What comes next is rejected with 503 UO.".to_owned()
        };
        let mut finding = Finding::new(Self::META, fact.service.reference(), &[])
            .title(format!("{caller} → {}: the connection pool is full ({limits})", fact.service.name))
            .message(format!("The proxies of {caller} have as many connections or requests to {} under way as their limits allow ({limits} for each proxy). {rejected}", fact.service))
            .mechanism("connection pool full: circuit breaker open")
            .severity(if overflowed > 0 { Severity::Error } else { Severity::Warning })
            .role(Role::Symptom, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .evidences(fact.pools.iter().take(MAX_PROXIES).map(|pool| {
                evidence(&pool.proxy.namespace, &pool.proxy.pod, "clusters and stats", told(pool))
            }))
            .effect(Effect::requests(&fact.service, &["UO"]))
            .remedy(Remedy::commands(
                "See the limits, and what is under way",
                first.map(|pool| ask(&pool.proxy.namespace, &pool.proxy.pod, "clusters")).into_iter().collect(),
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when callers' proxies reject requests",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UO.*\",destination_service_name=\"{}\"}}[2m])) > 0", fact.service.name),
            ));
        let host = full_host(&fact.service.name, &fact.service.namespace);
        for rule in snapshot.istio.destination_rules_for(&host, client) {
            let port = first.and_then(|pool| pool.cluster.parts().port);
            if let Some((path, _)) = rule.policy(port, "connectionPool") {
                finding = finding.related(rule.reference().field(path));
            }
        }
        finding
    }
}

/// The pool, where it is full or has overflowed while its breaker is open.
fn full<'a>(proxy: &'a Proxy, cluster: &'a ProxyCluster) -> Option<Full<'a>> {
    let limits = cluster.limits?;
    let stat = |name: &str| proxy.cluster_stat(&cluster.name, name).unwrap_or(0);
    let breakers = ["cx_open", "cx_pool_open", "rq_open", "rq_pending_open"];
    let open = breakers.iter().any(|name| stat(&format!("circuit_breakers.default.{name}")) > 0);
    let overflowed = stat("upstream_rq_pending_overflow") + stat("upstream_cx_overflow");
    let set = |limit: i64| limit > 0 && limit < PoolLimits::NONE;
    let reached = (set(limits.connections) && cluster.active_connections() >= limits.connections)
        || (set(limits.requests) && cluster.active_requests() >= limits.requests);
    // Connections that are open and idle fill a pool and harm nobody: requests must have been waiting or rejected.
    let pressed = overflowed > 0
        || stat("circuit_breakers.default.rq_pending_open") > 0
        || stat("circuit_breakers.default.rq_open") > 0;
    ((open || reached) && pressed).then_some(Full { proxy, cluster, limits, overflowed, open })
}

/// The limits that somebody set.
fn words(limits: &PoolLimits) -> String {
    let set =
        [("connections", limits.connections), ("pending", limits.pending), ("requests", limits.requests)];
    let set = set.iter().filter(|(_, limit)| *limit < PoolLimits::NONE);
    set.map(|(name, limit)| format!("{name} {limit}")).collect::<Vec<_>>().join(", ")
}

fn told(pool: &Full<'_>) -> String {
    format!(
        "{}: {} connections and {} requests under way, limits {}; {} rejected; breaker {}",
        pool.cluster.name,
        pool.cluster.active_connections(),
        pool.cluster.active_requests(),
        words(&pool.limits),
        pool.overflowed,
        if pool.open { "open" } else { "closed" }
    )
}
