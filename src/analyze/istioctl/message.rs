//! One statement of istioctl's.

use std::collections::BTreeMap;

use crate::model::object::{Object, ObjectRef};
use crate::model::path;
use crate::model::snapshot::Snapshot;

/// One statement of istioctl's: a code, the object it is about, and what tells it from others with the same code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// `IST0101`.
    pub code: &'static str,
    /// The object; its field where istioctl points at one.
    pub subject: ObjectRef,
    /// What is wrong, in one sentence of ours with all that istioctl's message names.
    pub text: String,
}

/// Messages as analyzers push them.
#[derive(Debug, Default)]
pub(super) struct Messages(BTreeMap<(&'static str, ObjectRef, String), String>);

/// The annotation by which an object's owner silences codes: a list, or `*`.
const SUPPRESS: &str = "galley.istio.io/analyze-suppress";

impl Messages {
    /// Adds a message about an object, and the field that it points at where that is there. Two messages with the same code, object
    /// and words are one: the first field counts.
    pub(super) fn push(&mut self, code: &'static str, object: &Object, field: &str, text: impl Into<String>) {
        if suppressed(object, code) {
            return;
        }
        let field = if path::find(&object.body, field).is_some() { field } else { "" };
        self.0.entry((code, object.reference.clone(), text.into())).or_insert_with(|| field.to_owned());
    }

    /// The message about a reference to something that is not there (IST0101): `what` it is, and its name as it is written.
    pub(super) fn not_found(&mut self, object: &Object, field: &str, what: &str, name: &str) {
        self.push("IST0101", object, field, format!("{what} {name:?} is not found"));
    }

    /// All of them, without those outside of the namespace that was asked about.
    pub(super) fn finish(self, snapshot: &Snapshot) -> Vec<Message> {
        let asked = snapshot.target.as_ref().map(|target| target.namespace.as_str()).unwrap_or_default();
        let wanted = |message: &Message| {
            let namespace = message.subject.namespace.as_str();
            asked.is_empty() || namespace.is_empty() || namespace == asked
        };
        let all = self.0.into_iter().map(|((code, subject, text), field)| {
            let subject = ObjectRef { field_path: field, ..subject };
            Message { code, subject, text }
        });
        all.filter(wanted).collect()
    }
}

fn suppressed(object: &Object, code: &str) -> bool {
    object
        .annotations
        .get(SUPPRESS)
        .is_some_and(|list| list.split(',').any(|silenced| silenced == "*" || silenced == code))
}
