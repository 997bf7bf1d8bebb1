//! One query: a selector of series that carries its namespace wherever its series belong to one.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{Entry, Exporter, Match, Subject};
use super::escape::{quote, quote_any};
use super::variants::Variants;

/// A query of the catalogue, for one namespace. There is no other way to make one, so none goes beyond its namespace but for
/// figures of the platform itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    name: String,
    exporter: Exporter,
    /// Names under which the source has the metrics.
    metrics: Vec<String>,
    conditions: Vec<Condition>,
    text: String,
}

/// A condition on a label, all its texts still unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    label: String,
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
    /// All metrics of a catalogue entry in one namespace. `None` where the source has none of them.
    pub fn new(entry: &Entry, namespace: &str, variants: &Variants) -> Option<Self> {
        Query::make(entry, entry.name, entry.metrics, conditions(entry, namespace, variants), variants)
    }

    /// The same, of these subjects only (pods or workloads, as the entry's [`Subject`] says). `None` also where the entry's
    /// series belong to no subject of this sort.
    pub fn about<'a>(
        entry: &Entry,
        namespace: &str,
        subjects: impl IntoIterator<Item = &'a str>,
        variants: &Variants,
    ) -> Option<Self> {
        let label = variants.label(entry.exporter, entry.shape.subject().label()?).to_owned();
        let mut conditions = conditions(entry, namespace, variants);
        let subjects = subjects.into_iter().map(str::to_owned).collect();
        conditions.push(Condition { label, test: Test::OneOf(subjects) });
        Query::make(entry, entry.name, entry.metrics, conditions, variants)
    }

    /// The same query for each metric of its own, for an answer that was too large as a whole.
    pub fn split(entry: &Entry, namespace: &str, variants: &Variants) -> Vec<Self> {
        if entry.metrics.len() < 2 {
            return vec![];
        }
        let one = |metric: &&'static str| {
            Query::make(entry, metric, &[*metric], conditions(entry, namespace, variants), variants)
        };
        entry.metrics.iter().filter_map(one).collect()
    }

    fn make(
        entry: &Entry,
        name: &str,
        metrics: &[&'static str],
        conditions: Vec<Condition>,
        variants: &Variants,
    ) -> Option<Self> {
        let mut metrics: Vec<String> = metrics.iter().filter_map(|metric| variants.name(metric)).collect();
        // Three metrics may be one native histogram. The order is the catalogue's.
        let mut seen = BTreeSet::new();
        metrics.retain(|metric| seen.insert(metric.clone()));
        let mut matchers: Vec<String> = conditions.iter().map(Condition::text).collect();
        let metric = match metrics.as_slice() {
            [] => return None,
            [one] => one.as_str(),
            many => {
                matchers.push(format!("__name__=~{}", quote_any(many.iter().map(String::as_str))));
                ""
            }
        };
        let text = format!("{metric}{{{}}}", matchers.join(","));
        Some(Query { name: name.to_owned(), exporter: entry.exporter, metrics, conditions, text })
    }

    /// The name of the catalogue's entry: the file's name in a bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose metrics these are.
    pub fn exporter(&self) -> Exporter {
        self.exporter
    }

    /// The PromQL.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a series of this name and with these labels is one that the query selects.
    pub fn selects(&self, metric: &str, labels: &BTreeMap<String, String>) -> bool {
        let value = |label: &str| labels.get(label).map(String::as_str).unwrap_or_default();
        self.metrics.iter().any(|known| known == metric)
            && self.conditions.iter().all(|condition| condition.holds(value(&condition.label)))
    }
}

fn conditions(entry: &Entry, namespace: &str, variants: &Variants) -> Vec<Condition> {
    let real = |label: &str| variants.label(entry.exporter, label).to_owned();
    let own = entry
        .shape
        .namespace_label()
        .map(|label| Condition { label: real(label), test: Test::Is(namespace.to_owned()) });
    let further = entry.shape.matchers().iter().map(|(label, condition)| {
        let test = match condition {
            Match::NotTheNamespace => Test::Not(namespace.to_owned()),
            Match::NoneOf(values) => Test::NoneOf(values.iter().map(|value| (*value).to_owned()).collect()),
        };
        Condition { label: real(label), test }
    });
    own.into_iter().chain(further).collect()
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
