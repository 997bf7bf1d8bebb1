//! EnvoyFilters, which change Envoy's configuration in ways that are not looked into.

use crate::analyze::twin::ask::{Mode, ProxyNode};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// What of Envoy's configuration decides where a request goes and whether it gets there.
const DECIDING: &[&str] = &[
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "LISTENER_FILTER",
];

/// The first EnvoyFilter, and the patch in it, that changes what a proxy does with requests that enter it in this way.
pub fn changing(snapshot: &Snapshot, node: &ProxyNode, mode: Mode) -> Option<ObjectRef> {
    let istio = &snapshot.istio;
    let own = istio
        .envoy_filters
        .iter()
        .filter(|filter| filter.applies_to(&node.namespace, &node.labels, &istio.root_namespace));
    own.filter_map(|filter| patch(filter, mode)).next()
}

fn patch(filter: &Policy, mode: Mode) -> Option<ObjectRef> {
    let context = match mode {
        Mode::Gateway => "GATEWAY",
        Mode::Outbound => "SIDECAR_OUTBOUND",
        Mode::Inbound => "SIDECAR_INBOUND",
    };
    let patches = filter.object.body.list("spec.configPatches").iter().enumerate();
    let mut deciding = patches.filter(|(_, patch)| {
        let place = patch.text("match.context").unwrap_or("ANY");
        let what = patch.text("applyTo").unwrap_or_default();
        (place == "ANY" || place == context) && DECIDING.contains(&what)
    });
    let (at, _) = deciding.next()?;
    Some(filter.object.reference.field(format!("spec.configPatches[{at}]")))
}
