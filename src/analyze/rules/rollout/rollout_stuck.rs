//! ROLLOUT101.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote, resource, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::change::ChangeKind;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, Workload};

crate::rule! {
    /// A rollout does not come to its end: pods of the new revision do not become available.
    ///
    /// ## What it detects
    /// A Deployment whose condition `Progressing` is false with `ProgressDeadlineExceeded`; a StatefulSet or DaemonSet of which pods
    /// of the new revision are not ready for ten minutes while others wait to be updated.
    /// ## Why it matters
    /// Old and new revision stay side by side: part of the capacity is missing, and the next rollout waits too.
    /// ## Evidence
    /// The condition, the counts of updated, available and wanted replicas, and the last rollout's differences.
    /// ## How to confirm
    /// `kubectl rollout status` of the workload.
    /// ## How to fix
    /// Heal what keeps the new pods from becoming ready (other findings name it), or go back to the revision before.
    /// ## False positives
    /// A rollout that is under way, one that is paused on purpose, and a Deployment whose pods became unready long after its rollout
    /// had come to its end.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#failed-deployment>
    RolloutStuck {
        code: "ROLLOUT101", name: "rollout-stuck", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-ROLLOUT"],
    }
}

/// A rollout that does not end.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    condition: Option<&'a Condition>,
    since: Option<Timestamp>,
    wanted: i64,
    updated: i64,
    available: i64,
}

impl Check for RolloutStuck {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let tops = snapshot
            .workloads
            .iter()
            .filter(|w| w.object.owners.is_empty() && snapshot.in_scope(w.object.namespace()));
        tops.filter_map(|workload| match workload.reference().kind.as_str() {
            "Deployment" => deployment(workload),
            "StatefulSet" | "DaemonSet" => by_revision(snapshot, workload),
            _ => None,
        })
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let owner = fact.workload.reference();
        let rollout = snapshot
            .changes
            .iter()
            .rev()
            .find(|c| c.kind == ChangeKind::Rollout && c.subject.same_object(owner));
        let mut message = format!(
            "The rollout of {owner} does not come to its end: {} of {} wanted pods are of the new revision, {} are available",
            fact.updated, fact.wanted, fact.available
        );
        if let Some(rollout) = rollout {
            message += &format!(
                ". It began at {} and changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message +=
            if fact.available > 0 { ". Pods that are available still serve." } else { ". No pod serves." };
        let services: Vec<_> = snapshot.services_before(fact.workload).map(|s| s.service_name()).collect();
        let counts =
            format!("wanted {}, updated {}, available {}", fact.wanted, fact.updated, fact.available);
        let mut finding = Finding::new(Self::META, owner.field("spec.template"), &[])
            .title(format!(
                "{owner}: rollout stuck, {} of {} new pods, {} available",
                fact.updated, fact.wanted, fact.available
            ))
            .message(message)
            .mechanism("rollout stuck: pods of the new revision do not become available")
            .severity(if fact.available == 0 { Severity::Error } else { Severity::Warning })
            .role(Role::Symptom, Confidence::Observed)
            .service(services.first().cloned())
            .evidences(fact.condition.map(|c| {
                Evidence::object(owner, format!("condition {} is {}: {}", c.kind, c.status, c.reason))
                    .excerpt(&c.message)
                    .at(c.since)
            }))
            .evidence(Evidence::object(&owner.field("status"), counts))
            .onset(rollout.map(|c| c.time).or(fact.since))
            .effect(Effect::pods(owner));
        if fact.available == 0 {
            finding = finding.effects(services.iter().map(|s| Effect::requests(s, common::DOWN)));
        }
        let status = format!(
            "kubectl {}rollout status {}/{} --timeout=10s",
            scope(owner),
            resource(owner),
            quote(&owner.name)
        );
        finding
            .remedy(Remedy::commands("Find out what keeps the new pods from becoming ready, and heal that", vec![status, common::describe_command(owner)], vec![]))
            .remedy(Remedy::undo_rollout(owner, "Go back to the revision before"))
            .prevention(Prevention::alert(
                "Alert when a rollout does not progress",
                format!("kube_deployment_status_condition{{namespace=\"{}\",deployment=\"{}\",condition=\"Progressing\",status=\"false\"}} == 1", owner.namespace, owner.name),
            ))
    }
}

fn deployment(workload: &Workload) -> Option<Fact<'_>> {
    let condition = workload
        .condition("Progressing")
        .filter(|c| c.status == "False" && c.reason == "ProgressDeadlineExceeded")?;
    let wanted = workload.replicas.unwrap_or(1);
    let (updated, available) =
        (workload.status_count("updatedReplicas")?, workload.status_count("availableReplicas")?);
    // The condition stays on a paused Deployment, and on one whose pods have all come up since.
    let done = updated >= wanted && available >= wanted;
    if done || workload.object.body.flag("spec.paused") || wanted == 0 {
        return None;
    }
    Some(Fact { workload, condition: Some(condition), since: condition.since, wanted, updated, available })
}

/// Pods of the new revision are given this long before the rollout counts as stuck: what a Deployment gives by default.
const DEADLINE_SECONDS: f64 = 600.0;

fn by_revision<'a>(snapshot: &'a Snapshot, workload: &'a Workload) -> Option<Fact<'a>> {
    let stateful = workload.reference().kind == "StatefulSet";
    let (wanted, updated, available) = if stateful {
        (
            workload.replicas.unwrap_or(1),
            workload.status_count("updatedReplicas")?,
            workload.status_count("readyReplicas")?,
        )
    } else {
        (
            workload.status_count("desiredNumberScheduled")?,
            workload.status_count("updatedNumberScheduled")?,
            workload.status_count("numberAvailable")?,
        )
    };
    let strategy = workload.object.body.text("spec.updateStrategy.type").unwrap_or("RollingUpdate");
    let partition = workload.object.body.int("spec.updateStrategy.rollingUpdate.partition").unwrap_or(0);
    if strategy == "OnDelete" || partition > 0 || updated >= wanted || available >= wanted {
        return None;
    }
    let waiting = snapshot.pods_of(workload.reference()).filter(|pod| !pod.ready() && !pod.ended());
    let since = waiting.filter_map(|pod| pod.object.created).min()?;
    let stuck = common::seconds_between(since, snapshot.now) > DEADLINE_SECONDS;
    stuck.then_some(Fact { workload, condition: None, since: Some(since), wanted, updated, available })
}
