//! Failing requests by callee and by the way they fail, from access logs and, where there are none, from counters.

pub mod blame;
pub mod counters;
pub mod text;
pub mod way;

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::finding::Severity;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};
use way::{Callee, Signs, Way};

/// Fewer failures than this say nothing by themselves: a rollout or a lost node costs that many.
const FEW: u64 = 5;
/// From this many on, and from [`NOTICEABLE`] on, callers notice.
const SEVERAL: u64 = 10;
/// Below this share of the requests failures are sporadic: 1 in 200.
const SPORADIC: f64 = 0.005;
/// From this share on an ordinary objective of 99 % is missed.
const NOTICEABLE: f64 = 0.01;
/// From this share on practically everything fails.
const ALL: f64 = 0.99;
/// Practically everything of at least this many requests, so that three of three are no outage.
const ENOUGH: u64 = 20;
/// Without a failure for this many seconds of continued traffic it is over.
const RECOVERED_AFTER: i64 = 60;
/// As many requests must have passed since then.
const RECOVERED_REQUESTS: u64 = 20;
/// Failures have begun in earnest where this many seconds hold a fifth of the worst as many seconds.
const ONSET_SECONDS: i64 = 15;

/// One edge's part of a group of failures.
#[derive(Debug, Clone)]
pub struct Part {
    /// Who reports it: the workload whose proxy speaks.
    pub workload: ObjectRef,
    /// The workload at the other end, where it is known.
    pub peer: Option<ObjectRef>,
    /// The cluster, or the authority where there was none.
    pub cluster: String,
    /// `503 UH no_healthy_upstream`; its details are the cluster's text.
    pub label: String,
    /// The flags and code alone: `503 UH`.
    pub short: String,
    /// The details, and the transport's failure: the cluster's text.
    pub details: String,
    /// How many.
    pub count: u64,
    /// The first and the last of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// Durations in milliseconds: 5th, 50th and 95th percentile.
    pub durations: Option<(u64, u64, u64)>,
    /// Endpoints that were called, with how often.
    pub upstreams: BTreeMap<String, u64>,
    /// Addresses of clients, with how often.
    pub clients: BTreeMap<String, u64>,
    /// Pods whose proxies reported it.
    pub pods: BTreeSet<String>,
    /// Whether it was read from counters and not from access logs.
    pub counted: bool,
}

/// Requests to one callee that fail in one way, as one side of its edges sees them.
#[derive(Debug, Clone)]
pub struct Failures {
    /// Whose requests fail, and who says so.
    pub callee: Callee,
    /// In which way.
    pub way: Way,
    /// How many.
    pub count: u64,
    /// All requests to the callee that this side saw since [`Failures::onset`].
    pub requests: u64,
    /// When it began in earnest.
    pub onset: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// Requests since [`RECOVERED_AFTER`] seconds after the last of them.
    pub requests_after: u64,
    /// The edges: the most failures first.
    pub parts: Vec<Part>,
}

