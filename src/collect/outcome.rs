//! What became of each collector, so that "why is it empty?" has an answer.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use super::plan::Asker;
use crate::model::gap::{Gap, GapReason};

/// How a collector ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CollectorState {
    /// All that was asked for was read.
    Succeeded,
    /// Some of it was read; the gaps say what was not.
    Partial,
    /// It was not asked for, or the run was cancelled before.
    Skipped,
    /// Nothing was read, for lack of rights.
    Denied,
    /// Nothing was read, for another reason.
    Failed,
    /// Nothing of this sort exists here.
    NotInstalled,
}

impl CollectorState {
    /// Its name, as it stands in status, reports and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            CollectorState::Succeeded => "Succeeded",
            CollectorState::Partial => "Partial",
            CollectorState::Skipped => "Skipped",
            CollectorState::Denied => "Denied",
            CollectorState::Failed => "Failed",
            CollectorState::NotInstalled => "NotInstalled",
        }
    }
}

/// One line of a session's `status.collectors`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectorOutcome {
    /// Which collector: `Workloads`, `Networking`, `Istio`, `Logs` …
    pub name: String,
    /// How it ended.
    pub state: CollectorState,
    /// Objects, events, logs or series that it gave.
    pub items: u64,
    /// Bytes that it read.
    pub bytes: u64,
    /// Why it did not succeed: a gap's reason; empty where it did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What to do to see more next time; empty where nothing can be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Whether all that is missing was never asked of this installation: a namespace that it does not watch, a source that
    /// it was not given. Such a run is complete.
    #[serde(skip)]
    pub as_installed: bool,
}

/// What one collector did, while it does it.
#[derive(Debug, Default)]
struct Tally {
    items: u64,
    bytes: u64,
    asked: u64,
    answered: u64,
    not_served: u64,
    gaps: Vec<Gap>,
    /// What is missing by the installation's own choice.
    chosen: Vec<Gap>,
}

/// One thing that could not be listed: told together with others of its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Miss {
    source: String,
    verb: &'static str,
    namespace: String,
    reason: GapReason,
}

/// Gathers what all collectors of a run did and missed. The same refusal for twenty kinds is one gap, not twenty.
#[derive(Debug)]
pub struct Ledger {
    asker: Asker,
    /// The namespaces that the installation watches; empty is all of them.
    watched: BTreeSet<String>,
    order: Vec<&'static str>,
    tallies: BTreeMap<&'static str, Tally>,
    told: BTreeSet<Gap>,
    misses: BTreeMap<Miss, BTreeSet<String>>,
    skipped: BTreeMap<&'static str, String>,
}

