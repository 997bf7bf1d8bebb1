//! Meshscope says why a service fails.
//!
//! One way through the house, left to right; an arrow is "may use":
//!
//! ```text
//! api ──> controller ──> collect ──> model ──> analyze ──> report ──> status / files / screen
//! (spec)   (when, who)    (I/O)     (facts)    (pure)      (pure)
//! ```
//!
//! `tests/architecture.rs` reads every `use` and fails on an edge that its table lacks.

pub mod analyze;
pub mod api;
pub mod cli;
pub mod collect;
pub mod controller;
pub mod model;
pub mod replay;
pub mod report;
pub mod server;
pub mod telemetry;
