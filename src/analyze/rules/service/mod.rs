//! Services: what stands between a name and the pods that answer.

pub mod app_listens_on_localhost;
pub mod external_name_unresolvable;
pub mod named_port_missing;
pub mod no_ready_endpoints;
pub mod selector_matches_nothing;
pub mod served;
pub mod target_port_not_served;
