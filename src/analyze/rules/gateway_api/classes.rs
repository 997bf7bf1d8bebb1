//! Who implements a Gateway: what one implementation alone decides is only said of its own classes.

use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Gateway, Route};
use crate::model::snapshot::Snapshot;

use super::{attach, listener_sets};

/// Istio's built-in classes: they need no GatewayClass object.
pub const ISTIO_CLASSES: &[&str] = &["istio", "istio-remote", "istio-waypoint", "istio-east-west"];

/// Whether Istio implements a class.
pub fn is_istios_class(snapshot: &Snapshot, class: &str) -> bool {
    match snapshot.object("GatewayClass", "", class) {
        Some(object) => {
            object.body.text("spec.controllerName").is_some_and(|name| name.starts_with("istio.io/"))
        }
        None => ISTIO_CLASSES.contains(&class),
    }
}

/// Whether Istio implements a Gateway's class.
pub fn is_istios(snapshot: &Snapshot, gateway: &Gateway) -> bool {
    is_istios_class(snapshot, &gateway.class)
}

/// Whether Istio serves every parent of a route: Gateways of its classes, or Services of the mesh where Istio is there.
pub fn route_is_istios(snapshot: &Snapshot, route: &Route) -> bool {
    !route.parents.is_empty()
        && route.parents.iter().all(|parent| match parent.kind.as_str() {
            "Gateway" => attach::gateway(snapshot, &parent.namespace, &parent.name)
                .is_some_and(|gateway| is_istios(snapshot, gateway)),
            "ListenerSet" | "XListenerSet" => snapshot
                .object(&parent.kind, &parent.namespace, &parent.name)
                .and_then(|set| listener_sets::parent(snapshot, set))
                .is_some_and(|gateway| is_istios(snapshot, gateway)),
            "Service" | "ServiceEntry" => snapshot.istio.present,
            _ => false,
        })
}
