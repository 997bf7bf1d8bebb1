//! The states of a session and what each says in the status: pure functions from one status to the next.
//!
//! The conditions follow kstatus: `Reconciling` stands while something is under way, `Stalled` once nothing more will
//! happen though `Ready` is not true, and `Ready` is true when the investigation of this generation is complete.

use jiff::Timestamp;

use super::condition::{self, Conditions};
use super::decide::NewRun;
use crate::api::v1alpha1::common::Moment;
use crate::api::v1alpha1::session::{DebugSession, FailOn};
use crate::api::v1alpha1::status::{
    ConditionStatus, DebugSessionStatus, FindingState, HistoryEntry, Phase, Progress, Run, Verdict,
    condition as types,
};

/// Reasons of conditions.
pub mod reason {
    /// Waits for a free place among the runs.
    pub const QUEUED: &str = "Queued";
    /// Under way.
    pub const RUNNING: &str = "Running";
    /// Stopped in good order; starts again.
    pub const INTERRUPTED: &str = "Interrupted";
    /// Failed in a way that may pass; starts again.
    pub const RETRYING: &str = "Retrying";
    /// Held back by `spec.suspend`.
    pub const SUSPENDED: &str = "Suspended";
    /// The run gave an answer.
    pub const COMPLETED: &str = "Completed";
    /// A finding crosses `spec.failOn`.
    pub const FAIL_ON: &str = "FailOn";
    /// Ended by `spec.cancel`.
    pub const CANCELLED: &str = "Cancelled";
    /// The target is the session's own namespace.
    pub const SAME_NAMESPACE: &str = "SameNamespace";
    /// The target's namespace has not granted it.
    pub const NOT_GRANTED: &str = "NotGranted";
    /// `spec.timeout` is over.
    pub const TIMED_OUT: &str = "TimedOut";
    /// Cut off as often as it was tried.
    pub const ATTEMPTS_EXHAUSTED: &str = "AttemptsExhausted";
    /// The report was deleted when its time to live was over.
    pub const EXPIRED: &str = "Expired";
}

/// What the operator says of itself in `status.run`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Versions {
    /// Of the operator.
    pub operator: String,
    /// Of the set of rules.
    pub rules: String,
}

/// A run is about to start: it has its name and waits for a place. Results of another question are cleared; those of
/// the same one stay until there are new ones.
pub fn queued(
    session: &DebugSession,
    run: &NewRun,
    versions: &Versions,
    now: Timestamp,
) -> DebugSessionStatus {
    let mut status = session.status.clone().unwrap_or_default();
    remember(&mut status, &run.id);
    if status.observed_run_hash.as_ref() != Some(&run.key.hash) {
        status = DebugSessionStatus {
            conditions: status.conditions,
            history: status.history,
            last_handled_requested_at: status.last_handled_requested_at,
            ..DebugSessionStatus::default()
        };
        Conditions::new(&mut status, None, now)
            .remove(types::ISSUES_FOUND)
            .remove(types::COLLECTION_COMPLETE)
            .remove(types::REPORT_AVAILABLE);
    }
    handle(&mut status, session, &run.key);
    status.phase = Some(Phase::Pending);
    status.progress = None;
    status.run = Some(Run {
        id: run.id.clone(),
        attempt: run.attempt,
        operator_version: versions.operator.clone(),
        rules_version: versions.rules.clone(),
        ..Run::default()
    });
    let message = "the run waits for a free place";
    let mut conditions = Conditions::new(&mut status, session.metadata.generation, now);
    conditions
        .set(types::AUTHORIZED, true, reason::SAME_NAMESPACE, "a session may look into its own namespace")
        .remove(types::SUSPENDED);
    under_way(&mut conditions, reason::QUEUED, message);
    status
}

/// Earlier runs that are kept; the schema takes no more.
const MAX_HISTORY: usize = 5;
/// Findings of an earlier run that are kept, by their identifiers; the schema takes no more.
const MAX_HISTORY_FINDINGS: usize = 50;

