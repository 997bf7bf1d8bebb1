//! Linkerd: what its proxies say of failing calls, and which policy does it.

pub mod failfast;
pub mod lines;
pub mod policy_denies;
