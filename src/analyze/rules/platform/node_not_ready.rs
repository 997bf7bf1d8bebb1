//! PLAT106.

use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, Pod, conditions};

crate::rule! {
    /// A node under pods of a workload is not ready, or under pressure.
    ///
    /// ## What it detects
    /// A Node with pods of a wanted namespace on it whose condition `Ready` is not true, or which reports pressure of memory, disk or
    /// process numbers, an unavailable network, or one of the problems that a node problem detector reports.
    /// ## Why it matters
    /// Pods of a node that is not ready are taken out of their Services and, after five minutes, made anew elsewhere; under pressure
    /// the kubelet evicts pods.
    /// ## Evidence
    /// The node's conditions, and the pods on it.
    /// ## How to confirm
    /// `kubectl describe node NODE` shows the conditions and the kubelet's last heartbeat.
    /// ## How to fix
    /// Bring the kubelet or the machine back; or keep new pods away (`kubectl cordon`) and move those that are there.
    /// ## False positives
    /// A node without pods of wanted namespaces, and one that was cordoned on purpose and is well.
    /// ## References
    /// <https://kubernetes.io/docs/reference/node/node-status/>
    NodeNotReady {
        code: "PLAT106", name: "node-not-ready", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-NODE"],
    }
}

/// A node that is not well, with pods that matter.
#[derive(Debug)]
pub struct Fact<'a> {
    node: &'a Object,
    condition: Condition,
    pods: Vec<&'a Pod>,
}

impl Check for NodeNotReady {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let bad: BTreeMap<&str, (&Object, Condition)> = snapshot
            .objects_of("Node")
            .filter_map(|node| Some((node.name(), (node, unwell(node)?))))
            .collect();
        if bad.is_empty() {
            return vec![];
        }
        let mut pods: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
        for pod in snapshot.pods.iter().filter(|p| snapshot.in_scope(p.object.namespace()) && !p.ended()) {
            if bad.contains_key(pod.node.as_str()) {
                pods.entry(pod.node.as_str()).or_default().push(pod);
            }
        }
        pods.into_iter()
            .filter_map(|(name, pods)| {
                let (node, condition) = bad.get(name)?;
                Some(Fact { node, condition: condition.clone(), pods })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (node, condition) = (&fact.node.reference, &fact.condition);
        let ready = condition.kind == "Ready";
        let owners: BTreeSet<ObjectRef> = fact.pods.iter().map(|pod| snapshot.owner(pod)).collect();
        let services: BTreeSet<ServiceName> = fact
            .pods
            .iter()
            .flat_map(|pod| snapshot.services_before_pod(pod))
            .map(|s| s.service_name())
            .collect();
        let names = owners.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let what = if ready {
            format!("is not ready ({})", why(condition))
        } else {
            format!("reports {}", condition.kind)
        };
        let down = fact.pods.iter().filter(|pod| !pod.ready()).count();
        let subject = node.field(format!("status.conditions[{}]", condition.kind));
        let name = quote(&node.name);
        let severity = match (ready, down) {
            (_, 0) => Severity::Warning,
            (true, _) => Severity::Error,
            (false, _) => Severity::Warning,
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Node {} {what}, with {} on it", node.name, common::plural(fact.pods.len(), "pod")))
            .message(format!(
                "Node {} {what}; {} run on it ({names}), and {down} of them are not ready.",
                node.name,
                common::plural(fact.pods.len(), "pod")
            ))
            .mechanism(if ready { "node not ready" } else { "node under pressure" })
            .severity(severity)
            .role(Role::Cause, Confidence::Observed)
            .service(services.iter().next().cloned())
            .evidence(Evidence::object(&subject, format!("{}: {}", condition.status, condition.reason)).excerpt(&condition.message).at(condition.since))
            .evidences(fact.pods.iter().take(3).map(|pod| Evidence::object(&pod.object.reference, format!("on node {}, {}", node.name, if pod.ready() { "ready" } else { "not ready" }))))
            .onset(condition.since)
            .effects(owners.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
            .remedy(Remedy::commands("Look at the node's conditions and at its kubelet (its log, its disk, its certificate), and bring it back", vec![common::describe_command(node)], vec![]))
            .remedy(
                Remedy::commands(
                    "Keep new pods away from it, and move those that are there",
                    vec![format!("kubectl cordon {name}"), format!("kubectl drain {name} --ignore-daemonsets --delete-emptydir-data")],
                    vec![format!("kubectl uncordon {name}")],
                )
                .risk(Risk::High),
            )
            .prevention(Prevention::alert(
                "Alert when a node is not ready or under pressure",
                format!("kube_node_status_condition{{node=\"{0}\",condition=\"Ready\",status=\"true\"}} == 0 or kube_node_status_condition{{node=\"{0}\",condition=~\".*Pressure\",status=\"true\"}} == 1", node.name),
            ))
            .prevention(Prevention::of("Setting", "Spread replicas over nodes (topologySpreadConstraints), so that one node takes no Service with it"))
    }
}

/// What a node's condition `Ready` says, in our words where they are known.
fn why(condition: &Condition) -> &str {
    let says = [
        ("PLEG is not healthy", "its kubelet cannot list containers in time: the runtime hangs"),
        ("container runtime is down", "its container runtime is down"),
        ("stopped posting node status", "its kubelet does not report: machine, kubelet or network are down"),
        ("cni plugin not initialized", "its network plugin is not ready"),
        ("NetworkPluginNotReady", "its network plugin is not ready"),
        ("runtime network not ready", "its network plugin is not ready"),
    ];
    let known = says.into_iter().find(|(words, _)| condition.message.contains(words));
    known.map_or(condition.reason.as_str(), |(_, what)| what)
}

/// The condition that says a node is not well: not ready first.
fn unwell(node: &Object) -> Option<Condition> {
    let all = conditions(node.body.list("status.conditions"));
    let not_ready = all.iter().find(|c| c.kind == "Ready" && c.status != "True");
    let pressure = all.iter().find(|c| {
        c.status == "True"
            && matches!(
                c.kind.as_str(),
                "MemoryPressure"
                    | "DiskPressure"
                    | "PIDPressure"
                    | "NetworkUnavailable"
                    // What a node problem detector adds.
                    | "KernelDeadlock"
                    | "ReadonlyFilesystem"
                    | "FrequentKubeletRestart"
                    | "FrequentContainerdRestart"
                    | "FrequentDockerRestart"
                    | "FrequentUnregisterNetDevice"
                    | "CorruptDockerOverlay2"
            )
    });
    not_ready.or(pressure).cloned()
}
