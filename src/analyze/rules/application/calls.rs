//! Failing calls as rules see them: one for each caller, callee and way of failing, with its share.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::analyze::finding::{Effect, Evidence, Finding, Severity};
use crate::analyze::logs::digest::{CallGroup, Digest, WorkloadLog};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::traffic::text;
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::ContainerState;

/// Fewer failures than this happen to everybody.
pub const MIN_FAILURES: u64 = 3;
/// From this share of requests on a failing call is worth a warning.
pub const WARNING_SHARE: f64 = 0.01;
/// From this share on it is an error.
pub const ERROR_SHARE: f64 = 0.05;

/// Calls of one workload to one callee that failed in one way.
#[derive(Debug, Clone)]
pub struct Calls {
    /// The workload that calls.
    pub caller: ObjectRef,
    /// The groups, the largest first; several names and addresses of one Service come together here.
    pub groups: Vec<CallGroup>,
    /// How many.
    pub count: u64,
    /// Requests that the caller served in the same time, where it logs them.
    pub of: Option<u64>,
    /// Entries of its log, which stand for its requests where it does not log them.
    pub entries: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// Whether it is over.
    pub ended: bool,
}

impl Calls {
    /// The largest group.
    pub fn main(&self) -> Option<&CallGroup> {
        self.groups.first()
    }

    /// How they failed.
    pub fn kind(&self) -> Option<Kind> {
        self.main().map(|group| group.kind)
    }

    /// The Service that was called.
    pub fn service(&self) -> Option<&ServiceName> {
        self.main().and_then(|group| group.service.as_ref())
    }

    /// The ways in which they failed, in words.
    pub fn words(&self) -> String {
        let words: BTreeSet<String> = self.groups.iter().map(|group| group.kind.words()).collect();
        words.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Flags and words by which rules know it.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags: BTreeSet<&'static str> = self.groups.iter().flat_map(CallGroup::flags).collect();
        flags.into_iter().collect()
    }

    /// Whether the callees mostly pass on what failed behind them.
    pub fn passed_on(&self) -> bool {
        let passed: u64 = self.groups.iter().map(|group| group.passed_on).sum();
        passed * 2 > self.count
    }

    /// The share of its requests that fails, or of its log's entries where it does not log requests.
    pub fn share(&self) -> Option<f64> {
        let of = self.of.unwrap_or(self.entries);
        (of > 0).then(|| (self.count as f64 / of as f64).min(1.0))
    }

    /// How bad it is: what is over, or rare, is information.
    pub fn severity(&self) -> Severity {
        match self.share() {
            _ if self.ended || self.count < MIN_FAILURES => Severity::Info,
            Some(share) if share < WARNING_SHARE => Severity::Info,
            Some(share) if share < ERROR_SHARE => Severity::Warning,
            _ => Severity::Error,
        }
    }

    /// How long they took in milliseconds, sorted.
    pub fn took(&self) -> Vec<f64> {
        let mut took: Vec<f64> = self.groups.iter().flat_map(|group| group.took.iter().copied()).collect();
        took.sort_by(f64::total_cmp);
        took
    }

    /// The limits that their texts state in milliseconds, sorted.
    pub fn limits(&self) -> Vec<f64> {
        let mut limits: Vec<f64> =
            self.groups.iter().flat_map(|group| group.limits.iter().copied()).collect();
        limits.sort_by(f64::total_cmp);
        limits
    }

    /// `34 of 120 requests (28 %)`, or the count alone.
    pub fn amount(&self) -> String {
        match (self.of, self.share()) {
            (Some(of), Some(share)) if of >= self.count => {
                format!("{} of {of} requests ({})", self.count, percent(share))
            }
            _ => format!("{} requests", self.count),
        }
    }

    /// A finding about these calls with what each such finding tells: who calls whom, the lines that say so, since when, and how
    /// requests to the callee (`answered`) and to the Service of the caller (`passed_on`) fail.
    pub fn told(
        &self,
        finding: Finding,
        of: Option<&ServiceName>,
        answered: &[&str],
        passed_on: &[&str],
    ) -> Finding {
        let mut finding = finding
            .related(self.caller.clone())
            .evidences(self.evidence())
            .onset(self.first)
            .effect(Effect::calls(&self.caller));
        if let Some(callee) = self.service() {
            finding = finding.related(callee.reference()).effect(Effect::requests(callee, answered));
        }
        if let Some(caller) = of {
            finding = finding.effect(Effect::requests(caller, passed_on));
        }
        finding
    }

