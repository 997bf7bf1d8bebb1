//! What applications say themselves, in their logs, and the settings that explain it.

pub mod calls;
pub mod calls_fail;
pub mod client_timeout_too_short;
pub mod pool_exhausted;
pub mod requests_answered_with_errors;
pub mod settings;
