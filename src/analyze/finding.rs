//! What a rule says: one statement about one subject, with its evidence.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::remedy::{Prevention, Remedy};
use super::rule::Meta;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::source::Location;

/// How bad it is for those who call the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// It will hurt, or hurts a little.
    Warning,
    /// Requests fail, or pods do not run.
    Error,
    /// All requests fail.
    Critical,
}

impl Severity {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Info => "Info",
            Severity::Warning => "Warning",
            Severity::Error => "Error",
            Severity::Critical => "Critical",
        }
    }
}

/// What a finding is to the question "why".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It can be the root cause: somebody can change this object and the trouble ends.
    Cause,
    /// It is what somebody feels or sees, and asks for a cause. It is the answer only where nothing explains it.
    Symptom,
    /// Good to know; it breaks nothing by itself.
    Context,
}

/// How much the rule itself has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Confidence {
    /// Configuration alone, and it depends on something not seen whether it hurts.
    Possible,
    /// Configuration alone, and it must hurt whoever uses it.
    Configured,
    /// The deciding observation itself: a status, a flag with its detail, an error text that names it.
    Observed,
}

/// Something that fails: what a symptom shows, and what a cause would produce.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Requests to a Service fail or are slow. `flags` are Envoy's flags or words of details (`UH`, `rbac`, `UT`, `slow`) with
    /// which they would; empty means any way.
    Requests {
        /// The Service called.
        service: ServiceName,
        /// How they fail.
        flags: Vec<String>,
    },
    /// Pods of a workload do not run, restart or are not ready.
    Pods {
        /// The workload.
        workload: ObjectRef,
    },
    /// Requests that one workload makes fail, whoever it calls (its own proxy, its own configuration).
    Calls {
        /// The workload that calls.
        workload: ObjectRef,
    },
}

impl Effect {
    /// Requests to a Service that fail in one of these ways; none named means any way.
    pub fn requests(service: &ServiceName, flags: &[&str]) -> Self {
        Effect::Requests { service: service.clone(), flags: flags.iter().map(|f| (*f).to_owned()).collect() }
    }

    /// Pods of a workload.
    pub fn pods(workload: &ObjectRef) -> Self {
        Effect::Pods { workload: ObjectRef { field_path: String::new(), ..workload.clone() } }
    }

    /// Requests that a workload makes.
    pub fn calls(workload: &ObjectRef) -> Self {
        Effect::Calls { workload: ObjectRef { field_path: String::new(), ..workload.clone() } }
    }
}

/// One piece of evidence. Text from the cluster lives in `excerpt` and nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Its name within the report: `e-` and a hash of the rest.
    pub id: String,
    /// `Object`, `Event`, `Log`, `AccessLog`, `Metric`, `Proxy`.
    pub source: String,
    /// Where it stands: `Pod shop/checkout-1, container app`, `VirtualService shop/checkout spec.http[0]`.
    #[serde(rename = "ref")]
    pub reference: String,
    /// When it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// What it says, in our words, with its numbers.
    pub value: String,
    /// What it says word for word: redacted text of the cluster, not to be trusted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
}

/// Text of the cluster is cut to this many bytes in an excerpt.
pub const MAX_EXCERPT: usize = 512;

impl Evidence {
    /// Evidence from a source (`Object`, `Event`, `Log`, `AccessLog`, `Metric`, `Proxy`).
    pub fn new(source: &str, reference: impl Into<String>, value: impl Into<String>) -> Self {
        Evidence {
            source: source.to_owned(),
            reference: reference.into(),
            value: value.into(),
            ..Evidence::default()
        }
        .named()
    }

    /// What an object says.
    pub fn object(reference: &ObjectRef, value: impl Into<String>) -> Self {
        let place = if reference.field_path.is_empty() {
            reference.to_string()
        } else {
            format!("{reference} {}", reference.field_path)
        };
        Evidence::new("Object", place, value)
    }

