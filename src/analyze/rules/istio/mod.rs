//! Istio: what its configuration does to requests.

pub mod authorization_denies;
pub mod conflicting_hosts;
pub mod connection_pool_too_tight;
pub mod custom_provider_unknown;
pub mod destination_port_not_found;
pub mod egress;
pub mod egress_host_excluded;
pub mod envoy_filter_rejected;
pub mod fault_injection_left_on;
pub mod gateway_host_mismatch;
pub mod gateway_not_found;
pub mod gateway_selects_nothing;
pub mod host_not_found;
pub mod hosts;
pub mod idle_connections_closed;
pub mod mtls_modes_clash;
pub mod policy_match;
pub mod port_protocol_mismatch;
pub mod proxy_out_of_memory;
pub mod registry_only_blocks;
pub mod route_shadowed;
pub mod sidecar_missing;
pub mod subset_undefined;
pub mod subset_without_pods;
pub mod timeout_too_short;
