//! Watches: what there is, if asked for, and then every change.

use crate::model::json::{Value, json};
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::stream;
use http::StatusCode;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch as channel};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::app::{App, Form, Target, shape, typed_response};
use super::query::{Filter, Parameters};
use super::status::Refusal;
use super::store::{Change, ResourceKey, Stored, resource_key};
use crate::model::fields::Fields;

/// How long a watch lives whose client does not say; a new one costs it nothing.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// How often a quiet watch tells where it is.
const BOOKMARK: Duration = Duration::from_secs(60);

/// Everything that one watch needs while it lives.
struct Watch {
    app: Arc<App>,
    target: OwnedTarget,
    resource: ResourceKey,
    filter: Filter,
    form: Form,
    /// The newest change that was told of.
    version: u64,
    queue: VecDeque<Bytes>,
    changed: channel::Receiver<u64>,
    bookmarks: Option<Interval>,
    deadline: Instant,
    finished: bool,
    _permit: OwnedSemaphorePermit,
}

/// A target that outlives its request.
struct OwnedTarget {
    group: String,
    plural: String,
    version: String,
    namespace: String,
    include: String,
}

pub(super) fn watch(
    app: &Arc<App>,
    target: &Target<'_>,
    filter: Filter,
    parameters: &Parameters,
    form: Form,
) -> Result<Response, Refusal> {
    let permit = app.watches.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::too_many("too many watches at once: end some"))?;
    let life = parameters.number("timeoutSeconds")?.map_or(MAX_LIFE, Duration::from_secs).min(MAX_LIFE);
    let asked = parameters.number("resourceVersion")?.unwrap_or_default();
    let initial = parameters.flag("sendInitialEvents");
    let changed = app.changed.subscribe();
    let bookmarks = parameters.flag("allowWatchBookmarks").then(|| {
        let mut interval = interval_at(Instant::now() + BOOKMARK, BOOKMARK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let mut watch = Watch {
        app: app.clone(),
        target: OwnedTarget {
            group: target.kind.group.clone(),
            plural: target.kind.plural.clone(),
            version: target.version.clone(),
            namespace: target.namespace.clone(),
            include: parameters.text("includeObject").to_owned(),
        },
        resource: resource_key(target.kind),
        filter,
        form,
        version: asked,
        queue: VecDeque::new(),
        changed,
        bookmarks,
        deadline: Instant::now() + life,
        finished: false,
        _permit: permit,
    };
    if asked == 0 || initial {
        watch.begin(target, initial);
    } else {
        // A version that is too old is refused at once, and not in the stream.
        watch.app.store().since(&watch.resource, asked)?;
    }
    let body = stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok::<_, Infallible>(line), watch))
    });
    Ok(typed_response(StatusCode::OK, "application/json", Body::from_stream(body)))
}

impl Watch {
    /// All that there is, as if it had just been added.
    fn begin(&mut self, target: &Target<'_>, mark_end: bool) {
        let (version, found) = {
            let store = self.app.store();
            let found = store.list(target.kind, &target.namespace);
            let found: Vec<Stored> =
                found.filter(|stored| self.filter.matches(&stored.body)).cloned().collect();
            (store.version(), found)
        };
        self.version = version;
        for stored in found {
            self.event("ADDED", &stored.body, stored.recorded);
        }
        if mark_end {
            self.bookmark(true);
        }
    }

    /// The next line, when there is one. `None` ends the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Some(line);
            }
            if self.finished {
                return None;
            }
            self.changed.borrow_and_update();
            let (changes, version) = {
                let store = self.app.store();
                (store.since(&self.resource, self.version), store.version())
            };
            match changes {
                Ok(changes) => {
                    self.tell(changes);
                    self.version = version.max(self.version);
                }
                Err(refusal) => {
                    self.line(&json!({"type": "ERROR", "object": refusal.body()}));
                    self.finished = true;
                }
            }
            if !self.queue.is_empty() || self.finished {
                continue;
            }
            let stop = self.app.stop.clone();
            let bookmark = async {
                match &mut self.bookmarks {
                    Some(interval) => interval.tick().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.changed.changed() => self.finished = changed.is_err(),
                _ = bookmark => self.bookmark(false),
                () = sleep_until(self.deadline) => self.finished = true,
                () = stop.cancelled() => self.finished = true,
            }
        }
    }

    fn tell(&mut self, changes: Vec<Change>) {
        for change in changes {
            let here = |object: &&Arc<Value>| {
                let namespace = &self.target.namespace;
                (namespace.is_empty() || object.string("metadata.namespace") == *namespace)
                    && self.filter.matches(object)
            };
            // Seen through a filter, an object that begins to match is new and one that ceases to is gone.
            let (old, new) = (change.old.as_ref().filter(here), change.new.as_ref().filter(here));
            let what = match (old, new) {
                (None, None) => continue,
                (None, Some(new)) => ("ADDED", new.clone()),
                (Some(_), Some(new)) => ("MODIFIED", new.clone()),
                // A deletion carries the object's last state, at the version of the change.
                (Some(old), None) => ("DELETED", change.new.as_ref().unwrap_or(old).clone()),
            };
            self.event(what.0, &what.1, false);
        }
    }

    fn event(&mut self, what: &str, object: &Arc<Value>, recorded: bool) {
        let Some(kind) = self.app.kinds.get(&self.target.group, &self.target.plural) else { return };
        let target = Target {
            kind,
            version: self.target.version.clone(),
            namespace: String::new(),
            name: String::new(),
            subresource: String::new(),
        };
        let parameters = Parameters::new(vec![("includeObject".to_owned(), self.target.include.clone())]);
        let metadata = json!({"resourceVersion": object.string("metadata.resourceVersion")});
        let stored = [Stored::of(object.clone(), recorded)];
        let shaped = shape(&self.app, &target, &stored, self.form, &parameters, metadata, false);
        self.line(&json!({"type": what, "object": shaped}));
    }

    fn bookmark(&mut self, initial_end: bool) {
        let Some(kind) = self.app.kinds.get(&self.target.group, &self.target.plural) else { return };
        let version = self.version.to_string();
        let metadata = if initial_end {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            json!({"resourceVersion": version, "creationTimestamp": null, "annotations": annotations})
        } else {
            json!({"resourceVersion": version, "creationTimestamp": null})
        };
        let object = match self.form {
            Form::Object => {
                json!({"kind": kind.kind, "apiVersion": kind.api_version(&self.target.version), "metadata": metadata})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                                  "columnDefinitions": [], "rows": []}),
        };
        self.line(&json!({"type": "BOOKMARK", "object": object}));
    }

    fn line(&mut self, event: &Value) {
        self.queue.push_back(Bytes::from(format!("{event}\n")));
    }
}
