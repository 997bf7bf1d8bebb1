//! The stream of sessions that need a look.

use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Api, Resource};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::health::Health;
use super::metrics::Metrics;
use crate::api::REQUESTED_AT;
use crate::api::v1alpha1::DebugSession;

/// A session, or what is stored in its place: one object that cannot be read must not end the watch on all.
pub type Guarded = DeserializeGuard<DebugSession>;

/// Sessions whose generation or re-run token changed, and a store of all of them. What the controller itself writes
/// changes neither.
pub fn sessions(
    api: Api<Guarded>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> (Store<Guarded>, impl Stream<Item = Result<Guarded, watcher::Error>> + Send) {
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default())
        .default_backoff()
        .inspect(move |event| match event {
            Ok(_) => health.watch_works(),
            // The API server has forgotten where the watch was, which is nobody's fault: it begins anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                tracing::debug!(message = %status.message, "the watch on sessions begins anew");
            }
            Err(error) => {
                health.watch_failed();
                metrics.failed("watch", category(error));
                tracing::warn!(error = %super::chain(error), "the watch on sessions failed and is tried again");
            }
        })
        .modify(|session| {
            // The store needs none of it, and it is the larger half of many objects.
            session.meta_mut().managed_fields = None;
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(token), Default::default());
    (reader, stream)
}

/// A hash over the re-run token.
fn token(session: &Guarded) -> Option<u64> {
    let token = session.meta().annotations.as_ref().and_then(|map| map.get(REQUESTED_AT))?;
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    Some(hasher.finish())
}

fn category(error: &watcher::Error) -> &'static str {
    match error {
        watcher::Error::InitialListFailed(_) => "List",
        watcher::Error::WatchStartFailed(_) => "Start",
        watcher::Error::WatchError(_) => "Refused",
        watcher::Error::WatchFailed(_) => "Broken",
        _ => "Other",
    }
}