impl Failures {
    /// The share of the requests that fail, 0 to 1.
    pub fn share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { (self.count as f64 / self.requests as f64).min(1.0) }
    }

    /// Whether requests went on without such failures after the last of them.
    pub fn over(&self) -> bool {
        self.requests_after >= RECOVERED_REQUESTS
    }

    /// How bad it is. `None` where it is a handful that says nothing: fewer than [`FEW`] unless they are most of what
    /// there was, and sporadic ones are no more than `Info`. What is over counts one less.
    pub fn severity(&self) -> Option<Severity> {
        let (count, share) = (self.count, self.share());
        let mostly = share >= 0.5;
        let severity = if share >= ALL && count >= ENOUGH {
            Severity::Critical
        } else if (count >= SEVERAL && share >= NOTICEABLE) || (count >= FEW && mostly) {
            Severity::Error
        } else if (count >= FEW && share >= SPORADIC) || (count > 1 && mostly) {
            Severity::Warning
        } else if count >= FEW {
            Severity::Info
        } else {
            return None;
        };
        Some(match (self.over(), severity) {
            (true, Severity::Critical | Severity::Error) => Severity::Warning,
            (true, _) => Severity::Info,
            (false, severity) => severity,
        })
    }

    /// The workloads that call: those that report as sources, the peers of those that report as destinations.
    pub fn callers(&self) -> BTreeSet<ObjectRef> {
        let of = |part: &Part| match self.callee.reporter {
            Reporter::Source => Some(part.workload.clone()),
            Reporter::Destination => part.peer.clone(),
        };
        self.parts.iter().filter_map(of).collect()
    }

    /// The callee as a reader knows it: its Service's name or the host.
    pub fn name(&self) -> String {
        match &self.callee.service {
            Some(service) => service.name.clone(),
            None if self.callee.host.is_empty() => "an unknown host".to_owned(),
            None => text::plain(&self.callee.host, 60),
        }
    }

    /// What it is about: the Service, or the workload that reports where no Service is known.
    pub fn subject(&self) -> ObjectRef {
        match (&self.callee.service, self.parts.first()) {
            (Some(service), _) => service.reference(),
            (None, Some(part)) => part.workload.clone(),
            (None, None) => ObjectRef::default(),
        }
    }

    /// Endpoints that were called, over all edges, with how often.
    pub fn upstreams(&self) -> BTreeMap<&str, u64> {
        let mut out = BTreeMap::new();
        for (host, count) in self.parts.iter().flat_map(|part| &part.upstreams) {
            *out.entry(host.as_str()).or_default() += count;
        }
        out
    }

    /// Addresses of clients, over all edges, with how often.
    pub fn clients(&self) -> BTreeMap<&str, u64> {
        let mut out = BTreeMap::new();
        for (host, count) in self.parts.iter().flat_map(|part| &part.clients) {
            *out.entry(host.as_str()).or_default() += count;
        }
        out
    }
}

/// An edge with those of its outcomes that failed in one way.
type Failing<'a> = (&'a EdgeTraffic, Vec<&'a Outcome>);

/// All groups of failures of one way, in order of callee, each of them at least `Info`.
pub fn failures(snapshot: &Snapshot, way: Way) -> Vec<Failures> {
    let mut out = all(snapshot, |found| found == way);
    out.retain(|group| group.severity().is_some());
    out
}

/// All groups of failures of one callee Service, whatever the way and however few.
pub fn failures_of(snapshot: &Snapshot, service: &ServiceName) -> Vec<Failures> {
    let mut out = all(snapshot, |_| true);
    out.retain(|group| group.callee.service.as_ref() == Some(service));
    out
}

/// All groups of failures of ways that are wanted, in order of callee and way.
pub fn all(snapshot: &Snapshot, wanted: impl Fn(Way) -> bool) -> Vec<Failures> {
    let mut groups: BTreeMap<(Callee, Way), Vec<Failing<'_>>> = BTreeMap::new();
    let mut edges: BTreeMap<Callee, Vec<&EdgeTraffic>> = BTreeMap::new();
    for edge in &snapshot.traffic {
        let callee = callee(edge);
        edges.entry(callee.clone()).or_default().push(edge);
        let mut by_way: BTreeMap<Way, Vec<&Outcome>> = BTreeMap::new();
        for outcome in &edge.outcomes {
            let way = Signs::of(outcome, &edge.cluster).way();
            if let Some(way) = way.filter(|way| wanted(*way)) {
                by_way.entry(way).or_default().push(outcome);
            }
        }
        for (way, outcomes) in by_way {
            groups.entry((callee.clone(), way)).or_default().push((edge, outcomes));
        }
    }
    let mut out: Vec<Failures> = groups
        .into_iter()
        .filter(|((callee, _), found)| in_scope(snapshot, callee, found.iter().map(|(edge, _)| *edge)))
        .map(|((callee, way), found)| {
            let all = edges.get(&callee).map(Vec::as_slice).unwrap_or_default();
            group(snapshot, callee, way, &found, all)
        })
        .collect();
    out.extend(counters::failures(snapshot, &edges.keys().collect(), wanted));
    out.sort_by(|a, b| (&a.callee, a.way).cmp(&(&b.callee, b.way)));
    out
}

