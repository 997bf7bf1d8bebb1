//! Whether a cause would produce what a symptom shows.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Effect, Finding, Role};
use crate::model::graph::Graph;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;

/// How closely a cause explains a symptom, from 0 (not at all) to 1 (it is exactly that).
pub type Closeness = f64;

/// The same Service or workload, failing in a way that the cause predicts.
const DIRECT: Closeness = 1.0;
/// Pods that do not run, seen as failing requests to their Service; a failing dependency, seen as failing calls.
const NEXT: Closeness = 0.8;
/// Each further hop of a failure towards the callers.
const HOP: Closeness = 0.85;
/// The same Service, failing in another way than predicted: a proxy's flag and an application's words rarely agree.
const OTHER_WAY: Closeness = 0.35;
/// What a failure further down leaves of a way of failing that a proxy decides at this very hop ([`OF_THE_HOP`]).
const HOP_DECIDES: Closeness = 0.2;
/// The same for an endpoint that is missing or refuses: a failing dependency can make pods unready, or get them ejected.
const HOP_LOSES_ENDPOINTS: Closeness = 0.4;

/// Ways of failing that the two ends of one hop decide by their own configuration. Nothing that fails further down makes a
/// proxy lose a route, refuse a certificate or inject a fault.
const OF_THE_HOP: &[&str] = &[
    "NC",
    "NR",
    "rbac",
    "jwt",
    "FI",
    "DI",
    "RL",
    "RLSE",
    "UAEX",
    "ext_authz",
    "tls",
    "direct_response",
    "blackhole",
    "UPE",
    "DPE",
    "dns",
];

/// Ways of failing of a callee that has no endpoint, or one that does not listen.
const OF_ENDPOINTS: &[&str] = &["UH", "refused"];

/// Answers, for one service graph, what explains what. Reachability is computed once for each Service.
#[derive(Debug)]
pub struct Explainer<'a> {
    graph: &'a Graph,
    /// Services reached from a Service, with the number of hops.
    reach: BTreeMap<ServiceName, BTreeMap<ServiceName, u32>>,
}

impl<'a> Explainer<'a> {
    /// An explainer over a graph.
    pub fn new(graph: &'a Graph) -> Self {
        let services: BTreeSet<&ServiceName> =
            graph.backing.keys().chain(graph.edges.keys().map(|(_, callee)| callee)).collect();
        let reach = services.iter().map(|service| ((*service).clone(), hops(graph, service))).collect();
        Explainer { graph, reach }
    }

    /// How closely `cause` explains `symptom`.
    pub fn explains(&self, cause: &Finding, symptom: &Finding) -> Closeness {
        if cause.id == symptom.id {
            return DIRECT;
        }
        let pairs = cause.effects.iter().flat_map(|c| symptom.effects.iter().map(move |s| (c, s)));
        pairs.map(|(c, s)| self.produces(c, s, cause.role)).fold(0.0, f64::max)
    }

    fn produces(&self, cause: &Effect, symptom: &Effect, role: Role) -> Closeness {
        match (cause, symptom) {
            (Effect::Pods { workload: a }, Effect::Pods { workload: b }) => {
                if a.same_object(b) {
                    DIRECT
                } else {
                    0.0
                }
            }
            (Effect::Pods { workload }, Effect::Requests { .. }) => self
                .graph
                .services_of(workload)
                .map(|own| self.propagated(own, symptom, NEXT))
                .fold(0.0, f64::max),
            (Effect::Requests { service: a, flags: x }, Effect::Requests { service: b, flags: y }) => {
                if a == b {
                    if x.is_empty() || y.is_empty() || x.iter().any(|flag| y.contains(flag)) {
                        DIRECT
                    } else if role == Role::Cause {
                        OTHER_WAY
                    } else {
                        0.0
                    }
                } else {
                    self.propagated(a, symptom, DIRECT)
                }
            }
            // A workload that cannot reach what it needs fails its own checks.
            (Effect::Requests { service, .. }, Effect::Pods { workload }) => {
                self.calls(workload, service) * 0.5
            }
            (Effect::Requests { service, .. }, Effect::Calls { workload }) => {
                self.calls(workload, service) * NEXT
            }
            (Effect::Calls { workload: a }, Effect::Calls { workload: b }) => {
                if a.same_object(b) {
                    DIRECT
                } else {
                    0.0
                }
            }
            (Effect::Calls { workload }, Effect::Requests { service, .. }) => {
                let own = self
                    .graph
                    .services_of(workload)
                    .map(|s| if s == service { NEXT } else { self.propagated(s, symptom, NEXT) });
                own.fold(self.calls(workload, service) * NEXT, f64::max)
            }
            (Effect::Pods { workload: a }, Effect::Calls { workload: b }) => {
                self.graph.services_of(a).map(|s| self.calls(b, s) * NEXT).fold(0.0, f64::max)
            }
            (Effect::Calls { workload: a }, Effect::Pods { workload: b }) => {
                if a.same_object(b) {
                    0.5
                } else {
                    0.0
                }
            }
        }
    }

