//! Services: what stands between a name and the pods that answer.

pub mod app_listens_on_localhost;
pub mod endpoints_by_hand;
pub mod external_name_unresolvable;
pub mod gone;
pub mod headless_other_port;
pub mod identity;
pub(crate) mod ingress;
pub mod ingress_backend;
pub mod ingress_class;
pub mod listens_elsewhere;
pub mod load_balancer;
pub mod local_policy;
pub mod missing_ports;
pub mod named_port_missing;
pub mod no_ready_endpoints;
pub mod nothing_behind;
pub mod one_pod_takes_most;
pub mod protocol_differs;
pub mod publishes_not_ready;
pub mod selector_matches_nothing;
pub mod selector_too_broad;
pub mod served;
pub mod service_port_missing;
pub mod stale_endpoints;
pub mod target_port_not_served;
