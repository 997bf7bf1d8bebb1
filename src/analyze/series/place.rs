//! Where a series was measured, from its labels.

use crate::analyze::anomaly::{Place, service_of_pod};
use crate::model::network::ServiceName;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

/// Labels that name the two ends of a call, caller first, as meshes and trace processors write them.
const EDGES: &[(&str, &str)] = &[
    ("source_workload", "destination_service_name"),
    ("source_workload", "destination_workload"),
    ("source_app", "destination_app"),
    ("deployment", "dst_deployment"),
    ("client", "server"),
];
/// Labels that name a service, the surest first.
const SERVICES: &[&str] = &[
    "destination_service_name",
    "destination_workload",
    "service",
    "service_name",
    "ServiceName",
    "workload",
    "deployment",
    "statefulset",
    "daemonset",
    "app",
    "app_kubernetes_io_name",
];
/// Labels that name a namespace, the surest first: `exported_` where a scraper's own label stood in the way.
const NAMESPACES: &[&str] =
    &["exported_namespace", "namespace", "destination_service_namespace", "kubernetes_namespace"];
/// Labels that name a pod and a node.
const PODS: &[&str] = &["exported_pod", "pod", "pod_name", "kubernetes_pod_name"];

/// What a label says, where it says something.
fn first<'a>(series: &'a Series, labels: &[&str]) -> Option<&'a str> {
    let mut said = labels.iter().map(|label| series.label(label));
    said.find(|text| !text.is_empty() && !matches!(*text, "unknown" | "none"))
}

/// Where a series was measured; `None` where nothing says.
pub(super) fn of(snapshot: &Snapshot, series: &Series) -> Option<Place> {
    let asked = snapshot.target.as_ref().map(|target| target.namespace.as_str()).unwrap_or_default();
    let namespace = first(series, NAMESPACES).unwrap_or(asked);
    for (caller, callee) in EDGES {
        if let (Some(from), Some(to)) = (first(series, &[caller]), first(series, &[callee])) {
            let of = |label: &str| first(series, &[&format!("{label}_namespace")]).unwrap_or(namespace);
            let caller_namespace = of(caller);
            let callee_namespace =
                first(series, &["destination_service_namespace"]).unwrap_or_else(|| of(callee));
            if from != to {
                let caller = ServiceName::new(caller_namespace, from);
                return Some(Place::Edge { caller, callee: ServiceName::new(callee_namespace, to) });
            }
        }
    }
    let service = first(series, SERVICES).map(|name| ServiceName::new(namespace, name));
    match (first(series, PODS), service) {
        // What scrapes puts its own Service into `service`; the pod knows better, where it was seen.
        (Some(pod), service) => {
            let known = snapshot.pod(namespace, pod).is_some();
            let service =
                service.filter(|_| !known).unwrap_or_else(|| service_of_pod(snapshot, namespace, pod));
            Some(Place::Pod { name: pod.to_owned(), service })
        }
        (None, Some(service)) => Some(Place::Service(service)),
        (None, None) => first(series, &["node", "kubernetes_node"]).map(|node| Place::Node(node.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(labels: &[(&str, &str)]) -> String {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let series = Series { name: "m".to_owned(), labels, points: vec![] };
        of(&Snapshot::default(), &series).map(|place| place.to_string()).unwrap_or_default()
    }

    #[test]
    fn labels_name_services_edges_pods_and_nodes() {
        assert_eq!(place(&[("namespace", "n"), ("service", "a")]), "n/a");
        assert_eq!(
            place(&[("namespace", "n"), ("source_workload", "a"), ("destination_service_name", "b")]),
            "n/a → n/b"
        );
        assert_eq!(place(&[("namespace", "n"), ("pod", "a-5d8f7c9b6-x2k4p")]), "Pod n/a-5d8f7c9b6-x2k4p");
        assert_eq!(place(&[("node", "w1")]), "Node w1");
        assert_eq!(place(&[("colour", "red")]), "");
    }
}
