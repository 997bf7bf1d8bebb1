//! Where errors begin: the deepest span that fails while nothing within it does.

use std::collections::{BTreeMap, HashMap};

use super::measure::{Measured, Operation};
use super::sides::Sides;
use super::stats::log_ratio_of_shares;
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::analyze::finding::Evidence;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::span::{Code, Span, Spans};
use crate::model::time::from_unix;

/// Errors are rare as a rule: before anything is seen, one in eleven spans of an operation may fail.
const PRIOR: (f64, f64) = (0.5, 5.0);
/// What the difference of two shares is worth at most, here and below by judgement: a status is set by programs, and
/// programs disagree about what an error is.
const AT_MOST: f64 = 3.5;
/// What it adds that most failing traces begin to fail here, and what that few do.
const MOST_BEGIN_HERE: f64 = 1.0;
/// See [`MOST_BEGIN_HERE`].
const FEW_BEGIN_HERE: f64 = -1.5;
/// What a service's failing spans say of itself where all failed because of what was called.
const PASSED_ON: f64 = -1.0;
/// What it takes off that errors began before the onset that was given.
const EARLIER: f64 = 0.5;
/// Below this nothing is said.
const LEAST: f64 = 0.5;

/// How one span failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// By itself: everything within it went well.
    Own,
    /// As a caller who got no answer: the callee left no failing span of its own, or none at all.
    Unanswered,
    /// Because of a span within it.
    PassedOn,
}

/// How a span failed; `None` where it did not.
pub fn failure(spans: &Spans, measured: &Measured, at: usize) -> Option<Failure> {
    let span = spans.all().get(at).filter(|span| span.failed())?;
    let mut within = measured.forest.children(at).filter_map(|child| spans.all().get(child));
    if within.any(Span::failed) {
        return Some(Failure::PassedOn);
    }
    let served = matches!(span.code, Code::Http(400..=499));
    Some(if span.is_outgoing() && !served { Failure::Unanswered } else { Failure::Own })
}

/// Spans of one operation, in order of time: whether each fails in this way.
#[derive(Debug, Default)]
struct Population {
    spans: Vec<(i64, bool)>,
    /// The last that fails.
    example: Option<usize>,
}

/// Who is meant: a service, what it did, and whom it called where that one did not answer.
type Of = (usize, Operation, Option<ServiceName>);

/// Operations that begin to fail, and services that fail with them.
pub(super) fn anomalies(snapshot: &Snapshot, measured: &Measured, sides: &Sides) -> Vec<Anomaly> {
    let spans = &snapshot.spans;
    let failures: Vec<Option<Failure>> =
        (0..spans.all().len()).map(|at| failure(spans, measured, at)).collect();
    if failures.iter().all(Option::is_none) {
        return vec![];
    }
    let mut origins: HashMap<Of, Population> = HashMap::new();
    let mut passed: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    let mut failing: Vec<(u32, Of)> = vec![];
    for (at, (span, failure)) in spans.all().iter().zip(&failures).enumerate() {
        let service = spans.service_index(span);
        let silent = span.is_outgoing().then(|| callee(snapshot, measured, at, span)).flatten();
        let of = (service, measured.operation_of(span.operation), silent);
        let begins = matches!(failure, Some(Failure::Own | Failure::Unanswered));
        let population = origins.entry(of.clone()).or_default();
        population.spans.push((span.start, begins));
        if begins {
            let known = population.example.and_then(|at| spans.all().get(at));
            if known.is_none_or(|known| span.start > known.start) {
                population.example = Some(at);
            }
            failing.push((span.trace, of));
        }
        if failure.is_some() {
            let counts = passed.entry(service).or_default();
            counts.0 += 1;
            counts.1 += usize::from(begins);
        }
    }
    let mut traces: Vec<u32> = failing.iter().map(|(trace, _)| *trace).collect();
    traces.sort_unstable();
    traces.dedup();
    let mut begun: HashMap<&Of, Vec<u32>> = HashMap::new();
    for (trace, of) in &failing {
        begun.entry(of).or_default().push(*trace);
    }
    let mut keys: Vec<&Of> = begun.keys().copied().collect();
    keys.sort();
    let mut out = vec![];
    for of in keys {
        let Some(population) = origins.get(of) else { continue };
        let mut own = begun.get(of).cloned().unwrap_or_default();
        own.sort_unstable();
        own.dedup();
        let share = own.len() as f64 / traces.len().max(1) as f64;
        out.extend(origin(spans, measured, of, population, (share, sides.onset())));
    }
    for (service, (all, begun)) in passed {
        let named: Option<&ServiceName> = spans.services().get(service);
        let Some(name) = named.filter(|_| begun == 0) else { continue };
        let value = format!("{all} spans fail, each because of one that it called");
        out.push(
            Anomaly::new(Place::Service(name.clone()), Signal::Span, Kind::Errors, "", Direction::Up)
                .weighing(PASSED_ON, all as f64)
                .values(0.0, all as f64, "spans")
                .since(from_unix(sides.onset() as f64 / 1e9), 0.0)
                .evidence(Evidence::new("Span", name.to_string(), value)),
        );
    }
    out
}

