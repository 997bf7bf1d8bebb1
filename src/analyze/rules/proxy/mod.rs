//! What proxies and their control plane say of themselves: configuration that was refused, did not arrive or waits,
//! endpoints that are ejected or unknown, pools that are full, certificates that end. Mostly symptoms: the object that is
//! wrong is found by other rules, and this is how it shows in the proxy.

pub mod certificate_expiring;
pub mod configuration_not_acknowledged;
pub mod configuration_refused;
pub mod connections_fail;
pub mod endpoints_differ;
pub mod hosts_ejected;
pub mod not_live;
pub mod pool_full;
pub mod route_without_cluster;
pub mod version_skew;
pub mod waiting_for_certificate;

use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, quote, scope};
use crate::model::mesh::istio::service_of_host;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::proxy::Proxy;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::ClusterName;

/// At most this many proxies are shown as evidence.
const MAX_PROXIES: usize = 4;

/// The Service that a cluster of a proxy leads to, where it was seen: for an inbound cluster the pod's own.
fn service_of(snapshot: &Snapshot, proxy: &Proxy, cluster: &ClusterName) -> Option<ServiceName> {
    if cluster.direction == "inbound" {
        let pod = snapshot.pod(&proxy.namespace, &proxy.pod)?;
        return snapshot.services_before_pod(pod).next().map(|service| service.service_name());
    }
    let (namespace, name) = service_of_host(&cluster.host)?;
    let name = ServiceName::new(namespace, name);
    snapshot.service(&name).is_some().then_some(name)
}

/// Whether somebody asked about a cluster: the caller or the callee lies in a namespace that is looked at.
fn concerns(snapshot: &Snapshot, proxy: &Proxy, service: Option<&ServiceName>) -> bool {
    snapshot.in_scope(&proxy.namespace)
        || service.is_some_and(|service| snapshot.in_scope(&service.namespace))
}

/// What a proxy says, as evidence.
fn evidence(namespace: &str, pod: &str, file: &str, value: impl Into<String>) -> Evidence {
    Evidence::new("Proxy", format!("proxy of Pod {namespace}/{pod}, {file}"), value)
}

/// The command that asks a proxy's admin port.
fn ask(namespace: &str, pod: &str, path: &str) -> String {
    let reference = ObjectRef::new("Pod", namespace, pod);
    format!(
        "kubectl {}exec {} -c istio-proxy -- pilot-agent request GET {}",
        scope(&reference),
        quote(pod),
        quote(path)
    )
}

/// Makes new pods of a workload, whose proxies start afresh.
fn restart(workload: &ObjectRef, summary: String) -> Option<Remedy> {
    let known = matches!(workload.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet");
    let command = format!(
        "kubectl {}rollout restart {}/{}",
        scope(workload),
        workload.kind.to_ascii_lowercase(),
        quote(&workload.name)
    );
    known.then(|| Remedy::commands(summary, vec![command], vec![]))
}

/// `1 host` or `3 hosts`.
fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
