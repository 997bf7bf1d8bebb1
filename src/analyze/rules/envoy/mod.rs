//! Envoy's response flags: one rule for each way in which proxies see requests fail. They are symptoms; what explains them
//! is found by other rules and matched by flag and Service.

pub mod abort_injected;
pub mod application_errors;
pub mod certificate_rejected;
pub mod client_gave_up;
pub mod connection_failed;
pub mod connection_refused;
pub mod connection_timeout;
pub mod delay_injected;
pub mod direct_response;
pub mod dns_failed;
pub mod downstream_protocol;
pub mod egress_blocked;
pub mod external_authorization;
pub mod http_limit;
pub mod jwt_denied;
pub mod local_reset;
pub mod no_cluster;
pub mod no_filter_chain;
pub mod no_healthy_upstream;
pub mod no_route;
pub mod no_route_configuration;
pub mod other_flag;
pub mod overflow;
pub mod proxy_overloaded;
pub mod rate_limit_service;
pub mod rate_limited;
pub mod rbac_denied;
pub mod retries_exhausted;
pub mod stream_cut;
pub mod symptom;
pub mod tls_to_plaintext;
pub mod upstream_closed;
pub mod upstream_protocol;
pub mod upstream_reset;
pub mod upstream_timeout;
