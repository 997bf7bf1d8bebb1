//! ROLLOUT105.

use crate::model::json::{Value, json};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::change::diff;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A Deployment is paused with a change that it has not rolled out.
    ///
    /// ## What it detects
    /// A Deployment with `spec.paused` whose template differs from that of its newest ReplicaSet, or that has fewer updated pods than
    /// it wants because it was paused in the middle of a rollout.
    /// ## Why it matters
    /// What was changed since does not reach any pod: a fix that was applied seems to have no effect.
    /// ## Evidence
    /// `spec.paused`, and the fields in which the template and the newest ReplicaSet differ.
    /// ## How to confirm
    /// `kubectl rollout status deployment/NAME` waits; the condition `Progressing` has the reason `DeploymentPaused`.
    /// ## How to fix
    /// Resume the rollout.
    /// ## False positives
    /// A Deployment that is paused and has rolled out all that it was given.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pausing-and-resuming-a-deployment>
    RolloutPaused {
        code: "ROLLOUT105", name: "rollout-paused", family: Workload, severity: Warning,
        needs: [Objects], aliases: ["K8S-ROLLOUT"],
    }
}

/// A paused Deployment, with what waits.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    waits: Vec<String>,
}

impl Check for RolloutPaused {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let paused = |w: &&Workload| {
            w.reference().kind == "Deployment"
                && w.object.body.flag("spec.paused")
                && snapshot.in_scope(w.object.namespace())
        };
        let mut out = vec![];
        for workload in snapshot.workloads.iter().filter(paused) {
            let waits = waiting(snapshot, workload);
            if !waits.is_empty() {
                out.push(Fact { workload, waits });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = fact.workload.reference();
        let since = fact
            .workload
            .condition("Progressing")
            .filter(|c| c.reason == "DeploymentPaused")
            .and_then(|c| c.since);
        let list = fact.waits.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
        let services: Vec<_> = snapshot.services_before(fact.workload).map(|s| s.service_name()).collect();
        Finding::new(Self::META, r.field("spec.paused"), &[])
            .title(format!("{r} is paused, and has not rolled out {list}"))
            .message(format!(
                "{r} is paused: its pods run without the changes to {list} until it is resumed."
            ))
            .mechanism("rollout paused: changes of the template do not reach the pods")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(services.first().cloned())
            .evidence(Evidence::object(&r.field("spec.paused"), "true").at(since))
            .evidence(Evidence::object(
                &r.field("spec.template"),
                format!("differs from the newest ReplicaSet in {list}"),
            ))
            .onset(since)
            .effect(Effect::pods(r))
            .maybe_remedy(Remedy::patch(
                &fact.workload.object,
                &json!([{"op": "replace", "path": "/spec/paused", "value": false}]),
                "Resume the rollout: what waits is then rolled out",
            ))
            .prevention(Prevention::alert(
                "Alert when a Deployment stays paused",
                format!(
                    "kube_deployment_spec_paused{{namespace=\"{}\",deployment=\"{}\"}} == 1",
                    r.namespace, r.name
                ),
            ))
    }
}

/// The fields that a paused Deployment has not rolled out.
fn waiting(snapshot: &Snapshot, workload: &Workload) -> Vec<String> {
    let revision = |w: &Workload| -> Option<i64> {
        w.object.annotations.get("deployment.kubernetes.io/revision")?.parse().ok()
    };
    let own = snapshot.workloads.iter().filter(|w| {
        w.reference().kind == "ReplicaSet"
            && w.object.owners.iter().any(|o| o.same_object(workload.reference()))
    });
    let Some(newest) = own.max_by_key(|w| revision(w)) else { return vec![] };
    let template = |w: &Workload| w.object.body.at("spec.template").cloned().unwrap_or(Value::Null);
    let mut differences = vec![];
    diff(&template(newest), &template(workload), "", &mut differences);
    let mut paths: Vec<String> = differences
        .into_iter()
        .filter(|d| !d.path.ends_with("pod-template-hash") && !d.path.ends_with("creationTimestamp"))
        .map(|d| crate::analyze::rules::pods::common::short_path(d.path.trim_start_matches('.')))
        .collect();
    let wanted = workload.replicas.unwrap_or(1);
    let updated = workload.status_count("updatedReplicas").unwrap_or(wanted);
    if paths.is_empty() && updated < wanted {
        paths.push(format!("its newest revision to {} of {wanted} pods", wanted - updated));
    }
    paths.dedup();
    paths
}
