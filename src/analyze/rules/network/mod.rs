//! Network policies: which connections they let through.

pub mod network_policy_blocks;
pub mod policy;
