//! One query: a selector of series that always carries its namespace.

use std::collections::BTreeMap;

use super::catalogue::{Entry, Match, Subject};
use super::escape::{quote, quote_any};

/// A query of the catalogue, for one namespace. There is no other way to make one, so none goes beyond its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    name: String,
    metrics: Vec<&'static str>,
    conditions: Vec<Condition>,
    text: String,
}

/// A condition on a label, all its texts still unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    label: &'static str,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    Not(String),
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
}

impl Condition {
    /// The matcher in PromQL.
    fn text(&self) -> String {
        let any = |texts: &[String]| quote_any(texts.iter().map(String::as_str));
        match &self.test {
            Test::Is(text) => format!("{}={}", self.label, quote(text)),
            Test::Not(text) => format!("{}!={}", self.label, quote(text)),
            Test::OneOf(texts) => format!("{}=~{}", self.label, any(texts)),
            Test::NoneOf(texts) => format!("{}!~{}", self.label, any(texts)),
        }
    }

    /// Whether a label's value satisfies it; an absent label is an empty one.
    fn holds(&self, value: &str) -> bool {
        match &self.test {
            Test::Is(text) => value == text,
            Test::Not(text) => value != text,
            Test::OneOf(texts) => texts.iter().any(|text| text == value),
            Test::NoneOf(texts) => texts.iter().all(|text| text != value),
        }
    }
}

impl Query {
    /// All metrics of a catalogue entry in one namespace.
    pub fn new(entry: &Entry, namespace: &str) -> Self {
        Query::make(entry.name, entry.metrics, conditions(entry, namespace))
    }

    /// The same, of these subjects only (pods or workloads, as the entry's [`Subject`] says). `None` where the entry's
    /// series belong to no subject of this sort.
    pub fn about<'a>(
        entry: &Entry,
        namespace: &str,
        subjects: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let label = entry.subject.label()?;
        let mut conditions = conditions(entry, namespace);
        let subjects = subjects.into_iter().map(str::to_owned).collect();
        conditions.push(Condition { label, test: Test::OneOf(subjects) });
        Some(Query::make(entry.name, entry.metrics, conditions))
    }

    /// The same query for each metric of its own, for an answer that was too large as a whole.
    pub fn split(entry: &Entry, namespace: &str) -> Vec<Self> {
        if entry.metrics.len() < 2 {
            return vec![];
        }
        let one = |metric: &&'static str| Query::make(metric, &[*metric], conditions(entry, namespace));
        entry.metrics.iter().map(one).collect()
    }

    fn make(name: &str, metrics: &[&'static str], conditions: Vec<Condition>) -> Self {
        let mut matchers: Vec<String> = conditions.iter().map(Condition::text).collect();
        let metric = match metrics {
            [one] => one,
            many => {
                matchers.push(format!("__name__=~{}", quote_any(many.iter().copied())));
                ""
            }
        };
        let text = format!("{metric}{{{}}}", matchers.join(","));
        Query { name: name.to_owned(), metrics: metrics.to_vec(), conditions, text }
    }

    /// The name of the catalogue's entry: the file's name in a bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The PromQL.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a series of this name and with these labels is one that the query selects.
    pub fn selects(&self, metric: &str, labels: &BTreeMap<String, String>) -> bool {
        let value = |label: &str| labels.get(label).map(String::as_str).unwrap_or_default();
        self.metrics.contains(&metric)
            && self.conditions.iter().all(|condition| condition.holds(value(condition.label)))
    }
}

fn conditions(entry: &Entry, namespace: &str) -> Vec<Condition> {
    let own = Condition { label: entry.namespace_label, test: Test::Is(namespace.to_owned()) };
    let further = entry.matchers.iter().map(|(label, condition)| {
        let test = match condition {
            Match::NotTheNamespace => Test::Not(namespace.to_owned()),
            Match::NoneOf(values) => Test::NoneOf(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        Condition { label, test }
    });
    std::iter::once(own).chain(further).collect()
}

impl Subject {
    /// The label that names the subject.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Subject::Pod => Some("pod"),
            Subject::DestinationWorkload => Some("destination_workload"),
            Subject::SourceWorkload => Some("source_workload"),
            Subject::Other => None,
        }
    }
}
