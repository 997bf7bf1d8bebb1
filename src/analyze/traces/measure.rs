//! What is computed for each span once: how long it worked by itself, and whether it is the caller's side of a call.

use std::collections::HashMap;

use super::names::{handles_errors, pattern};
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;
use crate::model::span::tree::Forest;
use crate::model::span::{Kind, Name, Span, Spans};

/// An operation's name without ids, an index for [`Measured::operation`].
pub type Operation = u32;

/// The figures of all spans, by their index in [`Spans::all`]. Read it through `snapshot.derived::<Measured>()`.
#[derive(Debug, Default)]
pub struct Measured {
    /// Parents and children.
    pub forest: Forest,
    /// For each name its operation.
    by_name: Vec<Operation>,
    operations: Vec<String>,
    errors: Vec<bool>,
    own: Vec<u64>,
    callee: Vec<u32>,
}

/// No span.
const NONE: u32 = u32::MAX;

impl Derived for Measured {
    fn derive(snapshot: &Snapshot) -> Self {
        Measured::of(&snapshot.spans)
    }
}

impl Measured {
    /// Computes all of it.
    pub fn of(spans: &Spans) -> Self {
        let forest = Forest::of(spans);
        let all = spans.all();
        let mut measured =
            Measured { own: vec![0; all.len()], callee: vec![NONE; all.len()], ..Measured::default() };
        measured.name(spans);
        let mut parts: Vec<(i64, i64)> = vec![];
        for (at, span) in all.iter().enumerate() {
            parts.clear();
            let service = spans.service_index(span);
            let (mut children, mut remote) = (0, NONE);
            for child in forest.children(at) {
                let Some(inner) = all.get(child) else { continue };
                children += 1;
                let away = spans.service_index(inner) != service;
                if away && remote == NONE {
                    remote = child as u32;
                }
                parts.push(within(span, inner, away || inner.emitter != span.emitter));
            }
            // A span that says of itself that it calls, or that does nothing but wait for one of another service.
            let calls = span.is_outgoing() || (span.kind == Kind::Unset && children == 1);
            if let (Some(own), Some(callee)) = (measured.own.get_mut(at), measured.callee.get_mut(at)) {
                *own = span.duration.saturating_sub(covered(&mut parts));
                *callee = if calls { remote } else { NONE };
            }
        }
        measured.forest = forest;
        measured
    }

    fn name(&mut self, spans: &Spans) {
        let mut known: HashMap<String, Operation> = HashMap::new();
        let mut used = vec![false; spans.names().len()];
        for span in spans.all() {
            if let Some(used) = used.get_mut(span.operation.index()) {
                *used = true;
            }
        }
        for (text, used) in spans.names().iter().zip(used) {
            let next = self.operations.len() as Operation;
            let operation = if used { *known.entry(pattern(text)).or_insert(next) } else { 0 };
            if used && operation == next {
                let text = pattern(text);
                self.errors.push(handles_errors(&text));
                self.operations.push(text);
            }
            self.by_name.push(operation);
        }
    }

    /// The operation of a name.
    pub fn operation_of(&self, name: Name) -> Operation {
        self.by_name.get(name.index()).copied().unwrap_or_default()
    }

    /// An operation's text.
    pub fn operation(&self, operation: Operation) -> &str {
        self.operations.get(operation as usize).map_or("", String::as_str)
    }

    /// Whether an operation is a handler of errors, by its name.
    pub fn handles_errors(&self, operation: Operation) -> bool {
        self.errors.get(operation as usize).copied().unwrap_or_default()
    }

    /// How long a span worked by itself: its length without the time that any span within it covers, in nanoseconds.
    pub fn own(&self, at: usize) -> u64 {
        self.own.get(at).copied().unwrap_or_default()
    }

    /// The callee's span where this one is the caller's side of a call and nothing else.
    pub fn callee(&self, at: usize) -> Option<usize> {
        self.callee.get(at).copied().filter(|callee| *callee != NONE).map(|callee| callee as usize)
    }
}

/// When a span within another took place, by the outer one's clock, as far as it lies within.
fn within(outer: &Span, inner: &Span, other_clock: bool) -> (i64, i64) {
    let by = shift(outer, inner, other_clock);
    let (start, end) = (inner.start.saturating_add(by), inner.end().saturating_add(by));
    (start.max(outer.start), end.min(outer.end()))
}

/// By how many nanoseconds the clock of a span within another is behind the outer one's, as far as the two show: a callee that
/// seems to begin before its caller, or to end after it, is taken to lie in the middle of it. 0 where they fit, have one clock, or where
/// nothing says that one must lie within the other.
pub fn shift(outer: &Span, inner: &Span, other_clock: bool) -> i64 {
    let fits = outer.start <= inner.start && inner.end() <= outer.end();
    let message = inner.kind == Kind::Consumer || outer.kind == Kind::Producer;
    if fits || !other_clock || message || inner.duration > outer.duration {
        return 0;
    }
    let start = outer.start.saturating_add_unsigned((outer.duration - inner.duration) / 2);
    start.saturating_sub(inner.start)
}

/// How much time spans of time cover together.
fn covered(parts: &mut [(i64, i64)]) -> u64 {
    parts.sort_unstable();
    let (mut sum, mut until) = (0u64, i64::MIN);
    for (start, end) in parts.iter() {
        let start = (*start).max(until);
        if *end > start {
            sum = sum.saturating_add(end.saturating_sub(start) as u64);
            until = *end;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_two_children_share_counts_once() {
        assert_eq!(covered(&mut [(0, 10), (5, 20), (30, 40), (31, 32)]), 30);
    }

    #[test]
    fn a_callee_with_another_clock_lies_within_its_caller() {
        let span = |start, duration, kind| Span { start, duration, kind, ..Span::default() };
        let outer = span(1000, 100, Kind::Client);
        assert_eq!(within(&outer, &span(500, 60, Kind::Server), true), (1020, 1080));
        assert_eq!(within(&outer, &span(1010, 60, Kind::Server), true), (1010, 1070));
        assert_eq!(within(&outer, &span(1090, 60, Kind::Internal), false), (1090, 1100));
        assert_eq!(
            within(&outer, &span(1090, 60, Kind::Consumer), true),
            (1090, 1100),
            "a message is read later"
        );
    }
}
