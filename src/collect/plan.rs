//! From what was asked to what will be read: pure, so that every decision is tested without a cluster.

use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;

use super::budget::Budget;
use super::material::ManifestTarget;
use crate::model::selector::Selector;
use crate::model::time::Window;

/// A source that an investigation may read besides the objects of the Kubernetes API, which it always reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Logs of containers.
    Logs,
    /// Events.
    Events,
    /// Objects of service meshes and of the Gateway API.
    Mesh,
    /// Admin ports of proxies and of their control plane.
    Proxies,
    /// Metrics sources.
    Metrics,
}

impl Source {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Source; 5] =
        [Source::Logs, Source::Events, Source::Mesh, Source::Proxies, Source::Metrics];

    /// Its name, as a session's `collect.sources` and a gap's `source` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Logs => "Logs",
            Source::Events => "Events",
            Source::Mesh => "Mesh",
            Source::Proxies => "Proxies",
            Source::Metrics => "Metrics",
        }
    }

    /// The source with this name.
    pub fn parse(name: &str) -> Option<Source> {
        Source::ALL.into_iter().find(|source| source.as_str() == name)
    }
}

/// What is asked about inside the namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// Every Service and workload of the namespace.
    #[default]
    Namespace,
    /// These Services.
    Services(Vec<String>),
    /// These workloads: kind and name.
    Workloads(Vec<(String, String)>),
    /// The pods that this selector matches.
    Pods(Selector),
}

/// Whose configuration, logs and metrics may be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Whatever the API server allows: a person at their own command line.
    Any,
    /// The target's namespace and these, which have granted it. Others are known by name only.
    Only(BTreeSet<String>),
}

/// Who asks; hints are worded for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// The operator: what it lacks is granted by the chart's values.
    Operator,
    /// A person with a kubeconfig.
    Person,
}

/// How logs are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines of each container; the budget's figure where it is lower.
    pub tail_lines: u32,
    /// Bytes of each container; the budget's figure where it is lower.
    pub limit_bytes: usize,
    /// Whether the instance before the current one is read too.
    pub include_previous: bool,
    /// Only containers of these names; empty means all.
    pub containers: Vec<String>,
}

impl Default for LogOptions {
    fn default() -> Self {
        let budget = Budget::default();
        LogOptions {
            tail_lines: budget.log_lines_per_container,
            limit_bytes: budget.log_bytes_per_container,
            include_previous: true,
            containers: vec![],
        }
    }
}

/// What was asked, in plain words; a session's spec and the command line both become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The namespace asked about.
    pub namespace: String,
    /// What in it.
    pub target: Target,
    /// Hops on the service graph, both ways, that are looked at besides the target: 0 to 3.
    pub dependency_depth: u8,
    /// The sources to read; empty means all.
    pub sources: BTreeSet<Source>,
    /// How logs are read.
    pub logs: LogOptions,
    /// The span of time asked about; absent means the last hour.
    pub window: Option<Window>,
    /// Since when it fails, where somebody says so.
    pub onset: Option<Timestamp>,
    /// Whose data may be read.
    pub reach: Reach,
    /// Who asks.
    pub asker: Asker,
    /// The namespaces that the operator's installation watches; empty is all of them.
    pub watched: BTreeSet<String>,
}

impl Question {
    /// A question about a whole namespace with every default.
    pub fn about(namespace: impl Into<String>, asker: Asker) -> Self {
        let reach = match asker {
            Asker::Operator => Reach::Only(BTreeSet::new()),
            Asker::Person => Reach::Any,
        };
        Question {
            namespace: namespace.into(),
            target: Target::Namespace,
            dependency_depth: 1,
            sources: BTreeSet::new(),
            logs: LogOptions::default(),
            window: None,
            onset: None,
            reach,
            asker,
            watched: BTreeSet::new(),
        }
    }
}

/// The longest way along the service graph that is followed; farther, everything is a neighbour of everything.
pub const MAX_DEPTH: u8 = 3;
/// The span that is looked at where none is given.
pub const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// Prometheus' usual scrape interval in seconds; a finer step shows the same samples twice.
pub const SCRAPE_SECONDS: u32 = 15;

/// What a run reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The namespace asked about.
    pub namespace: String,
    /// What in it.
    pub target: Target,
    /// Hops on the service graph.
    pub depth: u8,
    /// The sources to read.
    pub sources: BTreeSet<Source>,
    /// How logs are read, within the budget.
    pub logs: LogOptions,
    /// The span of time.
    pub window: Window,
    /// Since when it fails, where somebody says so: within the window.
    pub onset: Option<Timestamp>,
    /// Seconds between samples of a series.
    pub step_seconds: u32,
    /// Whose data may be read.
    pub reach: Reach,
    /// Who asks.
    pub asker: Asker,
    /// The namespaces that the operator's installation watches; empty is all of them.
    pub watched: BTreeSet<String>,
    /// The clock of the run: `capturedAt` of the manifest.
    pub now: Timestamp,
}

