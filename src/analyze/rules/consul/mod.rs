//! Consul: configuration entries that its servers refuse.

pub mod config_entry_not_synced;
