//! From spans as a reader has them to the compact form, in an order of their own.

use std::borrow::Cow;
use std::collections::HashMap;

use super::attributes::Facts;
use super::names::Name;
use super::read::normal_trace_id;
use super::{Emitter, Kind, MAX_SPANS, Span, Spans};

/// Processes that write spans. Beyond it, new ones count as one without a name.
const MAX_EMITTERS: usize = 20_000;

/// A span as a reader has it.
#[derive(Debug)]
pub(super) struct Draft<'s> {
    pub(super) trace: Cow<'s, str>,
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) emitter: u32,
    pub(super) operation: Cow<'s, str>,
    /// Nanoseconds since 1970.
    pub(super) start: Option<i64>,
    pub(super) end: Option<i64>,
    pub(super) kind: Kind,
    pub(super) shared: bool,
    pub(super) facts: Facts,
}

/// How many spans were read and left out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) kept: usize,
    pub(super) unusable: usize,
    pub(super) beyond: usize,
}

/// Collects the spans of all files.
#[derive(Debug, Default)]
pub struct SpansBuilder {
    spans: Spans,
    traces: HashMap<Box<str>, u32>,
    emitters: HashMap<Emitter, u32>,
    /// The trace of the span before: spans of one trace mostly stand together.
    last: Option<(Box<str>, u32)>,
    counts: Counts,
}

impl SpansBuilder {
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Counts a span that says too little.
    pub(super) fn unusable(&mut self) {
        self.counts.unusable += 1;
    }

    pub(super) fn emitter(&mut self, emitter: Emitter) -> u32 {
        if let Some(at) = self.emitters.get(&emitter) {
            return *at;
        }
        let emitter = if self.emitters.len() < MAX_EMITTERS { emitter } else { Emitter::default() };
        let next = self.spans.emitters.len() as u32;
        let at = *self.emitters.entry(emitter.clone()).or_insert(next);
        if at == next {
            self.spans.emitters.push(emitter);
        }
        at
    }

    pub(super) fn push(&mut self, draft: Draft<'_>) {
        let (Some(start), false, false) = (draft.start, draft.trace.trim().is_empty(), draft.id == 0) else {
            return self.unusable();
        };
        if self.spans.spans.len() >= MAX_SPANS {
            self.counts.beyond += 1;
            return;
        }
        self.counts.kept += 1;
        let trace = self.trace(&draft.trace);
        let names = &mut self.spans.names;
        let mut clean = |text: &str| {
            let text = text.trim();
            if text.contains(char::is_control) {
                names.intern(&text.replace(char::is_control, " "))
            } else {
                names.intern(text)
            }
        };
        let facts = &draft.facts;
        let span = Span {
            trace,
            emitter: draft.emitter,
            id: draft.id,
            // Nobody is one's own parent, but in Zipkin's shared spans the halves have one id and one parent.
            parent: if draft.parent == draft.id { 0 } else { draft.parent },
            start,
            duration: draft.end.map_or(0, |end| end.saturating_sub(start).max(0) as u64),
            operation: clean(&draft.operation),
            peer: clean(&facts.peer),
            message: clean(&facts.message),
            request: clean(&facts.request),
            code: facts.code,
            kind: draft.kind,
            status: facts.status,
            shared: draft.shared,
            attempt: facts.attempt,
        };
        self.spans.spans.push(span);
    }

    fn trace(&mut self, id: &str) -> u32 {
        if let Some((last, at)) = &self.last
            && last.as_ref() == id
        {
            return *at;
        }
        let normal = normal_trace_id(id);
        let next = self.spans.traces.len() as u32;
        let at = match self.traces.get(normal.as_str()) {
            Some(at) => *at,
            None => {
                let normal: Box<str> = normal.into();
                self.spans.traces.push((normal.clone(), 0));
                self.traces.insert(normal, next);
                next
            }
        };
        self.last = Some((id.into(), at));
        at
    }

    /// All spans, in order; what two files both hold is kept once.
    pub fn finish(self) -> Spans {
        let mut all = self.spans;
        drop((self.traces, self.emitters));
        let names = all.names.sort();
        let name = |old: Name| names.get(old.index()).copied().unwrap_or_default();
        let emitters = places(&all.emitters);
        let traces = places(&all.traces);
        let place = |places: &[u32], old: u32| places.get(old as usize).copied().unwrap_or_default();
        for span in &mut all.spans {
            span.trace = place(&traces, span.trace);
            span.emitter = place(&emitters, span.emitter);
            for slot in [&mut span.operation, &mut span.peer, &mut span.message, &mut span.request] {
                *slot = name(*slot);
            }
        }
        all.emitters.sort_unstable();
        all.traces.sort_unstable();
        all.spans.sort_unstable_by_key(|span| {
            let kind = (span.kind, span.status, span.code, span.shared, span.attempt);
            let texts = (span.peer, span.message, span.request);
            (
                (span.trace, span.start, std::cmp::Reverse(span.duration), span.id),
                (span.parent, span.emitter, span.operation, kind, texts),
            )
        });
        all.spans.dedup();
        for (at, span) in all.spans.iter().enumerate() {
            if let Some((_, end)) = all.traces.get_mut(span.trace as usize) {
                *end = at + 1;
            }
        }
        all.spans.shrink_to_fit();
        all
    }
}

/// For each item its place after sorting.
fn places<T: Ord>(items: &[T]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..items.len() as u32).collect();
    order.sort_by(|a, b| items.get(*a as usize).cmp(&items.get(*b as usize)));
    let mut out = vec![0; items.len()];
    for (to, from) in order.iter().enumerate() {
        if let Some(slot) = out.get_mut(*from as usize) {
            *slot = to as u32;
        }
    }
    out
}
