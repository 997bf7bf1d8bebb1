//! The critical path: of everything that happens within a request, what it waits for.
//!
//! From the end of a span one goes back to the child that ended last, through it, and on from where that one began. What runs beside
//! the path may be slow and nobody waits for it.

use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

use super::measure::{Measured, Operation, shift};
use super::sides::Sides;
use super::stats::at_share;
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;
use crate::model::span::Spans;

/// Sorts of requests that are told, those that take most time together.
const MAX_REQUESTS: usize = 3;
/// Parts of one sort of request that are told.
const MAX_PARTS: usize = 6;
/// Parts below this share of the time are not worth a line.
const SMALL: f64 = 0.02;
/// Requests below which no percentile is told, and no time before is compared.
const FEW: usize = 5;

/// For each span how much of its root's time is spent in it by itself, in nanoseconds, by their index in [`Spans::all`].
#[derive(Debug, Default)]
pub struct Critical {
    own: Vec<u64>,
}

impl Derived for Critical {
    fn derive(snapshot: &Snapshot) -> Self {
        Critical::of(&snapshot.spans, &snapshot.derived::<Measured>())
    }
}

impl Critical {
    /// Walks the paths of all requests.
    pub fn of(spans: &Spans, measured: &Measured) -> Self {
        let all = spans.all();
        let mut own = vec![0u64; all.len()];
        // A span on a path, when it is waited for, and by how much its clock is behind its root's.
        let mut next: Vec<(usize, i64, i64, i64)> = vec![];
        let mut children: Vec<(i64, i64, usize, i64)> = vec![];
        for (root, span) in all.iter().enumerate() {
            if measured.forest.parent(root).is_some() {
                continue;
            }
            next.push((root, span.start, span.end(), 0));
            while let Some((at, from, to, by)) = next.pop() {
                let Some(outer) = all.get(at) else { continue };
                children.clear();
                for child in measured.forest.children(at) {
                    let Some(inner) = all.get(child) else { continue };
                    let by = by.saturating_add(shift(outer, inner, inner.emitter != outer.emitter));
                    let start = inner.start.saturating_add(by).max(from);
                    let end = inner.end().saturating_add(by).min(to);
                    if start < end {
                        children.push((end, start, child, by));
                    }
                }
                children.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
                let (mut waited, mut until) = (0i64, to);
                for (end, start, child, by) in &children {
                    if *end <= until {
                        waited = waited.saturating_add(until.saturating_sub(*end));
                        next.push((*child, *start, *end, *by));
                        until = *start;
                    }
                }
                waited = waited.saturating_add(until.saturating_sub(from));
                if let Some(slot) = own.get_mut(at) {
                    *slot = waited.max(0) as u64;
                }
            }
        }
        Critical { own }
    }

    /// How long a request waited for this span by itself, in nanoseconds; 0 where it is not on the path.
    pub fn own(&self, at: usize) -> u64 {
        self.own.get(at).copied().unwrap_or_default()
    }
}

/// What one sort of request waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// The service that they come in at: `namespace/name`.
    pub service: String,
    /// What they ask for: text of the cluster.
    pub operation: String,
    /// How many traces show them since the onset, or at all where none is known.
    pub count: usize,
    /// Those that failed.
    pub failed: usize,
    /// How long half of them take at most, in milliseconds.
    pub median_ms: f64,
    /// How long 95 of 100 take at most, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
    /// The median before the onset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<f64>,
    /// What they wait for, the longest first.
    pub parts: Vec<Part>,
}

/// A part of the time that requests take.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The service that works, or the caller where the time goes by between two.
    pub service: String,
    /// The one called, where the time goes by between two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callee: Option<String>,
    /// What is done: text of the cluster.
    pub operation: String,
    /// The share of all the time, 0 to 1.
    pub share: f64,
    /// Milliseconds of each request.
    pub ms: f64,
    /// The same before the onset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_ms: Option<f64>,
}

/// Nobody's sort of request.
const NONE: u32 = u32::MAX;

/// One sort of request: lengths before and since, and failures since.
#[derive(Debug, Default)]
struct Sort {
    before: Vec<f64>,
    since: Vec<f64>,
    failed: usize,
}

