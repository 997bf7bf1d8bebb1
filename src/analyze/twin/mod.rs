//! The twin: a pure model of what the mesh does with a request.
//!
//! ```text
//! ask ──> source's proxy: listener ──> filter chain ──> route ──> cluster ──> pods ──> policies ──> answer
//! ```
//!
//! Configuration of each kind is translated into one model, of listeners and route tables, and that is evaluated as Envoy
//! would. What is not modelled is answered with [`answer::Outcome::NotModelled`] and a reason, never with a guess.

pub mod answer;
pub mod ask;
pub mod gateway_api;
pub mod http;
pub mod istio;
pub mod party;
pub mod policy;
mod walk;

use crate::model::snapshot::Snapshot;
use answer::Answer;
use ask::Ask;

/// A snapshot that requests can be asked of. What answers need is indexed once; asking is cheap.
#[derive(Debug)]
pub struct Twin<'a> {
    /// What was seen.
    pub snapshot: &'a Snapshot,
}

impl<'a> Twin<'a> {
    /// The twin of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Twin { snapshot }
    }

    /// What becomes of a request.
    pub fn answer(&self, ask: &Ask) -> Answer {
        walk::answer(self, ask)
    }
}