    /// A failure of `from`, as callers of another Service feel it, which must depend on `from`. In some ways its requests
    /// fail only for reasons of their own hop.
    fn propagated(&self, from: &ServiceName, felt: &Effect, start: Closeness) -> Closeness {
        let Effect::Requests { service: to, flags } = felt else { return 0.0 };
        if from == to {
            return start;
        }
        let any = |words: &[&str]| flags.iter().any(|flag| words.contains(&flag.as_str()));
        let carried = if any(OF_THE_HOP) {
            HOP_DECIDES
        } else if any(OF_ENDPOINTS) {
            HOP_LOSES_ENDPOINTS
        } else {
            1.0
        };
        match self.reach.get(to).and_then(|reached| reached.get(from)) {
            Some(hops) => start * carried * HOP.powi(*hops as i32),
            None => 0.0,
        }
    }

    fn calls(&self, workload: &ObjectRef, service: &ServiceName) -> Closeness {
        if self.graph.callees(workload).any(|callee| callee == service) { 1.0 } else { 0.0 }
    }

    /// Whether `deep` lies among the dependencies of `service`.
    pub fn depends_on(&self, service: &ServiceName, deep: &ServiceName) -> bool {
        service != deep && self.reach.get(service).is_some_and(|reached| reached.contains_key(deep))
    }
}

/// Breadth first over callees: every Service reached, with its distance.
fn hops(graph: &Graph, from: &ServiceName) -> BTreeMap<ServiceName, u32> {
    let mut reached = BTreeMap::new();
    let mut layer = vec![from.clone()];
    let mut distance = 0;
    while !layer.is_empty() {
        distance += 1;
        let mut next = vec![];
        for service in &layer {
            for workload in graph.backing.get(service).into_iter().flatten() {
                for callee in graph.callees(workload) {
                    if callee != from && !reached.contains_key(callee) {
                        reached.insert(callee.clone(), distance);
                        next.push(callee.clone());
                    }
                }
            }
        }
        layer = next;
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::registry::RULES;
    use crate::model::graph::Provenance;

    fn chain() -> Graph {
        let mut graph = Graph::default();
        for name in ["front", "middle", "back"] {
            graph
                .backing
                .insert(ServiceName::new("n", name), [ObjectRef::new("Deployment", "n", name)].into());
        }
        for (from, to) in [("front", "middle"), ("middle", "back")] {
            graph.add(
                ObjectRef::new("Deployment", "n", from),
                ServiceName::new("n", to),
                Provenance::AccessLog,
            );
        }
        graph
    }

    fn finding(role: Role, name: &str, effect: Effect) -> Finding {
        let mut finding = Finding::new(RULES[0].meta(), ObjectRef::new("X", "n", name), &[]).effect(effect);
        finding.role = role;
        finding
    }

    #[test]
    fn failures_travel_towards_callers_and_never_back() {
        let graph = chain();
        let explainer = Explainer::new(&graph);
        let requests = |name: &str| Effect::requests(&ServiceName::new("n", name), &[]);
        let deep = finding(Role::Cause, "deep", requests("back"));
        let felt = finding(Role::Symptom, "felt", requests("front"));
        assert!(explainer.explains(&deep, &felt) > 0.5);
        assert_eq!(explainer.explains(&felt, &deep), 0.0);
        let pods = finding(Role::Cause, "pods", Effect::pods(&ObjectRef::new("Deployment", "n", "back")));
        assert!(explainer.explains(&pods, &felt) > 0.4);
    }

    #[test]
    fn what_one_hop_decides_does_not_come_from_further_down() {
        let graph = chain();
        let explainer = Explainer::new(&graph);
        let deep = finding(Role::Cause, "deep", Effect::requests(&ServiceName::new("n", "back"), &["5xx"]));
        let felt = |flags: &[&str]| {
            let symptom =
                finding(Role::Symptom, "felt", Effect::requests(&ServiceName::new("n", "middle"), flags));
            explainer.explains(&deep, &symptom)
        };
        assert!(felt(&["5xx"]) > 0.8);
        assert!(felt(&["UT", "timeout"]) > 0.8);
        assert!(felt(&["UH"]) < 0.4);
        assert!(felt(&["FI", "fault"]) < 0.3);
        assert!(felt(&["rbac"]) < 0.3);
    }

    #[test]
    fn another_flag_on_the_same_service_is_weak() {
        let graph = chain();
        let explainer = Explainer::new(&graph);
        let service = ServiceName::new("n", "back");
        let cause = finding(Role::Cause, "c", Effect::requests(&service, &["UH"]));
        let same = finding(Role::Symptom, "s", Effect::requests(&service, &["UH", "503"]));
        let other = finding(Role::Symptom, "o", Effect::requests(&service, &["UT"]));
        assert_eq!(explainer.explains(&cause, &same), 1.0);
        assert_eq!(explainer.explains(&cause, &other), OTHER_WAY);
    }
}
