//! What spans of distributed traces say of a failure: where time is spent that was not spent before, where errors begin,
//! which calls ceased, are new, or are made again and again.
//!
//! ```text
//! spans ──> forest, self time ──┬─> timing ────┐
//!                               ├─> errors ────┤
//!                               ├─> structure ─┼─> anomalies
//!                               ├─> repeats ───┘
//!                               ├─> path ──────> what requests wait for
//!                               └─> completeness ─> gaps
//! ```
//! Every comparison is of spans before the onset with spans after it, and what was before is looked at in pieces: a change
//! must stand out against each of them, since no two minutes of a live system are alike.

mod begin;
mod completeness;
pub mod errors;
pub mod measure;
mod names;
pub mod path;
mod repeats;
mod sides;
mod stats;
pub mod structure;
pub mod timing;

use jiff::Timestamp;

use super::anomaly::{self, Anomaly};
use super::clocks::Clocks;
use crate::model::snapshot::Snapshot;

pub use begin::beginnings;
pub use completeness::gaps;
pub use measure::Measured;

/// Deviations in the spans of a snapshot, the strongest first. Without an onset the snapshot's own counts; with none at all
/// nothing can be compared.
pub fn anomalies(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Anomaly> {
    let Some(onset) = onset.or(snapshot.onset) else { return vec![] };
    if snapshot.spans.is_empty() {
        return vec![];
    }
    let measured = snapshot.derived::<Measured>();
    let sides = sides::Sides::of(onset);
    let mut out = timing::anomalies(&snapshot.spans, &measured, &sides);
    out.extend(errors::anomalies(snapshot, &measured, &sides));
    out.extend(structure::anomalies(&snapshot.spans, &measured, &sides));
    out.extend(repeats::anomalies(&snapshot.spans, &measured, &sides));
    anomaly::bounded(snapshot.derived::<Clocks>().put_right(out))
}

#[cfg(test)]
mod tests;