/// What requests wait for, those first that take most time together. Spans before and after `onset` are told apart.
pub fn requests(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Requests> {
    let spans = &snapshot.spans;
    if spans.is_empty() {
        return vec![];
    }
    let measured = snapshot.derived::<Measured>();
    let critical = snapshot.derived::<Critical>();
    let sides = onset.map(Sides::of).filter(|sides| spans.all().iter().any(|span| sides.after(span)));
    let mut sorts: BTreeMap<(usize, Operation), Sort> = BTreeMap::new();
    for (at, span) in spans.all().iter().enumerate() {
        if measured.forest.parent(at).is_some() || measured.forest.is_orphan(at) {
            continue;
        }
        let key = (spans.service_index(span), measured.operation_of(span.operation));
        let sort = sorts.entry(key).or_default();
        let since = sides.is_none_or(|sides| sides.after(span));
        let side = if since { &mut sort.since } else { &mut sort.before };
        side.push(span.duration as f64);
        sort.failed += usize::from(since && span.failed());
    }
    let mut chosen: Vec<((usize, Operation), Sort)> =
        sorts.into_iter().filter(|(_, sort)| !sort.since.is_empty()).collect();
    let time = |sort: &Sort| sort.since.iter().sum::<f64>();
    chosen.sort_by(|a, b| time(&b.1).total_cmp(&time(&a.1)).then(a.0.cmp(&b.0)));
    chosen.truncate(MAX_REQUESTS);
    let parts = parts(spans, &measured, &critical, &chosen, sides);
    chosen
        .into_iter()
        .zip(parts)
        .filter_map(|((key, sort), parts)| tell(spans, &measured, key, sort, parts))
        .collect()
}

/// Who works or waits for whom, and at what: the key of a part.
type Of = (usize, Option<usize>, Operation);

/// For each sort of request the nanoseconds that it waits for each part, before and since.
fn parts(
    spans: &Spans,
    measured: &Measured,
    critical: &Critical,
    chosen: &[((usize, Operation), Sort)],
    sides: Option<Sides>,
) -> Vec<BTreeMap<Of, (f64, f64)>> {
    let mut out = vec![BTreeMap::new(); chosen.len()];
    // The sort of the root above each span, and whether that came after the onset.
    let mut above = vec![(NONE, false); spans.all().len()];
    for at in measured.forest.parents_first() {
        let Some(span) = spans.all().get(at) else { continue };
        let of = match measured.forest.parent(at) {
            Some(parent) => above.get(parent).copied().unwrap_or((NONE, false)),
            None if measured.forest.is_orphan(at) => (NONE, false),
            None => {
                let key = (spans.service_index(span), measured.operation_of(span.operation));
                let sort = chosen.iter().position(|(known, _)| *known == key);
                (sort.map_or(NONE, |sort| sort as u32), sides.is_none_or(|sides| sides.after(span)))
            }
        };
        if let Some(slot) = above.get_mut(at) {
            *slot = of;
        }
        let waited = critical.own(at);
        let Some(parts) = out.get_mut(of.0 as usize).filter(|_| waited > 0) else { continue };
        let callee = measured.callee(at).and_then(|callee| spans.all().get(callee));
        let callee = callee.map(|callee| spans.service_index(callee));
        let key = (spans.service_index(span), callee, measured.operation_of(span.operation));
        let sums: &mut (f64, f64) = parts.entry(key).or_default();
        *(if of.1 { &mut sums.1 } else { &mut sums.0 }) += waited as f64;
    }
    out
}

fn tell(
    spans: &Spans,
    measured: &Measured,
    (service, operation): (usize, Operation),
    mut sort: Sort,
    parts: BTreeMap<Of, (f64, f64)>,
) -> Option<Requests> {
    let name = |at: usize| spans.services().get(at).map(ToString::to_string);
    sort.since.sort_unstable_by(f64::total_cmp);
    sort.before.sort_unstable_by(f64::total_cmp);
    let millis = |nanos: f64| nanos / 1e6;
    let all: f64 = parts.values().map(|(_, since)| since).sum();
    let (count, before) = (sort.since.len(), sort.before.len());
    let mut told: Vec<Part> = parts
        .into_iter()
        .filter(|(_, (_, since))| *since > SMALL * all)
        .filter_map(|((service, callee, operation), (was, since))| {
            Some(Part {
                service: name(service)?,
                callee: callee.and_then(name),
                operation: measured.operation(operation).to_owned(),
                share: since / all.max(f64::MIN_POSITIVE),
                ms: millis(since / count as f64),
                before_ms: (before >= FEW).then(|| millis(was / before as f64)),
            })
        })
        .collect();
    told.sort_by(|a, b| {
        b.share.total_cmp(&a.share).then_with(|| (&a.service, &a.operation).cmp(&(&b.service, &b.operation)))
    });
    told.truncate(MAX_PARTS);
    Some(Requests {
        service: name(service)?,
        operation: measured.operation(operation).to_owned(),
        count,
        failed: sort.failed,
        median_ms: millis(at_share(&sort.since, 0.5)),
        p95_ms: (count >= FEW).then(|| millis(at_share(&sort.since, 0.95))),
        before_ms: (before >= FEW).then(|| millis(at_share(&sort.before, 0.5))),
        parts: told,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;
    use crate::model::span::{SpansBuilder, read};

    fn snapshot(spans: &Value) -> Snapshot {
        let mut builder = SpansBuilder::default();
        assert!(read("f", spans.to_string().as_bytes(), &mut builder).is_empty());
        let mut snapshot = Builder::new();
        snapshot.spans(builder.finish());
        snapshot.finish()
    }

    fn span(trace: u64, id: &str, parent: &str, service: &str, from: u64, to: u64) -> Value {
        let start = 1_700_000_000_000_000 + trace * 1_000_000 + from * 1000;
        json!({"traceId": format!("{:x}", trace + 1), "id": id, "parentId": parent, "name": format!("do {service}"),
            "timestamp": start, "duration": (to - from) * 1000, "localEndpoint": {"serviceName": service}})
    }

    #[test]
    fn what_runs_beside_the_path_is_not_waited_for() {
        // `slow` ends last; `beside` runs all the while and ends before it; `first` comes before `slow`.
        let known = snapshot(&json!([
            span(0, "1", "", "front", 0, 100),
            span(0, "2", "1", "first", 5, 30),
            span(0, "3", "1", "slow", 30, 95),
            span(0, "4", "1", "beside", 6, 90),
            span(0, "5", "3", "db", 40, 60),
        ]));
        let told = requests(&known, None);
        let shown: Vec<String> = told[0]
            .parts
            .iter()
            .map(|p| format!("{} {:.0} ms {:.0} %", p.service, p.ms, 100.0 * p.share))
            .collect();
        assert_eq!(shown, ["/slow 45 ms 45 %", "/first 25 ms 25 %", "/db 20 ms 20 %", "/front 10 ms 10 %"]);
        assert_eq!((told.len(), told[0].count, told[0].median_ms), (1, 1, 100.0));
    }

    #[test]
    fn all_of_a_request_is_told_once_whatever_the_clocks_say() {
        // The callee's clock is an hour ahead, and one child claims to outlive its parent.
        let known = snapshot(&json!([
            span(0, "1", "", "front", 0, 100),
            span(0, "2", "1", "pay", 3_600_000, 3_600_080),
            span(0, "3", "1", "front", 90, 700),
        ]));
        let told = requests(&known, None);
        let sum: f64 = told[0].parts.iter().map(|part| part.ms).sum();
        assert!((sum - 100.0).abs() < 1e-6, "{told:?}");
    }

    #[test]
    fn before_and_since_are_compared() {
        let mut spans = vec![];
        for trace in 0..20 {
            let length = if trace < 10 { 10 } else { 60 };
            spans.push(span(trace, "1", "", "front", 0, 20 + length));
            spans.push(span(trace, "2", "1", "pay", 10, 10 + length));
        }
        let told = requests(&snapshot(&Value::from(spans)), Timestamp::from_second(1_700_000_010).ok());
        let pay = &told[0].parts[0];
        assert_eq!((pay.service.as_str(), pay.ms, pay.before_ms), ("/pay", 60.0, Some(10.0)));
        assert_eq!((told[0].count, told[0].before_ms, told[0].p95_ms), (10, Some(30.0), Some(80.0)));
    }
}
