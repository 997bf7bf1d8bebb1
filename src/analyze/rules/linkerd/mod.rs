//! Linkerd: what its proxies say of failing calls, which policy does it, and what it mirrors from other clusters.

pub mod failfast;
pub mod lines;
pub mod mirror_without_endpoints;
pub mod policy_denies;
pub mod protocol_not_detected;
