//! One run, from its place in the queue to its answer in the status. The only writer of the status while it lasts.

use futures::FutureExt;
use jiff::Timestamp;
use kube::ResourceExt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::condition::Conditions;
use super::context::Context;
use super::investigate::{InvestigateError, Outcome, RunContext};
use super::jobs::Signals;
use super::metrics::{CollectorLabels, FindingLabels, ResultLabel, RuleLabel};
use super::publish;
use super::state::{self, reason};
use super::write::{WriteError, Written};
use crate::api::v1alpha1::session::ReportStorage;
use crate::api::v1alpha1::status::{
    Collector, CollectorState, Cost, DebugSessionStatus, Phase, Progress, Summary, Verdict, WindowStatus,
    condition as types,
};
use crate::api::v1alpha1::{DebugSession, common};
use crate::collect::outcome::{self, CollectorOutcome};
use crate::report::budget::size;
use crate::report::status::{Wishes, project};
use crate::telemetry;

/// How long an investigation may take to end once it was told to. What it holds is let go of in any case.
const WIND_DOWN: Duration = Duration::from_secs(5);
/// How long a run that failed in a way that may pass waits before it starts again, times its attempt.
const RETRY_WAIT: Duration = Duration::from_secs(10);

/// How an attempt ended by itself.
enum End {
    Answered(Box<Outcome>),
    Failed(InvestigateError),
    Panicked,
    TimedOut,
    /// Somebody else writes the status from now on.
    Stopped,
    /// The process ends.
    Interrupted,
}

/// Works on a run whose queued status has been written. Never fails: how it ends stands in the status.
pub async fn work(context: Arc<Context>, mut status: DebugSessionStatus, signals: Signals) {
    let session = signals.session.borrow().clone();
    let namespace = session.namespace().unwrap_or_default();
    let place = tokio::select! {
        place = context.jobs.place(&namespace) => place,
        () = signals.stop.cancelled() => return,
        () = signals.shutdown.cancelled() => return,
    };
    let began = telemetry::now();
    state::started(&mut status, session.metadata.generation, began);
    // Without this write the attempt would not count, and a run that takes the process down would do so for ever.
    if let Err(error) = context.writer.write_surely(&session, &status).await {
        note_write_error(&context, &session, &error);
        return;
    }
    let attempt = status.run.as_ref().map_or(1, |run| run.attempt);
    let note = if attempt == 1 {
        "The run has begun".to_owned()
    } else {
        format!(
            "The run was cut off and has begun again, attempt {attempt} of {}",
            super::decide::MAX_ATTEMPTS
        )
    };
    context.events.normal(&session.metadata, "Started", &note).await;
    context.metrics.active_runs.inc();
    let clock = Instant::now();
    let end = investigate(&context, &session, &mut status, &signals, began).await;
    context.metrics.active_runs.dec();
    context.metrics.took("total", clock.elapsed().as_secs_f64());
    // The spec may have changed in parts that start no run: the end is judged by the newest.
    let session = signals.session.borrow().clone();
    let retry = conclude(&context, &session, status, end).await;
    drop(place);
    if retry {
        tokio::select! {
            () = tokio::time::sleep(RETRY_WAIT * u32::try_from(attempt).unwrap_or(1)) => {}
            () = signals.stop.cancelled() => {}
            () = signals.shutdown.cancelled() => {}
        }
    }
}