    /// What the logs say, each group with one of its lines.
    pub fn evidence(&self) -> impl Iterator<Item = Evidence> + '_ {
        self.groups.iter().take(3).map(|group| {
            let span = match (group.first, group.last) {
                (Some(first), Some(last)) => format!(" from {} to {}", clock(first), clock(last)),
                _ => String::new(),
            };
            Evidence::new(
                "Log",
                format!(
                    "Pod {}/{}, container {}",
                    self.caller.namespace, group.place.pod, group.place.container
                ),
                format!("{}: {}, {}{span}", group.callee(), group.kind.words(), text::times(group.count)),
            )
            .at(group.first)
            .excerpt(&group.sample)
        })
    }
}

/// A share as a person writes it.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    if value >= 10.0 || value == 0.0 { format!("{value:.0} %") } else { format!("{value:.1} %") }
}

/// A time of day, to the second, in UTC.
pub fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S UTC").to_string()
}

/// ` since 10:00:00 UTC`, or nothing.
pub fn since(at: Option<Timestamp>) -> String {
    at.map(|at| format!(" since {}", clock(at))).unwrap_or_default()
}

/// All failing calls of a snapshot, by caller and callee.
#[derive(Debug, Default)]
pub struct Failing {
    /// Each caller, callee and way of failing once.
    pub all: Vec<Calls>,
}

impl Derived for Failing {
    fn derive(snapshot: &Snapshot) -> Self {
        let digest: Arc<Digest> = snapshot.derived();
        let mut all = vec![];
        for (caller, log) in &digest.workloads {
            let mut merged: BTreeMap<(String, u8), Vec<CallGroup>> = BTreeMap::new();
            for group in &log.calls {
                merged.entry((group.callee(), class(group.kind))).or_default().push(group.clone());
            }
            let started = started(snapshot, caller);
            all.extend(merged.into_values().map(|groups| calls(caller, log, groups, started)));
        }
        Failing { all }
    }
}

/// All failing calls, put together once for all rules.
pub fn failing(snapshot: &Snapshot) -> Arc<Failing> {
    snapshot.derived()
}

/// A value of the cluster that may stand in a sentence: short, and of letters, digits and the signs of numbers, names and
/// addresses. Anything else is left to the evidence.
pub fn plain(value: &str) -> Option<&str> {
    let fits = !value.is_empty() && value.len() <= 48;
    let harmless =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'/' | b'+' | b'%');
    (fits && value.bytes().all(harmless)).then_some(value)
}

/// Ways of failing that are told apart: all server errors are one.
fn class(kind: Kind) -> u8 {
    match kind {
        Kind::Refused => 0,
        Kind::ConnectTimeout => 1,
        Kind::Unreachable => 2,
        Kind::NoSuchHost => 3,
        Kind::Resolver => 4,
        Kind::Reset => 5,
        Kind::Tls => 6,
        Kind::Scheme => 7,
        Kind::Timeout => 8,
        Kind::Pool => 9,
        Kind::TooMany => 10,
        Kind::Status(code) if code >= 500 => 11,
        Kind::Status(429) => 12,
        Kind::Status(_) => 13,
        Kind::NoAddresses => 14,
        Kind::TooLarge => 15,
        Kind::Pings => 16,
        Kind::Unimplemented => 17,
    }
}

/// When the newest container of a workload's pods was started.
fn started(snapshot: &Snapshot, workload: &ObjectRef) -> Option<Timestamp> {
    let statuses = snapshot.pods_of(workload).flat_map(|pod| &pod.statuses);
    let times = statuses.filter_map(|status| match &status.state {
        ContainerState::Running { since } => *since,
        _ => None,
    });
    times.max()
}

/// Failures that begin within so many seconds of a start, and last no longer, belong to it where requests succeed after them.
const START: i64 = 20;
/// So many requests answered well in a row after the last of them are a success.
const WELL: u64 = 10;

/// Whether failures were those of a start: they began right after it, ended soon, and requests were answered well ever since.
fn of_a_start(
    log: &WorkloadLog,
    span: (Option<Timestamp>, Option<Timestamp>),
    started: Option<Timestamp>,
) -> bool {
    let (Some(first), Some(last), Some(started)) = (span.0, span.1, started) else { return false };
    let soon = (0..=START).contains(&(first.as_second() - started.as_second()))
        && last.as_second() - first.as_second() <= START;
    let (all, failed) = log.served_since(Some(last));
    soon && failed == 0 && all >= WELL
}

