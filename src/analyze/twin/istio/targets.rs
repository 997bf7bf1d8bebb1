//! The hosts that a proxy's own pod stands behind.

use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::ProxyNode;
use crate::analyze::twin::registry::{Host, HostPort, Origin};
use crate::model::fields::Fields;
use crate::model::mesh::istio::ServiceEntry;
use crate::model::network::{Service, TargetPort};
use crate::model::workload::PodTemplate;

/// A port of a host behind which a pod stands, and the pod's own port.
#[derive(Debug, Clone, Copy)]
pub struct Target<'t, 'a> {
    /// The host.
    pub host: &'t Host<'a>,
    /// Its port.
    pub port: &'t HostPort,
    /// The pod's port.
    pub number: u16,
}

/// All of them, in the registry's order.
pub fn targets<'t, 'a>(twin: &'t Twin<'a>, node: &ProxyNode) -> Vec<Target<'t, 'a>> {
    let mut out = vec![];
    for host in twin.registry.hosts() {
        for port in &host.ports {
            let number = match host.origin {
                Origin::Service(service) => of_service(twin, node, service, port),
                Origin::Entry(entry) => of_entry(node, entry, host, port),
            };
            out.extend(number.map(|number| Target { host, port, number }));
        }
    }
    out
}

fn of_service(twin: &Twin<'_>, node: &ProxyNode, service: &Service, port: &HostPort) -> Option<u16> {
    if !service.selects_labels(&node.namespace, &node.labels) {
        return None;
    }
    match &port.target {
        TargetPort::Number(number) => u16::try_from(*number).ok(),
        TargetPort::Name(name) => template(twin, node).and_then(|template| named_port(template, name)),
    }
}

/// What the proxy's pod is made of, where it or what would make it was seen.
fn template<'a>(twin: &Twin<'a>, node: &ProxyNode) -> Option<&'a PodTemplate> {
    let snapshot = twin.snapshot;
    let beside = |namespace: &str| namespace == node.namespace;
    let pod = node.ips.iter().find_map(|ip| snapshot.pod_by_ip(ip)).or_else(|| {
        snapshot.pods.iter().find(|p| beside(p.object.namespace()) && p.template.labels == node.labels)
    });
    let workload = || {
        let mut all = snapshot.workloads.iter();
        all.find(|w| beside(w.object.namespace()) && w.template.labels == node.labels).map(|w| &w.template)
    };
    pod.map(|pod| &pod.template).or_else(workload)
}

/// The number of a container's port.
pub fn named_port(template: &PodTemplate, name: &str) -> Option<u16> {
    let port = template.containers.iter().flat_map(|c| &c.ports).find(|port| port.name == name)?;
    u16::try_from(port.number).ok()
}

fn of_entry(node: &ProxyNode, entry: &ServiceEntry, host: &Host<'_>, port: &HostPort) -> Option<u16> {
    let body = &entry.object.body;
    let own = match &port.target {
        TargetPort::Number(number) => u16::try_from(*number).ok(),
        TargetPort::Name(_) => None,
    };
    if let Some(selector) = body.at("spec.workloadSelector") {
        let labels = selector.text_map("labels");
        let selects =
            !labels.is_empty() && labels.iter().all(|(key, value)| node.labels.get(key) == Some(value));
        return own.filter(|_| host.namespace == node.namespace && selects);
    }
    let endpoint = body.list("spec.endpoints").iter().find(|endpoint| {
        endpoint.text("address").is_some_and(|address| node.ips.iter().any(|ip| ip == address))
    })?;
    let given = endpoint
        .at("ports")
        .and_then(|ports| ports.child(&port.name))
        .and_then(crate::model::json::Value::as_i64);
    given.and_then(|number| u16::try_from(number).ok()).or(own)
}
