//! What a workload's proxy is allowed to reach: the Sidecar that counts for it and its outbound policy.

use crate::analyze::rules::istio::hosts::host_of;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Policy, host_matches};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// The Sidecar that counts for pods with these labels: one that selects them, the namespace's own default, that of the root
/// namespace; of several the oldest.
pub fn sidecar<'a>(snapshot: &'a Snapshot, namespace: &str, labels: &Labels) -> Option<&'a Policy> {
    let root = snapshot.istio.root_namespace.as_str();
    let mut found: Vec<(u8, &Policy)> = snapshot
        .istio
        .sidecars
        .iter()
        .filter_map(|sidecar| {
            let own = sidecar.object.namespace() == namespace;
            let level = match (own, sidecar.selector.is_empty()) {
                (true, false) if sidecar.selector.matches(labels) => 0,
                (true, true) => 1,
                (false, true) if sidecar.object.namespace() == root => 2,
                _ => return None,
            };
            Some((level, sidecar))
        })
        .collect();
    found.sort_by_key(|(level, s)| (*level, s.object.created, s.object.reference.clone()));
    found.first().map(|(_, sidecar)| *sidecar)
}

/// The hosts of all of a Sidecar's egress listeners, with where each list stands. `None` where it has no egress section:
/// then everything is visible.
pub fn egress_hosts(sidecar: &Policy) -> Option<Vec<(String, Vec<String>)>> {
    let listeners = sidecar.object.body.list("spec.egress");
    if listeners.is_empty() {
        return None;
    }
    let lists =
        listeners.iter().enumerate().map(|(i, l)| (format!("spec.egress[{i}].hosts"), l.texts("hosts")));
    Some(lists.collect())
}

/// Whether one of these egress hosts (`./*`, `shop/*`, `*/pay.shop.svc.cluster.local`) covers a Service, as seen from a
/// namespace.
pub fn admits(hosts: &[(String, Vec<String>)], service: &ServiceName, client: &str) -> bool {
    let full = host_of(service);
    hosts.iter().flat_map(|(_, list)| list).any(|written| {
        let (namespace, host) = written.split_once('/').unwrap_or(("*", written));
        let place = match namespace {
            "*" => true,
            "." => service.namespace == client,
            other => other == service.namespace,
        };
        place && host_matches(host, &full)
    })
}

/// What blocks hosts that the mesh does not know, for pods with these labels: the Sidecar or MeshConfig whose outbound
/// policy is `REGISTRY_ONLY`, with the field that says so.
pub fn registry_only(snapshot: &Snapshot, namespace: &str, labels: &Labels) -> Option<ObjectRef> {
    let field = "outboundTrafficPolicy.mode";
    if let Some(sidecar) = sidecar(snapshot, namespace, labels)
        && let Some(mode) = sidecar.object.body.text(&format!("spec.{field}"))
    {
        let reference = sidecar.object.reference.field(format!("spec.{field}"));
        return (mode == "REGISTRY_ONLY").then_some(reference);
    }
    let mode = snapshot.istio.mesh_config.text(field)?;
    let map = ObjectRef {
        api_version: "v1".to_owned(),
        ..ObjectRef::new("ConfigMap", &snapshot.istio.root_namespace, "istio")
    };
    (mode == "REGISTRY_ONLY").then(|| map.field("data.mesh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn egress_hosts_are_read_with_their_namespace() {
        let lists = |hosts: &[&str]| {
            vec![("spec.egress[0].hosts".to_owned(), hosts.iter().map(|h| (*h).to_owned()).collect())]
        };
        let pay = ServiceName::new("shop", "pay");
        assert!(admits(&lists(&["./*"]), &pay, "shop"));
        assert!(!admits(&lists(&["./*"]), &pay, "front"));
        assert!(admits(&lists(&["~/*", "shop/*"]), &pay, "front"));
        assert!(admits(&lists(&["*/pay.shop.svc.cluster.local"]), &pay, "front"));
        assert!(!admits(&lists(&["shop/stock.shop.svc.cluster.local"]), &pay, "front"));
    }
}
