//! Consul: configuration entries that its servers refuse, and intentions that refuse callers.

pub mod config_entry_not_synced;
pub mod intention_denies;
