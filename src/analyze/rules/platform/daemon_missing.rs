//! PLAT124.

use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::{Snapshot, is_system_namespace};
use crate::model::workload::Workload;

crate::rule! {
    /// A DaemonSet does not run where it should, or runs where it should not.
    ///
    /// ## What it detects
    /// A DaemonSet of which pods are missing or not ready on nodes (`numberUnavailable`, or fewer scheduled than wanted), or that has
    /// pods on nodes that its selector or the nodes' taints no longer allow (`numberMisscheduled`). Of the platform's own DaemonSets
    /// those that carry the network (proxies, network plug-ins, name-server caches) on nodes on which wanted pods run.
    /// ## Why it matters
    /// What a DaemonSet does, it does for the pods beside it: without the network's daemon connections from that node fail or miss
    /// new endpoints, without an agent logs and metrics of that node are missing.
    /// ## Evidence
    /// The DaemonSet's status, and the nodes without a ready pod of it.
    /// ## How to confirm
    /// `kubectl get pods -o wide` of the DaemonSet against `kubectl get nodes`; `kubectl describe daemonset NAME`.
    /// ## How to fix
    /// Read why the pod of that node does not start; add the toleration that a new taint asks for; correct `nodeSelector`.
    /// ## False positives
    /// A rollout in progress has unavailable pods, one node after the other: what was rolled out within five minutes is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>
    DaemonMissing {
        code: "PLAT124", name: "daemon-missing-on-nodes", family: Platform, severity: Warning,
        needs: [Status], aliases: ["K8S-DS-SPREAD"],
    }
}

/// A rollout takes its time.
const ROLLOUT_SECONDS: f64 = 300.0;
/// Parts of names of DaemonSets that carry the network.
const NETWORK: &[&str] = &[
    "kube-proxy",
    "cni",
    "calico",
    "cilium",
    "flannel",
    "weave",
    "antrea",
    "kindnet",
    "local-dns",
    "ztunnel",
    "aws-node",
];

/// What is wrong with where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// So many pods of so many are not there or not ready.
    Missing(i64, i64),
    /// So many pods run where they should not.
    Misplaced(i64),
}

/// A DaemonSet that does not run where it should.
#[derive(Debug)]
pub struct Fact<'a> {
    set: &'a Workload,
    wrong: Wrong,
    /// Nodes without a ready pod of it, as far as they are known.
    nodes: BTreeSet<String>,
    /// Wanted workloads on them, where it carries the network.
    victims: BTreeSet<ObjectRef>,
}

