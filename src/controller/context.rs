//! What reconciling and jobs share.

use futures::channel::mpsc;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use std::collections::HashMap;
use std::sync::Arc;

use super::backoff::Backoff;
use super::config::Limits;
use super::events::Events;
use super::investigate::Investigate;
use super::jobs::Jobs;
use super::metrics::Metrics;
use super::state::Versions;
use super::watch::Guarded;
use super::write::StatusWriter;

/// What reconciling and jobs share.
pub struct Context {
    /// The API server, for all but what investigations read.
    pub client: Client,
    /// Writes statuses.
    pub writer: StatusWriter,
    /// Publishes events.
    pub events: Events,
    /// The runs that this process is working on.
    pub jobs: Arc<Jobs>,
    /// Says why services fail.
    pub investigator: Arc<dyn Investigate>,
    /// Bounds.
    pub limits: Limits,
    /// What the operator says of itself.
    pub versions: Versions,
    /// What it measures of itself.
    pub metrics: Arc<Metrics>,
    /// Failures in a row of each session.
    pub backoff: Backoff,
    /// Where to ask for a session to be looked at again: for each watch by its namespace, empty for all.
    pub wake: HashMap<String, mpsc::UnboundedSender<ObjectRef<Guarded>>>,
}

impl Context {
    /// Asks for a session to be looked at again.
    pub fn wake(&self, session: ObjectRef<Guarded>) {
        let own = session.namespace.as_ref().and_then(|namespace| self.wake.get(namespace));
        if let Some(sender) = own.or_else(|| self.wake.get("")) {
            // Nobody listens any more when the process ends.
            let _ = sender.unbounded_send(session);
        }
    }
}
