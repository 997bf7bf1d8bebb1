//! Where time is spent that was not spent before: within a service, or between a caller and its callee.

use std::collections::{BTreeMap, HashMap};

use super::measure::{Measured, Operation};
use super::sides::{Sides, pieces};
use super::stats::{above, at_share, calm_mean, log_ratio_of_p, p_of_above, p_of_beyond};
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::analyze::finding::Evidence;
use crate::model::network::ServiceName;
use crate::model::span::Spans;
use crate::model::time::from_unix;

/// Spans of one population before the onset, and after it, below which nothing is said.
const LEAST: (usize, usize) = (5, 3);
/// Spans of one population that are compared on either side, evenly chosen: ranks need no more.
const MOST: usize = 4_000;
/// From what chance on a span after the onset takes longer than one before it.
const AREA: f64 = 0.65;
/// The p-value beyond which nothing is said.
const P: f64 = 0.02;
/// What a test of significance is worth at most. Over twelve published incidents and 22 quiet minutes beside them it was as often at its
/// bound for a bystander as for the culprit; how far and how much decide.
const BY_CHANCE: f64 = 3.0;
/// By how many times the median rose, and what that adds. In the same incidents the culprit's rose 14 to 2,500 times, and
/// that of bystanders up to 3 times.
const BY_FOLD: [(f64, f64); 5] = [(10.0, 1.5), (4.0, 0.7), (2.0, 0.0), (1.3, -1.0), (0.0, -2.0)];
/// Of all the time that was added anywhere this share was added here, and what that adds.
const BY_SHARE: [(f64, f64); 4] = [(0.5, 1.0), (0.2, 0.3), (0.05, -0.5), (0.0, -2.0)];
/// What was added to a request, as a share of how long requests used to take, and what that adds.
const BY_IMPACT: [(f64, f64); 3] = [(0.02, 0.0), (0.005, -1.0), (0.0, -2.5)];

/// What one population is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Of {
    caller: usize,
    /// The same as the caller for its own time.
    callee: usize,
    operation: Operation,
}

/// Times in nanoseconds, in order of when they were taken.
#[derive(Debug, Default)]
struct Population {
    before: Vec<(i64, f64)>,
    after: Vec<(i64, f64)>,
}

/// A population that takes longer than before.
#[derive(Debug)]
struct Slower {
    of: Of,
    p: f64,
    /// The median's ratio.
    fold: f64,
    /// Time added to a request, in nanoseconds.
    added: f64,
    before: f64,
    after: f64,
    counts: (usize, usize),
    since: Option<i64>,
    strength: f64,
    gap: f64,
}

/// The populations that take longer than before, as anomalies.
pub(super) fn anomalies(spans: &Spans, measured: &Measured, sides: &Sides) -> Vec<Anomaly> {
    let populations = populations(spans, measured, sides);
    let (requests, usual) = requests(spans, measured, sides);
    let mut tests: BTreeMap<usize, usize> = BTreeMap::new();
    let mut slower = vec![];
    let mut calls: BTreeMap<(usize, usize), bool> = BTreeMap::new();
    for (of, population) in &populations {
        if population.before.len() < LEAST.0 || population.after.len() < LEAST.1 {
            continue;
        }
        *tests.entry(of.callee).or_default() += 1;
        let found = compare(*of, population, requests);
        if of.caller != of.callee {
            *calls.entry((of.caller, of.callee)).or_default() |=
                found.as_ref().is_some_and(|slow| slow.fold >= 1.5);
        }
        slower.extend(found);
    }
    let all: f64 = slower.iter().map(|slow| slow.added).sum();
    let service = |at: usize| spans.services().get(at).cloned();
    let mut out = vec![];
    for slow in &slower {
        let (Some(caller), Some(callee)) = (service(slow.of.caller), service(slow.of.callee)) else {
            continue;
        };
        let tests = tests.get(&slow.of.callee).copied().unwrap_or(1);
        let weight = log_ratio_of_p(slow.p, tests).min(BY_CHANCE)
            + step(&BY_FOLD, slow.fold)
            + step(&BY_SHARE, slow.added / all.max(f64::MIN_POSITIVE))
            + step(&BY_IMPACT, slow.added / usual.max(f64::MIN_POSITIVE));
        out.push(anomaly(slow, measured, weight, (caller, callee), &calls));
    }
    out
}

/// Of steps in falling order the first that is reached.
fn step(steps: &[(f64, f64)], value: f64) -> f64 {
    steps.iter().find(|(from, _)| value >= *from).map_or(0.0, |(_, weight)| *weight)
}

