//! POD120.

use crate::model::json::{Value, json};

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A field of the pod's own spec holds the pod back, and nobody lets it go.
    ///
    /// ## What it detects
    /// Pods that are bound by `spec.nodeName` to a node that does not exist; pods with `schedulingGates` that nobody removes; pods all of
    /// whose containers are ready while a condition of their `readinessGates` is not there.
    /// ## Why it matters
    /// The pod takes no traffic, and there is no event, no log and no restart that would say why.
    /// ## Evidence
    /// The field, the nodes, and the pod's conditions.
    /// ## How to confirm
    /// `kubectl get pod POD -o yaml` shows the field and the conditions; `kubectl get nodes` the nodes.
    /// ## How to fix
    /// Remove the field, or start the controller that is to remove the gate or to set the condition.
    /// ## False positives
    /// A queue that lets pods of Jobs in by and by uses gates as well: Jobs are not looked at. A readiness gate whose condition is there
    /// and `False` is a controller's answer, and not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/pod-scheduling-readiness/>
    /// <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-readiness-gate>
    HeldBack {
        code: "POD120", name: "held-back-by-its-own-spec", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// What holds a pod back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// A node that does not exist.
    Node(String),
    /// Gates that nobody opens.
    Gates(String),
    /// A condition that nobody sets.
    Readiness(String),
}

impl Why {
    fn field(&self) -> &'static str {
        match self {
            Why::Node(_) => "nodeName",
            Why::Gates(_) => "schedulingGates",
            Why::Readiness(_) => "readinessGates",
        }
    }

    fn words(&self) -> String {
        match self {
            Why::Node(node) => format!("spec.nodeName binds it to node {node}, which does not exist"),
            Why::Gates(gates) => {
                format!("its scheduling gates ({gates}) are closed, and nobody has opened them")
            }
            Why::Readiness(condition) => {
                format!("nobody sets condition {condition} of its readiness gates")
            }
        }
    }

    fn mechanism(&self) -> &'static str {
        match self {
            Why::Node(_) => "held back: nodeName names a node that does not exist",
            Why::Gates(_) => "held back: scheduling gate that nobody removes (SchedulingGated)",
            Why::Readiness(_) => {
                "held back: readiness gate whose condition nobody sets (ReadinessGatesNotReady)"
            }
        }
    }
}

/// Pods of a workload that are held back.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Why>);

/// Whoever opens gates and sets conditions watches for such pods: a controller's queue retries within milliseconds, and backs off
/// to 15 s or so only after a dozen failures in a row (5 ms, doubled each time: the rate limiter of client-go's work queues).
/// A node that a template names and that does not exist needs no patience: nobody makes nodes for pods that are bound already,
/// and the garbage collector of pods takes such pods away and has them made again, so none of them grows old.
const PATIENCE_SECONDS: f64 = 15.0;

impl Check for HeldBack {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let look = |pod: &'a Pod| why(snapshot, pod).map(|why| (String::new(), why)).into_iter().collect();
        let mut groups = common::groups(snapshot, look);
        groups.retain(|group| group.owner.kind != "Job");
        groups.into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let Some((pod, why)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[]);
        };
        let path = group.pod_field(why.field());
        let value = pod.template.spec.at(why.field()).unwrap_or(&Value::Null).to_string();
        let finding = Finding::new(Self::META, group.owner.field(&path), &[])
            .title(format!("{}: {} held back: {}", group.owner, common::plural(group.cases.len(), "pod"), why.words()))
            .message(format!(
                "{} of {} {} not come up: {}. Nothing else tells of it, for the kubelet and the scheduler wait.{}",
                group.share(),
                group.owner,
                if group.cases.len() == 1 { "does" } else { "do" },
                why.words(),
                if group.all_down() { " No pod of the workload serves." } else { " Other pods take its traffic." }
            ))
            .mechanism(why.mechanism())
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .evidence(Evidence::object(&group.owner.field(&path), value.replace('"', "")))
            .evidence(Evidence::object(&pod.object.reference, format!("{} since it was made", pod.phase)).at(pod.object.created))
            .onset(group.cases.iter().filter_map(|(pod, _)| pod.object.created).min())
            .maybe_remedy(group.undo_rollout(snapshot, why.field()))
            .maybe_remedy(group.workload.filter(|w| w.template.spec.at(why.field()).is_some()).and_then(|workload| {
                let operation = common::operation("remove", &path, &Value::Null);
                Remedy::patch(&workload.object, &json!([operation]), format!("Remove {} from the template: new pods are not held back", why.field()))
            }))
            .prevention(Prevention::alert(
                "Alert when ready pods are missing",
                format!("kube_deployment_status_replicas_available{{namespace=\"{ns}\",deployment=\"{name}\"}} < kube_deployment_spec_replicas{{namespace=\"{ns}\",deployment=\"{name}\"}}", ns = group.owner.namespace, name = group.owner.name),
            ));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// What holds a pod back. Where others are to let it go, only after they have had a moment for it.
fn why(snapshot: &Snapshot, pod: &Pod) -> Option<Why> {
    if pod.ended() || !pod.has_status() {
        return None;
    }
    let written = |group: &Pod| snapshot.workload(&snapshot.owner(group)).map(|w| w.template.spec.clone());
    let untouched = pod.phase == "Pending" && pod.statuses.is_empty();
    // A node that is gone takes its pods with it by and by: only what somebody wrote binds new ones.
    let bound = written(pod).is_some_and(|spec| spec.text("nodeName").is_some_and(|name| !name.is_empty()));
    if untouched && bound && snapshot.knows_kind("Node") && snapshot.object("Node", "", &pod.node).is_none() {
        return Some(Why::Node(pod.node.clone()));
    }
    let waited = pod.object.created.map(|at| common::seconds_between(at, snapshot.now));
    if waited.is_none_or(|seconds| seconds < PATIENCE_SECONDS) {
        return None;
    }
    let gated =
        pod.condition("PodScheduled").is_some_and(|c| c.status == "False" && c.reason == "SchedulingGated");
    if gated {
        let gates = pod.template.spec.list("schedulingGates");
        return Some(Why::Gates(gates.iter().map(|gate| gate.string("name")).collect::<Vec<_>>().join(", ")));
    }
    let ready = |kind: &str| pod.condition(kind).is_some_and(|c| c.status == "True");
    if ready("Ready") || !ready("ContainersReady") {
        return None;
    }
    let since = pod.condition("ContainersReady").and_then(|c| c.since);
    if since.is_none_or(|at| common::seconds_between(at, snapshot.now) < PATIENCE_SECONDS) {
        return None;
    }
    let gates = pod.template.spec.list("readinessGates");
    let absent =
        gates.iter().map(|gate| gate.string("conditionType")).find(|kind| pod.condition(kind).is_none());
    absent.map(Why::Readiness)
}
