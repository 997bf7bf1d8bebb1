//! What `istioctl analyze` would say of the same objects: each of its messages, on its object, as often, with its known
//! coarse spots. It runs only with `--strict-aliases istioctl`; Meshscope's own rules judge for themselves and share no
//! more with it than the model, the list of Istio's annotations and what Istio itself refuses.
//!
//! Each file is one or several of istioctl's analyzers, written down from what Istio documents and does. [`attach`] brings
//! the messages into the findings.

pub(in crate::analyze) mod annotation_table;
pub(in crate::analyze) mod annotation_values;
mod annotations;
mod attach;
mod authorization;
pub(in crate::analyze) mod certificate;
mod code;
mod conditions;
mod context;
mod deployments;
mod deprecated;
mod destination_rules;
mod envoy_filters;
mod external_control_plane;
mod gateway_api;
mod gateway_secrets;
mod gateways;
mod hosts;
mod injection;
mod mesh_networks;
mod message;
mod pod_images;
mod port_names;
mod schema;
mod service_entries;
mod sidecars;
mod telemetry;
mod unreachable;
mod virtual_service_gateways;
mod virtual_services;
mod webhooks;

pub use attach::attach;
pub use message::Message;

use context::Context;
use message::Messages;

use crate::model::snapshot::Snapshot;

/// Analyzers in the order of their names; the order of the messages is made when all have spoken.
const ANALYZERS: &[fn(&Context<'_>, &mut Messages)] = &[
    annotations::analyze,
    authorization::blocked_addresses,
    authorization::policies,
    conditions::analyze,
    deployments::services,
    deployments::user,
    deprecated::analyze,
    destination_rules::certificates,
    destination_rules::subsets,
    envoy_filters::analyze,
    external_control_plane::analyze,
    gateway_api::definitions,
    gateway_api::selectors,
    gateway_secrets::analyze,
    gateways::certificates,
    gateways::conflicts,
    gateways::ports,
    injection::analyze,
    mesh_networks::analyze,
    pod_images::automatic,
    pod_images::versions,
    port_names::analyze,
    schema::analyze,
    service_entries::addresses,
    service_entries::protocols,
    sidecars::analyze,
    telemetry::analyze,
    unreachable::analyze,
    virtual_service_gateways::gateways,
    virtual_service_gateways::token_claims,
    virtual_services::conflicts,
    virtual_services::destinations,
    virtual_services::subsets,
    webhooks::analyze,
];

/// All messages about a snapshot: without those that the object itself suppresses, equal ones once, in a fixed order.
pub fn messages(snapshot: &Snapshot) -> Vec<Message> {
    let context = Context::new(snapshot);
    let mut out = Messages::default();
    for analyze in ANALYZERS {
        analyze(&context, &mut out);
    }
    out.finish(snapshot)
}
