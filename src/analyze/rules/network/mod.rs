//! Network policies: which connections they let through.

pub mod connection_table_full;
pub mod large_transfers_stall;
pub mod mesh_needs;
pub mod mesh_port_blocked;
pub mod network_policy_blocks;
pub mod policy;