/// Notes the last completed run in the history, unless it is the one that starts again.
fn remember(status: &mut DebugSessionStatus, starting: &str) {
    let (Some(run), Some(summary)) = (&status.run, &status.summary) else { return };
    let Some(completion_time) = run.completion_time.filter(|_| run.id != starting) else { return };
    if status.history.iter().any(|entry| entry.run_id == run.id) {
        return;
    }
    let entry = HistoryEntry {
        run_id: run.id.clone(),
        completion_time,
        verdict: summary.verdict,
        highest_severity: summary.highest_severity,
        finding_ids: status
            .findings
            .iter()
            .filter(|finding| finding.state != FindingState::Resolved)
            .take(MAX_HISTORY_FINDINGS)
            .map(|finding| finding.id.clone())
            .collect(),
    };
    status.history.insert(0, entry);
    status.history.truncate(MAX_HISTORY);
}

/// What stands in every state in which something is under way.
fn under_way(conditions: &mut Conditions<'_>, why: &str, message: &str) {
    conditions
        .set(types::READY, ConditionStatus::Unknown, why, message)
        .set(types::RECONCILING, true, why, message)
        .remove(types::STALLED)
        .set(types::FINISHED, false, why, message)
        .set(types::COMPLETE, false, why, message)
        .set(types::FAILED, false, why, message)
        .observe();
}

fn handle(status: &mut DebugSessionStatus, session: &DebugSession, key: &super::decide::RunKey) {
    status.observed_generation = session.metadata.generation;
    status.observed_run_hash = Some(key.hash.clone());
    if key.token.is_some() {
        status.last_handled_requested_at.clone_from(&key.token);
    }
}

/// The run begins.
pub fn started(status: &mut DebugSessionStatus, generation: Option<i64>, now: Timestamp) {
    status.observed_generation = generation;
    status.phase = Some(Phase::Collecting);
    if let Some(run) = &mut status.run {
        run.start_time = Some(Moment::new(now));
    }
    under_way(&mut Conditions::new(status, generation, now), reason::RUNNING, "the run is under way");
}

/// The run goes on, for this generation too, and has come as far as `seen` where that is known.
pub fn progressed(
    status: &mut DebugSessionStatus,
    generation: Option<i64>,
    seen: Option<(Phase, Progress)>,
    now: Timestamp,
) {
    status.observed_generation = generation;
    if let Some((phase, progress)) = seen {
        status.phase = Some(phase);
        status.progress = Some(progress);
    }
    Conditions::new(status, generation, now).observe();
}

/// The run was stopped in good order, or failed in a way that may pass: it will start again.
pub fn interrupted(status: &mut DebugSessionStatus, why: &str, message: &str, now: Timestamp) {
    status.phase = Some(Phase::Pending);
    status.progress = None;
    let generation = status.observed_generation;
    under_way(&mut Conditions::new(status, generation, now), why, message);
}

/// Whether the run was stopped in good order, so that starting again is no further attempt.
pub fn is_interrupted(status: &DebugSessionStatus) -> bool {
    condition::get(status, types::RECONCILING).is_some_and(|c| c.reason == reason::INTERRUPTED)
        || condition::is_true(status, types::SUSPENDED)
}

/// `spec.suspend` holds the session back.
pub fn suspended(session: &DebugSession, now: Timestamp) -> DebugSessionStatus {
    let mut status = session.status.clone().unwrap_or_default();
    let generation = session.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some(Phase::Pending);
    status.progress = None;
    let message = "spec.suspend is true: nothing runs until it is false";
    Conditions::new(&mut status, generation, now)
        .set(types::READY, ConditionStatus::Unknown, reason::SUSPENDED, message)
        .remove(types::RECONCILING)
        .remove(types::STALLED)
        .set(types::FINISHED, false, reason::SUSPENDED, message)
        .set(types::COMPLETE, false, reason::SUSPENDED, message)
        .set(types::FAILED, false, reason::SUSPENDED, message)
        .set(types::SUSPENDED, true, reason::SUSPENDED, message)
        .observe();
    status
}

/// `spec.cancel` ends the session.
pub fn cancelled(session: &DebugSession, now: Timestamp) -> DebugSessionStatus {
    let mut status = session.status.clone().unwrap_or_default();
    handle(&mut status, session, &super::decide::RunKey::of(session));
    let message = "spec.cancel ended the run. To run again, set spec.cancel to false and annotate the session with a new meshscope.dev/requestedAt";
    finish(&mut status, session, Phase::Cancelled, reason::CANCELLED, message, now);
    status
}

