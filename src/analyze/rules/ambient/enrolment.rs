//! Who is in ambient mode, and which waypoint stands before a Service.

use crate::analyze::rules::gateway_api::attach;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::network::Service;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{PodTemplate, Workload};

/// The label that puts pods, or all of a namespace, into ambient mode or keeps them out.
pub const MODE: &str = "istio.io/dataplane-mode";
/// The label that names a waypoint.
pub const WAYPOINT: &str = "istio.io/use-waypoint";
/// The label that says where the waypoint is.
pub const WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// The class of waypoints.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";

/// Whether a namespace is labelled for ambient mode; unseen ones are not.
pub fn namespace_is_ambient(snapshot: &Snapshot, namespace: &str) -> bool {
    let object = snapshot.object("Namespace", "", namespace);
    object.is_some_and(|object| object.labels.get(MODE).is_some_and(|mode| mode == "ambient"))
}

/// Whether anything at all asks for ambient mode.
pub fn is_used(snapshot: &Snapshot) -> bool {
    let asks = |labels: &Labels| labels.get(MODE).is_some_and(|mode| mode == "ambient");
    snapshot.objects_of("Namespace").any(|namespace| asks(&namespace.labels))
        || snapshot.workloads.iter().any(|workload| asks(&workload.template.labels))
        || snapshot.pods.iter().any(|pod| asks(&pod.template.labels))
}

/// Whether ztunnel carries the traffic of pods of a template: their own label decides, else their namespace's; pods with a
/// sidecar or in their node's network are left alone.
pub fn is_ambient(snapshot: &Snapshot, namespace: &str, template: &PodTemplate) -> bool {
    !template.host_network
        && !template.has_running_container("istio-proxy")
        && is_labelled(snapshot, namespace, &template.labels)
}

/// Whether labels ask for ambient mode, whatever else the pods have.
pub fn is_labelled(snapshot: &Snapshot, namespace: &str, labels: &Labels) -> bool {
    match labels.get(MODE) {
        Some(mode) => mode == "ambient",
        None => namespace_is_ambient(snapshot, namespace),
    }
}

/// The workloads in ambient mode behind a Service.
pub fn behind<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Vec<&'a Workload> {
    let own = service.object.namespace();
    snapshot.workloads_behind(service).filter(|w| is_ambient(snapshot, own, &w.template)).collect()
}

/// Whether ztunnel carries the traffic to a Service: some workload behind it is in ambient mode, and where none was seen its
/// namespace is.
pub fn service_is_ambient(snapshot: &Snapshot, service: &Service) -> bool {
    if snapshot.workloads_behind(service).next().is_some() {
        return !behind(snapshot, service).is_empty();
    }
    let mut pods = snapshot.pods_behind(service).peekable();
    if pods.peek().is_some() {
        return pods.any(|pod| is_ambient(snapshot, pod.object.namespace(), &pod.template));
    }
    namespace_is_ambient(snapshot, service.object.namespace())
}

/// Namespace and name of the waypoint that an object, or else its namespace, asks for; `None` where neither does.
pub fn waypoint(snapshot: &Snapshot, object: &Object) -> Option<(String, String)> {
    let space = snapshot.object("Namespace", "", object.namespace());
    let asked = |labels: &Labels| {
        let name = labels.get(WAYPOINT)?;
        let namespace = labels.get(WAYPOINT_NAMESPACE).unwrap_or(object.namespace());
        Some((namespace.to_owned(), name.to_owned()))
    };
    let found = asked(&object.labels).or_else(|| space.and_then(|space| asked(&space.labels)));
    found.filter(|(_, name)| name != "none")
}

/// A waypoint of a namespace, where there is one that takes traffic for Services.
pub fn offered<'a>(snapshot: &'a Snapshot, namespace: &str) -> Option<&'a Gateway> {
    let all = snapshot.gateway_api.gateways.iter();
    all.filter(|g| g.object.namespace() == namespace && g.class == WAYPOINT_CLASS).find(|g| {
        let kind = g.object.labels.get("istio.io/waypoint-for");
        matches!(kind, None | Some("service" | "all"))
    })
}

/// Whether the waypoint that an object asks for exists.
pub fn has_waypoint(snapshot: &Snapshot, object: &Object) -> bool {
    waypoint(snapshot, object).is_some_and(|(namespace, name)| {
        attach::gateway(snapshot, &namespace, &name).is_some()
            || !attach::knows_namespace(snapshot, &namespace)
    })
}

/// The parts of an AuthorizationPolicy that need HTTP: path and what it is about. ztunnel sees connections alone.
pub fn http_clauses(policy: &Object) -> Vec<String> {
    const SOURCE: &[&str] =
        &["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"];
    const OPERATION: &[&str] = &["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
    let mut out = vec![];
    for (index, rule) in policy.body.list("spec.rules").iter().enumerate() {
        for (list, part, keys) in [("from", "source", SOURCE), ("to", "operation", OPERATION)] {
            for (at, entry) in rule.list(list).iter().enumerate() {
                let used = keys.iter().filter(|key| !entry.list(&format!("{part}.{key}")).is_empty());
                out.extend(used.map(|key| format!("spec.rules[{index}].{list}[{at}].{part}.{key}")));
            }
        }
        for (at, entry) in rule.list("when").iter().enumerate() {
            if entry.text("key").is_some_and(|key| key.starts_with("request.") || key == "remote.ip") {
                out.push(format!("spec.rules[{index}].when[{at}].key"));
            }
        }
    }
    out
}
