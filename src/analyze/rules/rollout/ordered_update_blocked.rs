//! ROLLOUT104.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Workload};

crate::rule! {
    /// A StatefulSet's update waits for a pod of an old revision that will never become ready.
    ///
    /// ## What it detects
    /// A StatefulSet that updates its pods in order, whose template has a newer revision than a pod that is not ready, and which has
    /// not replaced that pod for more than a minute.
    /// ## Why it matters
    /// The controller waits for the broken pod to become ready before it goes on, even where the template was corrected meanwhile: the
    /// correction never reaches the pod.
    /// ## Evidence
    /// `status.updateRevision` of the StatefulSet against the pod's label `controller-revision-hash`, and the pod's condition.
    /// ## How to confirm
    /// `kubectl get pods -L controller-revision-hash` shows a pod that is not ready with an older revision than
    /// `kubectl get statefulset NAME -o jsonpath='{.status.updateRevision}'`.
    /// ## How to fix
    /// Delete the broken pod: it is made anew from the present template.
    /// ## False positives
    /// A strategy `OnDelete`, pods below `partition`, and pods that are managed in parallel are not waited for. A pod of the newest
    /// revision that is not ready is the update's own trouble, which other rules name.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback>
    OrderedUpdateBlocked {
        code: "ROLLOUT104", name: "ordered-update-blocked", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-ROLLOUT"],
    }
}

/// A StatefulSet that waits for a broken pod of an old revision.
#[derive(Debug)]
pub struct Fact<'a> {
    set: &'a Workload,
    pod: &'a Pod,
    old: &'a str,
    new: &'a str,
}

/// A pod takes a moment to start, and the controller one to replace it.
const PATIENCE_SECONDS: f64 = 60.0;

impl Check for OrderedUpdateBlocked {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let sets = snapshot
            .workloads
            .iter()
            .filter(|w| w.reference().kind == "StatefulSet" && snapshot.in_scope(w.object.namespace()));
        sets.filter_map(|set| blocked(snapshot, set)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (r, pod) = (fact.set.reference(), &fact.pod.object.reference);
        let services: Vec<_> = snapshot.services_before(fact.set).map(|s| s.service_name()).collect();
        let ready = fact.set.status_count("readyReplicas").unwrap_or(0);
        let since = fact.pod.condition("Ready").and_then(|c| c.since);
        let status = fact.pod.statuses.iter().find(|s| !s.ready);
        let mut finding = Finding::new(Self::META, r.field("spec.updateStrategy"), &[&pod.name])
            .title(format!("{r} waits for {} of revision {}, and does not roll out {}", pod.name, fact.old, fact.new))
            .message(format!(
                "{r} has the template of revision {} and updates its pods in order. {pod} of revision {} is not ready, and the controller waits for it before it goes on: what was changed since never reaches the pod.",
                fact.new, fact.old
            ))
            .mechanism("ordered update blocked: a StatefulSet waits for a broken pod of an old revision")
            .severity(if ready == 0 { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .related(pod.clone())
            .evidence(Evidence::object(&r.field("status.updateRevision"), fact.new.to_owned()))
            .evidence(Evidence::object(&pod.field("metadata.labels.controller-revision-hash"), format!("{}, not ready", fact.old)).at(since))
            .evidences(status.map(|status| common::container_evidence(fact.pod, status)))
            .onset(since)
            .effect(Effect::pods(r));
        if ready == 0 {
            finding = finding.effects(services.iter().map(|s| Effect::requests(s, common::DOWN)));
        }
        finding
            .remedy(
                Remedy::lasting(
                    format!("Delete {}: it is made anew from the present template, with its own volumes", pod.name),
                    vec![common::delete_command(pod)],
                    "the pod comes back by itself, from the present template",
                )
                .risk(Risk::Medium),
            )
            .prevention(Prevention::alert(
                "Alert when an update of a StatefulSet stands still",
                format!("kube_statefulset_status_replicas_ready{{namespace=\"{0}\",statefulset=\"{1}\"}} < kube_statefulset_replicas{{namespace=\"{0}\",statefulset=\"{1}\"}}", r.namespace, r.name),
            ))
    }
}

fn blocked<'a>(snapshot: &'a Snapshot, set: &'a Workload) -> Option<Fact<'a>> {
    let body = &set.object.body;
    let new = body.text("status.updateRevision").filter(|revision| !revision.is_empty())?;
    let strategy = body.text("spec.updateStrategy.type").unwrap_or("RollingUpdate");
    let ordered = body.text("spec.podManagementPolicy").unwrap_or("OrderedReady") == "OrderedReady";
    if strategy != "RollingUpdate" || !ordered || body.text("status.currentRevision") == Some(new) {
        return None;
    }
    let partition = body.int("spec.updateStrategy.rollingUpdate.partition").unwrap_or(0);
    let broken = |pod: &&Pod| {
        let ordinal = pod.object.name().rsplit_once('-').and_then(|(_, n)| n.parse::<i64>().ok());
        let since = pod.condition("Ready").filter(|c| c.status == "False").and_then(|c| c.since);
        pod.object.deleted.is_none()
            && !pod.ended()
            && ordinal.is_some_and(|n| n >= partition)
            && since.is_some_and(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS)
    };
    let revision = |pod: &'a Pod| pod.object.labels.get("controller-revision-hash");
    snapshot.pods_of(set.reference()).filter(broken).find_map(|pod| {
        let old = revision(pod).filter(|old| *old != new)?;
        Some(Fact { set, pod, old, new })
    })
}