/// The session asks for a namespace that has not granted it.
pub fn denied(session: &DebugSession, namespace: &str, now: Timestamp) -> DebugSessionStatus {
    let mut status = DebugSessionStatus {
        conditions: session.status.clone().unwrap_or_default().conditions,
        ..DebugSessionStatus::default()
    };
    handle(&mut status, session, &super::decide::RunKey::of(session));
    let message = format!(
        "a session looks into its own namespace only: create it in namespace {namespace}, or leave out spec.target.namespace"
    );
    Conditions::new(&mut status, session.metadata.generation, now).set(
        types::AUTHORIZED,
        false,
        reason::NOT_GRANTED,
        &message,
    );
    finish(&mut status, session, Phase::Failed, reason::NOT_GRANTED, &message, now);
    status
}

/// The run gave no answer.
pub fn failed(
    session: &DebugSession,
    mut status: DebugSessionStatus,
    why: &str,
    message: &str,
    now: Timestamp,
) -> DebugSessionStatus {
    finish(&mut status, session, Phase::Failed, why, message, now);
    status
}

/// What stands in every terminal state without an answer. Results of an earlier run would look like those of this one:
/// what is worth keeping of them is in the history.
fn finish(
    status: &mut DebugSessionStatus,
    session: &DebugSession,
    phase: Phase,
    why: &str,
    message: &str,
    now: Timestamp,
) {
    remember(status, "");
    end_run(status, now);
    status.summary = None;
    status.root_causes = vec![];
    status.findings = vec![];
    status.timeline = vec![];
    status.map = vec![];
    status.ruled_out = vec![];
    status.collectors = vec![];
    status.truncated = None;
    let generation = session.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some(phase);
    let mut conditions = Conditions::new(status, generation, now);
    conditions
        .remove(types::ISSUES_FOUND)
        .remove(types::COLLECTION_COMPLETE)
        .set(types::READY, false, why, message)
        .remove(types::RECONCILING)
        .set(types::STALLED, true, why, message)
        .set(types::FINISHED, true, why, message)
        .set(types::COMPLETE, false, why, message)
        .set(types::FAILED, phase == Phase::Failed, why, message);
    suspension(&mut conditions, session.spec.suspend);
    conditions.observe();
}

fn end_run(status: &mut DebugSessionStatus, now: Timestamp) {
    status.progress = None;
    if let Some(run) = status.run.as_mut().filter(|run| run.completion_time.is_none()) {
        run.completion_time = Some(Moment::new(now));
        run.duration_seconds =
            run.start_time.map(|start| (now.as_second() - start.timestamp().as_second()).max(0));
    }
}

/// The run gave an answer: `status` has it already, this sets the phase and the conditions that speak of the run.
pub fn completed(
    session: &DebugSession,
    mut status: DebugSessionStatus,
    now: Timestamp,
) -> DebugSessionStatus {
    end_run(&mut status, now);
    let generation = session.metadata.generation;
    status.observed_generation = generation;
    status.phase = Some(Phase::Completed);
    let headline = status.summary.as_ref().map(|summary| summary.headline.clone()).unwrap_or_default();
    let verdict = status.summary.as_ref().map(|summary| summary.verdict);
    let mut conditions = Conditions::new(&mut status, generation, now);
    conditions
        .remove(types::RECONCILING)
        .set(types::FINISHED, true, reason::COMPLETED, "the run gave an answer")
        .set(types::COMPLETE, true, reason::COMPLETED, "the run gave an answer")
        .set(types::FAILED, false, reason::COMPLETED, "the run gave an answer");
    if let Some(verdict) = verdict {
        let found = match verdict {
            Verdict::RootCauseFound | Verdict::IssuesFound => ConditionStatus::True,
            Verdict::Healthy => ConditionStatus::False,
            Verdict::Inconclusive => ConditionStatus::Unknown,
        };
        conditions.set(types::ISSUES_FOUND, found, verdict.as_str(), &headline);
    }
    suspension(&mut conditions, session.spec.suspend);
    readiness(&mut status, session.spec.fail_on, generation, now);
    status
}

fn suspension(conditions: &mut Conditions<'_>, suspended: bool) {
    if suspended {
        conditions.set(
            types::SUSPENDED,
            true,
            reason::SUSPENDED,
            "spec.suspend is true: no further run starts",
        );
    } else {
        conditions.remove(types::SUSPENDED);
    }
}

