//! What deviates in the logs of services, as anomalies.
//!
//! - [`counts`]: statements that are new, frequent or gone; errors; what a client's error says of the one that it called.
//! - [`cluster`]: containers that start again, and warnings of the cluster.
//! - [`steps`]: requests that leave their usual way: the line that always followed another one does not come, or a new one does.
//!
//! What was before the onset is the measure. Time is counted in lines of all services together: where all load doubles nothing
//! deviates, and where nothing was recorded nothing is missing.

mod cluster;
mod counts;
mod sequence;
mod steps;
mod weigh;

use jiff::Timestamp;
use std::collections::BTreeSet;

use super::digest::Digest;
use super::events::{Events, Template};
use crate::analyze::anomaly::{Anomaly, bounded};
use crate::analyze::clocks::Clocks;
use crate::analyze::finding::Evidence;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::span::Spans;

/// Anomalies of all logs and of the cluster's events, the strongest first. `onset` is when the trouble began, as far as somebody knows: it may be a minute or
/// so late. Where nobody knows, the logs are split where they change most.
pub fn anomalies(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Anomaly> {
    let digest = snapshot.derived::<Digest>();
    let context = Context::new(snapshot, &digest.events, onset);
    let mut out = cluster::anomalies(snapshot, onset);
    if !context.clock.is_empty() {
        let (broken, stepping) = steps::anomalies(&context);
        out.extend(broken);
        out.extend(counts::anomalies(&context, &stepping));
    }
    bounded(snapshot.derived::<Clocks>().put_right(out))
}

/// What all looks at logs share.
struct Context<'a> {
    events: &'a Events,
    spans: &'a Spans,
    /// Microseconds of all lines, in order: the clock.
    clock: Vec<i64>,
    /// Microseconds in which something was recorded, up to each of them.
    passed: Vec<i64>,
    /// The last lines before nothing was recorded for a while, the very last one among them.
    ends: Vec<i64>,
    /// Where the logs may be split into before and after.
    splits: Vec<i64>,
    /// Whether somebody named the onset.
    named: Option<i64>,
    /// Names of services: texts are searched for them.
    services: BTreeSet<ServiceName>,
}

/// Splits that are tried where nobody knows the onset.
const GRID: usize = 16;
/// A named onset may be late by so many microseconds: alerts fire after a minute as a rule.
const LATE: i64 = 60_000_000;
/// What belongs to a named onset came first at most this share of the time before it earlier.
const EARLY: f64 = 0.3;
/// The share of all lines that must stand on either side of a split.
const MIN_SIDE: f64 = 0.03;

impl<'a> Context<'a> {
    fn new(snapshot: &'a Snapshot, events: &'a Events, onset: Option<Timestamp>) -> Self {
        let mut clock: Vec<i64> =
            events.services.values().flat_map(|s| s.events.iter().map(|e| e.at)).collect();
        clock.sort_unstable();
        let named = onset.map(|at| at.as_microsecond());
        let candidates: Vec<i64> = match named {
            Some(at) => vec![at, at - LATE],
            None => (1..GRID).filter_map(|n| clock.get(clock.len() * n / GRID).copied()).collect(),
        };
        let mut services: BTreeSet<ServiceName> = events.services.keys().cloned().collect();
        services.extend(snapshot.services.iter().map(|service| service.service_name()));
        let long = silence(&clock);
        let pairs = || clock.iter().zip(clock.iter().skip(1));
        let ends =
            pairs().filter(|(a, b)| **b - **a > long).map(|(a, _)| *a).chain(clock.last().copied()).collect();
        let gaps = pairs().map(|(a, b)| if b - a > long { 0 } else { b - a });
        let passed = std::iter::once(0)
            .chain(gaps)
            .scan(0, |sum, gap| {
                *sum += gap;
                Some(*sum)
            })
            .collect();
        let mut context =
            Context { events, spans: &snapshot.spans, clock, passed, ends, splits: vec![], named, services };
        let inside = |at: &i64| (MIN_SIDE..=1.0 - MIN_SIDE).contains(&context.elapsed(*at));
        let mut splits: Vec<i64> = candidates.into_iter().filter(inside).collect();
        splits.dedup();
        context.splits = splits;
        context
    }

