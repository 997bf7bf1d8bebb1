//! Network policies: which connections they let through.

pub mod mesh_port_blocked;
pub mod network_policy_blocks;
pub mod policy;
