//! Watches sessions, decides what is to be done about each, runs investigations and publishes what they find.
//!
//! ```text
//! watch ──> decide (pure) ──> jobs ──> investigate ──> project (pure) ──> publish
//! ```
//!
//! `reconcile` never investigates: a run is a job of its own, so that an edit, a cancellation or a shutdown is never
//! kept waiting by one. How things stand is read from the status alone, so another process can take over at any time.

pub mod asked;
pub mod backoff;
pub mod condition;
pub mod config;
pub mod context;
pub mod decide;
pub mod events;
pub mod fetch;
pub mod health;
pub mod investigate;
pub mod job;
pub mod jobs;
pub mod lease;
pub mod live;
pub mod metrics;
pub mod operator;
pub mod owner;
pub mod publish;
pub mod question;
pub mod reconcile;
pub mod state;
pub mod watch;
pub mod write;

use std::error::Error;

/// An error and what caused it, in one line: errors here do not repeat their sources.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
