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
}

/// The service graph.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Edges by caller and callee.
    pub edges: BTreeMap<(ObjectRef, ServiceName), Edge>,
    /// The workloads behind each Service.
    pub backing: BTreeMap<ServiceName, BTreeSet<ObjectRef>>,
}

impl Graph {
    /// Adds an edge, or what else is known of it.
    pub fn add(
        &mut self,
        caller: ObjectRef,
        callee: ServiceName,
        provenance: Provenance,
        requests: u64,
        failures: u64,
    ) {
        // A workload that names its own Service does not call itself for that.
        if provenance > Provenance::Metrics && self.backing.get(&callee).is_some_and(|w| w.contains(&caller))
        {
            return;
        }
        let edge = self.edges.entry((caller, callee)).or_default();
        edge.provenance.insert(provenance);
        edge.requests += requests;
        edge.failures += failures;
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
                0,
                0,
            );
        }
        assert_eq!(graph.downstream(&ServiceName::new("n", "a")).len(), 3);
    }

    #[test]
    fn naming_ones_own_service_is_no_call() {
        let mut graph = Graph::default();
        let (workload, service) = (ObjectRef::new("Deployment", "n", "a"), ServiceName::new("n", "a"));
        graph.backing.insert(service.clone(), [workload.clone()].into());
        graph.add(workload, service, Provenance::Log, 0, 0);
        assert!(graph.edges.is_empty());
    }
}
