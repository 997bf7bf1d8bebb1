//! The cluster's name server, what asks it, and registries that stand beside it.

pub mod api_unreadable;
pub mod configuration_broken;
pub mod configuration_cut;
pub mod consul_registry;
pub mod host_alias;
pub mod host_network;
pub mod look_ups_lost;
pub mod look_ups_multiplied;
pub mod server;
pub mod server_down;
pub mod unanswered;
pub mod upstream_failing;
