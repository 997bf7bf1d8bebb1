//! POD105.

mod capacity;
mod clause;
mod selector;
mod spread;
mod taint;
mod volume;

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, PodTemplate};

use clause::{Clause, clauses, deciding};

crate::rule! {
    /// The scheduler finds no node for a pod.
    ///
    /// ## What it detects
    /// A pending pod whose condition `PodScheduled` is false with the reason `Unschedulable`, and which clause of the scheduler's
    /// message decides it: node selector or affinity, taints, too little CPU, memory or storage, too many pods or
    /// volumes, host ports, topology spread, pod affinity, cordoned nodes, or a volume that lies elsewhere.
    /// ## Why it matters
    /// The pod does not start. In a rollout the new revision never comes up; after a node was lost its pods do not come back.
    /// ## Evidence
    /// The condition's message, the `FailedScheduling` events, and the labels, taints and free resources of the nodes.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the scheduler's count of nodes for each reason.
    /// ## How to fix
    /// Change the one field that the deciding clause is about: the node selector, the tolerations, the requests; or give the cluster
    /// a node that fits.
    /// ## False positives
    /// A pod that waited for a moment while another one ended: it is scheduled by now and not reported. Pods that are held back on
    /// purpose (`SchedulingGated`) are not reported. A pod that waits for a volume is a symptom of that volume (POD110).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/>
    Unschedulable {
        code: "POD105", name: "unschedulable", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-SCHED"],
    }
}

/// A pod that no node fits.
#[derive(Debug)]
pub struct Case<'a> {
    message: &'a str,
    since: Option<jiff::Timestamp>,
    event: Option<&'a Event>,
    clause: Clause,
}

