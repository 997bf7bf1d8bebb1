//! POD115.

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A pod waits for a node and no scheduler has looked at it.
    ///
    /// ## What it detects
    /// A pod that is pending without a node for more than a minute (a quarter of one with a scheduler of its own) and has no condition `PodScheduled`: no scheduler has tried. Either
    /// `schedulerName` names one that does not run, or the cluster's own does not work.
    /// ## Why it matters
    /// The pod waits for ever, without an event and without a log.
    /// ## Evidence
    /// The pod's age, its conditions, and `spec.schedulerName`.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows no event at all; `kubectl -n kube-system get lease kube-scheduler` shows when the cluster's
    /// scheduler worked last.
    /// ## How to fix
    /// Correct `schedulerName`, or bring the scheduler back.
    /// ## False positives
    /// A pod that a scheduler has tried to place has the condition (POD105); one held back by `schedulingGates` has it, too. Where no
    /// pod at all has conditions they were not recorded, and nothing is concluded of the cluster's own scheduler.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/extend-kubernetes/configure-multiple-schedulers/>
    NobodySchedules {
        code: "POD115", name: "nobody-schedules", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-SCHED"],
    }
}

/// Pods of a workload that nobody schedules.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, ()>);

/// A scheduler tries within seconds; one that is busy takes longer.
const PATIENCE_SECONDS: f64 = 60.0;
/// One of another name that runs nowhere is told from one that is busy by less: it is asked for few pods.
const OTHERS_PATIENCE_SECONDS: f64 = 15.0;

fn patience(other: bool) -> f64 {
    if other { OTHERS_PATIENCE_SECONDS } else { PATIENCE_SECONDS }
}

/// The scheduler of every cluster.
const DEFAULT: &str = "default-scheduler";

impl Check for NobodySchedules {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        // What prints pods without their conditions says nothing of the cluster's own scheduler.
        let recorded = snapshot.pods.iter().any(|pod| !pod.conditions.is_empty());
        let other = |pod: &Pod| pod.template.spec.text("schedulerName").is_some_and(|name| name != DEFAULT);
        let waits = |pod: &Pod| {
            pod.phase == "Pending"
                && pod.node.is_empty()
                && pod.condition("PodScheduled").is_none()
                && pod.statuses.is_empty()
                && (recorded || other(pod))
                && pod
                    .object
                    .created
                    .is_some_and(|at| common::seconds_between(at, snapshot.now) > patience(other(pod)))
        };
        let look = |pod| if waits(pod) { vec![(String::new(), ())] } else { vec![] };
        common::groups(snapshot, look).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, ())) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let template = group.workload.map_or(&pod.template, |w| &w.template);
        let name = template.spec.text("schedulerName").unwrap_or(DEFAULT);
        let own = name != DEFAULT;
        let created = group.cases.iter().filter_map(|(pod, ())| pod.object.created).min();
        let path = group.pod_field("schedulerName");
        let why = if own {
            format!("spec.schedulerName is {name}, and no scheduler of that name has tried")
        } else {
            "the cluster's scheduler has not tried: it does not work".to_owned()
        };
        let finding = Finding::new(Self::META, group.owner.field(&path), &[])
            .title(format!("{}: no scheduler places {} ({name})", group.owner, common::plural(group.cases.len(), "pod")))
            .message(format!("{} of {} wait for a node: {why}.", group.share(), group.owner))
            .mechanism("nobody schedules the pods: the scheduler that they name does not work")
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::object(&pod.object.reference, "Pending without a node, and without the condition PodScheduled").at(pod.object.created))
            .evidence(Evidence::object(&group.owner.field(&path), name.to_owned()))
            .onset(created)
            .maybe_remedy(group.workload.filter(|_| own && template.spec.at("schedulerName").is_some()).and_then(|workload| {
                let operation = common::operation("remove", &path, &crate::model::json::Value::Null);
                Remedy::patch(&workload.object, &crate::model::json::json!([operation]), format!("Remove schedulerName {name}: the cluster's own scheduler then places the pods"))
            }))
            .maybe_remedy(group.undo_rollout(snapshot, "schedulerName"))
            .remedy(Remedy::commands(
                format!("Bring the scheduler {name} back"),
                vec!["kubectl -n kube-system get lease kube-scheduler -o yaml".to_owned(), "kubectl -n kube-system get pods".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when pods wait for a node",
                format!("sum by (pod) (kube_pod_status_scheduled{{{},condition=\"true\"}}) == 0", common::pod_matcher(&group.owner)),
            ));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}
