//! Who suffers, and how much: callers, their share of failing requests, since when, and whether it gets better or worse.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Reporter};

/// Services told, those with the most failures first.
const MAX_SERVICES: usize = 8;
/// Callers told of each.
const MAX_CALLERS: usize = 8;
/// Fewer failures are nobody's suffering: a rollout costs that many.
const FEW: u64 = 5;
/// Nor is a smaller share than 1 in 200.
const SPORADIC: f64 = 0.005;
/// Without a failure for this many seconds it is over, if at least [`ENOUGH`] requests came in them.
const QUIET: i64 = 60;
/// Requests that each side of a comparison needs.
const ENOUGH: u64 = 20;
/// Standard errors by which two shares must differ to be called better or worse: three are passed by chance in 1 of 370.
const CLEARLY: f64 = 3.0;

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trend {
    /// Fewer fail lately than at first.
    Better,
    /// More fail lately than at first.
    Worse,
    /// No clear difference.
    Steady,
    /// None has failed for a minute of requests.
    Over,
}

impl Trend {
    /// In words, to follow a number.
    pub fn words(self) -> &'static str {
        match self {
            Trend::Better => "getting better",
            Trend::Worse => "getting worse",
            Trend::Steady => "neither better nor worse since",
            Trend::Over => "over",
        }
    }
}

/// One caller's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The workload that calls; the default where its address is nobody's.
    pub workload: ObjectRef,
    /// Its requests since the beginning.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
}

/// What callers of one Service suffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    /// The Service that is called.
    pub service: ServiceName,
    /// All requests since the beginning.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The beginning: the onset, or the first failure where none is known.
    pub since: Timestamp,
    /// Where it goes; `None` where too few requests tell.
    pub trend: Option<Trend>,
    /// The callers, the most failures first.
    pub callers: Vec<Caller>,
}

impl Impact {
    /// The share of requests that fail, 0 to 1.
    pub fn share(&self) -> f64 {
        self.failed as f64 / self.requests.max(1) as f64
    }
}

/// What callers suffer by the access logs, Service by Service: the most failures first.
pub fn impacts(snapshot: &Snapshot, onset: Option<Timestamp>) -> Vec<Impact> {
    let mut edges: BTreeMap<&ServiceName, Vec<&EdgeTraffic>> = BTreeMap::new();
    for edge in &snapshot.traffic {
        if let Some(service) = &edge.service {
            edges.entry(service).or_default().push(edge);
        }
    }
    let mut out: Vec<Impact> =
        edges.into_iter().filter_map(|(service, edges)| impact(service, &edges, onset)).collect();
    out.sort_by(|a, b| b.failed.cmp(&a.failed).then_with(|| a.service.cmp(&b.service)));
    out.truncate(MAX_SERVICES);
    out
}

fn impact(service: &ServiceName, edges: &[&EdgeTraffic], onset: Option<Timestamp>) -> Option<Impact> {
    // Both proxies of an edge count the same requests; the caller's sees those that never arrive as well.
    let told = |reporter: Reporter| edges.iter().filter(move |edge| edge.reporter == reporter).copied();
    let side = if told(Reporter::Source).next().is_some() { Reporter::Source } else { Reporter::Destination };
    let failing = |edge: &EdgeTraffic| {
        edge.seconds.iter().find(|(_, (_, failed))| *failed > 0).map(|(second, _)| *second)
    };
    let first = told(side).filter_map(failing).min()?;
    // Trouble with a Service that begins after the onset began with it no sooner.
    let since = onset.map_or(first, |onset| onset.as_second().max(first));
    let mut seconds: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    let mut callers: BTreeMap<ObjectRef, (u64, u64)> = BTreeMap::new();
    for edge in told(side) {
        let caller = match side {
            Reporter::Source => edge.workload.clone(),
            Reporter::Destination => edge.peer.clone().unwrap_or_default(),
        };
        let own = callers.entry(caller).or_default();
        for (second, (all, failed)) in edge.seconds.range(since..) {
            let slot = seconds.entry(*second).or_default();
            *slot = (slot.0 + all, slot.1 + failed);
            *own = (own.0 + all, own.1 + failed);
        }
    }
    let (requests, failed) = sum(seconds.values());
    if failed < FEW || (failed as f64) < SPORADIC * requests as f64 {
        return None;
    }
    let mut callers: Vec<Caller> = callers
        .into_iter()
        .filter(|(_, (requests, _))| *requests > 0)
        .map(|(workload, (requests, failed))| Caller { workload, requests, failed })
        .collect();
    callers.sort_by(|a, b| b.failed.cmp(&a.failed).then_with(|| a.workload.cmp(&b.workload)));
    callers.truncate(MAX_CALLERS);
    Some(Impact {
        service: service.clone(),
        requests,
        failed,
        since: Timestamp::from_second(since).ok()?,
        trend: trend(&seconds),
        callers,
    })
}

