//! Events on sessions, through one recorder. Their text is ours only: no log line, no annotation.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use std::time::Duration;

use crate::api::v1alpha1::DebugSession;

/// How long an event may take. It tells; nothing depends on it.
const DEADLINE: Duration = Duration::from_secs(5);
/// The longest note that the API server takes, in bytes.
const MAX_NOTE: usize = 1024;

/// Publishes events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Publishes as the replica `instance`.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter = Reporter { controller: "meshscope".to_owned(), instance: Some(instance.to_owned()) };
        Events { recorder: Recorder::new(client, reporter) }
    }

    /// Tells something that went as it should.
    pub async fn normal(&self, session: &ObjectMeta, reason: &str, note: &str) {
        self.publish(session, EventType::Normal, reason, note).await;
    }

    /// Tells something that somebody should look at.
    pub async fn warning(&self, session: &ObjectMeta, reason: &str, note: &str) {
        self.publish(session, EventType::Warning, reason, note).await;
    }

    async fn publish(&self, session: &ObjectMeta, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(crate::analyze::finding::cut(note, MAX_NOTE).to_owned()),
            action: "Investigate".to_owned(),
            secondary: None,
        };
        match tokio::time::timeout(DEADLINE, self.recorder.publish(&event, &reference(session))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %super::chain(&error), reason, "the event was not published");
            }
            Err(_) => tracing::debug!(reason, "the event was not published in time"),
        }
    }
}

/// The resource version is part of it: the recorder counts repeats of the same event up, with the first one's note, and
/// two runs of one session are no repeats.
fn reference(session: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(DebugSession::api_version(&()).into_owned()),
        kind: Some(DebugSession::kind(&()).into_owned()),
        name: session.name.clone(),
        namespace: session.namespace.clone(),
        uid: session.uid.clone(),
        resource_version: session.resource_version.clone(),
        field_path: None,
    }
}