/// The Service that a caller's span called, from the callee's span or by the name that it gives.
fn callee(snapshot: &Snapshot, measured: &Measured, at: usize, span: &Span) -> Option<ServiceName> {
    let spans = &snapshot.spans;
    let own = spans.service(span)?;
    if let Some(callee) = measured.callee(at).and_then(|at| spans.all().get(at)) {
        return spans.service(callee).cloned();
    }
    let host = spans.text(span.peer);
    let host = host.rsplit('|').next().unwrap_or(host);
    let host = host.split(':').next().unwrap_or(host);
    let mut labels = host.split('.');
    let name = labels.next().filter(|name| !name.is_empty())?;
    let namespace = labels.next().unwrap_or(&own.namespace);
    let named = ServiceName::new(namespace, name);
    let known = snapshot.service(&named).is_some()
        || spans.services().binary_search(&named).is_ok()
        || snapshot.graph.backing.contains_key(&named);
    known.then_some(named)
}

/// Where a series of spans begins to fail.
struct Begin {
    /// The first span of what is after.
    at: usize,
    weight: f64,
    before: (usize, usize),
    after: (usize, usize),
}

/// The best place to divide the spans of an operation into those before and those after: the onset, or an earlier one where
/// that tells them apart much better, since alarms ring late. What failed must fail on after the onset.
fn begin(spans: &[(i64, bool)], onset: i64) -> Option<Begin> {
    let given = spans.partition_point(|(at, _)| *at < onset);
    let all: usize = spans.iter().filter(|(_, fails)| *fails).count();
    let rate = |(k, n): (usize, usize)| k as f64 / n.max(1) as f64;
    let (mut best, mut failed): (Option<Begin>, usize) = (None, 0);
    for at in 0..=given {
        let before = (failed, at);
        let after = (all - failed, spans.len() - at);
        failed += usize::from(spans.get(at).is_some_and(|(_, fails)| *fails));
        // A share changes where something fails that followed something that did not, or where it is said to.
        let fails = spans.get(at).is_some_and(|(_, fails)| *fails);
        if (at < given && !fails) || rate(after) <= rate(before) {
            continue;
        }
        let ratio = log_ratio_of_shares(before, after, PRIOR.0, PRIOR.1);
        let weight = if at == given { ratio } else { ratio - EARLIER };
        if best.as_ref().is_none_or(|best| weight > best.weight) {
            best = Some(Begin { at, weight, before, after });
        }
    }
    let best = best?;
    let since = spans.get(given..).unwrap_or_default();
    let still = (since.iter().filter(|(_, fails)| *fails).count(), since.len());
    (still.1 == 0 || rate(still) >= 0.5 * rate(best.after)).then_some(best)
}

fn origin(
    spans: &Spans,
    measured: &Measured,
    (service, operation, silent): &Of,
    population: &Population,
    (share, onset): (f64, i64),
) -> Option<Anomaly> {
    let mut series = population.spans.clone();
    series.sort_unstable();
    let begin = begin(&series, onset)?;
    let rate = |(k, n): (usize, usize)| k as f64 / n.max(1) as f64;
    let weight = begin.weight.min(AT_MOST)
        + if share >= 0.5 {
            MOST_BEGIN_HERE
        } else if share < 0.1 {
            FEW_BEGIN_HERE
        } else {
            0.0
        };
    if weight < LEAST {
        return None;
    }
    let name = spans.services().get(*service)?;
    let what = measured.operation(*operation);
    let example = population.example.and_then(|at| spans.all().get(at));
    let after = series.get(begin.at..).unwrap_or_default();
    let began = after.iter().find(|(_, fails)| *fails).map(|(at, _)| *at);
    let value = format!(
        "{} of {} spans fail by themselves since, {} of {} before",
        begin.after.0, begin.after.1, begin.before.0, begin.before.1
    );
    let reference = match example {
        Some(span) => format!("{name}, trace {}", spans.trace_id(span)),
        None => name.to_string(),
    };
    let said = example.map(|span| spans.text(span.message)).unwrap_or_default();
    let said = if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") };
    let evidence = Evidence::new("Span", reference, value).excerpt(&said);
    let place = match silent {
        Some(callee) if callee != name => Place::Edge { caller: name.clone(), callee: callee.clone() },
        _ => Place::Service(name.clone()),
    };
    let gap = after.first().zip(after.last()).map_or(0, |(first, last)| last.0.saturating_sub(first.0));
    Some(
        Anomaly::new(place, Signal::Span, Kind::ErrorOrigin, what, Direction::Up)
            .weighing(weight, begin.after.0 as f64)
            .values(rate(begin.before), rate(begin.after), "share")
            .since(
                began.and_then(|at| from_unix(at as f64 / 1e9)),
                gap as f64 / 1e9 / after.len().max(1) as f64,
            )
            .evidence(evidence),
    )
}
