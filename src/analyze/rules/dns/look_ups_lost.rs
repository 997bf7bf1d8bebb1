//! DNS108.

use super::server::{self, name_server};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{Calls, percent, since};
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Look-ups get no answer in time although the name server is up: lost on the way, or answered too slowly.
    ///
    /// ## What it detects
    /// Applications whose look-ups fail for want of an answer, a name server with ready pods, and a reason: a node whose table of
    /// connections is full or rejects entries, or a name server that is itself slow or held back by its CPU limit.
    /// ## Why it matters
    /// The names exist and the server is up, so nothing looks wrong; the resolver tries again after five seconds, so latencies gather at
    /// 5 and 10 s before they become errors.
    /// ## Evidence
    /// The failed look-ups, the fill and the rejected entries of the table, the mean time of an answer, the share of throttled periods.
    /// ## How to confirm
    /// On the node: `dmesg | grep conntrack`, `conntrack -S`. Of the name server: `coredns_dns_request_duration_seconds`.
    /// ## How to fix
    /// Lost: raise `net.netfilter.nf_conntrack_max`, run NodeLocal DNSCache, `options single-request-reopen` (glibc). Slow: more CPU or
    /// more replicas for the name server, and its cache.
    /// ## False positives
    /// A full table without failed look-ups, and failed look-ups without such a reason, are not reported here.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/administer-cluster/nodelocaldns/>
    LookUpsLost {
        code: "DNS108", name: "look-ups-lost-or-slow", family: Network, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A table fuller than this rejects entries in bursts.
const FULL: f64 = 0.9;
/// A mean answer slower than this many seconds is a slow name server: usual ones take milliseconds.
const SLOW: f64 = 0.5;
/// From this share of throttled periods on the limit holds it back.
const THROTTLED: f64 = 0.25;

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq)]
enum Why {
    /// The table of connections of a node is full, to this share.
    Full(String, f64),
    /// It rejects entries, so many.
    Rejects(String, f64),
    /// The mean time of an answer in seconds.
    Slow(f64),
    /// The share of throttled periods.
    Throttled(f64),
}

/// Look-ups that got no answer.
#[derive(Debug)]
pub struct Fact {
    why: Why,
    subject: ObjectRef,
    callers: Vec<Calls>,
}

impl Check for LookUpsLost {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let callers = server::unresolved(snapshot);
        if callers.is_empty() {
            return vec![];
        }
        let server = name_server(snapshot);
        if server.as_ref().is_some_and(|s| s.ready() == (0, s.pods.len()) && !s.pods.is_empty()) {
            return vec![];
        }
        let Some(why) = why(snapshot) else { return vec![] };
        let subject = match &why {
            Why::Full(node, _) | Why::Rejects(node, _) => {
                ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", node) }
            }
            Why::Slow(_) | Why::Throttled(_) => {
                let reference = server.as_ref().map_or_else(
                    || ObjectRef::new("Deployment", server::NAMESPACE, "coredns"),
                    |s| s.reference(),
                );
                match server.as_ref().and_then(|s| s.workload) {
                    Some(workload) => {
                        reference.field(workload.template_path("spec.containers[0].resources.limits.cpu"))
                    }
                    None => reference,
                }
            }
        };
        vec![Fact { why, subject, callers }]
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let (words, value, todo) = match &fact.why {
            Why::Full(node, share) => (
                format!("the table of connections of node {node} is full"),
                format!("{} of its entries are in use", percent(*share)),
                "Raise net.netfilter.nf_conntrack_max on the node, and let a cache on each node (NodeLocal DNSCache) answer",
            ),
            Why::Rejects(node, n) => (
                format!("node {node} rejects entries in its table of connections"),
                format!("{n:.0} entries were rejected"),
                "Run NodeLocal DNSCache, or set options single-request-reopen in spec.dnsConfig of pods with glibc",
            ),
            Why::Slow(seconds) => (
                "the name server is slow".to_owned(),
                format!("an answer takes {seconds:.1} s in the mean"),
                "Give the name server more CPU or replicas and a larger cache; look at the servers that it forwards to",
            ),
            Why::Throttled(share) => (
                "the name server's CPU limit holds it back".to_owned(),
                format!("{} of its periods are throttled", percent(*share)),
                "Raise or remove the CPU limit of the name server, or add replicas",
            ),
        };
        let first = server::onset(&fact.callers);
        Finding::new(Self::META, fact.subject.clone(), &[&words])
            .title(format!("Look-ups of {} workloads get no answer: {words}, {value}", fact.callers.len()))
            .message(format!("{} workloads fail to look names up{}, and the name server has ready pods: {words}; {value}.", fact.callers.len(), since(first)))
            .mechanism(format!("DNS timeout: {words}"))
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::new("Metric", fact.subject.to_string(), value))
            .evidences(fact.callers.iter().take(3).flat_map(|c| c.evidence().take(1).collect::<Vec<_>>()))
            .onset(first)
            .effects(server::effects(snapshot, &fact.callers))
            .remedy(Remedy::manual(format!("{todo}: {}", fact.subject)))
            .prevention(Prevention::alert("Alert before the table is full", "node_nf_conntrack_entries / node_nf_conntrack_entries_limit > 0.9"))
            .prevention(Prevention::alert(
                "Alert on slow answers",
                "histogram_quantile(0.99, sum by (le) (rate(coredns_dns_request_duration_seconds_bucket[5m]))) > 1",
            ))
    }
}

/// The node that a series is about.
fn node(series: &Series) -> String {
    let named = ["node", "nodename", "instance"]
        .into_iter()
        .map(|label| series.label(label))
        .find(|value| !value.is_empty());
    named.unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
}

fn why(snapshot: &Snapshot) -> Option<Why> {
    for entries in snapshot.series_named("node_nf_conntrack_entries") {
        let limit = snapshot
            .series_named("node_nf_conntrack_entries_limit")
            .find(|s| node(s) == node(entries))
            .and_then(Series::last);
        if let (Some(most), Some(limit)) = (entries.max(), limit.filter(|limit| *limit > 0.0))
            && most / limit > FULL
        {
            return Some(Why::Full(node(entries), most / limit));
        }
    }
    for rejects in snapshot.series_named("node_nf_conntrack_stat_insert_failed") {
        if let Some(n) = rejects.total_increase().filter(|n| *n > 0.0) {
            return Some(Why::Rejects(node(rejects), n));
        }
    }
    let sum = |name: &str, picks: &dyn Fn(&Series) -> bool| -> Option<f64> {
        let all: Vec<f64> =
            snapshot.series_named(name).filter(|s| picks(s)).filter_map(Series::total_increase).collect();
        (!all.is_empty()).then(|| all.iter().sum())
    };
    let any = |_: &Series| true;
    if let (Some(seconds), Some(count)) = (
        sum("coredns_dns_request_duration_seconds_sum", &any),
        sum("coredns_dns_request_duration_seconds_count", &any),
    ) && count > 0.0
        && seconds / count > SLOW
    {
        return Some(Why::Slow(seconds / count));
    }
    let ours = |s: &Series| s.label("namespace") == server::NAMESPACE && s.label("pod").contains("coredns");
    let (throttled, periods) = (
        sum("container_cpu_cfs_throttled_periods_total", &ours)?,
        sum("container_cpu_cfs_periods_total", &ours)?,
    );
    (periods > 0.0 && throttled / periods > THROTTLED).then(|| Why::Throttled(throttled / periods))
}