fn sum<'a>(counts: impl Iterator<Item = &'a (u64, u64)>) -> (u64, u64) {
    counts.fold((0, 0), |sum, (all, failed)| (sum.0 + all, sum.1 + failed))
}

/// The first half of the time against the second, by the test of two proportions.
fn trend(seconds: &BTreeMap<i64, (u64, u64)>) -> Option<Trend> {
    let (first, last) = (*seconds.keys().next()?, *seconds.keys().next_back()?);
    let lately = sum(seconds.range(last - QUIET + 1..).map(|(_, counts)| counts));
    if last - first >= QUIET && lately.0 >= ENOUGH && lately.1 == 0 {
        return Some(Trend::Over);
    }
    let middle = first + (last - first) / 2;
    let early = sum(seconds.range(..=middle).map(|(_, counts)| counts));
    let late = sum(seconds.range(middle + 1..).map(|(_, counts)| counts));
    if early.0 < ENOUGH || late.0 < ENOUGH {
        return None;
    }
    let share = |(all, failed): (u64, u64)| failed as f64 / all as f64;
    let pooled = share((early.0 + late.0, early.1 + late.1));
    let error = (pooled * (1.0 - pooled) * (1.0 / early.0 as f64 + 1.0 / late.0 as f64)).sqrt();
    let difference = share(late) - share(early);
    Some(match difference / error {
        z if z >= CLEARLY => Trend::Worse,
        z if z <= -CLEARLY => Trend::Better,
        // All or none failed in both halves: there is no error, and no difference.
        _ => Trend::Steady,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(reporter: Reporter, caller: &str, failing: impl Fn(i64) -> bool) -> EdgeTraffic {
        EdgeTraffic {
            reporter,
            workload: ObjectRef::new("Deployment", "n", caller),
            peer: None,
            service: Some(ServiceName::new("n", "payment")),
            cluster: Default::default(),
            authority: String::new(),
            requests: 200,
            outcomes: vec![],
            seconds: (0..200).map(|second| (second, (1, u64::from(failing(second))))).collect(),
        }
    }

    fn of(edges: Vec<EdgeTraffic>, onset: Option<i64>) -> Vec<Impact> {
        let mut snapshot = Snapshot::default();
        snapshot.traffic = edges;
        impacts(&snapshot, onset.and_then(|second| Timestamp::from_second(second).ok()))
    }

    #[test]
    fn requests_are_counted_once_and_told_by_caller() {
        let edges = vec![
            edge(Reporter::Source, "front", |at| at >= 100),
            edge(Reporter::Source, "batch", |_| false),
            edge(Reporter::Destination, "payment", |at| at >= 100),
        ];
        let [impact] = of(edges, None).try_into().unwrap();
        assert_eq!((impact.requests, impact.failed, impact.since.as_second()), (200, 100, 100));
        let callers: Vec<_> = impact.callers.iter().map(|c| (c.workload.name.as_str(), c.failed)).collect();
        assert_eq!(callers, [("front", 100), ("batch", 0)]);
        assert_eq!(impact.trend, Some(Trend::Steady));
    }

    #[test]
    fn where_it_goes_is_told_by_more_than_chance() {
        let trend =
            |failing: fn(i64) -> bool| of(vec![edge(Reporter::Source, "front", failing)], Some(0))[0].trend;
        assert_eq!(trend(|at| at % 10 == 0 || at > 120), Some(Trend::Worse));
        assert_eq!(trend(|at| at < 80 || at % 10 == 0), Some(Trend::Better));
        assert_eq!(trend(|at| at % 5 == 0), Some(Trend::Steady));
        assert_eq!(trend(|at| at < 100), Some(Trend::Over));
    }

    #[test]
    fn a_handful_is_nobodys_suffering() {
        assert_eq!(of(vec![edge(Reporter::Source, "front", |at| at < 3)], None), []);
    }
}
