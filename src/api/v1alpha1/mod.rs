//! Version `v1alpha1` of the API. Changes are additive from the first release on.

pub mod common;
pub mod finding;
pub mod request;
pub mod session;
pub mod status;

pub use session::{DebugSession, DebugSessionSpec};
pub use status::DebugSessionStatus;