    /// The share of the time in which anything was recorded that lies before an instant.
    fn recorded(&self, at: i64) -> f64 {
        let index = self.clock.partition_point(|time| *time < at);
        let total = self.passed.last().copied().unwrap_or_default().max(1);
        let before = index.checked_sub(1).and_then(|index| self.passed.get(index));
        before.copied().unwrap_or_default() as f64 / total as f64
    }

    /// Whether something that came first at an instant may belong to what the onset names: an alert fires a good while after
    /// trouble began.
    fn is_of_onset(&self, first: i64) -> bool {
        let start = self.clock.first().copied().unwrap_or_default();
        self.named.is_none_or(|onset| first as f64 >= onset as f64 - EARLY * (onset - start) as f64)
    }

    /// The share of all lines that came before an instant.
    fn elapsed(&self, at: i64) -> f64 {
        self.clock.partition_point(|time| *time < at) as f64 / self.clock.len().max(1) as f64
    }

    /// Whether recording stopped right after an instant: what was under way then goes on unseen.
    fn is_cut(&self, at: i64) -> bool {
        self.ends.get(self.ends.partition_point(|end| *end < at)).is_some_and(|end| end - at < UNDER_WAY)
    }

    /// Another service that a text names, where it names exactly one; and whether it does so by its whole name.
    fn named_in(&self, text: &str, own: &ServiceName) -> Option<(ServiceName, bool)> {
        let text = text.to_ascii_lowercase();
        let words: BTreeSet<&str> = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_')))
            .filter(|word| word.len() >= MIN_NAME)
            .collect();
        let others = || self.services.iter().filter(|s| *s != own && s.name != own.name);
        let only = |wanted: &dyn Fn(&str) -> bool| {
            let mut found = others().filter(|s| wanted(&s.name));
            found.next().filter(|_| found.next().is_none()).cloned()
        };
        let whole = only(&|name| words.contains(name)).map(|s| (s, true));
        whole.or_else(|| {
            only(&|name| words.contains(stem(name)) && stem(name) != stem(&own.name)).map(|s| (s, false))
        })
    }

    /// The service behind a host that a text names.
    fn behind(&self, host: &str, own: &ServiceName) -> Option<ServiceName> {
        let (namespace, name) = service_of_host(&full_host(host, &own.namespace)).unwrap_or_else(|| {
            (own.namespace.clone(), host.split('.').next().unwrap_or_default().to_owned())
        });
        let found = ServiceName::new(namespace, name);
        (found != *own && self.services.contains(&found)).then_some(found)
    }
}

/// How long a silence is in which nothing was recorded, by the pace of all lines.
fn silence(clock: &[i64]) -> i64 {
    let mut gaps: Vec<i64> = clock.iter().zip(clock.iter().skip(1)).map(|(a, b)| b - a).collect();
    gaps.sort_unstable();
    let usual = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    (usual * SILENCE).max(MIN_SILENCE)
}

/// Recording stopped where nothing came for so many times the usual pause between two lines...
const SILENCE: i64 = 50;
/// ...and for so many microseconds.
const MIN_SILENCE: i64 = 5_000_000;
/// A request that wrote its last line within so many microseconds of a stop may have gone on.
const UNDER_WAY: i64 = 3_000_000;

/// A service's name is looked for in texts from this length on: shorter ones are words.
const MIN_NAME: usize = 5;

/// A service's name without the word that says that it is one: people write "payment" where they mean `payment-service`.
fn stem(name: &str) -> &str {
    let stem = name
        .strip_suffix("service")
        .or_else(|| name.strip_suffix("svc"))
        .unwrap_or(name)
        .trim_end_matches('-');
    if stem.len() >= MIN_NAME { stem } else { name }
}

/// What a reader needs to see of a template.
fn evidence(template: &Template, value: String, at: Option<Timestamp>) -> Evidence {
    let (sample, place) = &template.sample;
    Evidence::new("Log", format!("Pod {}, container {}", place.pod, place.container), value)
        .at(at)
        .excerpt(sample)
}

/// An instant of the clock.
fn time(at: i64) -> Option<Timestamp> {
    Timestamp::from_microsecond(at).ok()
}

#[cfg(test)]
mod tests;
