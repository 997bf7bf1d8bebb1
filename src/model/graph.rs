//! The service graph: who calls whom, and how that is known.

use std::collections::{BTreeMap, BTreeSet};

use super::network::ServiceName;
use super::object::ObjectRef;

/// How an edge is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provenance {
    /// A proxy's access log holds requests on it.
    AccessLog,
    /// A series counts requests on it.
    Metrics,
    /// Spans of traces show calls on it.
    Trace,
    /// A log of the caller names the callee.
    Log,
    /// An environment variable, an argument or a ConfigMap of the caller names the callee.
    Environment,
    /// A route leads there.
    Route,
    /// The bundle's manifest says so.
    Manifest,
}

impl Provenance {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Provenance::AccessLog => "AccessLog",
            Provenance::Metrics => "Metrics",
            Provenance::Trace => "Trace",
            Provenance::Log => "Log",
            Provenance::Environment => "Environment",
            Provenance::Route => "Route",
            Provenance::Manifest => "Manifest",
        }
    }
}

/// One edge: a workload calls a Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edge {
    /// How it is known.
    pub provenance: BTreeSet<Provenance>,
    /// Requests that the caller's side saw.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Which source counted them; `None` where nothing did.
    pub counted: Option<Provenance>,
    /// What 95 of 100 of them took at most, in milliseconds, where that source tells.
    pub p95_ms: Option<f64>,
}

/// Requests of one edge, as one source counts them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counted {
    /// How many.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// How long some of them took, in milliseconds, and how many requests each stands for.
    pub took: Vec<(f64, f64)>,
}

/// Durations kept of one edge and source: a percentile needs no more.
const MAX_TOOK: usize = 4_096;

impl Counted {
    /// Counts one request that took so many milliseconds.
    pub fn add(&mut self, failed: bool, millis: f64) {
        self.requests += 1;
        self.failures += u64::from(failed);
        if self.took.len() < MAX_TOOK {
            self.took.push((millis, 1.0));
        }
    }

    /// Takes over another one's requests.
    pub fn extend(&mut self, other: Counted) {
        self.requests += other.requests;
        self.failures += other.failures;
        let room = MAX_TOOK.saturating_sub(self.took.len());
        self.took.extend(other.took.into_iter().take(room));
    }

    /// The duration below which this share (0 to 1) of the requests lies.
    fn took_at(&self, share: f64) -> Option<f64> {
        let mut sorted = self.took.clone();
        sorted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let all: f64 = sorted.iter().map(|(_, weight)| weight).sum();
        let mut below = 0.0;
        let reached = sorted.iter().find(|(_, weight)| {
            below += weight;
            below >= share * all
        });
        reached.or(sorted.last()).map(|(millis, _)| *millis)
    }
}

/// The service graph.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Edges by caller and callee.
    pub edges: BTreeMap<(ObjectRef, ServiceName), Edge>,
    /// The workloads behind each Service, in order.
    pub backing: BTreeMap<ServiceName, Vec<ObjectRef>>,
}

impl Graph {
    /// Adds an edge, or how else it is known.
    pub fn add(&mut self, caller: ObjectRef, callee: ServiceName, provenance: Provenance) {
        // A workload that names its own Service does not call itself for that.
        if provenance > Provenance::Metrics && self.backing.get(&callee).is_some_and(|w| w.contains(&caller))
        {
            return;
        }
        self.edges.entry((caller, callee)).or_default().provenance.insert(provenance);
    }

    /// Adds an edge with its requests. The source that counts them first is the one that is believed: two that see the same
    /// requests would count them twice.
    pub fn count(
        &mut self,
        caller: ObjectRef,
        callee: ServiceName,
        provenance: Provenance,
        counted: &Counted,
    ) {
        let key = (caller.clone(), callee.clone());
        self.add(caller, callee, provenance);
        let Some(edge) = self.edges.get_mut(&key).filter(|edge| edge.counted.is_none()) else { return };
        if counted.requests > 0 {
            edge.requests = counted.requests;
            edge.failures = counted.failures;
            edge.counted = Some(provenance);
            edge.p95_ms = counted.took_at(0.95);
        }
    }

    /// The Services that a workload calls.
    pub fn callees<'a>(&'a self, caller: &'a ObjectRef) -> impl Iterator<Item = &'a ServiceName> {
        self.edges.keys().filter(move |(from, _)| from.same_object(caller)).map(|(_, to)| to)
    }

    /// The workloads that call a Service.
    pub fn callers<'a>(&'a self, callee: &'a ServiceName) -> impl Iterator<Item = &'a ObjectRef> {
        self.edges.keys().filter(move |(_, to)| to == callee).map(|(from, _)| from)
    }

    /// The Services in front of a workload.
    pub fn services_of<'a>(&'a self, workload: &'a ObjectRef) -> impl Iterator<Item = &'a ServiceName> {
        self.backing
            .iter()
            .filter(move |(_, workloads)| workloads.iter().any(|w| w.same_object(workload)))
            .map(|(s, _)| s)
    }

    /// All Services that the workloads behind `from` call, directly or through others; `from` itself is not among them
    /// unless a cycle leads back to it.
    pub fn downstream(&self, from: &ServiceName) -> BTreeSet<ServiceName> {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(service) = next.pop() {
            for workload in self.backing.get(&service).into_iter().flatten() {
                for callee in self.callees(workload) {
                    if seen.insert(callee.clone()) {
                        next.push(callee.clone());
                    }
                }
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downstream_survives_cycles() {
        let mut graph = Graph::default();
        for name in ["a", "b", "c"] {
            graph
                .backing
                .insert(ServiceName::new("n", name), [ObjectRef::new("Deployment", "n", name)].into());
        }
        for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
            graph.add(
                ObjectRef::new("Deployment", "n", from),
                ServiceName::new("n", to),
                Provenance::Environment,
            );
        }
        assert_eq!(graph.downstream(&ServiceName::new("n", "a")).len(), 3);
    }

    #[test]
    fn one_source_counts_and_the_slowest_are_weighed() {
        let mut graph = Graph::default();
        let (caller, callee) = (ObjectRef::new("Deployment", "n", "a"), ServiceName::new("n", "b"));
        let counted = Counted { requests: 100, failures: 3, took: vec![(900.0, 6.0), (10.0, 94.0)] };
        graph.count(caller.clone(), callee.clone(), Provenance::AccessLog, &counted);
        graph.count(caller.clone(), callee.clone(), Provenance::Trace, &Counted { requests: 7, ..counted });
        let edge = &graph.edges[&(caller, callee)];
        assert_eq!((edge.requests, edge.failures, edge.p95_ms), (100, 3, Some(900.0)));
        assert_eq!((edge.counted, edge.provenance.len()), (Some(Provenance::AccessLog), 2));
    }

    #[test]
    fn naming_ones_own_service_is_no_call() {
        let mut graph = Graph::default();
        let (workload, service) = (ObjectRef::new("Deployment", "n", "a"), ServiceName::new("n", "a"));
        graph.backing.insert(service.clone(), [workload.clone()].into());
        graph.add(workload, service, Provenance::Log);
        assert!(graph.edges.is_empty());
    }
}
