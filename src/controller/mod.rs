//! Watches sessions, decides what is to be done about each, runs investigations and publishes what they find.
//!
//! ```text
//! watch ──> decide (pure) ──> jobs ──> investigate ──> project (pure) ──> publish
//! ```
//!
//! `reconcile` never investigates: a run is a job of its own, so that an edit, a cancellation or a shutdown is never
//! kept waiting by one. How things stand is read from the status alone, so another process can take over at any time.

pub mod backoff;
pub mod condition;
pub mod decide;
pub mod owner;
pub mod state;
