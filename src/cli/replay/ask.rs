//! Puts a DebugSession to a replayed cluster, shows how far it is, and prints what the controller found.

use anyhow::{Context, bail};
use futures::FutureExt;
use futures::future::BoxFuture;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, ResourceExt};
use owo_colors::OwoColorize;
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::analyze::diagnosis::Diagnosis;
use crate::api::v1alpha1::DebugSession;
use crate::api::v1alpha1::status::{ConditionStatus, condition as types};
use crate::controller::investigate::{Investigate, InvestigateError, Outcome, RunContext};
use crate::controller::live::LiveInvestigator;
use crate::report::terminal;

/// How long a session may take in a replay, where nothing has to be waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Investigates, tells how far it is, and keeps the answer for the report.
pub(super) struct Watched {
    inner: LiveInvestigator,
    shown: Arc<Mutex<Shown>>,
    diagnosis: Arc<Mutex<Option<Diagnosis>>>,
}

impl Watched {
    pub(super) fn new(inner: LiveInvestigator) -> Self {
        Watched { inner, shown: Arc::default(), diagnosis: Arc::default() }
    }
}

impl Investigate for Watched {
    fn investigate(
        &self,
        session: Arc<DebugSession>,
        context: RunContext,
    ) -> BoxFuture<'static, Result<Outcome, InvestigateError>> {
        let (told, shown, kept) = (context.progress.clone(), self.shown.clone(), self.diagnosis.clone());
        let context = RunContext {
            progress: Arc::new(move |phase, progress| {
                let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
                shown.step(&format!("{phase:?}"), &progress.step);
                drop(shown);
                told(phase, progress);
            }),
            ..context
        };
        let work = self.inner.investigate(session, context);
        async move {
            let outcome = work.await;
            if let Ok(outcome) = &outcome {
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.diagnosis.clone());
            }
            outcome
        }
        .boxed()
    }

    fn rules_version(&self) -> String {
        self.inner.rules_version()
    }
}

/// What stands on the screen of a run's progress: one line for each phase.
#[derive(Default)]
struct Shown {
    phase: String,
    step: String,
}

impl Shown {
    fn step(&mut self, phase: &str, step: &str) {
        let mut out = std::io::stderr();
        if self.phase != phase {
            let end = if self.phase.is_empty() { "" } else { "\n" };
            self.phase = phase.to_owned();
            let _ = write!(out, "{end}  {}  {step}", paint(&format!("{phase:<10}")));
        } else if self.step != step {
            let _ = write!(out, " · {step}");
        }
        self.step = step.to_owned();
        let _ = out.flush();
    }

    fn end(&self) {
        if !self.phase.is_empty() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

fn paint(text: &str) -> String {
    if std::io::stderr().is_terminal() && super::super::colour() {
        text.cyan().to_string()
    } else {
        text.to_owned()
    }
}

/// Reads the one session of a file.
pub(super) fn read(path: &Path, namespace: &str) -> anyhow::Result<Value> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {shown}"))?;
    let mut session: Value = serde_saphyr::from_str(&text)
        .with_context(|| format!("failed to read {shown}: it is no YAML of one object"))?;
    let kind = session.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind != "DebugSession" {
        bail!("failed to read {shown}: it holds kind {kind:?} where a DebugSession was expected");
    }
    let Some(metadata) = session.get_mut("metadata").and_then(Value::as_object_mut) else {
        bail!("failed to read {shown}: metadata.name is missing");
    };
    metadata.entry("namespace").or_insert_with(|| json!(namespace));
    Ok(session)
}

/// Applies the session, waits until the controller has finished with it, and prints the report.
pub(super) async fn ask(client: Client, session: &Value, watched: &Watched) -> anyhow::Result<()> {
    let field = |name: &str| {
        session.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default()
    };
    let (name, namespace) = (field("name").to_owned(), field("namespace").to_owned());
    let resource = ApiResource::erase::<DebugSession>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let parameters = PatchParams::apply("meshscope-replay").force();
    match api.patch(&name, &parameters, &Patch::Apply(session)).await {
        Ok(_) => {}
        // The server's own words say what to write instead.
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(error) => return Err(error).context(format!("failed to apply DebugSession {namespace}/{name}")),
    }
    let sessions: Api<DebugSession> = Api::namespaced(client, &namespace);
    let finished = tokio::time::timeout(PATIENCE, await_condition(sessions, &name, Finished)).await;
    watched.shown.lock().unwrap_or_else(PoisonError::into_inner).end();
    let session = finished
        .with_context(|| format!("failed to get an answer within {} s", PATIENCE.as_secs()))?
        .context("failed to watch the session")?
        .with_context(|| format!("DebugSession {namespace}/{name} was deleted meanwhile"))?;
    let diagnosis = watched.diagnosis.lock().unwrap_or_else(PoisonError::into_inner).take();
    match diagnosis.filter(|_| !failed(&session)) {
        Some(diagnosis) => {
            let shown = format!("{namespace}/{}", session.name_any());
            super::super::print(&format!(
                "\n{}",
                terminal::render(&diagnosis, &shown, super::super::colour())
            ))?;
            Ok(())
        }
        None => bail!("the investigation failed: {}", reason(&session)),
    }
}

/// Whether the controller is done, one way or the other.
struct Finished;

impl Condition<DebugSession> for Finished {
    fn matches_object(&self, session: Option<&DebugSession>) -> bool {
        session.is_some_and(|session| is_true(session, types::FINISHED))
    }
}

fn is_true(session: &DebugSession, of: &str) -> bool {
    let conditions = session.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == of && condition.status == ConditionStatus::True)
}

fn failed(session: &DebugSession) -> bool {
    is_true(session, types::FAILED)
}

fn reason(session: &DebugSession) -> String {
    let conditions = session.status.iter().flat_map(|status| &status.conditions);
    let failed = conditions.into_iter().find(|condition| condition.type_ == types::FAILED);
    failed.map_or_else(|| "it ended without an answer".to_owned(), |condition| condition.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_a_session_says_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.yaml");
        let read_text = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path, "shop")
        };
        let session = read_text("kind: DebugSession\nmetadata: {name: a}\n").unwrap();
        assert_eq!(session["metadata"], json!({"name": "a", "namespace": "shop"}));
        for (text, expected) in
            [("kind: Pod\n", "\"Pod\""), ("kind: DebugSession\n", "metadata.name"), ("a: [", "no YAML")]
        {
            let error = read_text(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