fn calls(
    caller: &ObjectRef,
    log: &WorkloadLog,
    mut groups: Vec<CallGroup>,
    started: Option<Timestamp>,
) -> Calls {
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    let count: u64 = groups.iter().map(|group| group.count).sum();
    let first = groups.iter().filter_map(|group| group.first).min();
    let last = groups.iter().filter_map(|group| group.last).max();
    let ended = !groups.is_empty()
        && (groups.iter().all(|group| group.ended(log)) || of_a_start(log, (first, last), started));
    let (served, _) = log.served_since(first);
    Calls {
        caller: caller.clone(),
        count,
        of: Some(served).filter(|n| *n > 0),
        entries: log.entries,
        first,
        last,
        ended,
        groups,
    }
}

/// The Service that stands for a workload: the one of its name, else the first in front of it.
pub fn service_of(snapshot: &Snapshot, workload: &ObjectRef) -> Option<ServiceName> {
    let all: Vec<&ServiceName> = snapshot.graph.services_of(workload).collect();
    all.iter().find(|s| s.name == workload.name).or(all.first()).map(|s| (*s).clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::log::LogStream;
    use crate::model::snapshot::Builder;

    fn snapshot(log: &str) -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "n"}, "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "pay"}}}));
        builder.log(LogStream::read("n", "shop-1", "app", false, log.as_bytes(), false));
        builder.finish()
    }

    #[test]
    fn names_and_addresses_of_one_service_are_one_callee() {
        let line = |second: u32, host: &str| {
            format!(
                "2026-11-21T10:00:{second:02}Z level=error msg=failed error=\"dial tcp {host}:80: connect: connection refused\"\n"
            )
        };
        let text = format!("{}{}{}", line(1, "10.0.0.1"), line(2, "pay"), line(3, "pay.n"));
        let all = failing(&snapshot(&text)).all.clone();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].count, all[0].severity()), (3, Severity::Error));
    }

    #[test]
    fn failures_of_a_start_are_over_once_requests_succeed() {
        let log = |served: u32| {
            let mut text = String::new();
            for second in 1..4 {
                text.push_str(&format!("2026-11-21T10:00:{second:02}Z level=error msg=failed error=\"dial tcp: lookup pay on 10.0.0.9:53: no such host\"\n"));
            }
            for second in 0..served {
                text.push_str(&format!(
                    "2026-11-21T10:00:{:02}Z level=info msg=request path=/a status=200 ms=1\n",
                    5 + second
                ));
            }
            text
        };
        let ended = |served: u32, started: &str| {
            let mut builder = Builder::new();
            builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop-1", "namespace": "n"}, "spec": {"containers": [{"name": "app"}]},
                "status": {"phase": "Running", "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "state": {"running": {"startedAt": started}}}]}}));
            builder.log(LogStream::read("n", "shop-1", "app", false, log(served).as_bytes(), false));
            failing(&builder.finish()).all[0].ended
        };
        assert!(ended(12, "2026-11-21T10:00:00Z"));
        // Too few to say, and a container that runs since long before.
        assert!(!ended(3, "2026-11-21T10:00:00Z"));
        assert!(!ended(12, "2026-11-21T09:00:00Z"));
    }

    #[test]
    fn rare_failures_are_information() {
        let mut text = String::new();
        for n in 0..600 {
            text.push_str(&format!(
                "2026-11-21T10:{:02}:{:02}Z level=info msg=request path=/a status=200 ms=1\n",
                n / 60,
                n % 60
            ));
        }
        for n in [1, 200, 590] {
            text.push_str(&format!("2026-11-21T10:{:02}:{:02}Z level=error msg=x error=\"Get \\\"http://pay/a\\\": connection reset by peer\"\n", n / 60, n % 60));
        }
        let all = failing(&snapshot(&text)).all.clone();
        assert_eq!((all[0].count, all[0].severity()), (3, Severity::Info));
        assert_eq!(percent(0.053), "5.3 %");
        assert_eq!(
            (plain("200ms"), plain("http://a:1/x"), plain("a b; rm"), plain("")),
            (Some("200ms"), Some("http://a:1/x"), None, None)
        );
    }
}