/// Why a question cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The namespace is no name.
    #[error("\"{0}\" is not a name of a namespace: write lower-case letters, digits and '-'")]
    Namespace(String),
    /// A Service's or workload's name is no name.
    #[error("\"{0}\" is not a name of an object: write lower-case letters, digits, '-' and '.'")]
    Name(String),
    /// A target without a member, or a selector that matches everything by accident.
    #[error("the target names nothing: leave it out to look at the whole namespace")]
    Empty,
    /// The window ends before it starts, or has not begun.
    #[error(
        "the window {start} to {end} holds no time before now: give a start before its end and before now"
    )]
    Window {
        /// Its start.
        start: Timestamp,
        /// Its end.
        end: Timestamp,
    },
    /// The onset leaves nothing to compare with, or nothing to look at.
    #[error(
        "the onset {onset} lies outside the window {start} to {end}: give a window that begins before it, or leave the onset out"
    )]
    Onset {
        /// The onset.
        onset: Timestamp,
        /// The window's start.
        start: Timestamp,
        /// Its end.
        end: Timestamp,
    },
}

impl PlanError {
    /// A bounded word for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            PlanError::Namespace(_) | PlanError::Name(_) | PlanError::Empty => "InvalidTarget",
            PlanError::Window { .. } | PlanError::Onset { .. } => "InvalidWindow",
        }
    }
}

impl Plan {
    /// Plans a run. `now` is the clock of the run.
    ///
    /// Errors: the question cannot be answered as it stands; asking again gives the same error.
    pub fn new(question: Question, now: Timestamp, budget: &Budget) -> Result<Plan, PlanError> {
        let Question {
            namespace,
            target,
            dependency_depth,
            sources,
            logs,
            window,
            onset,
            mut reach,
            asker,
            watched,
        } = question;
        if !is_label(&namespace) {
            return Err(PlanError::Namespace(namespace));
        }
        check_target(&target)?;
        let window = clip(window, now, budget.window)?;
        if let Some(onset) = onset.filter(|onset| *onset <= window.start || *onset > window.end) {
            return Err(PlanError::Onset { onset, start: window.start, end: window.end });
        }
        if let Reach::Only(granted) = &mut reach {
            granted.insert(namespace.clone());
        }
        let sources = if sources.is_empty() { Source::ALL.into_iter().collect() } else { sources };
        let logs = LogOptions {
            tail_lines: logs.tail_lines.clamp(1, budget.log_lines_per_container),
            limit_bytes: logs.limit_bytes.clamp(1, budget.log_bytes_per_container),
            ..logs
        };
        Ok(Plan {
            namespace,
            target,
            depth: dependency_depth.min(MAX_DEPTH),
            sources,
            logs,
            step_seconds: step_seconds(window, budget.samples_per_series),
            window,
            onset,
            reach,
            asker,
            watched,
            now,
        })
    }

    /// Whether a source is to be read.
    pub fn reads(&self, source: Source) -> bool {
        self.sources.contains(&source)
    }

    /// Whether configuration, logs and metrics of a namespace may be read.
    pub fn reaches(&self, namespace: &str) -> bool {
        match &self.reach {
            Reach::Any => true,
            Reach::Only(namespaces) => namespaces.contains(namespace),
        }
    }

    /// The manifest's `target`: a workload or a selector is known there by its namespace only.
    pub fn manifest_target(&self) -> ManifestTarget {
        let services = match &self.target {
            Target::Services(names) => names.clone(),
            Target::Namespace | Target::Workloads(_) | Target::Pods(_) => vec![],
        };
        ManifestTarget { namespace: self.namespace.clone(), services }
    }
}

fn check_target(target: &Target) -> Result<(), PlanError> {
    let names: Vec<&String> = match target {
        Target::Namespace => return Ok(()),
        Target::Services(names) => names.iter().collect(),
        Target::Workloads(workloads) => workloads.iter().map(|(_, name)| name).collect(),
        Target::Pods(selector) if selector.is_empty() => return Err(PlanError::Empty),
        Target::Pods(_) => return Ok(()),
    };
    if names.is_empty() {
        return Err(PlanError::Empty);
    }
    match names.into_iter().find(|name| !is_subdomain(name)) {
        Some(name) => Err(PlanError::Name(name.clone())),
        None => Ok(()),
    }
}

/// The window that is looked at: not after now, and not longer than `longest`; of a longer one the newest part.
fn clip(window: Option<Window>, now: Timestamp, longest: Duration) -> Result<Window, PlanError> {
    let longest = SignedDuration::try_from(longest).unwrap_or(SignedDuration::MAX);
    let back = |from: Timestamp, by: SignedDuration| from.checked_sub(by).unwrap_or(Timestamp::UNIX_EPOCH);
    let Some(window) = window else {
        return Ok(Window { start: back(now, DEFAULT_WINDOW.min(longest)), end: now });
    };
    let end = window.end.min(now);
    if window.start >= end {
        return Err(PlanError::Window { start: window.start, end: window.end });
    }
    Ok(Window { start: window.start.max(back(end, longest)), end })
}

