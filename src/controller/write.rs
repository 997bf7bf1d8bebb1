//! Writes statuses: by server-side apply with one field manager, bounded in time, and never so that a failure is lost
//! because its status was too large.

use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use std::time::Duration;

use super::watch::Guarded;
use crate::api::FIELD_MANAGER;
use crate::api::v1alpha1::{DebugSession, DebugSessionStatus};
use crate::report::budget::minimal;

/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a write is tried where the API server does not answer.
const TRIES: u32 = 5;

/// A status was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The session is gone, or another one has its name now: nothing more is to be written.
    #[error("failed to write the status: the session is gone")]
    Gone,
    /// The API server refused it, or did not answer.
    #[error("failed to write the status")]
    Api(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("failed to write the status: no answer within {} s", DEADLINE.as_secs())]
    TimedOut,
}

impl WriteError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            WriteError::Gone => "Gone",
            WriteError::Api(_) => "Refused",
            WriteError::TimedOut => "TimedOut",
        }
    }

    /// Whether the same write may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            WriteError::Gone => false,
            WriteError::TimedOut => true,
            WriteError::Api(error) => match error.as_ref() {
                kube::Error::Api(status) => status.code == 429 || status.code >= 500,
                _ => true,
            },
        }
    }
}

/// How a status was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// As it is.
    Whole,
    /// Without its findings: it was refused as it was.
    Minimal,
}

/// Writes the statuses of sessions.
#[derive(Clone)]
pub struct StatusWriter {
    client: Client,
}

impl StatusWriter {
    /// Writes through `client`.
    pub fn new(client: Client) -> Self {
        StatusWriter { client }
    }

    /// Writes a status; where it is refused as it is, what is left of it without its findings.
    ///
    /// # Errors
    /// Where it could not be written.
    pub async fn write(
        &self,
        session: &DebugSession,
        status: &DebugSessionStatus,
    ) -> Result<Written, WriteError> {
        match self.apply(session, status).await {
            Err(WriteError::Api(error)) if refuses_the_content(&error) => {
                tracing::warn!(
                    session = %name(session),
                    error = %super::chain(&*error),
                    "the status was refused as it is, a minimal one is written"
                );
                self.apply(session, &minimal(status)).await.map(|()| Written::Minimal)
            }
            other => other.map(|()| Written::Whole),
        }
    }

    /// Writes a status that must not be lost: waits and tries again while the API server does not answer.
    ///
    /// # Errors
    /// As [`StatusWriter::write`], after the last try.
    pub async fn write_surely(
        &self,
        session: &DebugSession,
        status: &DebugSessionStatus,
    ) -> Result<Written, WriteError> {
        let mut wait = Duration::from_secs(1);
        for _ in 1..TRIES {
            match self.write(session, status).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(session = %name(session), error = %super::chain(&error), "trying again");
                }
                other => return other,
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        self.write(session, status).await
    }

    async fn apply(&self, session: &DebugSession, status: &DebugSessionStatus) -> Result<(), WriteError> {
        // What comes back may be a session that this version cannot read; the write went through all the same.
        let api: Api<Guarded> =
            Api::namespaced(self.client.clone(), session.namespace().as_deref().unwrap_or_default());
        let name = session.name_any();
        // With its UID, the write fails where another session has taken the name.
        let body = json!({
            "apiVersion": DebugSession::api_version(&()),
            "kind": DebugSession::kind(&()),
            "metadata": { "name": name, "namespace": session.namespace(), "uid": session.uid() },
            "status": status,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&body);
        let request = api.patch_status(&name, &params, &patch);
        match tokio::time::timeout(DEADLINE, request).await {
            Err(_) => Err(WriteError::TimedOut),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => {
                Err(WriteError::Gone)
            }
            Ok(Err(error)) => Err(WriteError::Api(Box::new(error))),
        }
    }
}

fn name(session: &DebugSession) -> String {
    format!("{}/{}", session.namespace().unwrap_or_default(), session.name_any())
}

/// Whether what was written, and not the writer or the moment, is the reason: too large for the API server, for etcd or
/// for a proxy between, or not what the schema of the cluster says.
fn refuses_the_content(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let too_large = ["too large", "larger than max", "request is too large", "entity too large"];
    status.code == 413
        || status.is_invalid()
        || too_large.iter().any(|words| status.message.to_lowercase().contains(words))
}
