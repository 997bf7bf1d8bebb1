//! ROLLOUT106.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::change::ChangeKind;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A workload was changed, and the controller that should act on it has not looked.
    ///
    /// ## What it detects
    /// A Deployment, StatefulSet or DaemonSet whose `metadata.generation` is newer than its `status.observedGeneration`, more than a
    /// minute after the last edit.
    /// ## Why it matters
    /// The change has no effect, nor has any other: the kube-controller-manager does not work, or not for this kind.
    /// ## Evidence
    /// Both generations, and the time of the edit.
    /// ## How to confirm
    /// `kubectl -n kube-system get lease kube-controller-manager -o yaml` shows when it worked last.
    /// ## How to fix
    /// Bring the kube-controller-manager back.
    /// ## False positives
    /// An edit within the last minute, and an object whose last edit nobody recorded.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status>
    NotObserved {
        code: "ROLLOUT106", name: "change-not-observed", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-ROLLOUT"],
    }
}

/// A workload that its controller has not looked at.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    generation: i64,
    observed: i64,
    edited: Timestamp,
}

/// A controller looks within seconds.
const PATIENCE_SECONDS: f64 = 60.0;

impl Check for NotObserved {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let unseen = |workload: &'a Workload| {
            let generation = workload.object.generation?;
            let observed = workload.object.body.int("status.observedGeneration")?;
            let own = |c: &&crate::model::change::Change| {
                matches!(c.kind, ChangeKind::Edited | ChangeKind::Scaled)
                    && c.subject.same_object(workload.reference())
            };
            if observed >= generation || workload.object.deleted.is_some() {
                return None;
            }
            let edited = snapshot.changes.iter().filter(own).map(|c| c.time).max()?;
            let lasts = common::seconds_between(edited, snapshot.now) > PATIENCE_SECONDS;
            lasts.then_some(Fact { workload, generation, observed, edited })
        };
        let kinds = ["Deployment", "StatefulSet", "DaemonSet"];
        let workloads = snapshot.workloads.iter().filter(|w| kinds.contains(&w.reference().kind.as_str()));
        workloads.filter(|w| snapshot.in_scope(w.object.namespace())).filter_map(unseen).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let r = fact.workload.reference();
        Finding::new(Self::META, r.field("status.observedGeneration"), &[])
            .title(format!("{r} was changed at {}, and its controller has not looked", common::clock(fact.edited)))
            .message(format!(
                "{r} has generation {} and its controller has observed {} only: what was changed at {} has no effect. The kube-controller-manager does not work.",
                fact.generation,
                fact.observed,
                common::clock(fact.edited)
            ))
            .mechanism("generation not observed: the controller does not act on the change")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::object(&r.field("status.observedGeneration"), format!("{}, metadata.generation {}", fact.observed, fact.generation)).at(Some(fact.edited)))
            .onset(Some(fact.edited))
            .effect(Effect::pods(r))
            .remedy(Remedy::commands(
                "Bring the kube-controller-manager back; its lease shows when it worked last",
                vec!["kubectl -n kube-system get lease kube-controller-manager -o yaml".to_owned(), "kubectl -n kube-system get pods".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a change is not observed",
                format!("kube_deployment_status_observed_generation{{namespace=\"{0}\"}} != kube_deployment_metadata_generation{{namespace=\"{0}\"}}", r.namespace),
            ))
    }
}
