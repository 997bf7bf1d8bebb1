//! PLAT114.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::event::Event;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A node under pods of a workload went away and came back, several times or by a restart.
    ///
    /// ## What it detects
    /// A node with pods of a wanted namespace that became not ready at least twice in the time that is looked at and is ready between,
    /// or that was restarted.
    /// ## Why it matters
    /// While a node is not ready its pods are taken out of their Services; a restart ends all of them at once. Looked at in between,
    /// everything is well.
    /// ## Evidence
    /// The events `NodeNotReady`, `NodeReady` and `Rebooted` about the node.
    /// ## How to confirm
    /// `changes(kube_node_status_condition{condition="Ready",status="true"}[1h])` for the node.
    /// ## How to fix
    /// Look at the kubelet and the container runtime of the node, its load and its network to the control plane; keep pods away until
    /// it is healed.
    /// ## False positives
    /// A node that is not ready now is another rule's (PLAT106); one that joined the cluster became ready once and never not ready.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/architecture/nodes/#condition>
    NodeFlapping {
        code: "PLAT114", name: "node-flapping", family: Platform, severity: Warning,
        needs: [Events, Status], aliases: ["K8S-NODE"],
    }
}

/// A node that comes and goes.
#[derive(Debug)]
pub struct Fact<'a> {
    node: &'a str,
    losses: i64,
    reboots: i64,
    events: Vec<&'a Event>,
    pods: Vec<&'a Pod>,
}

/// Once is an incident of its own, and over.
const MANY: i64 = 2;

impl Check for NodeFlapping {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut by_node: BTreeMap<&str, (i64, i64, Vec<&Event>)> = BTreeMap::new();
        for event in
            snapshot.events.iter().filter(|e| e.about.kind == "Node" && common::recent(snapshot, e.last))
        {
            let entry = match event.reason.as_str() {
                "NodeNotReady" | "Rebooted" => by_node.entry(event.about.name.as_str()).or_default(),
                _ => continue,
            };
            if event.reason == "Rebooted" {
                entry.1 += event.count;
            } else {
                entry.0 += event.count;
            }
            entry.2.push(event);
        }
        by_node.retain(|_, (losses, reboots, _)| *losses >= MANY || *reboots > 0);
        let mut out = vec![];
        for (node, (losses, reboots, events)) in by_node {
            // A pod that was made after it did not live through it.
            let last = events.iter().filter_map(|e| e.last).max();
            let on = |pod: &&Pod| {
                pod.node == node
                    && !pod.ended()
                    && snapshot.in_scope(pod.object.namespace())
                    && pod.object.created.is_none_or(|made| last.is_none_or(|at| made <= at))
            };
            let pods: Vec<&Pod> = snapshot.pods.iter().filter(on).collect();
            if !pods.is_empty() {
                out.push(Fact { node, losses, reboots, events, pods });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", fact.node) };
        let owners: BTreeSet<ObjectRef> = fact.pods.iter().map(|pod| snapshot.owner(pod)).collect();
        let before = fact.pods.iter().flat_map(|pod| snapshot.services_before_pod(pod));
        let services: BTreeSet<ServiceName> = before.map(|s| s.service_name()).collect();
        let mut what = vec![];
        if fact.losses > 0 {
            what.push(format!("became not ready {} times", fact.losses));
        }
        if fact.reboots > 0 {
            what.push("was restarted".to_owned());
        }
        let what = what.join(" and ");
        let name = quote(fact.node);
        Finding::new(Self::META, node.field("status.conditions[Ready]"), &[])
            .title(format!("Node {} {what}, with {} on it", fact.node, common::plural(fact.pods.len(), "pod")))
            .message(format!(
                "Node {} {what} in the time that is looked at. {} run on it: each time they were taken out of their Services, or ended.",
                fact.node,
                common::plural(fact.pods.len(), "pod")
            ))
            .mechanism(if fact.losses >= MANY { "node flapping between ready and not ready" } else { "node restarted" })
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(services.iter().next().cloned())
            .evidences(fact.events.iter().take(3).map(|e| common::event_evidence(e)))
            .onset(fact.events.iter().filter_map(|e| e.first).min())
            .effects(owners.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
            .remedy(Remedy::commands(
                "Look at the node's kubelet and container runtime, its memory and its network to the control plane",
                vec![common::describe_command(&node)],
                vec![],
            ))
            .remedy(
                Remedy::commands(
                    "Keep new pods away from it until it is healed",
                    vec![format!("kubectl cordon {name}")],
                    vec![format!("kubectl uncordon {name}")],
                )
                .risk(Risk::Medium),
            )
            .prevention(Prevention::alert(
                "Alert when a node comes and goes",
                format!("changes(kube_node_status_condition{{node=\"{}\",condition=\"Ready\",status=\"true\"}}[15m]) > 2", fact.node),
            ))
            .prevention(Prevention::of("Setting", "Spread replicas over nodes (topologySpreadConstraints), so that one node takes no Service with it"))
    }
}
