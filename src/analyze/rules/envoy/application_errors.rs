//! ENVOY130.

use std::collections::BTreeSet;

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::{Finding, Severity};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// An application answers with 5xx itself.
    ///
    /// ## What it detects
    /// 5xx responses with `via_upstream` and no flag: the proxy passed on what the application said. Where the callee's own
    /// proxy is seen, it decides: a 5xx that it made itself is not the application's.
    /// ## Why it matters
    /// The cause lies in this application or in what it calls, not between the proxies. A 5xx that an application only passes
    /// on from its own dependencies belongs to the deepest one, and is a warning here.
    /// ## Evidence
    /// Access logs of the callee's proxy, else of callers; counters by response code where there are no access logs. The
    /// application's own calls that fail at the same time.
    /// ## How to confirm
    /// The application's log at the time of the first such response.
    /// ## How to fix
    /// Heal the dependency that fails, where there is one; else undo the application's last change or read what its log says.
    /// ## False positives
    /// Applications that answer 5xx on purpose (a readiness page, 501 for what they do not implement).
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ApplicationErrors {
        code: "ENVOY130", name: "application-errors", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

/// Where this share of an application's errors have a failing call of its own beside them, it passes them on.
const PASSED_ON: f64 = 0.5;

/// Errors of one application.
#[derive(Debug)]
pub struct Fact {
    group: Failures,
    /// What its own calls say: the callee and how they fail, the most frequent first.
    calls: Vec<(String, String, u64)>,
}

impl Fact {
    fn passed_on(&self) -> bool {
        let failing: u64 = self.calls.iter().map(|(_, _, count)| count).sum();
        failing as f64 >= self.group.count as f64 * PASSED_ON
    }
}

impl Check for ApplicationErrors {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let groups = all(snapshot, |way| way != Way::DelayInjected);
        let own_side: BTreeSet<&ServiceName> = groups
            .iter()
            .filter(|group| group.callee.reporter == Reporter::Destination)
            .filter_map(|group| group.callee.service.as_ref())
            .collect();
        let mine = groups.iter().filter(|group| group.way == Way::Application && group.severity().is_some());
        mine.filter(|group| match &group.callee.service {
            Some(service) => group.callee.reporter == Reporter::Destination || !own_side.contains(service),
            None => true,
        })
        .map(|group| Fact { calls: failing_calls(snapshot, group, &groups), group: group.clone() })
        .collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let means = match fact.calls.first() {
            Some((callee, how, count)) if fact.passed_on() => format!(
                "The application passes on what it gets: its own calls to {callee} fail at the same time ({how}, {}).",
                text::number(*count)
            ),
            _ => "The application itself answers so: no proxy made these responses, and none of its own calls that were seen fails as often.".to_owned(),
        };
        let logs =
            fact.group.callee.service.as_ref().map(|_| {
                kubectl(&fact.group, "get endpointslices -l kubernetes.io/service-name=NAME -o wide")
            });
        let words = Words {
            mechanism: if fact.passed_on() {
                "5xx passed on from a dependency"
            } else {
                "5xx of the application itself"
            },
            means,
            look: ("See which pods are behind it, then read their logs", logs.into_iter().collect()),
            flag: "",
            codes: "5..",
        };
        let finding = symptom(Self::META, &fact.group, words);
        if fact.passed_on() {
            let severity = finding.severity.min(Severity::Warning);
            finding.severity(severity)
        } else {
            finding
        }
    }
}

/// The failing calls of the workloads behind a group's Service, by callee.
fn failing_calls(snapshot: &Snapshot, group: &Failures, groups: &[Failures]) -> Vec<(String, String, u64)> {
    let Some(service) = &group.callee.service else { return vec![] };
    let own = |workload: &ObjectRef| {
        snapshot
            .graph
            .backing
            .get(service)
            .is_some_and(|behind| behind.iter().any(|w| w.same_object(workload)))
    };
    let mut out: Vec<(String, String, u64)> = vec![];
    for other in groups.iter().filter(|other| other.callee.service.as_ref() != Some(service)) {
        let by_us = other.parts.iter().filter(|part| match other.callee.reporter {
            Reporter::Source => own(&part.workload),
            Reporter::Destination => part.peer.as_ref().is_some_and(own),
        });
        let (mut count, mut how) = (0, String::new());
        for part in by_us {
            if how.is_empty() {
                how = text::plain(&part.short, 24);
            }
            count += part.count;
        }
        if count == 0 {
            continue;
        }
        // Both sides of one call may report it: the side that counts more stands for it.
        match out.iter_mut().find(|(name, _, _)| *name == other.name()) {
            Some(known) if known.2 < count => *known = (other.name(), how, count),
            Some(_) => {}
            None => out.push((other.name(), how, count)),
        }
    }
    out.sort_by(|a, b| (b.2, &a.0).cmp(&(a.2, &b.0)));
    out
}
