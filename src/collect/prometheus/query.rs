//! One query: a selector of series that always carries its namespace.

use super::catalogue::{Entry, Match, Subject};
use super::escape::{quote, quote_any};

/// A query of the catalogue, for one namespace. There is no other way to make one, so none goes beyond its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    name: String,
    text: String,
}

impl Query {
    /// All metrics of a catalogue entry in one namespace.
    pub fn new(entry: &Entry, namespace: &str) -> Self {
        Query { name: entry.name.to_owned(), text: render(entry, entry.metrics, namespace, None) }
    }

    /// The same, of these subjects only (pods or workloads, as the entry's [`Subject`] says). `None` where the entry's
    /// series belong to no subject of this sort.
    pub fn about<'a>(
        entry: &Entry,
        namespace: &str,
        subjects: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let label = entry.subject.label()?;
        let matcher = format!("{label}=~{}", quote_any(subjects));
        Some(Query {
            name: entry.name.to_owned(),
            text: render(entry, entry.metrics, namespace, Some(&matcher)),
        })
    }

    /// The same query for each metric of its own, for an answer that was too large as a whole.
    pub fn split(entry: &Entry, namespace: &str) -> Vec<Self> {
        let one = |metric: &&'static str| Query {
            name: (*metric).to_owned(),
            text: render(entry, &[*metric], namespace, None),
        };
        if entry.metrics.len() > 1 { entry.metrics.iter().map(one).collect() } else { vec![] }
    }

    /// The name of the catalogue's entry: the file's name in a bundle.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The PromQL.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn render(entry: &Entry, metrics: &[&str], namespace: &str, about: Option<&str>) -> String {
    let mut matchers = vec![format!("{}={}", entry.namespace_label, quote(namespace))];
    let metric = match metrics {
        [one] => one,
        many => {
            matchers.push(format!("__name__=~{}", quote_any(many.iter().copied())));
            ""
        }
    };
    for (label, condition) in entry.matchers {
        matchers.push(match condition {
            Match::Is(value) => format!("{label}={}", quote(value)),
            Match::Not(value) => format!("{label}!={}", quote(value)),
            Match::NotTheNamespace => format!("{label}!={}", quote(namespace)),
            Match::NoneOf(values) => format!("{label}!~{}", quote_any(values.iter().copied())),
        });
    }
    matchers.extend(about.map(str::to_owned));
    format!("{metric}{{{}}}", matchers.join(","))
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
