//! Istio: what its configuration does to requests.

pub mod authorization_denies;
pub mod custom_provider_unknown;
pub mod fault_injection_left_on;
pub mod policy_match;
pub mod subset_without_pods;
pub mod timeout_too_short;