fn populations(spans: &Spans, measured: &Measured, sides: &Sides) -> BTreeMap<Of, Population> {
    let mut out: HashMap<Of, Population> = HashMap::new();
    for (at, span) in spans.all().iter().enumerate() {
        let after = sides.after(span);
        let caller = spans.service_index(span);
        let remote = measured.callee(at).and_then(|callee| spans.all().get(callee));
        let (callee, value) = match remote {
            Some(remote) => (spans.service_index(remote), span.duration.saturating_sub(remote.duration)),
            None => (caller, measured.own(at)),
        };
        let of = Of { caller, callee, operation: measured.operation_of(span.operation) };
        let population = out.entry(of).or_default();
        let side = if after { &mut population.after } else { &mut population.before };
        side.push((span.start, value as f64));
    }
    let mut out: BTreeMap<Of, Population> = out.into_iter().collect();
    for population in out.values_mut() {
        for side in [&mut population.before, &mut population.after] {
            side.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        }
        sides.calm(&mut population.before, |(at, _)| *at);
        for side in [&mut population.before, &mut population.after] {
            let step = side.len().div_ceil(MOST).max(1);
            *side = side.iter().step_by(step).copied().collect();
        }
    }
    out
}

/// How many requests there were after the onset, and how long they took before it, in nanoseconds.
fn requests(spans: &Spans, measured: &Measured, sides: &Sides) -> (f64, f64) {
    let (mut count, mut lengths) = (0usize, vec![]);
    for (at, span) in spans.all().iter().enumerate() {
        if measured.forest.parent(at).is_none() {
            if sides.after(span) {
                count += 1;
            } else {
                lengths.push(span.duration as f64);
            }
        }
    }
    lengths.sort_unstable_by(f64::total_cmp);
    (count.max(1) as f64, at_share(&lengths, 0.5))
}

fn sorted(values: &[(i64, f64)]) -> Vec<f64> {
    let mut out: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    out.sort_unstable_by(f64::total_cmp);
    out
}

fn compare(of: Of, population: &Population, requests: f64) -> Option<Slower> {
    let (n, m) = (population.before.len(), population.after.len());
    let after = sorted(&population.after);
    let parts: Vec<Vec<f64>> = pieces(&population.before).map(sorted).collect();
    let area = parts.iter().map(|part| above(part, &after)).reduce(f64::min)?;
    let largest = |f: fn(&[f64]) -> f64| parts.iter().map(|part| f(part)).fold(0.0, f64::max);
    let usual = largest(|part| at_share(part, 0.5));
    let top = largest(|part| part.last().copied().unwrap_or_default());
    let beyond = after.iter().filter(|value| **value > top).count();
    // Of two tests the better one counts, at the price of two.
    let p = (2.0 * p_of_above(area, n, m).min(p_of_beyond(beyond, n, m))).min(1.0);
    let middle = at_share(&after, 0.5);
    let added = (calm_mean(&after) - largest(calm_mean)) * m as f64 / requests;
    if area < AREA || p > P || added <= 0.0 || middle <= usual {
        return None;
    }
    let before = sorted(&population.before);
    let spread = (at_share(&before, 0.75) - at_share(&before, 0.25)).max(0.05 * usual).max(1.0) / 1.349;
    let high = at_share(&before, 0.95);
    let since = population.after.iter().find(|(_, value)| *value > high).map(|(at, _)| *at);
    let (first, last) = (population.after.first()?.0, population.after.last()?.0);
    Some(Slower {
        of,
        p,
        // A microsecond is the finest that most clocks of tracing tell.
        fold: middle / usual.max(1_000.0),
        added,
        before: at_share(&before, 0.5),
        after: middle,
        counts: (n, m),
        since,
        strength: (middle - usual) / spread,
        gap: (last - first) as f64 / 1e9 / m as f64,
    })
}

/// How many of a service's calls, either way, take longer on the network, less those that do not.
fn slow_calls(calls: &BTreeMap<(usize, usize), bool>, service: usize) -> i64 {
    let own = calls.iter().filter(|((caller, callee), _)| *caller == service || *callee == service);
    own.map(|(_, slow)| if *slow { 1 } else { -1 }).sum()
}

fn anomaly(
    slow: &Slower,
    measured: &Measured,
    weight: f64,
    (caller, callee): (ServiceName, ServiceName),
    calls: &BTreeMap<(usize, usize), bool>,
) -> Anomaly {
    let own = slow.of.caller == slow.of.callee;
    let operation = measured.operation(slow.of.operation);
    let (kind, place) = if own {
        (Kind::SelfTime, Place::Service(caller.clone()))
    } else {
        (Kind::NetworkTime, Place::Edge { caller: caller.clone(), callee: callee.clone() })
    };
    // One slow call is its callee's, as is a callee that is late to take requests in; a caller all of whose calls are slow is at
    // their common end.
    let callers = !own && slow_calls(calls, slow.of.caller) > slow_calls(calls, slow.of.callee);
    let millis = |nanos: f64| nanos / 1e6;
    let value = format!(
        "{:.2} ms before, {:.2} ms since (medians of {} and {} spans)",
        millis(slow.before),
        millis(slow.after),
        slow.counts.0,
        slow.counts.1
    );
    let at = if own { caller.to_string() } else { format!("{caller} → {callee}") };
    let evidence = Evidence::new("Span", at, value).excerpt(operation);
    Anomaly::new(place, Signal::Span, kind, operation, Direction::Up)
        .weighing(weight, slow.strength)
        .values(millis(slow.before), millis(slow.after), "ms")
        .since(slow.since.and_then(|at| from_unix(at as f64 / 1e9)), slow.gap)
        .blaming(callers.then_some(caller))
        .evidence(evidence)
}