/// The step, a whole number of scrape intervals, with which a series of the window has no more samples than allowed.
fn step_seconds(window: Window, samples: u32) -> u32 {
    let wanted = u32::try_from(window.seconds()).unwrap_or(u32::MAX).div_ceil(samples.max(1));
    wanted.div_ceil(SCRAPE_SECONDS).max(1).saturating_mul(SCRAPE_SECONDS)
}

/// Whether a text is a DNS label, as a namespace's name is: it may then stand in a path, a query or a command.
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_subdomain(name) && !name.contains('.')
}

/// Whether a text is a DNS subdomain, as nearly every object's name is.
pub fn is_subdomain(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = name.bytes().next().is_some_and(good) && name.bytes().last().is_some_and(good);
    name.len() <= 253 && edges && name.bytes().all(|c| good(c) || c == b'-' || c == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn now() -> Timestamp {
        at("2026-11-21T10:00:00Z")
    }

    fn plan(question: Question) -> Result<Plan, PlanError> {
        Plan::new(question, now(), &Budget::default())
    }

    #[test]
    fn the_defaults_are_an_hour_and_every_source() {
        let plan = plan(Question::about("shop", Asker::Operator)).unwrap();
        assert_eq!(plan.window, Window { start: at("2026-11-21T09:00:00Z"), end: now() });
        assert_eq!(plan.step_seconds, 15);
        assert_eq!(plan.sources.len(), Source::ALL.len());
        assert!(
            plan.reaches("shop") && !plan.reaches("pay"),
            "the operator sees no other namespace ungranted"
        );
    }

    #[test]
    fn a_window_is_cut_to_what_can_be_known() {
        let mut question = Question::about("shop", Asker::Person);
        question.window = Some(Window { start: at("2026-11-01T00:00:00Z"), end: at("2026-12-01T00:00:00Z") });
        let planned = plan(question.clone()).unwrap();
        assert_eq!(planned.window, Window { start: at("2026-11-20T10:00:00Z"), end: now() });
        assert_eq!(planned.step_seconds, 360, "240 samples of a day");

        question.window = Some(Window { start: at("2026-11-22T00:00:00Z"), end: at("2026-11-23T00:00:00Z") });
        assert!(matches!(plan(question), Err(PlanError::Window { .. })));
    }

    #[test]
    fn an_onset_has_time_before_it() {
        let mut question = Question::about("shop", Asker::Person);
        question.onset = Some(at("2026-11-21T09:30:00Z"));
        assert_eq!(plan(question.clone()).unwrap().onset, question.onset);
        for outside in ["2026-11-21T09:00:00Z", "2026-11-21T10:00:01Z"] {
            question.onset = Some(at(outside));
            let message = plan(question.clone()).unwrap_err().to_string();
            assert!(
                message.contains("lies outside the window 2026-11-21T09:00:00Z to 2026-11-21T10:00:00Z"),
                "{message}"
            );
        }
    }

    #[test]
    fn names_that_could_leave_a_path_or_a_query_are_refused() {
        for bad in ["", "a/b", "../x", "a b", "A", "a\"", "-a", "a.b", &"a".repeat(64)] {
            let refused = plan(Question::about(bad, Asker::Person));
            assert_eq!(refused, Err(PlanError::Namespace(bad.to_owned())));
        }
        let mut question = Question::about("shop", Asker::Person);
        question.target = Target::Services(vec!["checkout".into(), "x?watch=1".into()]);
        assert_eq!(plan(question), Err(PlanError::Name("x?watch=1".into())));
    }

    #[test]
    fn an_empty_target_is_not_the_whole_namespace() {
        let mut question = Question::about("shop", Asker::Person);
        for target in [Target::Services(vec![]), Target::Workloads(vec![]), Target::Pods(Selector::default())]
        {
            question.target = target;
            assert_eq!(plan(question.clone()), Err(PlanError::Empty));
        }
    }

    #[test]
    fn wishes_end_at_the_budget() {
        let mut question = Question::about("shop", Asker::Operator);
        question.dependency_depth = 9;
        question.logs.tail_lines = u32::MAX;
        question.logs.limit_bytes = usize::MAX;
        let (plan, budget) = (plan(question).unwrap(), Budget::default());
        assert_eq!(plan.depth, MAX_DEPTH);
        assert_eq!(plan.logs.tail_lines, budget.log_lines_per_container);
        assert_eq!(plan.logs.limit_bytes, budget.log_bytes_per_container);
    }
}
