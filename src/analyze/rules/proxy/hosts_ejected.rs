//! PROXY103.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_PROXIES, ask, concerns, evidence, plural, service_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::mesh::istio::full_host;
use crate::model::network::ServiceName;
use crate::model::proxy::Proxy;
use crate::model::proxy::cluster::ProxyCluster;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Outlier detection has taken endpoints out.
    ///
    /// ## What it detects
    /// Endpoints with `failed_outlier_check` in a caller's `/clusters`.
    /// ## Why it matters
    /// Requests go to the endpoints that are left, which carry more; with none left the caller answers
    /// `503 UH no_healthy_upstream`, although every pod is ready. In the access log that looks like a Service without
    /// endpoints: only the proxy's own word tells them apart.
    /// ## Evidence
    /// The endpoints with their pods, how their requests ended, and the DestinationRule whose `outlierDetection` counts.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster 'outbound|PORT||HOST'` shows FAILED under OUTLIER CHECK.
    /// ## How to fix
    /// The endpoints failed before they were ejected: find out why. Where one endpoint's failures take out the whole
    /// Service, lower `maxEjectionPercent`, or count only failures of the gateway kind.
    /// ## False positives
    /// A single bad pod that is ejected while the others serve is what outlier detection is for: a Warning.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier>
    HostsEjected {
        code: "PROXY103", name: "hosts-ejected", family: Traffic, severity: Error,
        needs: [Proxies], aliases: [],
    }
}

/// Share of endpoints that stays even in bad times.
const SENSIBLE_EJECTION_PERCENT: i64 = 50;

/// A Service of which callers' proxies have taken out endpoints.
#[derive(Debug)]
pub struct Fact<'a> {
    service: ServiceName,
    clusters: Vec<(&'a Proxy, &'a ProxyCluster)>,
}

impl Check for HostsEjected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_service: BTreeMap<ServiceName, Vec<_>> = BTreeMap::new();
        for proxy in &snapshot.proxies {
            for cluster in proxy.clusters.iter().filter(|cluster| cluster.ejected() > 0) {
                let Some(service) = service_of(snapshot, proxy, &cluster.parts()) else { continue };
                if concerns(snapshot, proxy, Some(&service)) {
                    by_service.entry(service).or_default().push((proxy, cluster));
                }
            }
        }
        by_service.into_iter().map(|(service, clusters)| Fact { service, clusters }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let ejected: BTreeSet<&str> = fact
            .clusters
            .iter()
            .flat_map(|(_, c)| c.hosts.iter().filter(|h| h.ejected).map(|h| h.address.as_str()))
            .collect();
        let known: BTreeSet<&str> =
            fact.clusters.iter().flat_map(|(_, c)| c.hosts.iter().map(|h| h.address.as_str())).collect();
        let none_left = fact.clusters.iter().any(|(_, cluster)| cluster.usable() == 0);
        let pods: Vec<String> = ejected
            .iter()
            .filter_map(|address| snapshot.pod_by_ip(address.rsplit_once(':')?.0))
            .map(|pod| pod.object.name().to_owned())
            .collect();
        let callers: BTreeSet<String> = fact
            .clusters
            .iter()
            .map(|(proxy, _)| snapshot.owner_by_name(&proxy.namespace, &proxy.pod).name)
            .collect();
        let callers = callers.into_iter().take(MAX_PROXIES).collect::<Vec<_>>().join(", ");
        let left = if none_left {
            "No endpoint is left in at least one of them: it answers 503 UH no_healthy_upstream, whether or not the pods are ready."
        } else {
            "The endpoints that are left carry all requests."
        };
        let (proxy, _) = fact.clusters.first().copied().unzip();
        let look = proxy.map(|proxy| ask(&proxy.namespace, &proxy.pod, "clusters")).into_iter().collect();
        let mut finding = Finding::new(Self::META, fact.service.reference(), &[])
            .title(format!("{} of {} endpoints of {} are ejected by outlier detection", ejected.len(), known.len(), fact.service))
            .message(format!("The proxies of {callers} have taken out {} of {}{} after failures in a row. {left}", plural(ejected.len(), "endpoint"), fact.service, named(&pods)))
            .mechanism("outlier detection: endpoints ejected")
            .severity(if none_left { Severity::Error } else { Severity::Warning })
            .role(Role::Symptom, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .evidences(fact.clusters.iter().take(MAX_PROXIES).map(|(proxy, cluster)| {
                evidence(&proxy.namespace, &proxy.pod, "clusters", told(cluster))
            }))
            .effect(Effect::requests(&fact.service, if none_left { &["UH", "5xx"] } else { &["5xx"] }))
            .remedy(Remedy::commands("See what the endpoints answered before", look, vec![]))
            .prevention(Prevention::alert(
                "Alert when a caller has ejected most of a Service's endpoints (needs envoy_cluster_outlier_detection in proxyStatsMatcher)",
                "max by (cluster_name) (envoy_cluster_outlier_detection_ejections_active / envoy_cluster_membership_total) > 0.5",
            ));
        let client = proxy.map(|proxy| proxy.namespace.as_str()).unwrap_or_default();
        let host = full_host(&fact.service.name, &fact.service.namespace);
        for rule in snapshot.istio.destination_rules_for(&host, client) {
            let port = fact.clusters.first().and_then(|(_, cluster)| cluster.parts().port);
            let Some((path, detection)) = rule.policy(port, "outlierDetection") else { continue };
            finding = finding
                .related(rule.reference().field(&path))
                .evidence(Evidence::object(&rule.reference().field(&path), "outlier detection of this host"));
            let percent = detection.get("maxEjectionPercent").and_then(crate::model::json::Value::as_i64);
            if none_left && percent.is_some_and(|percent| percent > SENSIBLE_EJECTION_PERCENT) {
                let field = format!("{}/maxEjectionPercent", pointer(&path));
                finding = finding.maybe_remedy(Remedy::patch(
                    &rule.object,
                    &json!([{"op": "replace", "path": field, "value": SENSIBLE_EJECTION_PERCENT}]),
                    format!("Set outlierDetection.maxEjectionPercent to {SENSIBLE_EJECTION_PERCENT}, so that half of the endpoints always stay"),
                ));
            }
        }
        finding
    }
}

fn named(pods: &[String]) -> String {
    match pods {
        [] => String::new(),
        pods => format!(" ({})", pods.iter().take(MAX_PROXIES).cloned().collect::<Vec<_>>().join(", ")),
    }
}

/// `outbound|80||host: 1 of 2 endpoints usable; 10.0.0.2:80 ejected, 12 of 40 requests failed`.
fn told(cluster: &ProxyCluster) -> String {
    let hosts = cluster.hosts.iter().filter(|host| host.ejected).take(MAX_PROXIES);
    let hosts: Vec<String> = hosts
        .map(|host| {
            format!("{} ejected, {} of {} requests failed", host.address, host.failed_requests, host.requests)
        })
        .collect();
    format!(
        "{}: {} of {} endpoints usable; {}",
        cluster.name,
        cluster.usable(),
        cluster.hosts.len(),
        hosts.join("; ")
    )
}