impl Check for DaemonMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for set in snapshot.workloads.iter().filter(|w| w.reference().kind == "DaemonSet") {
            let system = is_system_namespace(set.object.namespace());
            let network = NETWORK.iter().any(|name| set.object.name().contains(name));
            let own = snapshot.in_scope(set.object.namespace());
            if !(own || (system && network)) || set.object.deleted.is_some() {
                continue;
            }
            let Some(wrong) = wrong(set) else { continue };
            let rolled = snapshot
                .changes
                .iter()
                .rev()
                .find(|c| c.subject.same_object(set.reference()))
                .map(|c| c.time);
            let young = rolled
                .max(set.object.created)
                .is_some_and(|at| common::seconds_between(at, snapshot.now) < ROLLOUT_SECONDS);
            if young && matches!(wrong, Wrong::Missing(..)) {
                continue;
            }
            let nodes = without(snapshot, set);
            let victims: BTreeSet<ObjectRef> = match wrong {
                Wrong::Missing(..) if network => snapshot
                    .pods
                    .iter()
                    .filter(|pod| {
                        nodes.contains(&pod.node) && !pod.ended() && snapshot.in_scope(pod.object.namespace())
                    })
                    .map(|pod| snapshot.owner(pod))
                    .filter(|owner| !owner.same_object(set.reference()))
                    .collect(),
                _ => BTreeSet::new(),
            };
            if own || !victims.is_empty() {
                out.push(Fact { set, wrong, nodes, victims });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let r = fact.set.reference();
        let list = fact.nodes.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let on = if list.is_empty() { String::new() } else { format!(" (node {list})") };
        let (title, why, field) = match fact.wrong {
            Wrong::Missing(missing, wanted) => (
                format!("{r} runs on {} of {wanted} nodes{on}", wanted - missing),
                format!(
                    "{missing} of the {wanted} pods that {r} should have, one on each node, are missing or not ready{on}"
                ),
                "spec.template",
            ),
            Wrong::Misplaced(count) => (
                format!(
                    "{r} has {} where none should be",
                    common::plural(count.unsigned_abs() as usize, "pod")
                ),
                format!(
                    "{count} pods of {r} run on nodes that its nodeSelector, its affinity or the nodes' taints do not allow any more; they stay until somebody deletes them"
                ),
                "spec.template.spec.nodeSelector",
            ),
        };
        let network = !fact.victims.is_empty();
        let mut message = why;
        if network {
            let names = fact.victims.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            message += &format!(
                ". It carries the network there: connections of {names} on these nodes depend on it"
            );
        }
        message.push('.');
        let value = |field: &str| fact.set.status_count(field).unwrap_or_default();
        let mut finding = Finding::new(Self::META, r.field(field), &[])
            .title(title)
            .message(message)
            .mechanism(match fact.wrong {
                Wrong::Missing(..) => "DaemonSet unavailable on nodes",
                Wrong::Misplaced(_) => "DaemonSet misscheduled",
            })
            .severity(if network { Severity::Error } else { Severity::Warning })
            // Why its pods do not start is said of the pods.
            .role(if network { Role::Cause } else { Role::Symptom }, Confidence::Observed)
            .evidence(Evidence::object(
                &r.field("status"),
                format!(
                    "desired {}, current {}, ready {}, unavailable {}, misscheduled {}",
                    value("desiredNumberScheduled"),
                    value("currentNumberScheduled"),
                    value("numberReady"),
                    value("numberUnavailable"),
                    value("numberMisscheduled")
                ),
            ))
            .effects(fact.victims.iter().map(Effect::calls));
        if !network {
            finding = finding.effect(Effect::pods(r));
        }
        let pods = format!("kubectl -n {} get pods -o wide", crate::analyze::remedy::quote(&r.namespace));
        finding
            .remedy(Remedy::commands(
                "See which node lacks it and what its pod there says; a taint that is new needs a toleration in spec.template.spec.tolerations",
                vec![common::describe_command(r), pods],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a DaemonSet is not on every node",
                format!("kube_daemonset_status_desired_number_scheduled{{namespace=\"{0}\",daemonset=\"{1}\"}} - kube_daemonset_status_number_ready{{namespace=\"{0}\",daemonset=\"{1}\"}} > 0", r.namespace, r.name),
            ))
            .prevention(Prevention::alert(
                "Alert when it runs where it should not",
                format!("kube_daemonset_status_number_misscheduled{{namespace=\"{}\",daemonset=\"{}\"}} > 0", r.namespace, r.name),
            ))
    }
}

/// What its status says; `None` where it has none, or all is well.
fn wrong(set: &Workload) -> Option<Wrong> {
    let wanted = set.status_count("desiredNumberScheduled")?;
    let missing = (wanted - set.status_count("numberReady")?).max(set.status_count("numberUnavailable")?);
    let misplaced = set.status_count("numberMisscheduled")?;
    match (missing, misplaced) {
        (missing, _) if missing > 0 => Some(Wrong::Missing(missing, wanted)),
        (_, misplaced) if misplaced > 0 => Some(Wrong::Misplaced(misplaced)),
        _ => None,
    }
}

/// The nodes that have no ready pod of it, among those that have one, or could: not cordoned by hand.
fn without(snapshot: &Snapshot, set: &Workload) -> BTreeSet<String> {
    let ready: BTreeSet<&str> =
        snapshot.pods_of(set.reference()).filter(|pod| pod.ready()).map(|pod| pod.node.as_str()).collect();
    let tainted = |node: &crate::model::object::Object| {
        node.body.list("spec.taints").iter().any(|t| t.text("effect") != Some("PreferNoSchedule"))
    };
    let selector = set.template.spec.text_map("nodeSelector");
    let placed =
        snapshot.pods_of(set.reference()).map(|pod| pod.node.clone()).filter(|node| !node.is_empty());
    snapshot
        .objects_of("Node")
        .filter(|node| {
            !tainted(node) && selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        })
        .map(|node| node.name().to_owned())
        .chain(placed)
        .filter(|node| !ready.contains(node.as_str()))
        .collect()
}
