//! istioctl's messages among the findings: as aliases where Meshscope says the same of the same object, as findings of their own
//! where it does not.

use std::collections::BTreeMap;

use super::code;
use super::message::Message;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};

/// The names of istioctl's codes begin so.
const PREFIX: &str = "IST";

/// Takes every alias of istioctl's away from the findings, and gives each of istioctl's messages back: to a finding whose rule has
/// the code and whose subject is the object, each code once, the finding at the same field first; to a new finding where there is
/// none. Afterwards a finding carries such an alias exactly when istioctl says so, on its object, as often.
pub fn attach(messages: Vec<Message>, findings: &mut Vec<Finding>) {
    let mut free: BTreeMap<(&'static str, Vec<String>), Vec<usize>> = BTreeMap::new();
    for (at, finding) in findings.iter_mut().enumerate() {
        finding.aliases.retain(|alias| !alias.starts_with(PREFIX));
        for alias in finding.meta.aliases.iter().filter(|alias| alias.starts_with(PREFIX)) {
            free.entry((alias, object(&finding.subject))).or_default().push(at);
        }
    }
    let mut own = vec![];
    for message in messages {
        let candidates = free.entry((message.code, object(&message.subject))).or_default();
        let field = &message.subject.field_path;
        let same_field = candidates.iter().position(|at| {
            let path = findings.get(*at).map_or("", |finding| finding.subject.field_path.as_str());
            !field.is_empty() && (field.starts_with(path) || path.starts_with(field.as_str()))
        });
        let chosen =
            same_field.or((!candidates.is_empty()).then_some(0)).map(|place| candidates.remove(place));
        match chosen.and_then(|at| findings.get_mut(at)) {
            Some(finding) => finding.aliases.push(message.code),
            None => own.extend(finding(message)),
        }
    }
    findings.append(&mut own);
}

/// What makes two subjects one object, whatever the version: kind, namespace and name.
fn object(subject: &crate::model::object::ObjectRef) -> Vec<String> {
    vec![subject.kind.clone(), subject.namespace.clone(), subject.name.clone()]
}

fn finding(message: Message) -> Option<Finding> {
    let meta = code::meta(message.code)?;
    let Message { subject, text, .. } = message;
    Some(
        Finding::new(meta, subject.clone(), &[&text])
            .role(Role::Context, Confidence::Configured)
            .title(format!("{subject}: {text}"))
            .message(format!("{} istioctl analyze says so; Meshscope's own rules do not.", meta.docs))
            .evidence(Evidence::object(&subject, text)),
    )
}
