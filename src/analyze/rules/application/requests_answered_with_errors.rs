//! APP102.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, ErrorGroup, WorkloadLog};
use crate::analyze::logs::record::Level;
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

use super::calls::{self, ERROR_SHARE, MIN_FAILURES, WARNING_SHARE, percent, service_of, since};

crate::rule! {
    /// An application's own request log shows that it answers with server errors.
    ///
    /// ## What it detects
    /// Answers with a status of 500 or above in an application's own request log (JSON, logfmt, or an access log in common
    /// format), with their share since the first one; and whether calls that it made failed in the same time.
    /// ## Why it matters
    /// Of a chain of services that all answer with errors, the last one whose own calls are well is where the fault lies; all
    /// before it only pass it on.
    /// ## Evidence
    /// Counts by status, the share, the first time; the errors that it logged meanwhile; the failing calls, where there are any.
    /// ## How to confirm
    /// `kubectl logs deployment/NAME --since=10m` and look for the status together with the error before it.
    /// ## How to fix
    /// Where its own calls fail, look at what it calls. Where they do not, at its errors and at what changed in it: image,
    /// configuration, data.
    /// ## False positives
    /// Under one per cent, fewer than three, and errors that ended while the log goes on are information only. Requests of
    /// probes and scrapers are not counted.
    /// ## References
    /// <https://sre.google/sre-book/monitoring-distributed-systems/>
    RequestsAnsweredWithErrors {
        code: "APP102", name: "requests-answered-with-errors", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A workload that answers with errors.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    service: Option<ServiceName>,
    requests: u64,
    failed: u64,
    statuses: BTreeMap<u16, u64>,
    first: Option<Timestamp>,
    ended: bool,
    /// Calls of its own that failed meanwhile, and whom they were meant for.
    own_calls: u64,
    callees: Vec<String>,
    /// The most frequent error that is no failed call.
    error: Option<ErrorGroup>,
}

/// From this share of its failures on a workload's own failing calls account for them.
const PASSES_ON: f64 = 0.5;

impl Check for RequestsAnsweredWithErrors {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let digest = snapshot.derived::<Digest>();
        let failing = calls::failing(snapshot);
        digest
            .workloads
            .iter()
            .filter_map(|(workload, log)| {
                let first = log.served.iter().find(|r| r.status >= 500)?.at;
                let (requests, failed) = log.served_since(first);
                let mut statuses = BTreeMap::new();
                for request in log.served.iter().filter(|r| r.status >= 500) {
                    *statuses.entry(request.status).or_default() += 1;
                }
                let own: Vec<_> = failing.all.iter().filter(|c| c.caller.same_object(workload)).collect();
                let mut callees: Vec<String> =
                    own.iter().filter_map(|c| c.main()).map(|group| group.callee()).collect();
                callees.sort();
                callees.dedup();
                let errors =
                    log.errors.iter().filter(|e| !e.call && e.level >= Level::Error && e.last >= first);
                Some(Fact {
                    service: service_of(snapshot, workload),
                    workload: workload.clone(),
                    requests,
                    failed,
                    statuses,
                    first,
                    ended: ended(log),
                    own_calls: own.iter().map(|c| c.count).sum(),
                    callees,
                    error: errors.max_by_key(|e| e.count).cloned(),
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let share = fact.failed as f64 / fact.requests.max(1) as f64;
        let severity = match share {
            _ if fact.ended || fact.failed < MIN_FAILURES || share < WARNING_SHARE => Severity::Info,
            share if share < ERROR_SHARE => Severity::Warning,
            _ => Severity::Error,
        };
        let passes_on = fact.own_calls as f64 >= PASSES_ON * fact.failed as f64;
        let statuses: Vec<String> =
            fact.statuses.iter().map(|(status, n)| format!("{status}: {n}")).collect();
        let amount = format!("{} of {} requests ({})", fact.failed, fact.requests, percent(share));
        let why = match (passes_on, &fact.error) {
            (true, _) => format!(
                "{} of its own calls failed meanwhile ({}): it passes on what fails behind it",
                fact.own_calls,
                fact.callees.join(", ")
            ),
            (false, Some(error)) => format!(
                "calls of its own do not account for it; it logs an error of its own, {} times",
                error.count
            ),
            (false, None) => "its log tells of no failing call of its own that accounts for it".to_owned(),
        };
        let over = if fact.ended { " It is over: later requests in the log were answered well." } else { "" };
        let mut finding = Finding::new(Self::META, fact.workload.clone(), &[])
            .title(format!("{} answers {amount} with server errors{}", fact.workload, since(fact.first)))
            .message(format!(
                "By its own request log {} answered {amount} with a status of 500 or above; {why}.{over}",
                fact.workload
            ))
            .mechanism(if passes_on {
                "server errors passed on from a dependency"
            } else {
                "application answers with 5xx server errors"
            })
            .severity(severity)
            .role(Role::Symptom, Confidence::Observed)
            .service(fact.service.clone())
            .evidence(
                Evidence::new(
                    "Log",
                    fact.workload.to_string(),
                    format!("{amount} answered with {}", statuses.join(", ")),
                )
                .at(fact.first),
            )
            .onset(fact.first);
        if let Some(error) = fact.error.as_ref().filter(|_| !passes_on) {
            let place = format!(
                "Pod {}/{}, container {}",
                fact.workload.namespace, error.place.pod, error.place.container
            );
            finding = finding.evidence(
                Evidence::new(
                    "Log",
                    place,
                    format!("an error that is no failed call, {} times", error.count),
                )
                .at(error.first)
                .excerpt(&error.sample),
            );
        }
        if let Some(service) = &fact.service {
            let flags: &[&str] = if passes_on { &["5xx", "passed_on"] } else { &["5xx", "500"] };
            finding = finding.effect(Effect::requests(service, flags)).prevention(Prevention::alert(
                "Alert on the share of requests that the application answers with errors",
                format!("sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\",response_code=~\"5..\"}}[5m])) / sum(rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[5m])) > 0.05", service.name),
            ));
        }
        finding
    }
}

/// Whether requests were answered well for a good while after the last failure: longer than 45 s, than six usual pauses between
/// failures, and with at least 20 requests.
fn ended(log: &WorkloadLog) -> bool {
    let failures: Vec<Timestamp> =
        log.served.iter().filter(|r| r.status >= 500).filter_map(|r| r.at).collect();
    let (Some(first), Some(last)) = (failures.first(), failures.last()) else { return false };
    let Some(end) = log.served.last().and_then(|r| r.at) else { return false };
    let pause = (to_unix(*last) - to_unix(*first)) / failures.len().saturating_sub(1).max(1) as f64;
    let after = log.served.iter().filter(|r| r.at > Some(*last)).count();
    after >= 20 && to_unix(end) - to_unix(*last) > (6.0 * pause).max(45.0)
}
