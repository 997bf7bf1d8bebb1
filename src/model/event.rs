//! Kubernetes events, whichever of the two APIs they came from.

use jiff::Timestamp;

use super::fields::Fields;
use super::object::{Object, ObjectRef};

/// One event. They live for an hour by default: absence is no evidence.
#[derive(Debug, Clone)]
pub struct Event {
    /// What it is about.
    pub about: ObjectRef,
    /// The container it is about, where the field path names one.
    pub container: String,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// `BackOff`, `FailedScheduling`, …
    pub reason: String,
    /// The reporter's words: text from the cluster.
    pub message: String,
    /// Who reported it: `kubelet`, `default-scheduler`.
    pub reporter: String,
    /// When it was first seen.
    pub first: Option<Timestamp>,
    /// When it was last seen.
    pub last: Option<Timestamp>,
    /// How often.
    pub count: i64,
    /// The Event object itself.
    pub reference: ObjectRef,
}

impl Event {
    /// Reads an Event of `v1` or `events.k8s.io/v1`.
    pub fn read(object: &Object) -> Self {
        let body = &object.body;
        let about = body.at("regarding").or_else(|| body.at("involvedObject"));
        let field = about.map(|a| a.string("fieldPath")).unwrap_or_default();
        let container =
            field.split_once('{').and_then(|(_, rest)| rest.strip_suffix('}')).unwrap_or_default();
        let first = [
            body.time("deprecatedFirstTimestamp"),
            body.time("firstTimestamp"),
            body.time("eventTime"),
            object.created,
        ];
        let last = [
            body.time("series.lastObservedTime"),
            body.time("deprecatedLastTimestamp"),
            body.time("lastTimestamp"),
            body.time("eventTime"),
            object.created,
        ];
        let count =
            ["series.count", "deprecatedCount", "count"].iter().find_map(|path| body.int(path)).unwrap_or(1);
        Event {
            about: ObjectRef {
                api_version: about.map(|a| a.string("apiVersion")).unwrap_or_default(),
                kind: about.map(|a| a.string("kind")).unwrap_or_default(),
                namespace: about.map(|a| a.string("namespace")).unwrap_or_default(),
                name: about.map(|a| a.string("name")).unwrap_or_default(),
                field_path: String::new(),
            },
            container: container.to_owned(),
            kind: body.string("type"),
            reason: body.string("reason"),
            message: body.text("note").or_else(|| body.text("message")).unwrap_or_default().to_owned(),
            reporter: [
                "reportingController",
                "reportingComponent",
                "deprecatedSource.component",
                "source.component",
            ]
            .iter()
            .find_map(|path| body.text(path).filter(|t| !t.is_empty()))
            .unwrap_or_default()
            .to_owned(),
            first: first.into_iter().flatten().min(),
            last: last.into_iter().flatten().max(),
            count: count.max(1),
            reference: object.reference.clone(),
        }
    }
}