fn callee(edge: &EdgeTraffic) -> Callee {
    let host = match (&edge.service, edge.cluster.host.as_str()) {
        (Some(_), _) => String::new(),
        (None, "") => edge.authority.clone(),
        (None, host) => host.to_owned(),
    };
    Callee { service: edge.service.clone(), host, reporter: edge.reporter }
}

/// Whether somebody asked about it: the callee's namespace, or that of one who calls.
fn in_scope<'a>(
    snapshot: &Snapshot,
    callee: &Callee,
    mut edges: impl Iterator<Item = &'a EdgeTraffic>,
) -> bool {
    callee.service.as_ref().is_some_and(|service| snapshot.in_scope(&service.namespace))
        || edges.any(|edge| snapshot.in_scope(&edge.workload.namespace))
}

fn group(
    snapshot: &Snapshot,
    callee: Callee,
    way: Way,
    found: &[Failing<'_>],
    all: &[&EdgeTraffic],
) -> Failures {
    let mut parts: Vec<Part> = found.iter().filter_map(|(edge, outcomes)| part(edge, outcomes)).collect();
    parts.sort_by(|a, b| (b.count, &a.workload, &a.cluster).cmp(&(a.count, &b.workload, &b.cluster)));
    let first = parts.iter().filter_map(|part| part.first).min();
    let last = parts.iter().filter_map(|part| part.last).max();
    let total: u64 = parts.iter().map(|part| part.count).sum();
    let in_earnest = first.map(|first| sustained(found.iter().map(|(edge, _)| *edge), first));
    let since = |at: Timestamp| all.iter().map(|edge| edge.requests_since(at)).sum::<u64>();
    let requests = in_earnest.map_or_else(|| all.iter().map(|edge| edge.requests).sum(), since);
    // A counter of successes says nothing of those that were delayed.
    let codes =
        found.iter().flat_map(|(_, o)| o.iter().map(|o| o.code)).filter(|code| *code >= 400).collect();
    Failures {
        count: total.min(requests),
        requests,
        onset: in_earnest.map(|at| counters::earlier_onset(snapshot, &callee, &codes, at)),
        requests_after: last
            .map_or(0, |at| Timestamp::from_second(at.as_second() + RECOVERED_AFTER).map_or(0, since)),
        last,
        callee,
        way,
        parts,
    }
}

fn part(edge: &EdgeTraffic, outcomes: &[&Outcome]) -> Option<Part> {
    let top = outcomes.first()?;
    let mut durations: Vec<u64> = outcomes.iter().flat_map(|o| o.durations.iter().copied()).collect();
    durations.sort_unstable();
    let at =
        |share: f64| durations.get(((durations.len().max(1) - 1) as f64 * share).round() as usize).copied();
    let sum = |pick: fn(&Outcome) -> &BTreeMap<String, u64>| {
        let mut out = BTreeMap::new();
        for (key, count) in outcomes.iter().flat_map(|o| pick(o)) {
            *out.entry(key.clone()).or_default() += count;
        }
        out
    };
    let mut details = top.details.clone();
    if !top.transport_failure.is_empty() {
        details = format!("{details} {}", top.transport_failure);
    }
    let flags = if top.flags.is_empty() { "-" } else { &top.flags };
    Some(Part {
        workload: edge.workload.clone(),
        peer: edge.peer.clone(),
        cluster: if edge.cluster.raw.is_empty() { edge.authority.clone() } else { edge.cluster.raw.clone() },
        label: top.label(),
        short: format!("{} {flags}", top.code),
        details,
        count: outcomes.iter().map(|o| o.count).sum(),
        first: outcomes.iter().filter_map(|o| o.first).min(),
        last: outcomes.iter().filter_map(|o| o.last).max(),
        durations: at(0.05).zip(at(0.5)).zip(at(0.95)).map(|((low, middle), high)| (low, middle, high)),
        upstreams: sum(|o| &o.upstreams),
        clients: sum(|o| &o.clients),
        pods: outcomes.iter().flat_map(|o| o.pods.iter().cloned()).collect(),
        counted: false,
    })
}

/// When failures on these edges began in earnest, at or after the first of a kind: a single one long before is not where
/// the trouble begins.
fn sustained<'a>(edges: impl Iterator<Item = &'a EdgeTraffic>, first: Timestamp) -> Timestamp {
    let mut failing: BTreeMap<i64, u64> = BTreeMap::new();
    for edge in edges {
        for (second, (_, failed)) in edge.seconds.range(first.as_second()..) {
            if *failed > 0 {
                *failing.entry(*second).or_default() += failed;
            }
        }
    }
    // For each failing second those that follow within ONSET_SECONDS, in one pass: `ahead` is the first one beyond.
    let points: Vec<(i64, u64)> = failing.into_iter().collect();
    let (mut ahead, mut sum) = (0, 0);
    let mut sums = vec![];
    for (second, count) in &points {
        while let Some((_, more)) = points.get(ahead).filter(|(later, _)| *later < second + ONSET_SECONDS) {
            sum += more;
            ahead += 1;
        }
        sums.push((*second, sum));
        sum -= count;
    }
    let most = sums.iter().map(|(_, sum)| *sum).max().unwrap_or(0);
    let start = sums.iter().find(|(_, sum)| sum * 5 >= most).map(|(second, _)| *second);
    match start {
        Some(second) if second > first.as_second() => Timestamp::from_second(second).unwrap_or(first),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;

    /// A caller's access log: seconds after 10:00:00 and what follows the request line.
    fn snapshot(lines: &[(i64, &str)]) -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "shop"}, "spec": {"selector": {"app": "pay"}}}));
        let mut log = String::new();
        for (second, outcome) in lines {
            let at = format!("2026-11-21T10:{:02}:{:02}Z", second / 60, second % 60);
            log.push_str(&format!(
                "[{at}] \"GET / HTTP/1.1\" {outcome} - \"-\" 0 0 1 - \"-\" \"-\" \"-\" \"pay\" \"10.0.0.9:80\" outbound|80||pay.shop.svc.cluster.local - 10.1.1.1:80 10.0.0.1:1 - default\n"
            ));
        }
        builder.log(LogStream::read("shop", "cart-1", "istio-proxy", false, log.as_bytes(), false));
        builder.finish()
    }

    #[test]
    fn a_handful_is_nothing_and_a_share_is_an_error() {
        let mut lines: Vec<(i64, &str)> = (0..1000).map(|i| (i / 10, "200 - via_upstream")).collect();
        lines.extend([(3, "503 UH no_healthy_upstream"); 4]);
        assert!(failures(&snapshot(&lines), Way::NoHealthyUpstream).is_empty());
        lines.extend((0..100).map(|i| (i, "503 UH no_healthy_upstream")));
        let found = failures(&snapshot(&lines), Way::NoHealthyUpstream);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].severity(), Some(Severity::Error));
        assert_eq!((found[0].count, found[0].requests), (104, 1104));
    }

    #[test]
    fn what_is_over_is_no_error() {
        let mut lines: Vec<(i64, &str)> = (0..20).map(|i| (i, "503 UF refused")).collect();
        lines.extend((0..200).map(|i| (20 + i, "200 - via_upstream")));
        let found = failures(&snapshot(&lines), Way::Refused);
        assert_eq!(found[0].severity(), Some(Severity::Warning));
    }

    #[test]
    fn a_blip_long_before_is_not_where_it_begins() {
        let mut lines = vec![(0, "503 UC upstream_reset")];
        lines.extend((0..200).map(|i| (i, "200 - via_upstream")));
        lines.extend((0..50).map(|i| (150 + i, "503 UC upstream_reset")));
        let found = failures(&snapshot(&lines), Way::UpstreamClosed);
        assert_eq!(found[0].onset.unwrap().to_string(), "2026-11-21T10:02:30Z");
    }
}
