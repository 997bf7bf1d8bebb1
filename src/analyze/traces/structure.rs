//! Calls that ceased and calls that are new: what spans of an operation used to hold within them, and hold now.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::measure::{Measured, Operation};
use super::sides::{Sides, pieces};
use super::stats::log_ratio_of_shares;
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::analyze::finding::Evidence;
use crate::model::span::Spans;
use crate::model::time::from_unix;

/// Spans of an operation before the onset, and after it, below which nothing is said.
const LEAST: (usize, usize) = (5, 2);
/// The share of spans with a call must change by as much.
const CHANGE: f64 = 0.1;
/// What a call that ceased is worth at most. In 22 quiet minutes of two published systems, other users' errors made calls cease in
/// eight; injected faults did in all cases that change what is called.
const CEASED: f64 = 3.5;
/// What a call is worth at most that only some requests made, where one piece of time is all there is to compare with: what is asked
/// for comes in waves.
const WAVES: f64 = 1.0;
/// The share from which on a call is made by all requests.
const ALL: f64 = 0.9;
/// A call is new where it was within no more than this share of spans before.
const RARE: f64 = 0.05;
/// What a new call is worth at most: a new version calls, and so does a rarely used page.
const NEW: f64 = 1.2;
/// What a handler of errors that now runs is worth at most: it runs where errors arrive too.
const HANDLER: f64 = 1.5;
/// Taken off where the same operation makes other calls instead: it was asked for something else.
const INSTEAD: f64 = 2.5;
/// Taken off where a service that is called from here shows the same: callers stop when their callees fail.
const DEEPER: f64 = 2.0;
/// Different calls of one operation that are looked at. Operations are named badly where there are more.
const MAX_CALLS: usize = 400;

/// An operation of a service.
type Step = (usize, Operation);
/// A call: what is done, and for a caller's side what its callee does.
type Call = (Step, Option<Step>);

/// What one span of an operation holds.
#[derive(Debug)]
struct Held {
    start: i64,
    calls: Vec<Call>,
}

#[derive(Debug, Default)]
struct Population {
    before: Vec<Held>,
    after: Vec<Held>,
}

/// A call whose share changed.
#[derive(Debug)]
struct Change {
    parent: Step,
    call: Call,
    weight: f64,
    before: f64,
    after: f64,
    counts: (usize, usize),
    since: Option<i64>,
    gap: f64,
}

impl Change {
    fn ceased(&self) -> bool {
        self.after < self.before
    }
}

/// Calls that ceased and calls that are new, as anomalies.
pub(super) fn anomalies(spans: &Spans, measured: &Measured, sides: &Sides) -> Vec<Anomaly> {
    let populations = populations(spans, measured, sides);
    let mut changes: Vec<Change> =
        populations.iter().flat_map(|(parent, population)| changes(*parent, population)).collect();
    // A handler of errors that ceased is good news, and no sign of anything.
    changes.retain(|change| {
        let handler = measured.handles_errors(change.call.0.1);
        if change.ceased() { !handler } else { handler || change.before <= RARE }
    });
    let below = below(&populations);
    let parents: BTreeSet<Step> = changes.iter().filter(|c| c.ceased()).map(|c| c.parent).collect();
    let mut out = vec![];
    for change in &changes {
        let handler = measured.handles_errors(change.call.0.1);
        let mut weight = change.weight.min(match (change.ceased(), handler) {
            (true, _) => CEASED,
            (false, true) => HANDLER,
            (false, false) => NEW,
        });
        if change.ceased() {
            let lost = change.before - change.after;
            let instead = changes.iter().any(|other| {
                let new = other.parent == change.parent && other.after - other.before >= 0.6 * lost;
                new && !measured.handles_errors(other.call.0.1)
            });
            let deeper = reaches(&below, change.parent, &parents);
            weight -= if instead { INSTEAD } else { 0.0 } + if deeper { DEEPER } else { 0.0 };
        }
        if weight > 0.0 {
            out.extend(anomaly(spans, measured, change, weight, handler));
        }
    }
    out
}

fn populations(spans: &Spans, measured: &Measured, sides: &Sides) -> BTreeMap<Step, Population> {
    let step = |at: usize| {
        let span = spans.all().get(at)?;
        Some((spans.service_index(span), measured.operation_of(span.operation)))
    };
    let mut out: HashMap<Step, Population> = HashMap::new();
    for (at, span) in spans.all().iter().enumerate() {
        // Whom a caller's side calls follows from what surrounds it.
        if measured.callee(at).is_some() || span.is_outgoing() {
            continue;
        }
        let Some(own) = step(at) else { continue };
        let after = sides.after(span);
        let calls = measured
            .forest
            .children(at)
            .filter_map(|child| Some((step(child)?, measured.callee(child).and_then(step))));
        let mut calls: Vec<Call> = calls.collect();
        calls.sort_unstable();
        calls.dedup();
        let population = out.entry(own).or_default();
        let side = if after { &mut population.after } else { &mut population.before };
        side.push(Held { start: span.start, calls });
    }
    let mut out: BTreeMap<Step, Population> = out.into_iter().collect();
    for population in out.values_mut() {
        for side in [&mut population.before, &mut population.after] {
            side.sort_unstable_by(|a, b| (a.start, &a.calls).cmp(&(b.start, &b.calls)));
        }
        sides.calm(&mut population.before, |held| held.start);
    }
    out
}

