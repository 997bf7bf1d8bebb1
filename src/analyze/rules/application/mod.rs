//! What applications say themselves, in their logs, and the settings that explain it.

pub mod addresses;
pub mod calls;
pub mod calls_fail;
pub mod calls_nobody;
pub mod certificate_not_accepted;
pub mod client_timeout_too_short;
pub mod connection_limit_reached;
pub mod dependency_name_unknown;
pub mod errors_logged;
pub mod external_dependency_failing;
pub mod latency_shift;
pub mod limited_by_callee;
pub mod message_too_large;
pub mod method_unknown;
pub mod nginx_limit;
pub mod other_side;
pub mod pings_too_often;
pub mod pool_exhausted;
pub mod requests_answered_with_errors;
pub mod resource_limit_reached;
pub mod setting_changed;
pub mod settings;
pub mod shift;
pub mod slow_calls_logged;
pub mod wrong_port_or_scheme_in_setting;
