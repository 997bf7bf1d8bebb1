//! POD114.

use std::collections::BTreeMap;

use super::common;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, conditions};

crate::rule! {
    /// A pod was asked to end long ago and is still there.
    ///
    /// ## What it detects
    /// A pod whose time to end ran out more than a minute ago, and what holds it: a finalizer, a node that does not answer, or a
    /// kubelet that cannot end its containers or unmount its volumes.
    /// ## Why it matters
    /// A StatefulSet makes no replacement before the pod is gone; a volume that only one node can attach stays where it is; a node
    /// cannot be emptied.
    /// ## Evidence
    /// `metadata.deletionTimestamp` and `metadata.finalizers`, the node's condition `Ready`, the kubelet's events.
    /// ## How to confirm
    /// `kubectl get pod POD -o yaml` shows the finalizers; `kubectl get node NODE` whether its kubelet answers.
    /// ## How to fix
    /// Bring back what removes the finalizer, or the node. Delete the pod by force only when its node is certainly off.
    /// ## False positives
    /// A pod within its grace period (`terminationGracePeriodSeconds`), however long that is.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination>
    StuckTerminating {
        code: "POD114", name: "pod-stuck-terminating", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-FINALIZER"],
    }
}

/// What holds a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Finalizers(Vec<String>),
    Node,
    Kubelet,
}

/// A pod that does not go.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    pods: Vec<&'a Pod>,
    held: Held,
    events: Vec<&'a Event>,
}

/// The deletion timestamp is when the grace period ends; the kubelet and the garbage collection need a moment more.
const PATIENCE_SECONDS: f64 = 60.0;

impl Check for StuckTerminating {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<ObjectRef, Fact<'a>> = BTreeMap::new();
        for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
            let overdue = pod
                .object
                .deleted
                .is_some_and(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS);
            if !overdue {
                continue;
            }
            let owner = snapshot.owner(pod);
            let fact = found.entry(owner.clone()).or_insert_with(|| Fact {
                held: held(snapshot, pod),
                owner,
                pods: vec![],
                events: snapshot
                    .events_about(&pod.object.reference)
                    .filter(|e| {
                        matches!(
                            e.reason.as_str(),
                            "FailedKillPod" | "ExceededGracePeriod" | "FailedPreStopHook" | "FailedUnMount"
                        )
                    })
                    .collect(),
            });
            fact.pods.push(pod);
        }
        found.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let Some(pod) = fact.pods.first() else { return Finding::new(Self::META, fact.owner.clone(), &[]) };
        let (r, owner) = (&pod.object.reference, &fact.owner);
        let (field, why) = match &fact.held {
            Held::Finalizers(names) => {
                ("metadata.finalizers", format!("nobody removes its finalizer {}", names.join(", ")))
            }
            Held::Node => ("spec.nodeName", format!("its node {} does not answer", pod.node)),
            Held::Kubelet => {
                ("metadata.deletionTimestamp", format!("the kubelet of {} has not ended it", pod.node))
            }
        };
        let since = pod.object.deleted;
        let overdue = since.map_or(0.0, |at| common::seconds_between(at, snapshot.now));
        let blocks = owner.kind == "StatefulSet";
        let next = if blocks { " The StatefulSet makes no replacement before it is gone." } else { "" };
        let services: Vec<_> = snapshot
            .workload(owner)
            .into_iter()
            .flat_map(|w| snapshot.services_before(w))
            .map(|s| s.service_name())
            .collect();
        let mut finding = Finding::new(Self::META, r.field(field), &[])
            .title(format!("{r} should have ended {} ago: {why}", common::seconds(overdue)))
            .message(format!(
                "{} of {owner} was asked to end and its time ran out {} ago: {why}.{next}",
                common::plural(fact.pods.len(), "pod"),
                common::seconds(overdue)
            ))
            .mechanism("pod stuck terminating")
            .severity(if blocks { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .evidence(Evidence::object(&r.field("metadata.deletionTimestamp"), why.clone()).at(since))
            .evidences(fact.events.iter().take(2).map(|e| common::event_evidence(e)))
            .onset(since);
        // A Deployment has its replacement already: nobody feels the old pod.
        if blocks {
            finding = finding.effect(Effect::pods(owner));
            finding = finding.effects(services.iter().map(|s| Effect::requests(s, common::DOWN)));
        }
        if fact.held == Held::Node {
            finding = finding
                .related(ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", &pod.node) });
        }
        finding
            .remedy(remedy(fact, pod))
            .prevention(Prevention::alert(
                "Alert when a pod does not go",
                format!("(time() - kube_pod_deletion_timestamp{{{}}}) > 600", common::pod_matcher(owner)),
            ))
            .prevention(Prevention::of(
                "Setting",
                "Let preStop and the program's own shutdown end well within terminationGracePeriodSeconds",
            ))
    }
}

fn held(snapshot: &Snapshot, pod: &Pod) -> Held {
    let finalizers = pod.object.body.texts("metadata.finalizers");
    if !finalizers.is_empty() {
        return Held::Finalizers(finalizers.into_iter().take(3).collect());
    }
    let node = snapshot.object("Node", "", &pod.node);
    let dead = node.is_some_and(|node| {
        conditions(node.body.list("status.conditions"))
            .iter()
            .any(|c| c.kind == "Ready" && c.status != "True")
    });
    if dead { Held::Node } else { Held::Kubelet }
}

fn remedy(fact: &Fact<'_>, pod: &Pod) -> Remedy {
    let r = &pod.object.reference;
    let node = quote(&pod.node);
    match &fact.held {
        Held::Finalizers(_) => Remedy::commands(
            "Bring back the controller that owns the finalizer; take it off by hand only when what it guards is gone",
            vec![common::describe_command(r)],
            vec![],
        ),
        Held::Node => Remedy::commands(
            "Bring the node back. If it is certainly off, mark it out of service: its pods are then deleted and their volumes detached",
            vec![format!("kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")],
            vec![format!("kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute-")],
        )
        .risk(Risk::High),
        Held::Kubelet => Remedy::commands(
            format!("Read what keeps the kubelet of {} from ending it: a process that cannot be killed, or a volume that cannot be unmounted", pod.node),
            vec![
                common::describe_command(r),
                format!("kubectl {}get events --field-selector involvedObject.name={}", scope(r), quote(&r.name)),
            ],
            vec![],
        ),
    }
}