impl Ledger {
    /// An empty ledger that words its hints for `asker`.
    pub fn new(asker: Asker) -> Self {
        Ledger {
            asker,
            watched: BTreeSet::new(),
            order: vec![],
            tallies: BTreeMap::new(),
            told: BTreeSet::new(),
            misses: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// The same for an installation that watches these namespaces only: what is refused outside of them, was chosen.
    #[must_use]
    pub fn watching(self, watched: BTreeSet<String>) -> Self {
        Ledger { watched, ..self }
    }

    fn tally(&mut self, collector: &'static str) -> &mut Tally {
        if !self.order.contains(&collector) {
            self.order.push(collector);
        }
        self.tallies.entry(collector).or_default()
    }

    /// Something was asked and answered.
    pub fn got(&mut self, collector: &'static str, items: usize, bytes: u64) {
        let tally = self.tally(collector);
        tally.asked += 1;
        tally.answered += 1;
        tally.items += items as u64;
        tally.bytes += bytes;
    }

    /// A kind that this cluster does not serve.
    pub fn not_served(&mut self, collector: &'static str) {
        self.tally(collector).not_served += 1;
    }

    /// The collector was not asked to do anything.
    pub fn skip(&mut self, collector: &'static str, why: impl Into<String>) {
        self.tally(collector);
        self.skipped.insert(collector, why.into());
    }

    /// Something was asked for and not answered, or answered in part.
    pub fn gap(&mut self, collector: &'static str, gap: Gap) {
        self.told.insert(gap.clone());
        let tally = self.tally(collector);
        tally.asked += 1;
        if gap.reason == GapReason::NotConfigured {
            tally.chosen.push(gap);
        } else {
            tally.gaps.push(gap);
        }
    }

    /// A verb on a resource in a namespace (empty: cluster-wide) failed. `resource` is `deployments.apps`.
    pub fn miss(
        &mut self,
        collector: &'static str,
        source: &str,
        verb: &'static str,
        resource: &str,
        namespace: &str,
        reason: GapReason,
    ) {
        let hint = hint(self.asker, verb, resource, namespace, reason);
        // The gap itself is told with others of its namespace; the tally keeps it for the collector's own line.
        let outside = !self.watched.is_empty() && !self.watched.contains(namespace);
        let tally = self.tally(collector);
        tally.asked += 1;
        let gap = Gap::new(source, what(verb, resource, namespace), reason).hint(hint);
        if outside && reason == GapReason::Forbidden {
            tally.chosen.push(gap);
        } else {
            tally.gaps.push(gap);
        }
        let key = Miss { source: source.to_owned(), verb, namespace: namespace.to_owned(), reason };
        self.misses.entry(key).or_default().insert(resource.to_owned());
    }

    /// How many things were refused so far.
    pub fn refusals(&self) -> usize {
        let gaps = self.tallies.values().flat_map(|tally| tally.gaps.iter().chain(&tally.chosen));
        gaps.filter(|gap| gap.reason == GapReason::Forbidden).count()
    }

    /// Every gap, those of one namespace and reason joined, in a stable order.
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps = self.told.clone();
        for (miss, resources) in &self.misses {
            let joined = resources.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            gaps.insert(
                Gap::new(&miss.source, what(miss.verb, &joined, &miss.namespace), miss.reason).hint(hint(
                    self.asker,
                    miss.verb,
                    &joined,
                    &miss.namespace,
                    miss.reason,
                )),
            );
        }
        gaps.into_iter().collect()
    }

    /// One line for each collector, in the order in which they began.
    pub fn outcomes(&self) -> Vec<CollectorOutcome> {
        self.order.iter().filter_map(|name| Some(self.outcome(name, self.tallies.get(name)?))).collect()
    }

    fn outcome(&self, name: &str, tally: &Tally) -> CollectorOutcome {
        let missing = tally.gaps.iter().min_by_key(|gap| gap.reason);
        let worst = missing.or_else(|| tally.chosen.iter().min_by_key(|gap| gap.reason));
        let state = match worst {
            Some(_) if tally.answered > 0 && missing.is_none() => CollectorState::Succeeded,
            Some(_) if tally.answered > 0 => CollectorState::Partial,
            Some(gap) if gap.reason == GapReason::Forbidden => CollectorState::Denied,
            Some(gap) if matches!(gap.reason, GapReason::Absent | GapReason::NotConfigured) => {
                CollectorState::NotInstalled
            }
            Some(_) => CollectorState::Failed,
            None if tally.asked > 0 => CollectorState::Succeeded,
            None if tally.not_served > 0 => CollectorState::NotInstalled,
            None => CollectorState::Skipped,
        };
        let skipped = self.skipped.get(name).cloned().unwrap_or_default();
        CollectorOutcome {
            name: name.to_owned(),
            state,
            items: tally.items,
            bytes: tally.bytes,
            reason: worst.map_or(skipped, |gap| gap.reason.as_str().to_owned()),
            hint: worst.map(|gap| gap.hint.clone()).unwrap_or_default(),
            as_installed: missing.is_none() && worst.is_some(),
        }
    }
}

/// `list deployments.apps in namespace shop`.
fn what(verb: &str, resource: &str, namespace: &str) -> String {
    if namespace.is_empty() {
        format!("{verb} {resource} of the cluster")
    } else {
        format!("{verb} {resource} in namespace {namespace}")
    }
}

/// What to do about a refusal.
fn hint(asker: Asker, verb: &str, resource: &str, namespace: &str, reason: GapReason) -> String {
    let of = what(verb, resource, namespace);
    match (reason, asker, resource) {
        (GapReason::Forbidden, Asker::Operator, "pods/log") => {
            format!("grant {of}: chart value rbac.logNamespaces")
        }
        (GapReason::Forbidden, Asker::Operator, "pods/portforward") => {
            format!("grant {of}: chart value rbac.proxyNamespaces")
        }
        (GapReason::Forbidden, Asker::Operator, _) => {
            let value = if namespace.is_empty() { "rbac.clusterScoped" } else { "watchNamespaces" };
            format!("grant {of}: chart value {value}; meshscope rbac prints the whole role")
        }
        (GapReason::Forbidden, Asker::Person, _) => format!("ask for the right to {of}"),
        (GapReason::TimedOut, ..) => "run it again; if it stays, the API server is overloaded".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Asker::Operator)
    }