    /// The same with its time.
    #[must_use]
    pub fn at(mut self, time: Option<Timestamp>) -> Self {
        self.time = time;
        self.named()
    }

    /// The same with the words of the cluster, cut to [`MAX_EXCERPT`] bytes.
    #[must_use]
    pub fn excerpt(mut self, text: &str) -> Self {
        self.excerpt = cut(text.trim(), MAX_EXCERPT).to_owned();
        self.named()
    }

    fn named(mut self) -> Self {
        self.id = fingerprint("e", &[&self.source, &self.reference, &self.value, &self.excerpt]);
        self
    }
}

/// The longest beginning of a text that is no longer than `limit` bytes and ends between characters.
pub fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// `prefix-` and ten hexadecimal digits of a hash over all parts.
pub fn fingerprint(prefix: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest: String = hash.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{digest}")
}

/// One statement by one rule about one subject.
#[derive(Debug, Clone)]
pub struct Finding {
    /// A fingerprint of code, subject and parameters, stable over runs.
    pub id: String,
    /// The rule.
    pub meta: &'static Meta,
    /// The same diagnosis in other tools: the rule's own, unless somebody asked for exactly what another tool says.
    pub aliases: Vec<&'static str>,
    /// How bad it is; the rule's own severity unless it knows better.
    pub severity: Severity,
    /// The object, and the field, that somebody would change.
    pub subject: ObjectRef,
    /// Where that stands in a YAML file, for an object that was read from one; set when all rules have spoken.
    pub location: Option<Location>,
    /// Other objects that are just as much at fault (the DestinationRule beside the VirtualService).
    pub related: Vec<ObjectRef>,
    /// The Service that suffers first: the one whose callers see it.
    pub service: Option<ServiceName>,
    /// What it is to the question "why".
    pub role: Role,
    /// How much the rule has seen.
    pub confidence: Confidence,
    /// Names of what happens, in the field's words: `subset without pods`.
    pub mechanism: String,
    /// At most 120 characters: the cause in one sentence with names and numbers.
    pub title: String,
    /// What follows from what, in our words only.
    pub message: String,
    /// What was seen.
    pub evidence: Vec<Evidence>,
    /// When it began, where the evidence says.
    pub onset: Option<Timestamp>,
    /// For a symptom what fails; for a cause what would fail because of it.
    pub effects: Vec<Effect>,
    /// What to do: the best first.
    pub remedies: Vec<Remedy>,
    /// How to keep it from happening again.
    pub prevention: Vec<Prevention>,
}

/// A headline is at most this long, in characters.
pub const MAX_TITLE: usize = 120;

impl Finding {
    /// A finding of a rule about a subject; `parameters` tell two findings of one rule about one object apart and are part
    /// of its fingerprint.
    pub fn new(meta: &'static Meta, subject: ObjectRef, parameters: &[&str]) -> Self {
        let mut parts =
            vec![meta.code, &subject.kind, &subject.namespace, &subject.name, &subject.field_path];
        parts.extend(parameters);
        Finding {
            id: fingerprint("f", &parts),
            meta,
            aliases: meta.aliases.to_vec(),
            severity: meta.severity,
            subject,
            location: None,
            related: vec![],
            service: None,
            role: Role::Cause,
            confidence: Confidence::Configured,
            mechanism: meta.name.replace('-', " "),
            title: String::new(),
            message: String::new(),
            evidence: vec![],
            onset: None,
            effects: vec![],
            remedies: vec![],
            prevention: vec![],
        }
    }

