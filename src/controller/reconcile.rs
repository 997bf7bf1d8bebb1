//! Brings one session nearer to what it asks for: looks afresh, decides, acts.

use kube::api::{Api, DeleteParams, Preconditions};
use kube::runtime::controller::Action as Next;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use std::time::Duration;

use super::condition::Conditions;
use super::context::Context;
use super::decide::{Action, NewRun, RunKey, decide};
use super::job;
use super::publish;
use super::state;
use super::watch::Guarded;
use super::write::WriteError;
use crate::api::v1alpha1::status::{DebugSessionStatus, Phase, condition as types};
use crate::api::v1alpha1::{DebugSession, DebugSessionSpec};
use crate::telemetry;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// A decision may ask for another look (a job was stopped); more often than this in one go, something else is wrong.
const MAX_STEPS: usize = 6;

/// A session could not be brought nearer to what it asks for.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// It could not be read.
    #[error("failed to read the session")]
    Read(#[source] Box<kube::Error>),
    /// It could not be deleted after its time to live.
    #[error("failed to delete the session")]
    Delete(#[source] Box<kube::Error>),
    /// Its report could not be deleted after its time to live.
    #[error("failed to delete the report")]
    DeleteReport(#[source] publish::PublishError),
    /// Its status could not be written.
    #[error("failed to say how the session stands")]
    Write(#[source] WriteError),
    /// The API server did not answer.
    #[error("failed to reach the API server within {} s", DEADLINE.as_secs())]
    TimedOut,
    /// Its job did not end.
    #[error("failed to stop the run in time")]
    Stop,
    /// Its status and its spec do not settle.
    #[error("failed to settle: every look asks for another one")]
    Unsettled,
}

impl ReconcileError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            ReconcileError::Read(_) => "Read",
            ReconcileError::Delete(_) | ReconcileError::DeleteReport(_) => "Delete",
            ReconcileError::Write(error) => error.category(),
            ReconcileError::TimedOut => "TimedOut",
            ReconcileError::Stop => "Stop",
            ReconcileError::Unsettled => "Unsettled",
        }
    }
}

/// Looks at a session and does what is to be done.
///
/// # Errors
/// Where something that may pass kept it from doing so: it is to be called again.
pub async fn reconcile(guarded: Arc<Guarded>, context: Arc<Context>) -> Result<Next, ReconcileError> {
    match &guarded.0 {
        Ok(session) => session_changed(session, &context).await,
        Err(invalid) => {
            refuse(&guarded, &invalid.error.to_string(), &context).await;
            Ok(Next::await_change())
        }
    }
}

/// How long to wait after a failure.
pub fn on_error(guarded: &Guarded, error: &ReconcileError, context: &Context) -> Next {
    let name = format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any());
    let wait = context.backoff.failed(&name);
    context.metrics.failed("reconcile", error.category());
    tracing::warn!(
        session = %name,
        error = %super::chain(error),
        wait_seconds = wait.as_secs(),
        "the session is looked at again later"
    );
    Next::requeue(wait)
}

async fn session_changed(seen: &DebugSession, context: &Arc<Context>) -> Result<Next, ReconcileError> {
    let name = format!("{}/{}", seen.namespace().unwrap_or_default(), seen.name_any());
    let uid = seen.uid().unwrap_or_default();
    // What the watch has seen may be older than what a job has written: it only says whether there is anything to do.
    let mut session = Arc::new(seen.clone());
    for step in 0..MAX_STEPS {
        let running = context.jobs.running(&uid);
        let action = decide(&session, running.as_ref(), telemetry::now());
        if let Action::Nothing { wake } = action {
            context.backoff.succeeded(&name);
            return Ok(wake.map_or_else(Next::await_change, Next::requeue));
        }
        if action == Action::Observe {
            context.jobs.observe(&uid, &session);
            context.backoff.succeeded(&name);
            return Ok(Next::await_change());
        }
        if step == 0 {
            let Some(fresh) = read(&session, context).await? else {
                context.jobs.stop(&uid).await;
                context.backoff.succeeded(&name);
                return Ok(Next::await_change());
            };
            session = fresh;
            continue;
        }
        // Only one may write a status at a time, and a job writes its own until it has ended.
        if running.is_some() {
            if !context.jobs.stop(&uid).await {
                return Err(ReconcileError::Stop);
            }
            if action == Action::Stop {
                return Ok(Next::await_change());
            }
            let Some(fresh) = read(&session, context).await? else { return Ok(Next::await_change()) };
            session = fresh;
            continue;
        }
        tracing::debug!(session = %name, ?action, "decided");
        match act(&session, action, context).await? {
            Some(status) => {
                let mut next = (*session).clone();
                next.status = Some(status);
                session = Arc::new(next);
            }
            None => {
                context.backoff.succeeded(&name);
                return Ok(Next::await_change());
            }
        }
    }
    Err(ReconcileError::Unsettled)
}

