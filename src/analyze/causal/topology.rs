//! Who depends on whom, as far as services go: from the service graph, and from series that are measured on a call.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::anomaly::{Kind, Place};
use crate::analyze::logs::digest::Digest;
use crate::analyze::series::prepare::Readings;
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

/// Hops that a failure is followed: deeper chains exist, but no service waits longer than its callers' time-outs.
const MAX_HOPS: u32 = 8;

/// Who calls whom.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    callees: BTreeMap<ServiceName, BTreeSet<ServiceName>>,
    /// Whose failures, and whose slowness, a series would show.
    watched: BTreeSet<(ServiceName, Kind)>,
    /// Whose own requests spans would show.
    traced: BTreeSet<ServiceName>,
    /// Every service that a source knows of.
    services: BTreeSet<ServiceName>,
}

impl Derived for Topology {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut out = Topology::default();
        for (service, workloads) in &snapshot.graph.backing {
            for workload in workloads {
                snapshot.graph.callees(workload).for_each(|callee| out.add(service, callee));
            }
        }
        for (caller, callee) in snapshot.graph.edges.keys() {
            // A caller without a Service in front of it is a service by its own name.
            if snapshot.graph.services_of(caller).next().is_none() {
                out.add(&ServiceName::new(&caller.namespace, &caller.name), callee);
            }
        }
        for reading in &snapshot.derived::<Readings>().0 {
            if let Place::Edge { caller, callee } = &reading.place {
                out.add(caller, callee);
            }
            let kind = match reading.meaning.kind {
                Kind::Availability => Kind::Errors,
                kind => kind,
            };
            // A share of successes that is never above 0 counts nothing.
            let counts = reading.ceiling.is_none_or(|all| reading.values.iter().any(|failed| *failed < all));
            out.services.extend(reading.service().cloned());
            out.watched.extend(reading.service().filter(|_| counts).map(|service| (service.clone(), kind)));
        }
        out.services.extend(snapshot.graph.backing.keys().cloned());
        out.traced.extend(snapshot.spans.services().iter().cloned());
        out.services.extend(out.traced.iter().cloned());
        out.services.extend(snapshot.derived::<Digest>().events.services.keys().cloned());
        let calls = out.callees.iter().flat_map(|(caller, callees)| callees.iter().chain([caller]));
        out.services.extend(calls.cloned());
        out
    }
}

impl Topology {
    /// How many services are known, by whatever source.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Notes that one calls another.
    pub fn add(&mut self, caller: &ServiceName, callee: &ServiceName) {
        if caller != callee {
            self.callees.entry(caller.clone()).or_default().insert(callee.clone());
        }
    }

    /// Whether a series would show trouble of this kind ([`Kind::Latency`], [`Kind::Errors`]) at a service.
    pub fn watches(&self, service: &ServiceName, kind: Kind) -> bool {
        self.watched.contains(&(service.clone(), kind))
    }

    /// Whether a series or a span would show trouble of this kind at a service.
    pub fn sees(&self, service: &ServiceName, kind: Kind) -> bool {
        self.watches(service, kind) || self.traced.contains(service)
    }

    /// Whether a series would show it anywhere if requests became slow or failed.
    pub fn watches_requests(&self) -> bool {
        self.watched.iter().any(|(_, kind)| matches!(kind, Kind::Latency | Kind::Errors))
    }

    /// What a service calls itself.
    pub fn callees(&self, service: &ServiceName) -> impl Iterator<Item = &ServiceName> {
        self.callees.get(service).into_iter().flatten()
    }

    /// Who calls a service.
    pub fn callers<'a>(&'a self, service: &'a ServiceName) -> impl Iterator<Item = &'a ServiceName> {
        self.callees.iter().filter(move |(_, called)| called.contains(service)).map(|(caller, _)| caller)
    }

    /// What may stand behind an address. A host's name of which nobody knows whom it calls is a load balancer's or a gateway's as a rule,
    /// and whoever calls it often calls by another name what it stands for. Services alone that say themselves whom they call.
    pub fn behind<'a>(&'a self, service: &'a ServiceName) -> BTreeSet<&'a ServiceName> {
        if !is_host(&service.name) || self.callees(service).next().is_some() {
            return BTreeSet::new();
        }
        let siblings = self.callers(service).flat_map(|caller| self.callees(caller));
        let stands = |one: &&ServiceName| {
            !is_host(&one.name)
                && self.callees(one).next().is_some()
                && self.callees(one).all(|callee| callee != service)
        };
        siblings.filter(stands).collect()
    }

    /// Everything that a service depends on, with the number of hops; itself not among it.
    pub fn dependencies(&self, service: &ServiceName) -> BTreeMap<ServiceName, u32> {
        let mut reached = BTreeMap::new();
        let mut layer = vec![service];
        for hops in 1..=MAX_HOPS {
            let mut next = vec![];
            for callee in layer.iter().flat_map(|one| self.callees(one)) {
                if callee != service && !reached.contains_key(callee) {
                    reached.insert(callee.clone(), hops);
                    next.push(callee);
                }
            }
            layer = next;
        }
        reached
    }
}

/// Whether a name is a host's and not a service's: words with dots between them.
fn is_host(name: &str) -> bool {
    name.contains('.') && name.split('.').all(|label| !label.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_have_their_distance_and_cycles_end() {
        let name = |text: &str| ServiceName::new("n", text);
        let mut topology = Topology::default();
        for (caller, callee) in [("a", "b"), ("b", "c"), ("c", "a"), ("a", "c")] {
            topology.add(&name(caller), &name(callee));
        }
        assert_eq!(topology.dependencies(&name("a")), [(name("b"), 1), (name("c"), 1)].into());
        assert_eq!(topology.callers(&name("c")).count(), 2);
    }

    #[test]
    fn an_address_stands_for_what_its_callers_call_by_another_name() {
        let name = |text: &str| ServiceName::new("n", text);
        let mut topology = Topology::default();
        for (caller, callee) in
            [("front", "lb-1.example.com"), ("front", "search"), ("search", "table"), ("front", "leaf")]
        {
            topology.add(&name(caller), &name(callee));
        }
        let (address, search) = (name("lb-1.example.com"), name("search"));
        assert_eq!(topology.behind(&address), [&search].into());
        assert!(topology.behind(&search).is_empty());
        // What calls the address itself stands in front of it.
        topology.add(&search, &address);
        assert!(topology.behind(&address).is_empty());
    }
}
