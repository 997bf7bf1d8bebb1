//! What a list or a watch asks for.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::events;
use super::kinds::Kind;
use super::status::Refusal;
use crate::model::fields::Fields;
use crate::model::selector::Selector;

/// Parameters of a URL.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn new(pairs: Vec<(String, String)>) -> Self {
        Parameters(pairs.into_iter().collect())
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "True" | "TRUE" | "t" | "T")
    }

    /// A whole number; absent or empty is `None`.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        match self.text(name) {
            "" => Ok(None),
            text => {
                let wrong = |_| Refusal::bad(format!("{name}: \"{text}\" is no whole number"));
                text.parse().map(Some).map_err(wrong)
            }
        }
    }
}

/// `metadata.name=a,spec.nodeName!=b`
#[derive(Debug, Clone)]
struct FieldTerm {
    path: String,
    value: String,
    equal: bool,
}

/// Which objects of a kind are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    labels: Selector,
    fields: Vec<FieldTerm>,
}

impl Filter {
    pub(super) fn read(parameters: &Parameters, kind: &Kind) -> Result<Self, Refusal> {
        let labels = Selector::parse(parameters.text("labelSelector")).map_err(Refusal::bad)?;
        let mut fields = vec![];
        for term in parameters.text("fieldSelector").split(',').filter(|term| !term.is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (path, value, true)
            } else {
                return Err(Refusal::bad(format!("invalid field selector \"{term}\": write field=value")));
            };
            let path = if events::is_event(kind) { events::selector_field(path) } else { path.to_owned() };
            fields.push(FieldTerm { path, value: value.to_owned(), equal });
        }
        Ok(Filter { labels, fields })
    }

    /// One object by its name.
    pub(super) fn named(mut self, name: &str) -> Self {
        self.fields.push(FieldTerm { path: "metadata.name".to_owned(), value: name.to_owned(), equal: true });
        self
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = self.labels.is_empty() || self.labels.matches(&object.text_map("metadata.labels"));
        labels
            && self.fields.iter().all(|term| {
                let value = match object.at(&term.path) {
                    Some(Value::String(text)) => text.to_string(),
                    Some(Value::Null) | None => String::new(),
                    Some(other) => other.to_string(),
                };
                // An absent flag is false: `spec.unschedulable=false`.
                let same = value == term.value || (value.is_empty() && term.value == "false");
                same == term.equal
            })
    }
}

/// The place at which a list goes on.
pub(super) fn continue_token(version: u64, namespace: &str, name: &str) -> String {
    format!("{version}/{namespace}/{name}")
}

/// Reads such a place: namespace and name of the last object that was given.
pub(super) fn read_continue(token: &str) -> Result<(String, String), Refusal> {
    let mut parts = token.splitn(3, '/');
    match (parts.next().and_then(|version| version.parse::<u64>().ok()), parts.next(), parts.next()) {
        (Some(_), Some(namespace), Some(name)) => Ok((namespace.to_owned(), name.to_owned())),
        _ => Err(Refusal::bad("continue: not a token of this server; list from the beginning")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::replay::kinds::Kinds;

    fn filter(fields: &str, plural: &str) -> Filter {
        let kinds = Kinds::of(&[], &[]);
        let parameters = Parameters::new(vec![("fieldSelector".to_owned(), fields.to_owned())]);
        Filter::read(&parameters, kinds.get("", plural).unwrap()).unwrap()
    }

    #[test]
    fn fields_are_compared_as_text() {
        let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n", "hostNetwork": true}, "status": {"phase": "Running"}});
        assert!(filter("spec.nodeName=n,status.phase!=Failed", "pods").matches(&pod));
        assert!(filter("spec.hostNetwork=true,spec.unschedulable=false", "pods").matches(&pod));
        assert!(!filter("metadata.name=b", "pods").matches(&pod));
        assert!(filter("status.podIP=", "pods").matches(&pod));
        assert!(filter("", "pods").named("a").matches(&pod));
        let event = json!({"source": {"component": "kubelet"}, "involvedObject": {"uid": "u"}});
        assert!(filter("source=kubelet,involvedObject.uid=u", "events").matches(&event));
        assert!(filter("regarding.uid==u", "events").matches(&event));
    }

    #[test]
    fn tokens_are_read_back() {
        assert_eq!(read_continue(&continue_token(7, "", "a.b")).unwrap(), (String::new(), "a.b".to_owned()));
        assert!(read_continue("x").is_err());
    }
}