/// `Ready` and `Stalled` of a completed run: a gate asks for more than that it is complete.
fn readiness(status: &mut DebugSessionStatus, fail_on: FailOn, generation: Option<i64>, now: Timestamp) {
    let worst = status.summary.as_ref().and_then(|summary| summary.highest_severity);
    let crossed = worst.filter(|severity| fail_on.is_crossed_by(*severity));
    let mut conditions = Conditions::new(status, generation, now);
    if let Some(severity) = crossed {
        let message = format!("a finding of severity {} crosses spec.failOn", severity.as_str());
        conditions.set(types::READY, false, reason::FAIL_ON, &message).set(
            types::STALLED,
            true,
            reason::FAIL_ON,
            &message,
        );
    } else {
        conditions
            .set(types::READY, true, reason::COMPLETED, "the investigation of this generation is complete")
            .remove(types::STALLED);
    }
    conditions.observe();
}

/// The status of a session whose run is over, in line with the parts of the spec that start no run.
pub fn refreshed(session: &DebugSession, status: &DebugSessionStatus, now: Timestamp) -> DebugSessionStatus {
    let mut status = status.clone();
    let generation = session.metadata.generation;
    status.observed_generation = generation;
    let mut conditions = Conditions::new(&mut status, generation, now);
    suspension(&mut conditions, session.spec.suspend);
    conditions.observe();
    if status.phase == Some(Phase::Completed) {
        readiness(&mut status, session.spec.fail_on, generation, now);
    }
    status
}

/// The report was deleted when its time to live was over; the session stays with whoever keeps it.
pub fn report_expired(status: &mut DebugSessionStatus, keeper: &str, now: Timestamp) {
    status.report = None;
    let generation = status.observed_generation;
    Conditions::new(status, generation, now).set(
        types::REPORT_AVAILABLE,
        false,
        reason::EXPIRED,
        &format!("spec.ttlSecondsAfterFinished is over; the session itself is kept by {keeper}"),
    );
}