/// Does what was decided. What it gives is the status as written, after which there may be more to do.
async fn act(
    session: &Arc<DebugSession>,
    action: Action,
    context: &Arc<Context>,
) -> Result<Option<DebugSessionStatus>, ReconcileError> {
    let now = telemetry::now();
    let status = match action {
        Action::Start(run) => {
            start(session, run, context).await?;
            return Ok(None);
        }
        Action::Cancel => {
            context.events.normal(&session.metadata, "Cancelled", "spec.cancel ended the run").await;
            state::cancelled(session, now)
        }
        Action::Suspend => state::suspended(session, now),
        Action::Deny { namespace } => {
            let status = state::denied(session, &namespace, now);
            let message = super::condition::get(&status, types::AUTHORIZED).map(|c| c.message.clone());
            context.events.warning(&session.metadata, "Denied", &message.unwrap_or_default()).await;
            status
        }
        Action::GiveUp { attempts } => {
            let message = format!(
                "the run was cut off {attempts} times; annotate the session with a new meshscope.dev/requestedAt to try again"
            );
            context.events.warning(&session.metadata, "Failed", &message).await;
            let status = session.status.clone().unwrap_or_default();
            state::failed(session, status, state::reason::ATTEMPTS_EXHAUSTED, &message, now)
        }
        Action::Refresh(status) => *status,
        Action::Expire { keeper: None } => {
            delete(session, context).await?;
            return Ok(None);
        }
        Action::Expire { keeper: Some(keeper) } => {
            publish::unpublish(&context.client, session).await.map_err(ReconcileError::DeleteReport)?;
            let mut status = session.status.clone().unwrap_or_default();
            state::report_expired(&mut status, &keeper, now);
            status
        }
        // These need a job, and there is none.
        Action::Nothing { .. } | Action::Observe | Action::Stop | Action::Supersede => return Ok(None),
    };
    write(session, &status, context).await?;
    Ok(Some(status))
}

async fn start(
    session: &Arc<DebugSession>,
    run: NewRun,
    context: &Arc<Context>,
) -> Result<(), ReconcileError> {
    let status = state::queued(session, &run, &context.versions, telemetry::now());
    write(session, &status, context).await?;
    let shared = context.clone();
    let wake = context.clone();
    let object: ObjectRef<Guarded> =
        ObjectRef::new(&session.name_any()).within(session.namespace().as_deref().unwrap_or_default());
    let key: RunKey = run.key;
    let work = move |signals| job::work(shared, status, signals);
    context.jobs.spawn(session.clone(), key, work, move || wake.wake(object));
    Ok(())
}

async fn write(
    session: &DebugSession,
    status: &DebugSessionStatus,
    context: &Context,
) -> Result<(), ReconcileError> {
    if session.status.as_ref() == Some(status) {
        return Ok(());
    }
    match context.writer.write(session, status).await {
        Ok(_) | Err(WriteError::Gone) => Ok(()),
        Err(error) => Err(ReconcileError::Write(error)),
    }
}

/// The session as it is now. `None`: it is gone, another one has its name, or it is none that this version can read,
/// which the watch tells too.
async fn read(
    session: &DebugSession,
    context: &Context,
) -> Result<Option<Arc<DebugSession>>, ReconcileError> {
    let api: Api<Guarded> =
        Api::namespaced(context.client.clone(), session.namespace().as_deref().unwrap_or_default());
    let name = session.name_any();
    let found = tokio::time::timeout(DEADLINE, api.get_opt(&name))
        .await
        .map_err(|_| ReconcileError::TimedOut)?
        .map_err(|error| ReconcileError::Read(Box::new(error)))?;
    Ok(found.and_then(|found| found.0.ok()).filter(|found| found.uid() == session.uid()).map(Arc::new))
}

async fn delete(session: &DebugSession, context: &Context) -> Result<(), ReconcileError> {
    let api: Api<DebugSession> =
        Api::namespaced(context.client.clone(), session.namespace().as_deref().unwrap_or_default());
    // The version too: an edit that came in meanwhile, such as a longer time to live, is looked at first.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: session.uid(),
            resource_version: session.resource_version(),
        }),
        ..DeleteParams::background()
    };
    let name = session.name_any();
    match tokio::time::timeout(DEADLINE, api.delete(&name, &params)).await {
        Err(_) => Err(ReconcileError::TimedOut),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(()),
        Ok(Err(error)) => Err(ReconcileError::Delete(Box::new(error))),
    }
}

/// Tells of a stored object that is no session: in an Event, and in its status where the API server lets it.
async fn refuse(guarded: &Guarded, error: &str, context: &Context) {
    let metadata = guarded.meta();
    let note = format!("the stored object is no session that this version of Meshscope can read: {error}");
    tracing::warn!(
        session = %format!("{}/{}", guarded.namespace().unwrap_or_default(), guarded.name_any()),
        error,
        "a stored object is no session"
    );
    context.metrics.failed("reconcile", "Malformed");
    context.events.warning(metadata, "Malformed", &note).await;
    let mut status = DebugSessionStatus {
        observed_generation: metadata.generation,
        phase: Some(Phase::Failed),
        ..DebugSessionStatus::default()
    };
    Conditions::new(&mut status, metadata.generation, telemetry::now())
        .set(types::READY, false, "Malformed", &note)
        .set(types::STALLED, true, "Malformed", &note)
        .set(types::FINISHED, true, "Malformed", &note)
        .set(types::COMPLETE, false, "Malformed", &note)
        .set(types::FAILED, true, "Malformed", &note);
    let mut stand_in = DebugSession::new(
        &guarded.name_any(),
        DebugSessionSpec {
            target: Default::default(),
            symptom: Default::default(),
            window: Default::default(),
            collect: Default::default(),
            analysis: Default::default(),
            evidence: Default::default(),
            report: Default::default(),
            fail_on: Default::default(),
            timeout: Default::default(),
            ttl_seconds_after_finished: None,
            suspend: false,
            cancel: false,
        },
    );
    stand_in.metadata = metadata.clone();
    if let Err(error) = context.writer.write(&stand_in, &status).await {
        tracing::debug!(error = %super::chain(&error), "its status cannot say so");
    }
}
