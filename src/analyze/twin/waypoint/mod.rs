//! Waypoints: the proxies to which ztunnel hands what is sent to a Service, a host of a ServiceEntry, or a pod.
//!
//! A waypoint is the destination's: who names it in a label is reached through it by every client that ztunnel carries, and by
//! gateways that are told to. Everybody else connects to the pods and passes it by.

mod enforce;
#[cfg(test)]
mod tests;
mod through;

use crate::model::json::Value;

use crate::analyze::rules::ambient::enrolment::{WAYPOINT, WAYPOINT_CLASS, WAYPOINT_NAMESPACE};
use crate::analyze::rules::gateway_api::attach;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

pub use through::{Target, carry};

/// The label that says for what a waypoint takes connections.
const TRAFFIC: &str = "istio.io/waypoint-for";
/// The label that has gateways send to a host's waypoint, too.
const FROM_GATEWAYS: &str = "istio.io/ingress-use-waypoint";
/// The label of what the mesh's controller makes for waypoints, and its value.
const MANAGED: (&str, &str) = ("gateway.istio.io/managed", "istio.io-mesh-controller");
/// The label with the name of a pod's Gateway.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label with its class.
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";

/// What stands before a destination.
#[derive(Debug, Clone)]
pub enum Binding<'a> {
    /// Nothing: no label asks for a waypoint.
    None,
    /// A waypoint is asked for and does not take the connection: the label, and why.
    Loose(ObjectRef, String),
    /// Whether it takes it cannot be said.
    Unknown(String),
    /// This one; the label that asks for it.
    By(&'a Gateway, ObjectRef),
}

/// What is asked to stand behind a waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A host: a Service, or one of a ServiceEntry.
    Service,
    /// A pod's own address.
    Workload,
}

/// Whether a pod is a waypoint's.
pub fn is_waypoint(labels: &Labels) -> bool {
    labels.get(MANAGED.0).is_some_and(|own| own == MANAGED.1)
        || labels.get(GATEWAY_CLASS).is_some_and(|class| class == WAYPOINT_CLASS)
}

/// The waypoint of a Service or a ServiceEntry.
pub fn of_host<'a>(snapshot: &'a Snapshot, host: &Object) -> Binding<'a> {
    if host.labels.get(MANAGED.0).is_some_and(|own| own == MANAGED.1) {
        return Binding::None;
    }
    of(snapshot, (&host.reference, &host.labels), Kind::Service)
}

/// The waypoint of a pod that is called at its own address. `reference` is the pod's, or that of what makes it.
pub fn of_pod<'a>(snapshot: &'a Snapshot, reference: &ObjectRef, labels: &Labels) -> Binding<'a> {
    if is_waypoint(labels) {
        return Binding::None;
    }
    of(snapshot, (reference, labels), Kind::Workload)
}

/// Whether gateways send to a host's waypoint, by its own label or its namespace's.
pub fn takes_from_gateways(snapshot: &Snapshot, host: &Object) -> bool {
    let own = host.labels.get(FROM_GATEWAYS).map(str::to_owned);
    let space =
        || snapshot.object("Namespace", "", host.namespace())?.labels.get(FROM_GATEWAYS).map(str::to_owned);
    own.or_else(space).is_some_and(|word| word == "true")
}

/// The waypoint that labels, else those of the namespace, ask for.
fn of<'a>(snapshot: &'a Snapshot, (own, labels): (&ObjectRef, &Labels), kind: Kind) -> Binding<'a> {
    let space = snapshot.object("Namespace", "", &own.namespace);
    let space = space.map(|space| (&space.reference, &space.labels));
    let Some((by, labels)) =
        [Some((own, labels)), space].into_iter().flatten().find(|(_, labels)| labels.contains_key(WAYPOINT))
    else {
        return Binding::None;
    };
    let name = labels.get(WAYPOINT).unwrap_or_default();
    if name == "none" {
        return Binding::None;
    }
    let namespace = labels.get(WAYPOINT_NAMESPACE).unwrap_or(own.namespace.as_str());
    let by = by.field(format!("metadata.labels[{WAYPOINT}]"));
    let Some(gateway) = attach::gateway(snapshot, namespace, name) else {
        return if attach::knows_namespace(snapshot, namespace) {
            Binding::Loose(by, format!("waypoint {namespace}/{name} does not exist"))
        } else {
            Binding::Unknown(format!(
                "{by} asks for waypoint {namespace}/{name}, and nothing of namespace {namespace} was read"
            ))
        };
    };
    match refused(snapshot, gateway, &own.namespace, kind) {
        Some(why) => Binding::Loose(by, why),
        None => Binding::By(gateway, by),
    }
}

/// Why a waypoint does not take connections to something of a namespace.
fn refused(snapshot: &Snapshot, gateway: &Gateway, namespace: &str, kind: Kind) -> Option<String> {
    let called = format!("waypoint {}/{}", gateway.object.namespace(), gateway.object.name());
    // It gets its address with its first ready pod.
    let status = gateway.object.body.at("status");
    if status.is_some_and(|status| status.list("addresses").is_empty()) && snapshot.runs() {
        return Some(format!("{called} has no address: it is not ready"));
    }
    if !attachable(snapshot, gateway, namespace) {
        return Some(format!(
            "{called} takes nothing of namespace {namespace} (allowedRoutes of its listener for HBONE)"
        ));
    }
    let class = snapshot.object("GatewayClass", "", &gateway.class);
    let own = gateway.object.labels.get(TRAFFIC).or_else(|| class?.labels.get(TRAFFIC));
    let traffic = own.unwrap_or("service");
    let (takes, what) = match kind {
        Kind::Service => (matches!(traffic, "service" | "all"), "Services"),
        Kind::Workload => (matches!(traffic, "workload" | "all"), "pods' own addresses"),
    };
    (!takes).then(|| format!("{called} is not for {what} ({TRAFFIC}: {traffic})"))
}

/// Whether a waypoint's listener lets objects of a namespace attach; where it has none for HBONE its own namespace's alone.
fn attachable(snapshot: &Snapshot, gateway: &Gateway, namespace: &str) -> bool {
    let mut listeners = attach::listeners(&gateway.object).into_iter();
    let mesh = listeners.find(|listener| listener.protocol == "HBONE" && listener.port == 15008);
    mesh.map_or(gateway.object.namespace() == namespace, |listener| {
        attach::namespace_allowed(snapshot, &listener, namespace)
    })
}

/// Whether a policy names this target.
fn targets(target: &Value, group: &str, kind: &str, name: &str) -> bool {
    let own = target.text("group").unwrap_or_default();
    target.text("kind") == Some(kind)
        && target.text("name") == Some(name)
        && (own == group || (own == "core" && group.is_empty()))
}
