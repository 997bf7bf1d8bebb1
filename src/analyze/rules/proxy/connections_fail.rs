//! PROXY106.

use std::collections::BTreeMap;

use super::{MAX_PROXIES, ask, concerns, evidence, service_of};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::proxy::Proxy;
use crate::model::proxy::cluster::{ProxyCluster, ProxyHost};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy cannot connect to an endpoint.
    ///
    /// ## What it detects
    /// An endpoint to which a good part of the connections that a proxy tried failed (`cx_connect_fail` in `/clusters`).
    /// ## Why it matters
    /// Each of these requests is tried elsewhere or ends as `503 UF`. Counted by endpoint it shows whether one pod, one port
    /// or the whole Service cannot be reached, which access logs of failed requests alone do not.
    /// ## Evidence
    /// Connections that failed and that were tried, by endpoint with its pod, as each proxy counts them.
    /// ## How to confirm
    /// `/clusters` twice, some seconds apart: `cx_connect_fail` of the endpoint grows.
    /// ## How to fix
    /// To its own application (an inbound cluster): the port that the Service targets is not listened on, or the application
    /// is down. To others: a port or network policy, an endpoint that is gone, TLS on one side only.
    /// ## False positives
    /// Counters run since the proxy knows the endpoint: some failures while an application started are left out by the
    /// share that is asked for.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/api-v3/admin/v3/clusters.proto>
    ConnectionsFail {
        code: "PROXY106", name: "connections-fail", family: Traffic, severity: Warning,
        needs: [Proxies], aliases: [],
    }
}

/// Fewer failures are what every restart leaves.
const LEAST_FAILURES: i64 = 10;
/// The share of the connections that must have failed.
const LEAST_SHARE: f64 = 0.2;

/// An endpoint that one proxy cannot connect to.
#[derive(Debug)]
struct Broken<'a> {
    proxy: &'a Proxy,
    cluster: &'a ProxyCluster,
    host: &'a ProxyHost,
}

/// The endpoints of one Service that cannot be connected to.
#[derive(Debug)]
pub struct Fact<'a> {
    service: ServiceName,
    broken: Vec<Broken<'a>>,
}

impl Check for ConnectionsFail {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_service: BTreeMap<ServiceName, Vec<Broken<'a>>> = BTreeMap::new();
        for proxy in &snapshot.proxies {
            for cluster in &proxy.clusters {
                let broken: Vec<Broken<'a>> = cluster
                    .hosts
                    .iter()
                    .filter(|host| fails(host))
                    .map(|host| Broken { proxy, cluster, host })
                    .collect();
                if broken.is_empty() {
                    continue;
                }
                let Some(service) = service_of(snapshot, proxy, &cluster.parts()) else { continue };
                if concerns(snapshot, proxy, Some(&service)) {
                    by_service.entry(service).or_default().extend(broken);
                }
            }
        }
        by_service.into_iter().map(|(service, broken)| Fact { service, broken }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let failed: i64 = fact.broken.iter().map(|b| b.host.connect_failures).sum();
        let tried: i64 = fact.broken.iter().map(|b| b.host.connections.max(b.host.connect_failures)).sum();
        let inbound = fact.broken.iter().all(|b| b.cluster.parts().direction == "inbound");
        let mut addresses: Vec<&str> = fact.broken.iter().map(|b| b.host.address.as_str()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let where_to = addresses.iter().take(MAX_PROXIES).copied().collect::<Vec<_>>().join(", ");
        let means = if inbound {
            "It is the pods' own proxies that cannot connect to the application beside them: nothing listens on that port."
        } else {
            "Callers' proxies cannot connect to these endpoints."
        };
        let first = fact.broken.first();
        let look = first.map(|b| ask(&b.proxy.namespace, &b.proxy.pod, "clusters")).into_iter().collect();
        Finding::new(Self::META, fact.service.reference(), &[])
            .title(format!("{failed} of {tried} connections to {} failed ({where_to})", fact.service))
            .message(format!("{failed} of {tried} connections to {where_to} behind {} failed, as the proxies count them. {means}", fact.service))
            .mechanism("connection failure: endpoints refuse connections or do not answer")
            .role(Role::Symptom, Confidence::Observed)
            .severity(Severity::Warning)
            .service(Some(fact.service.clone()))
            .evidences(fact.broken.iter().take(MAX_PROXIES).map(|b| {
                let pod = snapshot.pod_by_ip(b.host.ip()).map(|pod| format!(" (pod {})", pod.object.name())).unwrap_or_default();
                let value = format!("{}: {} of {} connections to {}{pod} failed", b.cluster.name, b.host.connect_failures, b.host.connections.max(b.host.connect_failures), b.host.address);
                evidence(&b.proxy.namespace, &b.proxy.pod, "clusters", value)
            }))
            .effect(Effect::requests(&fact.service, &["UF", "URX", "refused"]))
            .remedy(Remedy::commands("See whether the failures go on", look, vec![]))
            .prevention(Prevention::alert(
                "Alert when proxies cannot connect to a Service",
                format!("sum(rate(istio_requests_total{{response_flags=~\".*UF.*\",destination_service_name=\"{}\"}}[2m])) > 0", fact.service.name),
            ))
    }
}

fn fails(host: &ProxyHost) -> bool {
    let tried = host.connections.max(host.connect_failures);
    host.connect_failures >= LEAST_FAILURES && host.connect_failures as f64 >= tried as f64 * LEAST_SHARE
}
