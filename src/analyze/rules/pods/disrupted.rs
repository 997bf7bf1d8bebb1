//! POD116.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::common;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// Pods were taken away on purpose: for pods of higher priority, by a taint of their node, or by its shutdown.
    ///
    /// ## What it detects
    /// A workload that lacks pods now and of which pods were preempted by the scheduler, deleted because their node got a taint, or
    /// ended by their kubelet while the node shut down, as events and the pods' condition `DisruptionTarget` tell.
    /// ## Why it matters
    /// It is neither a crash nor a failed probe: the workload itself is well, and comes back only where there is room for it.
    /// ## Evidence
    /// The events `Preempted` and `TaintManagerEviction`, and the reason of the condition `DisruptionTarget`.
    /// ## How to confirm
    /// `kubectl get events --field-selector reason=Preempted` names the pod that took the place.
    /// ## How to fix
    /// Give the workload a PriorityClass that matches what it is worth, and the cluster room; tolerate the taint only where the pod can
    /// work on such a node.
    /// ## False positives
    /// A workload that has all of its pods again is not reported, nor an eviction through the API, which is a drain that somebody asked
    /// for and that a PodDisruptionBudget bounds.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions>
    Disrupted {
        code: "POD116", name: "pods-preempted", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-PREEMPT"],
    }
}

/// Who took the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Scheduler,
    Taint,
    Shutdown,
}

impl By {
    fn of_condition(reason: &str) -> Option<Self> {
        Some(match reason {
            "PreemptionByScheduler" => By::Scheduler,
            "DeletionByTaintManager" => By::Taint,
            "TerminationByKubelet" => By::Shutdown,
            _ => return None,
        })
    }

    fn meaning(self) -> &'static str {
        match self {
            By::Scheduler => "preempted for pods of higher priority",
            By::Taint => "deleted because of a taint of their node",
            By::Shutdown => "ended by the shutdown of their node",
        }
    }
}

/// Pods that were taken, as it was told.
#[derive(Debug, Default)]
struct Taken {
    pods: BTreeSet<String>,
    since: Option<Timestamp>,
    evidence: Vec<Evidence>,
}

/// A workload whose pods were taken.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    by: By,
    pods: usize,
    wanted: i64,
    ready: i64,
    since: Option<Timestamp>,
    evidence: Vec<Evidence>,
}

impl Check for Disrupted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let by_name = common::workloads_by_name(snapshot);
        let mut found: BTreeMap<(ObjectRef, By), Taken> = BTreeMap::new();
        let mut note = |owner: ObjectRef, by: By, pod: &str, at: Option<Timestamp>, evidence: Evidence| {
            let entry = found.entry((owner, by)).or_default();
            entry.pods.insert(pod.to_owned());
            entry.since = entry.since.into_iter().chain(at).min();
            entry.evidence.push(evidence);
        };
        for event in
            snapshot.events.iter().filter(|e| e.about.kind == "Pod" && snapshot.in_scope(&e.about.namespace))
        {
            let by = match event.reason.as_str() {
                "Preempted" => By::Scheduler,
                "TaintManagerEviction" if !event.message.starts_with("Cancel") => By::Taint,
                _ => continue,
            };
            if !common::recent(snapshot, event.last) {
                continue;
            }
            // The pod is gone: its name begins with that of its ReplicaSet, or of its StatefulSet.
            let known =
                snapshot.pod(&event.about.namespace, &event.about.name).map(|pod| snapshot.owner(pod));
            let owner = known.or_else(|| {
                let (maker, _) = event.about.name.rsplit_once('-')?;
                let maker = ["ReplicaSet", "StatefulSet", "DaemonSet"].into_iter().find_map(|kind| {
                    by_name.get(&(kind.to_owned(), event.about.namespace.clone(), maker.to_owned()))
                })?;
                Some(maker.object.owners.first().cloned().unwrap_or_else(|| maker.reference().clone()))
            });
            if let Some(owner) = owner {
                note(owner, by, &event.about.name, event.last, common::event_evidence(event));
            }
        }
        for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
            let Some(condition) = pod.condition("DisruptionTarget").filter(|c| c.status == "True") else {
                continue;
            };
            let shutdown = condition.reason == "TerminationByKubelet" && pod.reason == "Evicted";
            let Some(by) = By::of_condition(&condition.reason).filter(|_| !shutdown) else { continue };
            if common::recent(snapshot, condition.since) {
                let evidence = Evidence::object(
                    &pod.object.reference,
                    format!("condition DisruptionTarget: {}", condition.reason),
                )
                .excerpt(&condition.message)
                .at(condition.since);
                note(snapshot.owner(pod), by, pod.object.name(), condition.since, evidence);
            }
        }
        found
            .into_iter()
            .filter_map(|((owner, by), taken)| {
                let Taken { pods, since, evidence } = taken;
                let key = (owner.kind.clone(), owner.namespace.clone(), owner.name.clone());
                let workload = *by_name.get(&key)?;
                let wanted = workload.replicas.or_else(|| workload.status_count("desiredNumberScheduled"))?;
                let ready = workload.status_count(if owner.kind == "DaemonSet" {
                    "numberReady"
                } else {
                    "readyReplicas"
                })?;
                (ready < wanted).then_some(Fact {
                    workload,
                    by,
                    pods: pods.len(),
                    wanted,
                    ready,
                    since,
                    evidence,
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let owner = fact.workload.reference();
        let services: Vec<_> = snapshot.services_before(fact.workload).map(|s| s.service_name()).collect();
        let path = fact.workload.template_path(match fact.by {
            By::Scheduler => "spec.priorityClassName",
            By::Taint | By::Shutdown => "spec.tolerations",
        });
        let taken = common::plural(fact.pods, "pod");
        let mut finding = Finding::new(Self::META, owner.field(path), &[fact.by.meaning()])
            .title(format!("{owner}: {taken} {}, {} of {} ready", fact.by.meaning(), fact.ready, fact.wanted))
            .message(format!(
                "{taken} of {owner} were {}, and {} of {} wanted pods are ready now: the workload itself is well, the cluster has no place for it.",
                fact.by.meaning(),
                fact.ready,
                fact.wanted
            ))
            .mechanism(format!("disruption: pods {}", fact.by.meaning()))
            .severity(if fact.ready == 0 { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .evidences(fact.evidence.iter().take(3).cloned())
            .onset(fact.since)
            .effect(Effect::pods(owner));
        if fact.ready == 0 {
            finding = finding.effects(services.iter().map(|s| Effect::requests(s, common::DOWN)));
        }
        finding
            .remedy(Remedy::commands(
                match fact.by {
                    By::Scheduler => "Give the workload a priorityClassName that matches what it is worth, or the cluster room for both",
                    By::Taint => "Heal the nodes that got the taint; tolerate it only if the pods can work there",
                    By::Shutdown => "Bring the node back, or let the pods find room on others",
                },
                match fact.by {
                    By::Scheduler => vec!["kubectl get priorityclass".to_owned(), common::describe_command(owner)],
                    _ => vec!["kubectl describe nodes".to_owned()],
                },
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when pods are taken away",
                format!("sum by (pod, reason) (kube_pod_status_disruption_reason{{{}}}) > 0", common::pod_matcher(owner)),
            ))
            .prevention(Prevention::of("Setting", "A PriorityClass for what must not give way, two replicas on different nodes, and a PodDisruptionBudget"))
    }
}
