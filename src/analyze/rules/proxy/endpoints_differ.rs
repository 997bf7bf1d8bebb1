//! PROXY108.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_PROXIES, ask, concerns, evidence, plural, restart, service_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::proxy::Proxy;
use crate::model::proxy::cluster::ProxyCluster;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A caller's proxy does not have the endpoints that the Service has.
    ///
    /// ## What it detects
    /// Pods behind a Service that have been ready for more than a minute and are missing in a caller's cluster, while the
    /// cluster holds addresses that no pod has any more.
    /// ## Why it matters
    /// The control plane's word does not reach the proxy: it sends requests to pods that are gone (`503 UF`, or time-outs),
    /// and the ready pods get none.
    /// ## Evidence
    /// The addresses that the proxy has against those of the EndpointSlices.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster 'outbound|PORT||HOST'` against `kubectl get endpointslices`.
    /// ## How to fix
    /// See why the proxy gets no updates: its connection to istiod (port 15012), istiod itself, a refused update. New pods
    /// of the caller connect afresh.
    /// ## False positives
    /// Addresses that differ on purpose (other networks, ServiceEntries) hold no pod's address at all; such clusters are
    /// left out, and so is what changed during the last minute.
    /// ## References
    /// <https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>
    EndpointsDiffer {
        code: "PROXY108", name: "endpoints-differ", family: Mesh, severity: Warning,
        needs: [Proxies, Status], aliases: [],
    }
}

/// What changed within this time is on its way.
const PATIENCE_SECONDS: i64 = 60;

/// A cluster whose endpoints are not those of its Service.
#[derive(Debug)]
struct Differing<'a> {
    proxy: &'a Proxy,
    cluster: &'a ProxyCluster,
    /// Ready pods that it lacks.
    missing: Vec<String>,
    /// Addresses that belong to no pod.
    gone: Vec<String>,
}

/// The callers of one Service that see other endpoints.
#[derive(Debug)]
pub struct Fact<'a> {
    service: ServiceName,
    clusters: Vec<Differing<'a>>,
}

impl Check for EndpointsDiffer {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_service: BTreeMap<ServiceName, Vec<Differing<'a>>> = BTreeMap::new();
        for proxy in &snapshot.proxies {
            for cluster in &proxy.clusters {
                let parts = cluster.parts();
                // A subset has fewer endpoints on purpose.
                if parts.direction != "outbound" || !parts.subset.is_empty() || cluster.hosts.is_empty() {
                    continue;
                }
                let Some(service) = service_of(snapshot, proxy, &parts) else { continue };
                if !concerns(snapshot, proxy, Some(&service)) {
                    continue;
                }
                if let Some(differing) = compare(snapshot, proxy, cluster, &service) {
                    by_service.entry(service).or_default().push(differing);
                }
            }
        }
        by_service.into_iter().map(|(service, clusters)| Fact { service, clusters }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let first = fact.clusters.first();
        let missing = first.map(|d| d.missing.clone()).unwrap_or_default();
        let gone = first.map(|d| d.gone.clone()).unwrap_or_default();
        let caller =
            first.map(|d| snapshot.owner_by_name(&d.proxy.namespace, &d.proxy.pod)).unwrap_or_default();
        let look = first.map(|d| ask(&d.proxy.namespace, &d.proxy.pod, "clusters")).into_iter().collect();
        Finding::new(Self::META, caller.clone(), &[&fact.service.namespace, &fact.service.name])
            .title(format!("{} calls {} of {} that are gone, and lacks {}", caller.name, plural(gone.len(), "endpoint"), fact.service, plural(missing.len(), "ready pod")))
            .message(format!("The proxy of {caller} has endpoints of {} that belong to no pod any more, and lacks pods that have been ready for more than a minute: what the control plane sends does not arrive there.", fact.service))
            .mechanism("stale endpoints: the proxy does not get updates")
            .severity(Severity::Warning)
            .role(Role::Symptom, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .evidences(fact.clusters.iter().take(MAX_PROXIES).map(|d| {
                let value = format!("{}: holds {}, which no pod has; lacks {}", d.cluster.name, list(&d.gone), list(&d.missing));
                evidence(&d.proxy.namespace, &d.proxy.pod, "clusters", value)
            }))
            .evidence(Evidence::object(&fact.service.reference(), format!("ready and missing: {}", list(&missing))))
            .effect(Effect::requests(&fact.service, &["UF", "UH", "timeout"]))
            .effect(Effect::calls(&caller))
            .remedy(Remedy::commands("Compare the proxy's endpoints with the Service's", look, vec![]))
            .maybe_remedy(restart(&caller, "Start the caller's pods anew: their proxies ask for everything again".to_owned()))
            .prevention(Prevention::alert(
                "Alert when a proxy has lost its control plane (needs the agent's metrics)",
                "envoy_control_plane_connected_state == 0",
            ))
    }
}

fn compare<'a>(
    snapshot: &Snapshot,
    proxy: &'a Proxy,
    cluster: &'a ProxyCluster,
    service: &ServiceName,
) -> Option<Differing<'a>> {
    let service = snapshot.service(service)?;
    let held: BTreeSet<&str> = cluster.hosts.iter().map(|host| host.ip()).collect();
    let mut known = BTreeSet::new();
    let mut missing = vec![];
    for pod in snapshot.pods_behind(service) {
        known.extend(pod.ips.iter().map(String::as_str));
        let since = pod.condition("Ready").and_then(|ready| ready.since);
        let settled = since.is_some_and(|at| snapshot.now.as_second() - at.as_second() > PATIENCE_SECONDS);
        if pod.ready() && settled && !pod.ips.iter().any(|ip| held.contains(ip.as_str())) {
            missing.push(pod.object.name().to_owned());
        }
    }
    let any_pod = |ip: &str| known.contains(ip) || snapshot.pod_by_ip(ip).is_some();
    let slices = snapshot.slices.iter().filter(|slice| {
        slice.service == service.object.name() && slice.object.namespace() == service.object.namespace()
    });
    let listed: BTreeSet<&str> =
        slices.flat_map(|slice| &slice.endpoints).flat_map(|e| &e.addresses).map(String::as_str).collect();
    let gone: Vec<String> = cluster
        .hosts
        .iter()
        .filter(|host| !any_pod(host.ip()) && !listed.contains(host.ip()) && !host.leaving)
        .map(|host| host.address.clone())
        .collect();
    (!missing.is_empty() && !gone.is_empty()).then_some(Differing { proxy, cluster, missing, gone })
}

fn list(names: &[String]) -> String {
    names.iter().take(MAX_PROXIES).cloned().collect::<Vec<_>>().join(", ")
}
