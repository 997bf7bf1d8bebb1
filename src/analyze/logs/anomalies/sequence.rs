//! The lines of requests, one sequence for each part of a request that one service handles.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use super::super::events::ServiceEvents;
use super::super::ids;
use super::Context;
use crate::model::network::ServiceName;
use crate::model::span::Name;

/// Lines of one sequence that are looked at; a batch job's one "request" has thousands.
const MAX_SEQUENCE: usize = 512;
/// Stands for the end of a sequence.
pub(super) const END: u32 = u32::MAX;
/// From here on statements are the operations of spans, by the index of their names.
pub(super) const OPERATIONS: u32 = 1 << 30;

/// A step: service, statement, and the one that follows it.
pub(super) type Step = (u32, u32, u32);

/// The part of one request that one service handles.
pub(super) struct Sequence {
    pub(super) service: u32,
    pub(super) request: NonZeroU64,
    span: Option<NonZeroU64>,
    /// When each line came, and its template.
    pub(super) lines: Vec<(i64, u32)>,
}

/// Puts the operation of each span before its lines, and adds the spans without lines of requests that have lines elsewhere. Answers
/// the operations.
pub(super) fn begin_with_spans(
    context: &Context<'_>,
    services: &[(&ServiceName, &ServiceEvents)],
    sequences: &mut Vec<Sequence>,
) -> Vec<Name> {
    let mut operations: Vec<Name> = vec![];
    if context.spans.is_empty() {
        return operations;
    }
    let mut numbers: HashMap<Name, u32> = HashMap::new();
    let logged: HashSet<NonZeroU64> = sequences.iter().map(|s| s.request).collect();
    let mut with_lines: HashMap<(u32, NonZeroU64), Vec<usize>> = HashMap::new();
    for (at, sequence) in sequences.iter().enumerate() {
        if let Some(span) = sequence.span {
            with_lines.entry((sequence.service, span)).or_default().push(at);
        }
    }
    if with_lines.is_empty() {
        return operations;
    }
    let names = context.spans.services().iter();
    let of_span: Vec<Option<u32>> = names
        .map(|service| services.iter().position(|(name, _)| *name == service).map(|at| at as u32))
        .collect();
    for trace in context.spans.traces() {
        let request = ids::request(trace.id);
        if !logged.contains(&request) {
            continue;
        }
        for span in trace.spans {
            let known = of_span.get(context.spans.service_index(span)).copied().flatten();
            let Some(service) = known else { continue };
            let number = *numbers.entry(span.operation).or_insert_with(|| {
                operations.push(span.operation);
                OPERATIONS + operations.len() as u32 - 1
            });
            let (start, id) = (span.start / 1000, NonZeroU64::new(span.id));
            match id.and_then(|id| with_lines.get(&(service, id))) {
                Some(known) => {
                    for at in known {
                        if let Some(sequence) = sequences.get_mut(*at).filter(|s| s.request == request) {
                            sequence.lines.insert(0, (start.min(sequence.starts()), number));
                        }
                    }
                }
                None => sequences.push(Sequence { service, request, span: id, lines: vec![(start, number)] }),
            }
        }
    }
    operations
}

/// Leaves out the requests that recording cut off: their ends are no ends.
pub(super) fn leave_out_cut(context: &Context<'_>, sequences: &mut Vec<Sequence>) {
    let mut last: HashMap<NonZeroU64, i64> = HashMap::new();
    for sequence in sequences.iter() {
        let ends = sequence.lines.iter().map(|(at, _)| *at).max().unwrap_or_default();
        last.entry(sequence.request).and_modify(|at| *at = ends.max(*at)).or_insert(ends);
    }
    sequences.retain(|s| last.get(&s.request).is_some_and(|at| !context.is_cut(*at)));
}

/// The sequences of one service.
pub(super) fn sequences_of(log: &ServiceEvents, service: u32) -> Vec<Sequence> {
    let mut by_part: HashMap<(NonZeroU64, Option<NonZeroU64>), usize> = HashMap::new();
    let mut out: Vec<Sequence> = vec![];
    for event in &log.events {
        let Some(request) = event.ids.request else { continue };
        let at = *by_part.entry((request, event.ids.span)).or_insert_with(|| {
            out.push(Sequence { service, request, span: event.ids.span, lines: vec![] });
            out.len() - 1
        });
        if let Some(sequence) = out.get_mut(at).filter(|s| s.lines.len() < MAX_SEQUENCE) {
            sequence.lines.push((event.at, event.template));
        }
    }
    out
}

impl Sequence {
    /// Each line with the template that follows it and when that came.
    pub(super) fn steps(&self) -> impl Iterator<Item = (Step, i64)> + '_ {
        let next = self.lines.iter().skip(1).map(|(at, template)| (Some(*at), *template));
        self.lines
            .iter()
            .zip(next.chain([(None, END)]))
            .map(|((at, template), (then, next))| ((self.service, *template, next), then.unwrap_or(*at)))
    }

    /// When its first line came.
    pub(super) fn starts(&self) -> i64 {
        self.lines.first().map_or(0, |(at, _)| *at)
    }
}
