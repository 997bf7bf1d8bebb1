//! PLAT120.

use jiff::Timestamp;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An application's requests to the Kubernetes API are held back or turned away.
    ///
    /// ## What it detects
    /// Lines of an application's log that say who held it back: its own client ("client-side throttling"), the API server's priority and
    /// fairness ("too many requests"), or the store behind the API server.
    /// ## Why it matters
    /// Controllers and operators act late, leases run out, and what waits for them waits.
    /// ## Evidence
    /// The lines of the log, and how many there are.
    /// ## How to confirm
    /// `apiserver_flowcontrol_rejected_requests_total` for the API server's side; the client's own log for its own limit.
    /// ## How to fix
    /// Watch with informers instead of asking again and again; raise the client's QPS and burst; give its account a FlowSchema.
    /// ## False positives
    /// A few waits at the start of a client, when it fills its caches.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>
    ApiThrottled {
        code: "PLAT120", name: "api-requests-throttled", family: Platform, severity: Warning,
        needs: [Logs], aliases: ["K8S-APF"],
    }
}

/// Who holds the requests back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Client,
    Fairness,
    Store,
}

impl By {
    fn of(text: &str) -> Option<Self> {
        // Asked of every line of every log: one pass for all of these texts.
        static TEXTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
            Regex::new(concat!(
                "(due to client-side throttling|client rate limiter Wait returned an error)",
                "|(the server has received too many requests and has asked us to try again later)",
                "|etcdserver: request timed out|etcdserver: leader changed",
                "|the server was unable to return a response in the time allotted",
            ))
            .ok()
        });
        let texts = TEXTS.as_ref().filter(|texts| texts.is_match(text))?;
        let found = texts.captures(text)?;
        Some(match (found.get(1), found.get(2)) {
            (Some(_), _) => By::Client,
            (None, Some(_)) => By::Fairness,
            (None, None) => By::Store,
        })
    }

    fn meaning(self) -> &'static str {
        match self {
            By::Client => "its own client holds them back (QPS and burst)",
            By::Fairness => "the API server turns them away (priority and fairness)",
            By::Store => "the API server's store does not answer in time",
        }
    }
}

/// A workload whose requests are held back.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    by: By,
    count: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    sample: (String, &'a str),
}

/// Fewer lines are those of a client that fills its caches.
const MANY: usize = 10;

impl Check for ApiThrottled {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(ObjectRef, By), Fact<'a>> = BTreeMap::new();
        for log in snapshot.logs.iter().filter(|log| snapshot.in_scope(&log.namespace)) {
            for line in &log.lines {
                let Some(by) = By::of(&line.text) else { continue };
                let owner = snapshot.owner_by_name(&log.namespace, &log.pod);
                let fact = found.entry((owner.clone(), by)).or_insert_with(|| Fact {
                    owner,
                    by,
                    count: 0,
                    first: line.time,
                    last: line.time,
                    sample: (
                        format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container),
                        &line.text,
                    ),
                });
                fact.count += 1;
                fact.first = fact.first.into_iter().chain(line.time).min();
                fact.last = fact.last.max(line.time);
            }
        }
        found.into_values().filter(|fact| fact.count >= MANY && common::recent(snapshot, fact.last)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (owner, why) = (&fact.owner, fact.by.meaning());
        Finding::new(Self::META, owner.clone(), &[why])
            .title(format!("{owner}: requests to the Kubernetes API held back, {}: {why}", text::times(fact.count as u64)))
            .message(format!("The log of {owner} says {} that its requests to the API server are held back: {why}.", text::times(fact.count as u64)))
            .mechanism(format!("API requests throttled: {why}"))
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::new("Log", fact.sample.0.clone(), text::several(fact.count as u64, "such line")).excerpt(fact.sample.1).at(fact.first))
            .onset(fact.first)
            .effect(Effect::pods(owner))
            .remedy(match fact.by {
                By::Client => Remedy::manual("Let the application watch with informers instead of asking again and again, or raise QPS and burst of its client"),
                By::Fairness => Remedy::commands(
                    "Let the application watch instead of asking again and again; see which level of priority it falls under",
                    vec!["kubectl get flowschemas,prioritylevelconfigurations".to_owned()],
                    vec![],
                ),
                By::Store => Remedy::manual("Look at etcd's disk and its latency (etcd_disk_wal_fsync_duration_seconds): the application is not at fault"),
            })
            .prevention(Prevention::alert(
                "Alert when the API server turns requests away",
                "sum by (priority_level, flow_schema, reason) (rate(apiserver_flowcontrol_rejected_requests_total[5m])) > 0",
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_back() {
        assert_eq!(
            By::of(
                "Waited for 1.197s due to client-side throttling, not priority and fairness, request: GET:https://10.96.0.1:443/apis"
            ),
            Some(By::Client)
        );
        assert_eq!(
            By::of(
                "the server has received too many requests and has asked us to try again later (get pods)"
            ),
            Some(By::Fairness)
        );
        assert_eq!(By::of("etcdserver: request timed out"), Some(By::Store));
        assert_eq!(By::of("HTTP 429 Too Many Requests from partner"), None);
    }
}
