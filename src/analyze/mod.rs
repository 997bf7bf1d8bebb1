//! Rules, hypotheses and remedies: a pure function from a snapshot to a diagnosis.
//!
//! ```text
//! snapshot ──> rules ──> findings ──> hypotheses ──> diagnosis
//! ```

pub mod causal;
pub mod diagnosis;
pub mod finding;
pub mod hypothesis;
pub mod istioctl;
pub mod logs;
pub mod narrative;
pub mod registry;
pub mod remedy;
pub mod rule;
pub mod rules;
pub mod take_back;
pub mod telemetry;
pub mod traffic;
pub mod twin;
