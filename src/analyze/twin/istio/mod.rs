//! Istio's configuration, translated into listeners and route tables as its control plane does it.

pub mod byte_chains;
pub mod delegate;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod gateway_listener;
pub mod gateway_table;
pub mod inbound;
pub mod ingress;
pub mod outbound;
pub mod proxy;
pub mod route;
pub mod scope;
pub mod sidecar_table;
pub mod targets;
pub mod virtual_services;

pub use crate::model::mesh::istio::{full_host, host_matches};

/// Whether everything that `inner` covers is covered by `outer` too; patterns begin with `*`.
pub fn subset_of(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (Some(_), None) => false,
        (None, Some(outer)) => inner.len() > outer.len() && inner.ends_with(outer) || outer.is_empty(),
        (None, None) => inner.eq_ignore_ascii_case(outer),
    }
}