/// Investigates, and writes progress meanwhile.
async fn investigate(
    context: &Context,
    session: &Arc<DebugSession>,
    status: &mut DebugSessionStatus,
    signals: &Signals,
    began: Timestamp,
) -> End {
    let cancel = CancellationToken::new();
    // Whatever way this function is left, the investigation is told.
    let _guard = cancel.clone().drop_guard();
    let latest: Arc<Mutex<Option<(Phase, Progress)>>> = Arc::default();
    let sink = latest.clone();
    let timeout = Duration::from(session.spec.timeout);
    let run = RunContext {
        now: began,
        timeout,
        progress: Arc::new(move |phase, progress| {
            *sink.lock().unwrap_or_else(PoisonError::into_inner) = Some((phase, progress));
        }),
        cancel: cancel.clone(),
    };
    let mut work = AssertUnwindSafe(context.investigator.investigate(session.clone(), run)).catch_unwind();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    let mut ticks = tokio::time::interval(context.limits.progress_interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let end = loop {
        tokio::select! {
            result = &mut work => {
                return match result {
                    Ok(Ok(outcome)) => End::Answered(Box::new(outcome)),
                    Ok(Err(error)) => End::Failed(error),
                    Err(_) => End::Panicked,
                };
            }
            () = signals.stop.cancelled() => break End::Stopped,
            () = signals.shutdown.cancelled() => break End::Interrupted,
            () = &mut deadline => break End::TimedOut,
            _ = ticks.tick() => {
                let seen = latest.lock().unwrap_or_else(PoisonError::into_inner).take();
                let generation = signals.session.borrow().metadata.generation;
                if !tell_progress(context, session, status, generation, seen).await {
                    break End::Stopped;
                }
            }
        }
    };
    cancel.cancel();
    // It lets go of what it holds in its own way, if that is quick.
    let _ = tokio::time::timeout(WIND_DOWN, &mut work).await;
    end
}

/// Writes progress where there is something new to tell. A write that fails is not tried again: the next one tells
/// more. `false`: the session is gone, and nobody waits for the answer.
async fn tell_progress(
    context: &Context,
    session: &DebugSession,
    status: &mut DebugSessionStatus,
    generation: Option<i64>,
    seen: Option<(Phase, Progress)>,
) -> bool {
    let mut next = status.clone();
    let now = telemetry::now();
    state::progressed(&mut next, generation, seen, now);
    if next == *status {
        return true;
    }
    match context.writer.write(session, &next).await {
        Ok(_) => *status = next,
        Err(WriteError::Gone) => return false,
        Err(error) => note_write_error(context, session, &error),
    }
    true
}

/// Writes how an attempt ended, and tells it. `true`: it failed in a way that may pass.
async fn conclude(
    context: &Context,
    session: &DebugSession,
    mut status: DebugSessionStatus,
    end: End,
) -> bool {
    let now = telemetry::now();
    let fail = |why: &str, message: &str, status| state::failed(session, status, why, message, now);
    let (status, result) = match end {
        End::Stopped => return false,
        End::Interrupted => {
            state::interrupted(
                &mut status,
                reason::INTERRUPTED,
                "the operator stops; the run starts again",
                now,
            );
            (status, None)
        }
        End::Answered(outcome) => {
            let status = answered(context, session, status, *outcome, now).await;
            let verdict = status.summary.as_ref().map(|summary| summary.verdict.as_str());
            (status, verdict.map(str::to_owned))
        }
        End::TimedOut => {
            let message = format!(
                "the run did not end within spec.timeout ({}); raise it, or name fewer targets",
                session.spec.timeout
            );
            (fail(reason::TIMED_OUT, &message, status), Some(reason::TIMED_OUT.to_owned()))
        }
        End::Panicked => {
            let message = "the run broke off by a fault in Meshscope; the operator's log has the details";
            (fail("InternalError", message, status), Some("InternalError".to_owned()))
        }
        End::Failed(error @ InvestigateError::Unavailable(_)) if may_try_again(&status) => {
            let message = format!("{error}; the run starts again");
            state::interrupted(&mut status, reason::RETRYING, &message, now);
            (status, Some(reason::RETRYING.to_owned()))
        }
        End::Failed(error) => {
            let message = error.to_string();
            (fail(error.category(), &message, status), Some(error.category().to_owned()))
        }
    };
    match context.writer.write_surely(session, &status).await {
        Ok(written) => {
            if written == Written::Minimal {
                context.metrics.failed("status", "TooLarge");
            }
            tell_end(context, session, &status).await;
        }
        Err(error) => note_write_error(context, session, &error),
    }
    context.metrics.status_bytes.observe(size(&status) as f64);
    if status.truncated.is_some() {
        context.metrics.truncations.inc();
    }
    let retry = result.as_deref() == Some(reason::RETRYING);
    if let Some(result) = result {
        context.metrics.runs.get_or_create(&ResultLabel { result }).inc();
    }
    if status.phase == Some(Phase::Completed) {
        context.metrics.last_success.set(now.as_second());
    }
    retry
}

fn may_try_again(status: &DebugSessionStatus) -> bool {
    status.run.as_ref().is_some_and(|run| run.attempt < super::decide::MAX_ATTEMPTS)
}

/// The status of a run that gave an answer, its report published.
async fn answered(
    context: &Context,
    session: &DebugSession,
    mut status: DebugSessionStatus,
    outcome: Outcome,
    now: Timestamp,
) -> DebugSessionStatus {
    let Outcome { diagnosis, collectors, cost, cpu_millis, held_bytes, redactions, logs } = outcome;
    let capture = session.spec.evidence.capture_logs;
    let withhold = capture == crate::api::v1alpha1::session::CaptureLogs::None;
    let diagnosis = if withhold { publish::without_log_quotes(diagnosis) } else { diagnosis };
    for finding in &diagnosis.findings {
        let labels = FindingLabels { severity: finding.severity.as_str(), code: finding.meta.code };
        context.metrics.findings.get_or_create(&labels).inc();
    }
    for (rule, count) in redactions {
        context.metrics.redactions.get_or_create(&RuleLabel { rule }).inc_by(count);
    }
    context.metrics.took("analyze", cpu_millis as f64 / 1000.0);
    if let Some(run) = &mut status.run {
        run.window = diagnosis
            .window
            .map(|window| WindowStatus { start: window.start.into(), end: window.end.into() });
        run.cost = Some(Cost {
            api_requests: whole(cost.api_requests.saturating_add(cost.metric_queries)),
            bytes_read: whole(cost.bytes_read),
            cpu_millis: whole(cpu_millis),
            peak_bytes: whole(held_bytes),
        });
    }
    let mut names = std::collections::BTreeSet::new();
    // The status lists them by name, so each name stands once.
    status.collectors =
        collectors.iter().map(project_collector).filter(|c| names.insert(c.name.clone())).take(32).collect();
    collection_condition(context, &mut status, &collectors, now);
    publish_report(context, session, &mut status, &diagnosis, &logs, now).await;
    let wishes = Wishes { analysis: &session.spec.analysis, capture_logs: capture, now };
    let status = project(&diagnosis, wishes, status);
    state::completed(session, status, now)
}

fn collection_condition(
    context: &Context,
    status: &mut DebugSessionStatus,
    collectors: &[CollectorOutcome],
    now: Timestamp,
) {
    let short = |collector: &&CollectorOutcome| {
        use outcome::CollectorState as S;
        matches!(collector.state, S::Partial | S::Denied | S::Failed) && !collector.as_installed
    };
    let missing: Vec<&CollectorOutcome> = collectors.iter().filter(short).collect();
    for collector in &missing {
        let labels =
            CollectorLabels { collector: collector.name.clone(), reason: reason_word(&collector.reason) };
        context.metrics.collector_errors.get_or_create(&labels).inc();
    }
    let generation = status.observed_generation;
    let mut conditions = Conditions::new(status, generation, now);
    if missing.is_empty() {
        conditions.set(
            types::COLLECTION_COMPLETE,
            true,
            "Complete",
            "every source that was asked answered in full",
        );
    } else {
        let list: Vec<String> = missing
            .iter()
            .map(|collector| {
                let hint =
                    if collector.hint.is_empty() { String::new() } else { format!(": {}", collector.hint) };
                format!("{} {} ({}){hint}", collector.name, collector.state.as_str(), collector.reason)
            })
            .collect();
        conditions.set(types::COLLECTION_COMPLETE, false, "PartialData", &list.join("; "));
    }
}

/// The word with which the reason of a collector begins: a label must not grow with the cluster.
fn reason_word(reason: &str) -> String {
    let word: String = reason.chars().take_while(char::is_ascii_alphanumeric).take(32).collect();
    if word.is_empty() { "Other".to_owned() } else { word }
}

fn project_collector(outcome: &CollectorOutcome) -> Collector {
    use outcome::CollectorState as S;
    let cut = |text: &str, limit: usize| text.chars().take(limit).collect::<String>();
    Collector {
        name: cut(&outcome.name, 64),
        state: match outcome.state {
            S::Succeeded => CollectorState::Succeeded,
            S::Partial => CollectorState::Partial,
            S::Skipped => CollectorState::Skipped,
            S::Denied => CollectorState::Denied,
            S::Failed => CollectorState::Failed,
            S::NotInstalled => CollectorState::NotInstalled,
        },
        items: whole(outcome.items),
        bytes: whole(outcome.bytes),
        reason: cut(&outcome.reason, 512),
        hint: cut(&outcome.hint, 512),
    }
}

async fn publish_report(
    context: &Context,
    session: &DebugSession,
    status: &mut DebugSessionStatus,
    diagnosis: &crate::analyze::diagnosis::Diagnosis,
    logs: &[crate::collect::material::LogFile],
    now: Timestamp,
) {
    let generation = status.observed_generation;
    if session.spec.report.storage == ReportStorage::None {
        status.report = None;
        Conditions::new(status, generation, now).set(
            types::REPORT_AVAILABLE,
            false,
            "NotStored",
            "spec.report.storage is None: the status is all there is",
        );
        // One of an earlier run, when the session still asked for it.
        if let Err(error) = publish::unpublish(&context.client, session).await {
            tracing::debug!(error = %super::chain(&error), "the earlier report was not deleted");
        }
        return;
    }
    let clock = Instant::now();
    let published = match publish::files(session, diagnosis, logs) {
        Ok(files) => publish::publish(&context.client, session, &files).await,
        Err(error) => Err(error),
    };
    context.metrics.took("publish", clock.elapsed().as_secs_f64());
    match published {
        Ok(report) => {
            status.report = Some(report);
            let message = format!(
                "meshscope report dbg/{} -n {}",
                session.name_any(),
                session.namespace().unwrap_or_default()
            );
            Conditions::new(status, generation, now).set(
                types::REPORT_AVAILABLE,
                true,
                "Published",
                &message,
            );
        }
        Err(error) => {
            tracing::warn!(session = %session.name_any(), error = %super::chain(&error), "no report");
            context.metrics.failed("report", error.category());
            status.report = None;
            let message = format!(
                "{error}; grant create, patch and delete of ConfigMaps in this namespace, or set spec.report.storage to None"
            );
            Conditions::new(status, generation, now).set(
                types::REPORT_AVAILABLE,
                false,
                error.category(),
                &message,
            );
        }
    }
}

/// Tells how a run ended, for `kubectl describe`.
async fn tell_end(context: &Context, session: &DebugSession, status: &DebugSessionStatus) {
    let took = status.run.as_ref().and_then(|run| run.duration_seconds).unwrap_or_default();
    match (status.phase, &status.summary) {
        (Some(Phase::Completed), Some(summary)) => {
            let note = end_note(summary, took);
            if summary.verdict == Verdict::RootCauseFound {
                context.events.warning(&session.metadata, "RootCauseFound", &note).await;
            } else {
                context.events.normal(&session.metadata, "Completed", &note).await;
            }
        }
        (Some(Phase::Failed), _) => {
            let why = super::condition::get(status, types::FAILED);
            let note = why.map(|c| format!("{}: {}", c.reason, c.message)).unwrap_or_default();
            context.events.warning(&session.metadata, "Failed", &note).await;
        }
        _ => {}
    }
}

fn end_note(summary: &Summary, took: i64) -> String {
    let severity = summary.highest_severity.map(common::Severity::as_str);
    let findings = match (summary.counts.total, severity) {
        (0, _) | (_, None) => "no findings".to_owned(),
        (1, Some(severity)) => format!("1 finding, {severity}"),
        (count, Some(severity)) => format!("{count} findings, the worst {severity}"),
    };
    format!("{}: {} ({findings}, {took} s)", summary.verdict.as_str(), summary.headline)
}

fn note_write_error(context: &Context, session: &DebugSession, error: &WriteError) {
    context.metrics.failed("status", error.category());
    if !matches!(error, WriteError::Gone) {
        tracing::warn!(session = %session.name_any(), error = %super::chain(error), "the status was not written");
    }
}

fn whole(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}