/// Pods of a workload that no node fits, for one deciding reason.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for Unschedulable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| {
            unplaced(snapshot, pod).map(|case| (String::new(), case)).into_iter().collect()
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, case)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let template = group.workload.map_or(&pod.template, |w| &w.template);
        let nodes: Vec<&Object> = snapshot.objects_of("Node").collect();
        let verdict = verdict(snapshot, case, template, &nodes, group);
        let rollout =
            group.rollout(snapshot).filter(|c| c.differences.iter().any(|d| d.path.contains(verdict.word)));
        let mut message = format!("{} of {} cannot be placed: {}", group.share(), group.owner, verdict.why);
        if let Some(rollout) = rollout {
            message += &format!(
                ". The rollout of {} brought it in: it changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message +=
            if group.all_down() { ". No pod of the workload serves." } else { ". Other pods of it serve." };
        let role = if case.clause == Clause::Volume { Role::Symptom } else { Role::Cause };
        let created = group.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        let finding = Finding::new(Self::META, group.owner.field(verdict.field.clone()), &[])
            .title(format!("{}: unschedulable, {} of its pods {}", group.owner, group.cases.len(), verdict.short))
            .message(message)
            .mechanism(format!("unschedulable: {}", verdict.mechanism))
            .severity(match (group.all_down(), &case.clause) {
                (true, _) => Severity::Critical,
                // The cluster is full, and the pods that are there serve.
                (false, Clause::TooManyPods | Clause::TooManyVolumes | Clause::Insufficient(_) | Clause::Cordoned) => Severity::Warning,
                (false, _) => Severity::Error,
            })
            .role(role, Confidence::Observed)
            .evidence(
                Evidence::new("Object", format!("{} PodScheduled", pod.object.reference), "False, Unschedulable")
                    .excerpt(case.message)
                    .at(case.since),
            )
            .evidences(case.event.map(common::event_evidence))
            .evidences(verdict.evidence)
            .onset(group.cases.iter().filter_map(|(_, case)| case.since).chain(created).min())
            .maybe_remedy(group.undo_rollout(snapshot, verdict.word).filter(|_| !verdict.word.is_empty()))
            .remedies(verdict.remedies)
            .prevention(Prevention::alert(
                "Alert when a pod stays unschedulable",
                format!("max by (pod) (kube_pod_status_unschedulable{{{}}}) == 1", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: the node selector, tolerations and requests of a template fit at least one node of the cluster (kubectl apply --dry-run=server does not check it)"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// Young pods wait for a moment as a matter of course.
const PATIENCE_SECONDS: f64 = 20.0;

fn unplaced<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Option<Case<'a>> {
    let condition =
        pod.condition("PodScheduled").filter(|c| c.status == "False" && c.reason == "Unschedulable")?;
    if pod.ended() || !pod.node.is_empty() {
        return None;
    }
    let waited = condition.since.or(pod.object.created).map(|at| common::seconds_between(at, snapshot.now));
    if waited.is_some_and(|s| s < PATIENCE_SECONDS) {
        return None;
    }
    let event =
        snapshot.events_about(&pod.object.reference).filter(|e| e.reason == "FailedScheduling").last();
    let message = if condition.message.is_empty() {
        event.map_or("", |e| e.message.as_str())
    } else {
        &condition.message
    };
    let all = clauses(message);
    let clause = deciding(&all).map_or(Clause::Other, |(clause, _)| clause.clone());
    Some(Case { message, since: condition.since, event, clause })
}

/// What a deciding clause comes to.
struct Verdict {
    /// The field to change.
    field: String,
    /// A word of the paths that a rollout would have changed to bring it about.
    word: &'static str,
    /// In the field's words.
    mechanism: &'static str,
    /// After "N of its pods".
    short: String,
    /// A sentence.
    why: String,
    evidence: Vec<Evidence>,
    remedies: Vec<Remedy>,
}

fn verdict(
    snapshot: &Snapshot,
    case: &Case<'_>,
    template: &PodTemplate,
    nodes: &[&Object],
    group: &Group<'_, Case<'_>>,
) -> Verdict {
    match &case.clause {
        Clause::NodeSelector => selector::verdict(template, nodes, group),
        Clause::Taint(taint) => taint::verdict(taint, template, nodes, group),
        Clause::Cordoned => taint::cordoned(nodes, group),
        Clause::Insufficient(resource) => capacity::insufficient(resource, template, nodes, group),
        Clause::TooManyPods => capacity::pods(group),
        Clause::TooManyVolumes => capacity::volumes(group),
        Clause::Ports => capacity::ports(snapshot, template, group),
        Clause::Spread => spread::constraints(template, group),
        Clause::SpreadLabel => spread::label(template, nodes, group),
        Clause::PodAffinity => spread::affinity(template, nodes, group),
        Clause::VolumeZone => volume::elsewhere(snapshot, template, nodes, group),
        Clause::Volume => Verdict::plain(
            group.pod_field("volumes"),
            "volumes",
            "a volume is not bound",
            "wait for a volume that is not bound",
            vec![Remedy::manual("Look at the PersistentVolumeClaim of the pod: its class and its events")],
        ),
        Clause::Other => Verdict::plain(
            group.pod_field("nodeName").trim_end_matches(".nodeName").to_owned(),
            "",
            "no node fits",
            "fit no node",
            vec![Remedy::manual("Read the scheduler's message: it counts the nodes for each reason")],
        ),
    }
}

impl Verdict {
    /// One of which the words are all that is known.
    fn plain(
        field: String,
        word: &'static str,
        mechanism: &'static str,
        short: &str,
        remedies: Vec<Remedy>,
    ) -> Self {
        let (short, why) = (short.to_owned(), format!("they {short}"));
        Verdict { field, word, mechanism, short, why, evidence: vec![], remedies }
    }
}

impl Group<'_, Case<'_>> {
    fn owner_replicas(&self) -> String {
        if self.workload.is_some_and(|w| w.replicas.is_some()) {
            "spec.replicas".to_owned()
        } else {
            self.pod_field("containers")
        }
    }
}
