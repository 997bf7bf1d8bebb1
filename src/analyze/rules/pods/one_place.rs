//! POD117.

use std::collections::BTreeSet;

use crate::model::json::json;

use super::common;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Workload, conditions};

crate::rule! {
    /// All replicas of a workload run in one place, so that one node or zone takes them all.
    ///
    /// ## What it detects
    /// A Deployment, StatefulSet or ReplicaSet with two replicas or more whose pods all run on one node though others could take them,
    /// or all in one zone of several.
    /// ## Why it matters
    /// Replicas are there so that one may fail. On one node they fail together: with its next restart, its next pressure, its next
    /// fault of the network.
    /// ## Evidence
    /// The nodes of the pods, the zones of these nodes, and how the node is.
    /// ## How to confirm
    /// `kubectl get pods -o wide -l SELECTOR` shows the same node for all.
    /// ## How to fix
    /// Add `topologySpreadConstraints` to the template, by `kubernetes.io/hostname` and by `topology.kubernetes.io/zone`; the pods
    /// that the patch rolls out are spread.
    /// ## False positives
    /// A cluster of one node or one zone, and nodes that the pods' selectors or the nodes' taints exclude, are not reported. As long
    /// as the place is well this is information.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/>
    OnePlace {
        code: "POD117", name: "all-replicas-in-one-place", family: Workload, severity: Info,
        needs: [Status], aliases: ["K8S-DS-SPREAD"],
    }
}

/// The labels of a node that say where it stands.
const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// A workload whose pods share one place.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    pods: usize,
    /// The node or the zone.
    place: String,
    /// `node` or `zone`, and the label that spreads over it.
    what: (&'static str, &'static str),
    /// How many other places could take them.
    others: usize,
    /// What is wrong with the place.
    unwell: Option<String>,
}

impl Check for OnePlace {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let nodes: Vec<&Object> = snapshot.objects_of("Node").collect();
        if nodes.len() < 2 {
            return vec![];
        }
        let top = |w: &&Workload| {
            w.object.owners.is_empty()
                && w.replicas.is_some_and(|n| n >= 2)
                && snapshot.in_scope(w.object.namespace())
        };
        snapshot
            .workloads
            .iter()
            .filter(top)
            .filter_map(|workload| together(snapshot, &nodes, workload))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = fact.workload.reference();
        let (what, label) = fact.what;
        let unwell = fact.unwell.as_ref().map(|why| format!(", which is {why}")).unwrap_or_default();
        let subject = r.field(fact.workload.template_path("spec.topologySpreadConstraints"));
        let services: Vec<_> = snapshot.services_before(fact.workload).map(|s| s.service_name()).collect();
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("All {} pods of {r} run in {what} {}{unwell}", fact.pods, fact.place))
            .message(format!(
                "{r} has {} pods, all in {what} {}{unwell}, while {} could take some of them. Whatever happens to that {what} happens to all of them at once.",
                fact.pods,
                fact.place,
                common::plural(fact.others, &format!("other {what}"))
            ))
            .mechanism("single failure domain: all replicas in one place")
            .severity(if fact.unwell.is_some() { Severity::Warning } else { Severity::Info })
            .role(Role::Context, Confidence::Observed)
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, format!("{} of {} pods in {what} {}", fact.pods, fact.pods, fact.place)))
            .effect(Effect::pods(r))
            .maybe_remedy(spread(fact, label))
            .prevention(Prevention::alert(
                "Alert when all pods of a workload share a node",
                format!("count(count by (node) (kube_pod_info{{{0}}})) == 1 and count(kube_pod_info{{{0}}}) > 1", common::pod_matcher(r)),
            ))
            .prevention(Prevention::of("Policy", "Every workload with replicas has topologySpreadConstraints (a default of the scheduler's, or a policy of admission)"))
    }
}

/// The place that a workload's pods share, where there are others.
fn together<'a>(snapshot: &'a Snapshot, nodes: &[&'a Object], workload: &'a Workload) -> Option<Fact<'a>> {
    let placed: Vec<&str> = snapshot
        .pods_of(workload.reference())
        .filter(|pod| !pod.ended() && pod.object.deleted.is_none() && !pod.node.is_empty())
        .map(|pod| pod.node.as_str())
        .collect();
    if placed.len() < 2 {
        return None;
    }
    let used: BTreeSet<&str> = placed.iter().copied().collect();
    let open: Vec<&&Object> = nodes.iter().filter(|node| takes(node, workload)).collect();
    let fact = |place: &str, what, others, unwell| Fact {
        workload,
        pods: placed.len(),
        place: place.to_owned(),
        what,
        others,
        unwell,
    };
    if used.len() == 1 {
        let name = used.first()?;
        let others = open.iter().filter(|node| node.name() != *name).count();
        let unwell = nodes.iter().find(|node| node.name() == *name).and_then(|node| unwell(node));
        return (others > 0).then(|| fact(name, ("node", HOST), others, unwell));
    }
    let zone = |node: &Object| node.labels.get(ZONE).map(str::to_owned);
    let zones: BTreeSet<Option<String>> =
        nodes.iter().filter(|n| used.contains(n.name())).map(|n| zone(n)).collect();
    let (Some(Some(own)), 1) = (zones.first(), zones.len()) else { return None };
    let others: BTreeSet<String> = open.iter().filter_map(|n| zone(n)).filter(|z| z != own).collect();
    (!others.is_empty()).then(|| fact(own, ("zone", ZONE), others.len(), None))
}

/// Whether a node could take pods of a workload, by its taints and the template's selector.
fn takes(node: &Object, workload: &Workload) -> bool {
    let taints = node.body.list("spec.taints");
    let tolerated = workload.template.spec.list("tolerations");
    let tainted = taints.iter().filter(|t| t.text("effect") != Some("PreferNoSchedule")).any(|taint| {
        !tolerated.iter().any(|t| t.text("key").is_none_or(|key| Some(key) == taint.text("key")))
    });
    let selector = workload.template.spec.text_map("nodeSelector");
    let affinity = workload
        .template
        .spec
        .at("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution")
        .is_some();
    !tainted
        && !affinity
        && !node.body.flag("spec.unschedulable")
        && selector.iter().all(|(k, v)| node.labels.get(k) == Some(v))
}

/// What is wrong with a node, in a word.
fn unwell(node: &Object) -> Option<String> {
    if node.body.flag("spec.unschedulable") {
        return Some("cordoned".to_owned());
    }
    let all = conditions(node.body.list("status.conditions"));
    let bad = all.iter().find(|c| match c.kind.as_str() {
        "Ready" => c.status != "True",
        kind => kind.ends_with("Pressure") && c.status == "True",
    })?;
    Some(if bad.kind == "Ready" { "not ready".to_owned() } else { format!("under {}", bad.kind) })
}

/// Constraints that spread the pods, as a patch of a template that has none.
fn spread(fact: &Fact<'_>, label: &str) -> Option<Remedy> {
    let spec = fact.workload.template_path("spec");
    if fact.workload.template.spec.at("topologySpreadConstraints").is_some()
        || fact.workload.template.labels.is_empty()
    {
        return None;
    }
    let labels = fact.workload.object.body.at("spec.selector.matchLabels")?;
    let value = json!([{"maxSkew": 1, "topologyKey": label, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": labels}}]);
    let remedy = Remedy::patch(
        &fact.workload.object,
        &json!([{"op": "add", "path": format!("{}/topologySpreadConstraints", pointer(&spec)), "value": value}]),
        format!("Add topologySpreadConstraints over {label}: the rollout places the pods anew"),
    )?;
    Some(remedy.risk(Risk::Medium))
}