fn changes(parent: Step, population: &Population) -> Vec<Change> {
    let (n, m) = (population.before.len(), population.after.len());
    if n < LEAST.0 || m < LEAST.1 {
        return vec![];
    }
    let count = |side: &[Held]| {
        let mut counts: BTreeMap<Call, usize> = BTreeMap::new();
        for call in side.iter().flat_map(|held| &held.calls) {
            *counts.entry(*call).or_default() += 1;
        }
        counts
    };
    let parts: Vec<(usize, BTreeMap<Call, usize>)> =
        pieces(&population.before).map(|part| (part.len(), count(part))).collect();
    let (before, after) = (count(&population.before), count(&population.after));
    let all: BTreeSet<Call> = before.keys().chain(after.keys()).copied().take(MAX_CALLS).collect();
    let mut out = vec![];
    for call in all {
        let of = |counts: &BTreeMap<Call, usize>| counts.get(&call).copied().unwrap_or_default();
        let (k, j) = (of(&before), of(&after));
        let (was, is) = (k as f64 / n as f64, j as f64 / m as f64);
        if (was - is).abs() < CHANGE {
            continue;
        }
        // Every piece must say the same; then the least telling of them counts, and that there are several.
        let same_way = parts.iter().all(|(n, counts)| (of(counts) as f64 / *n as f64 > is) == (was > is));
        let ratio = |(n, counts): &(usize, BTreeMap<Call, usize>)| {
            log_ratio_of_shares((of(counts), *n), (j, m), 0.5, 0.5)
        };
        let least = parts.iter().map(ratio).reduce(f64::min).unwrap_or_default();
        let together = log_ratio_of_shares((k, n), (j, m), 0.5, 0.5);
        let weight = (least + (parts.len() as f64).ln()).min(together);
        let waves = parts.len() < 2 && was < ALL && is < was;
        let weight = if waves { weight.min(WAVES) } else { weight };
        if !same_way || weight < 1.0 {
            continue;
        }
        let changed = |held: &&Held| held.calls.binary_search(&call).is_ok() == (is > was);
        let (first, last) = (population.after.first(), population.after.last());
        let length = first.zip(last).map_or(0, |(first, last)| last.start.saturating_sub(first.start));
        out.push(Change {
            parent,
            call,
            weight,
            before: was,
            after: is,
            counts: (n, m),
            since: population.after.iter().find(changed).map(|held| held.start),
            gap: length as f64 / 1e9 / m as f64,
        });
    }
    out
}

/// Which operations are within which, the caller's side left out.
fn below(populations: &BTreeMap<Step, Population>) -> BTreeMap<Step, BTreeSet<Step>> {
    let mut out: BTreeMap<Step, BTreeSet<Step>> = BTreeMap::new();
    for (parent, population) in populations {
        let inner = out.entry(*parent).or_default();
        for held in population.before.iter().chain(&population.after) {
            inner.extend(held.calls.iter().map(|(step, callee)| callee.unwrap_or(*step)));
        }
    }
    out
}

/// Whether an operation of another service among `wanted` is somewhere within.
fn reaches(below: &BTreeMap<Step, BTreeSet<Step>>, from: Step, wanted: &BTreeSet<Step>) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(step) = next.pop() {
        if step.0 != from.0 && wanted.contains(&step) {
            return true;
        }
        next.extend(below.get(&step).into_iter().flatten().copied().filter(|inner| seen.insert(*inner)));
    }
    false
}

fn anomaly(
    spans: &Spans,
    measured: &Measured,
    change: &Change,
    weight: f64,
    handler: bool,
) -> Option<Anomaly> {
    let service = spans.services().get(change.parent.0)?;
    let (step, callee) = change.call;
    let to = callee.or(Some(step)).and_then(|step| spans.services().get(step.0)).filter(|to| *to != service);
    let within = measured.operation(change.parent.1);
    let called = measured.operation(step.1);
    let what = match to {
        Some(to) => format!("{within} → {called} ({})", to.name),
        None => format!("{within} → {called}"),
    };
    let (kind, direction) = match (change.ceased(), handler) {
        (true, _) => (Kind::MissingCall, Direction::Gone),
        (false, true) => (Kind::Errors, Direction::New),
        (false, false) => (Kind::NewCall, Direction::New),
    };
    let percent = |share: f64| (share * 100.0).round();
    let value = format!(
        "within {} % of {} spans before, {} % of {} since",
        percent(change.before),
        change.counts.0,
        percent(change.after),
        change.counts.1
    );
    let evidence = Evidence::new("Span", service.to_string(), value).excerpt(&what);
    Some(
        Anomaly::new(Place::Service(service.clone()), Signal::Span, kind, &what, direction)
            .weighing(weight, (change.after - change.before).abs() * (change.counts.1 as f64).sqrt())
            .values(change.before, change.after, "share")
            .since(change.since.and_then(|at| from_unix(at as f64 / 1e9)), change.gap)
            .evidence(evidence),
    )
}