    /// Sets the headline. One that is too long loses the subject's namespace, which the subject tells, and then its end.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        let mut title: String = title.into();
        let too_long = |title: &str| title.chars().count() > MAX_TITLE;
        if too_long(&title) && !self.subject.namespace.is_empty() {
            title = title.replace(&format!(" {}/", self.subject.namespace), " ");
        }
        self.title = match title.char_indices().nth(MAX_TITLE - 1) {
            Some((end, _)) if too_long(&title) => format!("{}…", title.get(..end).unwrap_or_default()),
            _ => title,
        };
        self
    }

    /// Sets the explanation.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// Sets the words for what happens.
    #[must_use]
    pub fn mechanism(mut self, mechanism: impl Into<String>) -> Self {
        self.mechanism = mechanism.into();
        self
    }

    /// Sets how bad it is.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// Sets what it is to the question "why", and how much was seen.
    #[must_use]
    pub fn role(mut self, role: Role, confidence: Confidence) -> Self {
        self.role = role;
        self.confidence = confidence;
        self
    }

    /// Sets the Service that suffers first.
    #[must_use]
    pub fn service(mut self, service: Option<ServiceName>) -> Self {
        self.service = service;
        self
    }

    /// Adds another object that is just as much at fault.
    #[must_use]
    pub fn related(mut self, object: ObjectRef) -> Self {
        self.related.push(object);
        self
    }

    /// Adds evidence.
    #[must_use]
    pub fn evidence(mut self, evidence: Evidence) -> Self {
        self.evidence.push(evidence);
        self
    }

    /// Adds several pieces of evidence.
    #[must_use]
    pub fn evidences(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    /// Sets when it began.
    #[must_use]
    pub fn onset(mut self, onset: Option<Timestamp>) -> Self {
        self.onset = onset;
        self
    }

    /// Adds something that fails, or would.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    /// Adds several effects.
    #[must_use]
    pub fn effects(mut self, effects: impl IntoIterator<Item = Effect>) -> Self {
        self.effects.extend(effects);
        self
    }

    /// Adds something to do; later ones are second choices.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.remedies.push(remedy);
        self
    }

    /// Adds something to do, where there is such a thing.
    #[must_use]
    pub fn maybe_remedy(mut self, remedy: Option<Remedy>) -> Self {
        self.remedies.extend(remedy);
        self
    }

    /// Adds several things to do, the best first.
    #[must_use]
    pub fn remedies(mut self, remedies: impl IntoIterator<Item = Remedy>) -> Self {
        self.remedies.extend(remedies);
        self
    }

    /// Adds a way to keep it from happening again.
    #[must_use]
    pub fn prevention(mut self, prevention: Prevention) -> Self {
        self.prevention.push(prevention);
        self
    }
}

/// The findings of a run, as rules push them.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        self.0.push(finding);
    }

    /// All of them: the gravest first, then by code and subject; of two with the same fingerprint the first one counts.
    pub fn finish(self) -> Vec<Finding> {
        let mut all = self.0;
        all.sort_by(|a, b| {
            (b.severity, a.meta.code, &a.subject, &a.id, &a.title).cmp(&(
                a.severity,
                b.meta.code,
                &b.subject,
                &b.id,
                &b.title,
            ))
        });
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|finding| seen.insert(finding.id.clone()));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_end_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 9), "añb");
    }

    #[test]
    fn a_long_title_loses_the_namespace_before_its_end() {
        let meta = crate::analyze::registry::RULES.first().map(|rule| rule.meta()).unwrap();
        let space = "a-namespace-with-a-name-that-goes-on-and-on";
        let of = |name: &str| {
            let subject = ObjectRef::new("Deployment", space, name);
            let title = format!(
                "{subject} answers 17 of 47 requests (36 %) with server errors since 10:00:02 UTC, all at /orders"
            );
            Finding::new(meta, subject, &[]).title(title).title
        };
        assert!(of("shop").starts_with("Deployment shop answers 17 ") && of("shop").ends_with("/orders"));
        let long = of(&"x".repeat(60));
        assert!(long.chars().count() == MAX_TITLE && long.ends_with('…') && !long.contains(space));
    }

    #[test]
    fn fingerprints_tell_their_parts_apart() {
        assert_ne!(fingerprint("f", &["ab", "c"]), fingerprint("f", &["a", "bc"]));
        assert_eq!(fingerprint("f", &["ab"]).len(), 12);
    }
}
