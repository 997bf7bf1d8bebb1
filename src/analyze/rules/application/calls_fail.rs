//! APP101.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::Digest;
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::Prevention;
use crate::analyze::rule::{Check, Declared};
use crate::model::graph::Provenance;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;
use jiff::Timestamp;

use super::calls::{self, Calls, ERROR_SHARE, MIN_FAILURES, WARNING_SHARE, percent, since};
use super::other_side;

crate::rule! {
    /// The log of a caller says that its calls to a Service fail.
    ///
    /// ## What it detects
    /// Warnings and errors in which an application says that a call it made failed: refused, timed out, reset, unresolved,
    /// a TLS failure, or an answer with an error status. They are counted for each caller, callee and way of failing. A load
    /// generator or a synthetic check that sums up its requests (how many, how many failed) counts as a caller too.
    /// ## Why it matters
    /// The caller is the witness: it says who failed it, how, since when and how often. A refused connection, a timeout and an
    /// answer with status 503 have different causes.
    /// ## Evidence
    /// One log line of each way of failing, with counts and first and last time; the share of the requests that the caller served
    /// in the same time. An answer that quotes a further failing call is marked as passed on. Then what that way of failing asks to
    /// look at on the other side, looked at: endpoints and listening port, policies and nodes, restarts of the callee, its own
    /// failing calls.
    /// ## How to confirm
    /// `kubectl logs deployment/CALLER --since=10m | grep CALLEE`, then the same call by hand from the caller's pod.
    /// ## How to fix
    /// By the way of failing: refused: nothing listens on the Service's target port, or it has no endpoint; connection timeout:
    /// a NetworkPolicy or a dead node drops packets; no such host: the name; reset: the callee restarts or closes idle
    /// connections first; timeout: the callee is slow or the caller too impatient; status: the callee's own log.
    /// ## False positives
    /// Under one per cent of a caller's requests, fewer than three failures, and failures that ended while its log goes on (a
    /// rollout, a restart) are information only.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/debug/debug-application/debug-service/>
    CallsFail {
        code: "APP101", name: "calls-fail", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// What a caller says.
#[derive(Debug)]
pub enum Fact {
    /// Single calls.
    Calls(Calls),
    /// Requests that it summed up itself.
    Load {
        /// Who sent them.
        caller: ObjectRef,
        /// To whom.
        service: ServiceName,
        /// Requests and failures since the first failure.
        requests: u64,
        /// Those that failed.
        failed: u64,
        /// The first line with a failure.
        first: Option<Timestamp>,
        /// Whether later lines are without any.
        ended: bool,
    },
}

impl Check for CallsFail {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = calls::failing(snapshot)
            .all
            .iter()
            // A pool without free connections is the caller's own affair, and a bad request is its sender's.
            .filter(|calls| !matches!(calls.kind(), Some(Kind::Pool | Kind::Status(400 | 402 | 405..=428 | 430..=499)) | None))
            .filter(|calls| calls.main().is_some_and(|group| group.target.is_some()))
            .map(|calls| Fact::Calls(calls.clone()))
            .collect();
        out.extend(loads(snapshot));
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let finding = match fact {
            Fact::Calls(calls) => describe_calls(snapshot, calls),
            Fact::Load { caller, service, requests, failed, first, ended } => {
                let share = *failed as f64 / (*requests).max(1) as f64;
                let severity = match share {
                    _ if *ended || *failed < MIN_FAILURES || share < WARNING_SHARE => Severity::Info,
                    share if share < ERROR_SHARE => Severity::Warning,
                    _ => Severity::Error,
                };
                let amount = format!("{failed} of {requests} requests ({})", percent(share));
                let over = if *ended { ", and then no more" } else { "" };
                Finding::new(Self::META, service.reference(), &[&caller.name, "load"])
                    .title(format!("{} → {}: {amount} failed{}{over}", caller.name, service.name, since(*first)))
                    .message(format!(
                        "{caller} sums up the requests that it sends to Service {service}: {amount} failed. It sees what users see."
                    ))
                    .mechanism("requests fail for users")
                    .severity(severity)
                    .service(Some(service.clone()))
                    .evidence(Evidence::new("Log", caller.to_string(), format!("{amount} failed")).at(*first))
                    .onset(*first)
                    .effect(Effect::requests(service, &["5xx"]))
            }
        };
        let name = finding.service.clone().map(|s| s.name).unwrap_or_default();
        finding.role(Role::Symptom, Confidence::Observed).prevention(Prevention::alert(
            "Alert on the share of failing requests to the Service",
            format!(
                "sum(rate(istio_requests_total{{destination_service_name=\"{name}\",response_code=~\"5..|0\"}}[5m])) / sum(rate(istio_requests_total{{destination_service_name=\"{name}\"}}[5m])) > 0.05"
            ),
        ))
    }
}

fn describe_calls(snapshot: &Snapshot, calls: &Calls) -> Finding {
    let group = calls.main();
    let callee = group.map(|group| group.callee()).unwrap_or_default();
    let short = calls.service().map_or_else(|| callee.clone(), |service| service.name.clone());
    let subject = calls.service().map_or_else(|| calls.caller.clone(), ServiceName::reference);
    let words = calls.words();
    let over = if calls.ended { ", and then no more" } else { "" };
    let mut message = format!("The log of {} says that its calls to {callee} fail: {words}.", calls.caller);
    if let Some(kind) = calls.kind() {
        message.push_str(&format!(" That is: {}.", kind.fact()));
    }
    if calls.passed_on() {
        message.push_str(
            " The answers quote a failing call of the callee itself: it passes on what failed behind it.",
        );
    }
    if calls.ended {
        message.push_str(" The log goes on without any more of them: this is over.");
    }
    let proxy: Vec<&str> = calls.groups.iter().flat_map(|group| group.proxy.iter().copied()).collect();
    if !proxy.is_empty() {
        message
            .push_str(&format!(" The answers are a proxy's own, with what it logs as {}.", proxy.join(", ")));
    }
    let flags = calls.flags();
    let mut finding = Finding::new(CallsFail::META, subject, &[&calls.caller.name, &callee, &words])
        .title(format!(
            "{} → {short}: {words}, {}{}{over}",
            calls.caller.name,
            calls.amount(),
            since(calls.first)
        ))
        .message(message)
        .mechanism(words.clone())
        .severity(calls.severity())
        .service(calls.service().cloned())
        .related(calls.caller.clone())
        .evidences(calls.evidence())
        .evidences(other_side::look(snapshot, calls).seen)
        .onset(calls.first)
        .effect(Effect::calls(&calls.caller));
    if let Some(service) = calls.service() {
        finding = finding.effect(Effect::requests(service, &flags));
    }
    finding
}

/// Callers that sum up what they send, where it is known to whom: to one Service alone.
fn loads(snapshot: &Snapshot) -> Vec<Fact> {
    let digest = snapshot.derived::<Digest>();
    let mut out = vec![];
    for (caller, log) in &digest.workloads {
        let Some(first) = log.loads.iter().find(|(_, load)| load.failed > 0).map(|(at, _)| *at) else {
            continue;
        };
        // Whom it is told to call; its log may name further ones out of answers that it quotes.
        let edges = snapshot.graph.edges.iter().filter(|((from, _), _)| from.same_object(caller));
        let told = edges.filter(|(_, edge)| edge.provenance.iter().any(|p| *p != Provenance::Log));
        let callees: Vec<&ServiceName> = told.map(|((_, to), _)| to).collect();
        let [service] = callees.as_slice() else { continue };
        let (requests, failed) = log.load_since(first);
        let last = log.loads.iter().rfind(|(_, load)| load.failed > 0).and_then(|(at, _)| *at);
        let after = log.loads.iter().filter(|(at, load)| *at > last && load.requests > 0).count();
        // Several sums in a row without a failure, and longer than a usual pause between two.
        let seconds = |at: Option<Timestamp>| at.map_or(0.0, to_unix);
        let quiet = log.loads.last().map_or(0.0, |(at, _)| seconds(*at) - seconds(last));
        let ended = after >= 6 && quiet > 0.25 * (seconds(last) - seconds(first)).max(60.0);
        out.push(Fact::Load {
            caller: caller.clone(),
            service: (*service).clone(),
            requests,
            failed,
            first,
            ended,
        });
    }
    out
}
