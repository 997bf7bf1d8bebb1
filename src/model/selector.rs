//! Label selectors, with the meaning that the API server gives them.

use crate::model::json::Value;

use super::fields::Fields;
pub use super::labels::Labels;

/// One `matchExpressions` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `In`: the label is one of these.
    In(String, Vec<String>),
    /// `NotIn`: the label is absent or none of these.
    NotIn(String, Vec<String>),
    /// `Exists`.
    Exists(String),
    /// `DoesNotExist`.
    DoesNotExist(String),
    /// An operator that this API does not know: matches nothing.
    Unknown,
}

/// A `metav1.LabelSelector`. Empty selects everything; what "no selector at all" means is up to its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// All of these labels must be there, with these values.
    pub match_labels: Labels,
    /// And all of these must hold.
    pub expressions: Vec<Requirement>,
}

impl Selector {
    /// A selector of plain labels, as a Service, a DestinationRule subset or an Istio `selector` has it.
    pub fn labels(labels: Labels) -> Self {
        Selector { match_labels: labels, expressions: vec![] }
    }

    /// Reads `{matchLabels, matchExpressions}`.
    pub fn read(value: &Value) -> Self {
        let expressions = value.list("matchExpressions").iter().map(|entry| {
            let (key, values) = (entry.string("key"), entry.texts("values"));
            match entry.text("operator").unwrap_or_default() {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                _ => Requirement::Unknown,
            }
        });
        Selector { match_labels: value.text_map("matchLabels"), expressions: expressions.collect() }
    }

    /// Reads the text form of the API's `labelSelector` parameter: `a=b,c!=d,e in (f,g),h,!i`.
    /// Errors: names the part that cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selector = Selector::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (part, next) = split_requirement(rest);
            rest = next;
            let part = part.trim();
            if part.is_empty() {
                continue;
            }
            selector.expressions.push(parse_requirement(part)?);
        }
        Ok(selector)
    }

    /// Whether it has no requirement at all.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.expressions.is_empty()
    }

    /// Whether `labels` satisfy all of it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|requirement| match requirement {
                Requirement::In(key, values) => {
                    labels.get(key).is_some_and(|value| values.iter().any(|own| own == value))
                }
                Requirement::NotIn(key, values) => {
                    labels.get(key).is_none_or(|value| values.iter().all(|own| own != value))
                }
                Requirement::Exists(key) => labels.contains_key(key),
                Requirement::DoesNotExist(key) => !labels.contains_key(key),
                Requirement::Unknown => false,
            })
    }
}

/// Up to the next comma outside parentheses.
fn split_requirement(text: &str) -> (&str, &str) {
    let mut depth = 0;
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                return (text.get(..index).unwrap_or(text), text.get(index + 1..).unwrap_or(""));
            }
            _ => {}
        }
    }
    (text, "")
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let set = |key: &str, list: &str| {
        let list = list.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some((key.trim().to_owned(), list.split(',').map(|v| v.trim().to_owned()).collect::<Vec<_>>()))
    };
    let wrong = || {
        format!(
            "cannot read the label selector \"{part}\"; write key=value, key!=value, key in (a,b), key or !key"
        )
    };
    if let Some((key, list)) = part.split_once(" notin ") {
        return set(key, list).map(|(key, values)| Requirement::NotIn(key, values)).ok_or_else(wrong);
    }
    if let Some((key, list)) = part.split_once(" in ") {
        return set(key, list).map(|(key, values)| Requirement::In(key, values)).ok_or_else(wrong);
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if part.contains(char::is_whitespace) || part.contains(['(', ')']) {
        return Err(wrong());
    }
    Ok(match part.strip_prefix('!') {
        Some(key) => Requirement::DoesNotExist(key.trim().to_owned()),
        None => Requirement::Exists(part.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn not_in_accepts_a_missing_label() {
        let selector = Selector::read(
            &json!({"matchExpressions": [{"key": "track", "operator": "NotIn", "values": ["canary"]}]}),
        );
        assert!(selector.matches(&labels(&[("app", "a")])));
        assert!(!selector.matches(&labels(&[("track", "canary")])));
    }

    #[test]
    fn the_text_form_means_the_same() {
        let selector = Selector::parse("app=a,tier in (x, y),!gone,env!=prod,here").unwrap();
        assert!(selector.matches(&labels(&[("app", "a"), ("tier", "y"), ("here", "")])));
        assert!(!selector.matches(&labels(&[("app", "a"), ("tier", "z"), ("here", "")])));
        assert!(Selector::parse("a b").is_err());
    }

    #[test]
    fn an_unknown_operator_matches_nothing() {
        let selector = Selector::read(&json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}));
        assert!(!selector.matches(&labels(&[("a", "b")])));
    }
}
