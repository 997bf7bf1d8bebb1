//! Rules, hypotheses and remedies: a pure function from a snapshot to a diagnosis.
//!
//! ```text
//! snapshot ──> rules ──> findings ──> hypotheses ──> diagnosis
//!      └─────> series, logs, traces ──> anomalies ──^
//! ```

pub mod anomaly;
pub mod beginnings;
pub mod causal;
pub mod clocks;
pub mod diagnosis;
pub mod finding;
pub mod follow;
pub mod hypothesis;
pub mod impact;
pub mod istio_schema;
pub mod istioctl;
pub mod logs;
pub mod narrative;
pub mod onset;
pub mod registry;
pub mod remedy;
pub mod rule;
pub mod rules;
pub mod series;
pub mod take_back;
pub mod telemetry;
pub mod traces;
pub mod traffic;
pub mod trial;
pub mod twin;
