//! Which span lies within which, over all traces.

use super::{Span, Spans};

/// No span.
const NONE: u32 = u32::MAX;

/// Parents and children of all spans, by their index in [`Spans::all`]. Loops, which only a broken or hostile writer makes,
/// are cut.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    parent: Vec<u32>,
    first: Vec<u32>,
    next: Vec<u32>,
    orphan: Vec<bool>,
    /// Every span after its parent.
    order: Vec<u32>,
}

impl Forest {
    /// Joins spans by their parents' ids.
    pub fn of(spans: &Spans) -> Self {
        let all = spans.all();
        let none = vec![NONE; all.len()];
        let mut forest = Forest {
            parent: none.clone(),
            first: none.clone(),
            next: none,
            orphan: vec![false; all.len()],
            order: Vec::with_capacity(all.len()),
        };
        let mut from = 0;
        let mut by_id: Vec<(u64, u32)> = vec![];
        for trace in spans.traces() {
            by_id.clear();
            by_id.extend(trace.spans.iter().enumerate().map(|(at, span)| (span.id, (from + at) as u32)));
            by_id.sort_unstable();
            for (at, span) in trace.spans.iter().enumerate() {
                let at = from + at;
                let found = parent_of(spans, &by_id, span, at as u32);
                if let (Some(parent), Some(orphan)) = (forest.parent.get_mut(at), forest.orphan.get_mut(at)) {
                    *parent = found.unwrap_or(NONE);
                    *orphan = found.is_none() && span.parent != 0;
                }
            }
            from += trace.spans.len();
        }
        forest.cut_loops();
        // Spans of a trace stand in order of start; linked from the last on, so do children.
        for at in (0..all.len()).rev() {
            let Some(parent) = forest.parent(at) else { continue };
            let head = forest.first.get(parent).copied().unwrap_or(NONE);
            if let (Some(next), Some(first)) = (forest.next.get_mut(at), forest.first.get_mut(parent)) {
                *next = head;
                *first = at as u32;
            }
        }
        forest
    }

    /// Walks up from every span; a walk that meets itself lets go of the parent there. Parents come into the order first.
    fn cut_loops(&mut self) {
        let mut done = vec![0u8; self.parent.len()];
        let mut path: Vec<usize> = vec![];
        for at in 0..self.parent.len() {
            let mut current = Some(at);
            while let Some(span) = current {
                match done.get(span) {
                    Some(0) => {
                        if let Some(mark) = done.get_mut(span) {
                            *mark = 1;
                        }
                        path.push(span);
                        current = self.parent(span);
                    }
                    Some(1) => {
                        if let Some(parent) = path.last().and_then(|last| self.parent.get_mut(*last)) {
                            *parent = NONE;
                        }
                        current = None;
                    }
                    _ => current = None,
                }
            }
            while let Some(span) = path.pop() {
                if let Some(mark) = done.get_mut(span) {
                    *mark = 2;
                }
                self.order.push(span as u32);
            }
        }
    }

    /// The span around a span.
    pub fn parent(&self, at: usize) -> Option<usize> {
        self.parent.get(at).copied().filter(|parent| *parent != NONE).map(|parent| parent as usize)
    }

    /// The spans directly within a span, in order of start.
    pub fn children(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let step = |link: Option<&u32>| link.copied().filter(|next| *next != NONE).map(|next| next as usize);
        std::iter::successors(step(self.first.get(at)), move |child| step(self.next.get(*child)))
    }

    /// Whether a span names a parent that is not there: it was not sampled, was lost, or was never sent.
    pub fn is_orphan(&self, at: usize) -> bool {
        self.orphan.get(at).copied().unwrap_or_default()
    }

    /// All spans, each after its parent.
    pub fn parents_first(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.order.iter().map(|at| *at as usize)
    }
}

/// Of the spans with the parent's id, that one: the same service's half where a caller and a callee share the id, and for
/// the callee's half itself the caller's.
fn parent_of(spans: &Spans, by_id: &[(u64, u32)], span: &Span, at: u32) -> Option<u32> {
    let all = |id: u64| {
        let from = by_id.partition_point(|(known, _)| *known < id);
        let group = by_id.get(from..).unwrap_or_default().iter().take_while(move |(known, _)| *known == id);
        group.map(|(_, at)| *at).filter(move |other| *other != at)
    };
    let get = |at: &u32| spans.all().get(*at as usize);
    if span.shared
        && let Some(half) = all(span.id).find(|other| get(other).is_some_and(|half| !half.shared))
    {
        return Some(half);
    }
    if span.parent == 0 {
        return None;
    }
    let own = spans.service_index(span);
    let fits = |other: &u32| {
        get(other).map_or(0, |half| 2 * u8::from(spans.service_index(half) == own) + u8::from(half.shared))
    };
    // Of equals the first: the order of spans is fixed.
    all(span.parent).max_by_key(|other| (fits(other), std::cmp::Reverse(*other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::span::tests::zipkin;

    #[test]
    fn children_orphans_halves_and_loops() {
        let span = |id: &str, parent: &str, service: &str, at: u64, shared: bool| {
            json!({"traceId": "a", "id": id, "parentId": parent, "name": id, "timestamp": 1_700_000_000_000_000u64 + at,
                "duration": 10, "localEndpoint": {"serviceName": service}, "shared": shared})
        };
        let spans = zipkin(&json!([
            span("1", "", "a", 0, false),
            span("2", "1", "a", 1, false),
            span("2", "1", "b", 2, true),
            span("3", "2", "b", 3, false),
            span("4", "2", "a", 4, false),
            span("5", "9", "c", 5, false),
            span("6", "7", "d", 6, false),
            span("7", "6", "d", 7, false),
        ]));
        let forest = Forest::of(&spans);
        let parents: Vec<Option<usize>> = (0..8).map(|at| forest.parent(at)).collect();
        assert_eq!(parents[..6], [None, Some(0), Some(1), Some(2), Some(1), None]);
        assert_eq!(parents[6].is_some() as u8 + parents[7].is_some() as u8, 1, "the loop is cut once");
        assert!(forest.is_orphan(5) && !forest.is_orphan(0));
        assert_eq!(forest.children(1).collect::<Vec<_>>(), [2, 4]);
        let order: Vec<usize> = forest.parents_first().collect();
        let place = |at| order.iter().position(|o| *o == at).unwrap();
        assert!(order.len() == 8 && (0..8).all(|at| forest.parent(at).is_none_or(|p| place(p) < place(at))));
    }
}
