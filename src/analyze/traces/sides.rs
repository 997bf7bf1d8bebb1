//! Spans before the onset and after it.

use jiff::Timestamp;

use crate::model::span::Span;

/// Somebody who notices a failure notices it late. Spans of this many nanoseconds before the onset are of neither side, as long
/// as enough others show how it was before.
const NOTICED_LATE: i64 = 75_000_000_000;
/// That is, this share of all that were before the onset.
const ENOUGH: f64 = 0.4;
/// What was before is looked at in so many pieces at most.
const PIECES: usize = 6;
/// Spans of a piece; fewer say nothing.
const PIECE: usize = 8;

/// Which side a span is on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides {
    onset: i64,
}

impl Sides {
    pub(super) fn of(onset: Timestamp) -> Self {
        Sides { onset: i64::try_from(onset.as_nanosecond()).unwrap_or(i64::MAX) }
    }

    /// Whether a span began after the onset.
    pub(super) fn after(&self, span: &Span) -> bool {
        span.start >= self.onset
    }

    /// When the onset is, in nanoseconds since 1970.
    pub(super) fn onset(&self) -> i64 {
        self.onset
    }

    /// Of what was before the onset, in order of time, the part in which surely nothing had begun yet; all of it where that
    /// leaves too little.
    pub(super) fn calm<T>(&self, before: &mut Vec<T>, time: impl Fn(&T) -> i64) {
        let until = self.onset.saturating_sub(NOTICED_LATE);
        let calm = before.partition_point(|item| time(item) < until);
        if calm >= PIECE && calm as f64 >= ENOUGH * before.len() as f64 {
            before.truncate(calm);
        }
    }
}

/// What was before, in pieces of equal numbers in order of time.
pub(super) fn pieces<T>(before: &[T]) -> impl Iterator<Item = &[T]> {
    let count = (before.len() / PIECE).clamp(1, PIECES);
    (0..count).filter_map(move |at| before.get(at * before.len() / count..(at + 1) * before.len() / count))
}
