//! Configuration that pods take in: ConfigMaps, Secrets, keys and settings.

pub mod missing_config_map;
pub mod missing_config_map_key;
pub mod missing_secret;
mod setting;
pub mod setting_missing;
pub mod setting_no_address;
pub mod setting_refused;
pub(crate) mod source;
