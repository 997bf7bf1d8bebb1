//! What a waypoint enforces: policies that name it, its class, or what stands behind it. Selectors are none of its business.

use crate::model::json::Value;
use core::net::IpAddr;

use super::targets;
use crate::analyze::twin::Twin;
use crate::analyze::twin::istio::envoy_filter;
use crate::analyze::twin::policy::{Fact, Guards, authorization_naming, tokens_naming};
use crate::model::mesh::gateway_api::Gateway;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

const GROUP: &str = "gateway.networking.k8s.io";

/// Whether a target of a policy of `namespace` is a waypoint, its class, or what stands behind it.
fn names(
    (snapshot, gateway, host): (&Snapshot, &Gateway, Option<&Object>),
    namespace: &str,
    target: &Value,
) -> bool {
    let own = &gateway.object;
    (namespace == own.namespace() && targets(target, GROUP, "Gateway", own.name()))
        || (namespace == snapshot.istio.root_namespace
            && targets(target, GROUP, "GatewayClass", &gateway.class))
        || host.is_some_and(|host| {
            let at = &host.reference;
            namespace == host.namespace() && targets(target, at.group(), &at.kind, host.name())
        })
}

/// What a waypoint enforces for a host, or for a pod where there is none. `address` is what the client connects to.
pub(super) fn guards<'a>(
    snapshot: &'a Snapshot,
    gateway: &Gateway,
    host: Option<&Object>,
    address: Option<IpAddr>,
) -> Guards<'a> {
    let own = &gateway.object;
    let named = |namespace: &str, target: &Value| names((snapshot, gateway, host), namespace, target);
    let mut places = vec![own.namespace(), snapshot.istio.root_namespace.as_str()];
    places.extend(host.map(Object::namespace));
    Guards {
        by: format!("waypoint {}/{}", own.namespace(), own.name()),
        tokens: tokens_naming(snapshot, &places, &named),
        authorization: authorization_naming(snapshot, &places, &named),
        destination: Some(Fact::or_unknown(address)),
    }
}

/// The EnvoyFilter, and the patch in it, that changes what a waypoint does.
pub(super) fn changed(twin: &Twin<'_>, gateway: &Gateway, host: Option<&Object>) -> Option<ObjectRef> {
    envoy_filter::changing_waypoint(twin.envoy_filters.iter(), |filter, target| {
        names((twin.snapshot, gateway, host), filter.object.namespace(), target)
    })
}