    #[test]
    fn the_same_refusal_is_told_once() {
        let mut ledger = ledger();
        for resource in ["pods", "deployments.apps"] {
            ledger.miss("Workloads", "Objects", "list", resource, "shop", GapReason::Forbidden);
        }
        let gaps = ledger.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!(gaps[0].what, "list deployments.apps, pods in namespace shop");
        assert!(gaps[0].hint.contains("meshscope rbac"));
        assert_eq!(ledger.outcomes()[0].state, CollectorState::Denied);
    }

    #[test]
    fn a_refused_log_names_the_value_of_the_chart() {
        let mut ledger = ledger();
        ledger.miss("Logs", "Logs", "get", "pods/log", "shop", GapReason::Forbidden);
        let outcome = ledger.outcomes().remove(0);
        assert_eq!(outcome.hint, "grant get pods/log in namespace shop: chart value rbac.logNamespaces");
        assert_eq!((outcome.state, outcome.reason.as_str()), (CollectorState::Denied, "Forbidden"));
    }

    #[test]
    fn another_refusal_names_the_value_of_the_chart_too() {
        let mut ledger = ledger();
        ledger.miss("Cluster", "Objects", "list", "nodes", "", GapReason::Forbidden);
        ledger.miss("Istio", "Mesh", "list", "sidecars.networking.istio.io", "mesh", GapReason::Forbidden);
        let hints: Vec<String> = ledger.outcomes().into_iter().map(|outcome| outcome.hint).collect();
        assert!(
            hints[0].starts_with("grant list nodes of the cluster: chart value rbac.clusterScoped;"),
            "{hints:?}"
        );
        assert!(hints[1].contains("in namespace mesh: chart value watchNamespaces;"), "{hints:?}");
    }

    #[test]
    fn what_an_installation_does_not_watch_does_not_make_it_incomplete() {
        let mut ledger = ledger().watching(["shop".to_owned()].into());
        ledger.got("Events", 3, 100);
        ledger.miss("Events", "Events", "list", "events", "default", GapReason::Forbidden);
        ledger.miss("Cluster", "Objects", "list", "nodes", "", GapReason::Forbidden);
        ledger.miss("Logs", "Logs", "get", "pods/log", "shop", GapReason::Forbidden);
        let outcomes = ledger.outcomes();
        let told: Vec<_> = outcomes.iter().map(|o| (o.state, o.as_installed, o.hint.is_empty())).collect();
        let expected = [
            (CollectorState::Succeeded, true, false),
            (CollectorState::Denied, true, false),
            (CollectorState::Denied, false, false),
        ];
        assert_eq!(told, expected);
        assert_eq!(ledger.gaps().len(), 3, "each is still told");
    }

    #[test]
    fn every_state_is_told_apart() {
        let mut ledger = ledger();
        ledger.got("Workloads", 3, 100);
        ledger.got("Networking", 1, 10);
        ledger.miss(
            "Networking",
            "Objects",
            "list",
            "ingresses.networking.k8s.io",
            "shop",
            GapReason::TimedOut,
        );
        ledger.not_served("Istio");
        ledger.skip("Logs", "not asked for");
        ledger.gap("Metrics", Gap::new("Metrics", "no source", GapReason::NotConfigured));
        ledger.gap("Events", Gap::new("Events", "events", GapReason::Failed));
        let states: Vec<_> = ledger.outcomes().into_iter().map(|o| (o.name, o.state)).collect();
        let expected = [
            ("Workloads", CollectorState::Succeeded),
            ("Networking", CollectorState::Partial),
            ("Istio", CollectorState::NotInstalled),
            ("Logs", CollectorState::Skipped),
            ("Metrics", CollectorState::NotInstalled),
            ("Events", CollectorState::Failed),
        ];
        assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)));
    }
}