/// When the run ended.
pub fn ended_at(status: &DebugSessionStatus) -> Option<Timestamp> {
    let run_end = status.run.as_ref().and_then(|run| run.completion_time);
    let finished = condition::get(status, types::FINISHED).map(|condition| condition.last_transition_time);
    run_end.or(finished).map(Moment::timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1alpha1::common::Severity;
    use crate::api::v1alpha1::status::{Counts, Summary};
    use crate::controller::decide::{Action, decide};
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn session() -> DebugSession {
        serde_json::from_value(json!({
            "apiVersion": "meshscope.dev/v1alpha1", "kind": "DebugSession",
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "generation": 3},
            "spec": {"target": {}},
        }))
        .unwrap()
    }

    /// What kstatus makes of a status: the rules that Flux, Argo CD and `cli-utils` share.
    fn kstatus(status: &DebugSessionStatus, generation: i64) -> &'static str {
        if status.observed_generation != Some(generation) || condition::is_true(status, types::RECONCILING) {
            "InProgress"
        } else if condition::is_true(status, types::STALLED) {
            "Failed"
        } else if condition::is_true(status, types::READY) {
            "Current"
        } else {
            "InProgress"
        }
    }

    fn run(session: &DebugSession) -> NewRun {
        match decide(session, None, at("2026-11-21T10:00:00Z")) {
            Action::Start(run) => run,
            other => panic!("{other:?}"),
        }
    }

    fn answer(severity: Severity) -> Summary {
        Summary {
            verdict: Verdict::RootCauseFound,
            headline: "h".to_owned(),
            highest_severity: Some(severity),
            counts: Counts::default(),
            root_cause_code: None,
            root_cause_target: None,
            probability: None,
        }
    }

    #[test]
    fn kstatus_reads_every_state_as_it_is_meant() {
        let (start, end) = (at("2026-11-21T10:00:00Z"), at("2026-11-21T10:00:42Z"));
        let mut session = session();
        let mut status = queued(&session, &run(&session), &Versions::default(), start);
        assert_eq!(kstatus(&status, 3), "InProgress");
        started(&mut status, Some(3), start);
        assert_eq!(kstatus(&status, 3), "InProgress");

        status.summary = Some(answer(Severity::Error));
        let complete = completed(&session, status.clone(), end);
        assert_eq!(kstatus(&complete, 3), "Current");
        assert_eq!(complete.run.as_ref().unwrap().duration_seconds, Some(42));
        assert!(
            condition::is_true(&complete, types::FINISHED) && condition::is_true(&complete, types::COMPLETE)
        );
        assert!(condition::is_true(&complete, types::ISSUES_FOUND));

        session.spec.fail_on = FailOn::Error;
        let gated = refreshed(&session, &complete, end);
        assert_eq!(kstatus(&gated, 3), "Failed");
        assert!(condition::is_true(&gated, types::COMPLETE), "the run itself gave an answer");
        session.spec.fail_on = FailOn::Critical;
        assert_eq!(kstatus(&refreshed(&session, &gated, end), 3), "Current");

        let failure = failed(&session, status.clone(), reason::TIMED_OUT, "m", end);
        assert_eq!(kstatus(&failure, 3), "Failed");
        assert!(condition::is_true(&failure, types::FINISHED) && condition::is_true(&failure, types::FAILED));

        interrupted(&mut status, reason::INTERRUPTED, "m", end);
        assert_eq!(kstatus(&status, 3), "InProgress");
        assert_eq!(kstatus(&cancelled(&session, end), 3), "Failed");
        assert_eq!(kstatus(&denied(&session, "other", end), 3), "Failed");
        assert_eq!(kstatus(&suspended(&session, end), 3), "InProgress");
    }

    #[test]
    fn results_of_another_question_are_cleared_and_those_of_the_same_stay() {
        let now = at("2026-11-21T10:00:00Z");
        let mut session = session();
        let mut status = queued(&session, &run(&session), &Versions::default(), now);
        status.summary = Some(answer(Severity::Error));
        session.status = Some(completed(&session, status, now));

        session.metadata.annotations = Some([(crate::api::REQUESTED_AT.to_owned(), "1".to_owned())].into());
        let again = queued(&session, &run(&session), &Versions::default(), now);
        assert!(again.summary.is_some());
        assert_eq!(again.last_handled_requested_at.as_deref(), Some("1"));

        session.spec.target.services = vec!["cart".to_owned()];
        let other = queued(&session, &run(&session), &Versions::default(), now);
        assert!(other.summary.is_none());
        assert!(condition::get(&other, types::ISSUES_FOUND).is_none());
    }

    #[test]
    fn earlier_runs_are_remembered_five_of_them_and_failures_show_no_old_answer() {
        let now = at("2026-11-21T10:00:00Z");
        let mut session = session();
        for token in 0..8 {
            session.metadata.annotations =
                Some([(crate::api::REQUESTED_AT.to_owned(), token.to_string())].into());
            let mut status = queued(&session, &run(&session), &Versions::default(), now);
            status.summary = Some(answer(Severity::Error));
            session.status = Some(completed(&session, status, now));
        }
        let status = session.status.clone().unwrap();
        let ids: std::collections::BTreeSet<_> = status.history.iter().map(|entry| &entry.run_id).collect();
        assert_eq!((status.history.len(), ids.len()), (5, 5));
        assert!(!ids.contains(&status.run.as_ref().unwrap().id), "the last run is no earlier one");

        session.metadata.annotations = Some([(crate::api::REQUESTED_AT.to_owned(), "x".to_owned())].into());
        let again = queued(&session, &run(&session), &Versions::default(), now);
        let failure = failed(&session, again, reason::TIMED_OUT, "m", now);
        assert!(failure.summary.is_none() && condition::get(&failure, types::ISSUES_FOUND).is_none());
        assert_eq!(failure.history[0].run_id, status.run.unwrap().id);
    }

    #[test]
    fn refreshing_what_is_in_line_changes_nothing() {
        let (start, late) = (at("2026-11-21T10:00:00Z"), at("2026-11-21T12:00:00Z"));
        let session = session();
        let mut status = queued(&session, &run(&session), &Versions::default(), start);
        status.summary = Some(answer(Severity::Error));
        let complete = completed(&session, status, start);
        assert_eq!(refreshed(&session, &complete, late), complete);
        let off = cancelled(&session, start);
        assert_eq!(refreshed(&session, &off, late), off);
    }
}
