//! What the rules about unaccepted objects have in common: one object, one field of it, and why it is refused.

use super::prelude::*;
use crate::analyze::rule::Meta;

/// Something that a controller refuses.
#[derive(Debug)]
pub struct Fault<'a> {
    /// The object that is refused.
    pub object: &'a Object,
    /// The field that decides.
    pub path: String,
    /// The reason that the Gateway API has for it: `TargetNotFound`.
    pub reason: &'static str,
    /// Why, as the second half of a sentence: `Service shop/pay, its target, does not exist`.
    pub why: String,
    /// What follows from it, as a sentence.
    pub result: &'static str,
    /// In the words of the field.
    pub mechanism: &'static str,
    /// Other objects that decide as much.
    pub related: Vec<ObjectRef>,
    /// What to do, the best first.
    pub remedies: Vec<Remedy>,
    /// The Services whose requests suffer, and how they do.
    pub services: Vec<ServiceName>,
    /// How their requests fail.
    pub flags: &'static [&'static str],
    /// How bad it is.
    pub severity: Severity,
}

impl<'a> Fault<'a> {
    /// A warning about a field of an object, without anything to do about it yet.
    pub fn new(object: &'a Object, path: impl Into<String>, reason: &'static str, why: String) -> Self {
        Fault {
            object,
            path: path.into(),
            reason,
            why,
            result: "",
            mechanism: "",
            related: vec![],
            remedies: vec![],
            services: vec![],
            flags: &[],
            severity: Severity::Warning,
        }
    }

    /// What follows, and the words for it.
    #[must_use]
    pub fn means(mut self, result: &'static str, mechanism: &'static str) -> Self {
        self.result = result;
        self.mechanism = mechanism;
        self
    }

    /// The Services whose requests suffer, and how.
    #[must_use]
    pub fn hits(mut self, services: Vec<ServiceName>, flags: &'static [&'static str]) -> Self {
        self.services = services;
        self.flags = flags;
        self
    }

    /// Something to do, where there is such a thing.
    #[must_use]
    pub fn fix(mut self, remedy: Option<Remedy>) -> Self {
        self.remedies.extend(remedy);
        self
    }

    /// Another object that decides as much.
    #[must_use]
    pub fn with(mut self, object: Option<ObjectRef>) -> Self {
        self.related.extend(object);
        self
    }

    /// The finding that says it.
    pub fn finding(&self, meta: &'static Meta) -> Finding {
        let reference = &self.object.reference;
        let subject = reference.field(&self.path);
        let mut finding = Finding::new(meta, subject.clone(), &[self.reason, &self.why])
            .title(format!("{reference} is refused ({}): {}", self.reason, self.why))
            .message(format!("{} at {}: {}. {}", reference, self.path, self.why, self.result))
            .mechanism(self.mechanism)
            .severity(self.severity)
            .role(Role::Cause, Confidence::Configured)
            .service(self.services.first().cloned())
            .evidence(Evidence::object(&subject, format!("{}: {}", self.reason, self.why)))
            .effects(self.services.iter().map(|service| Effect::requests(service, self.flags)))
            .remedies(self.remedies.clone())
            .prevention(Prevention::of(
                "Test",
                "In the pipeline: everything that objects of the Gateway API refer to exists and fits (meshscope analyze on the manifests)",
            ));
        finding.related.extend(self.related.iter().cloned());
        finding
    }
}

/// Sets one field, where the object has it or its parent.
pub fn set(object: &Object, path: &str, value: Value, summary: impl Into<String>) -> Option<Remedy> {
    let op = if object.body.pointer(&pointer(path)).is_some() { "replace" } else { "add" };
    Remedy::patch(object, &json!([{"op": op, "path": pointer(path), "value": value}]), summary)
}
