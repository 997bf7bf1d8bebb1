//! One request, followed by its id through spans, access logs and application logs of every service.

mod lines;
mod order;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::Serialize;

use crate::model::snapshot::Snapshot;

/// Steps that are kept; a request with more is a batch job.
pub const MAX_STEPS: usize = 2_000;

/// Where a step was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Seen {
    /// A span of a trace.
    Span,
    /// A proxy's access log.
    AccessLog,
    /// A line that an application logged.
    Log,
}

/// Something that happened on a request's way.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// When, by the clock of where the request began as far as spans tell how clocks differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// Where: `namespace/service`.
    pub service: String,
    /// The pod, where it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// How deep within other steps: 0 is where the request began.
    pub depth: usize,
    /// Where it was seen.
    pub seen: Seen,
    /// What was done or said: text of the cluster, redacted.
    pub what: String,
    /// How it went where something says so: `HTTP 503`, `gRPC 14`, `UH`, an error's text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// How long it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
    /// Whether it failed.
    pub failed: bool,
}

/// Where a request broke.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Broke {
    /// The step, an index of [`Followed::steps`].
    pub step: usize,
    /// Why it is this one, in our words.
    pub why: String,
    /// What its service logged about it, word for word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub said: String,
}

/// A service whose clock differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Clock {
    /// The service, and its pod where it is known.
    pub place: String,
    /// Milliseconds that its clock is ahead of the one where the request began; negative is behind.
    pub ahead_ms: f64,
}

/// A request that was followed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Followed {
    /// The id that was asked for.
    pub id: String,
    /// Other ids of the same request that were met on the way.
    pub also: Vec<String>,
    /// What happened, in causal order.
    pub steps: Vec<Step>,
    /// Where it broke; absent where nothing failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broke: Option<Broke>,
    /// Clocks that were put right.
    pub clocks: Vec<Clock>,
    /// What is missing of it, in our words.
    pub notes: Vec<String>,
}

impl Followed {
    /// Lets go of what applications logged, where none of it may be kept: that they did stays.
    pub fn forget_lines(&mut self) {
        for step in self.steps.iter_mut().filter(|step| step.seen == Seen::Log) {
            step.what = "a line (its text is not kept)".to_owned();
        }
        if let Some(broke) = &mut self.broke {
            broke.said.clear();
        }
    }
}

/// Follows the request with this id: a trace's id in any of its forms, an `x-request-id`, or whatever programs log.
pub fn follow(snapshot: &Snapshot, id: &str) -> Followed {
    let id = id.trim();
    let mut found = lines::Found::of(snapshot, id);
    let mut way = order::Way::default();
    for trace in &found.traces {
        way.trace(snapshot, trace);
    }
    way.lines(snapshot, &found);
    let mut followed = way.finish(snapshot);
    id.clone_into(&mut followed.id);
    found.ids.retain(|other| !other.eq_ignore_ascii_case(id));
    followed.also = found.ids;
    if found.more {
        followed
            .notes
            .push(format!("more than {} lines carry the id; the first ones are shown", lines::MAX_LINES));
    }
    followed
}
