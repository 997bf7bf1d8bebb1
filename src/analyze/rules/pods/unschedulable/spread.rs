//! Rules of the pods about where their like may run: spread constraints and affinity to other pods.

use crate::model::json::{Value, json};

use super::{Case, Verdict};
use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, Risk, pointer, quote};
use crate::analyze::rules::pods::common::Group;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::workload::PodTemplate;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// The constraints that keep pods from running, with their places.
fn binding(template: &PodTemplate) -> impl Iterator<Item = (usize, &Value)> {
    let all = template.spec.list("topologySpreadConstraints").iter().enumerate();
    all.filter(|(_, c)| c.text("whenUnsatisfiable") != Some("ScheduleAnyway"))
}

/// Every node would make the spread too uneven.
pub(super) fn constraints(template: &PodTemplate, group: &Group<'_, Case<'_>>) -> Verdict {
    let mut verdict = Verdict::plain(
        group.pod_field("topologySpreadConstraints"),
        "topologySpreadConstraints",
        "topology spread constraints",
        "would break topologySpreadConstraints on every node",
        vec![],
    );
    for (at, constraint) in binding(template).take(3) {
        let place = group.owner.field(group.pod_field(&format!("topologySpreadConstraints[{at}]")));
        let skew = constraint.int("maxSkew").unwrap_or(1);
        verdict.evidence.push(Evidence::object(
            &place,
            format!("maxSkew {skew} over {}", constraint.string("topologyKey")),
        ));
    }
    verdict.remedies.extend(relax(template, group));
    verdict.remedies.push(Remedy::manual(
        "Or give every value of its topologyKey a node with room, so that the pods can spread",
    ));
    verdict
}

/// Prefer the spread instead of insisting on it.
fn relax(template: &PodTemplate, group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let workload = group.workload?;
    let operations: Vec<Value> = binding(template)
        .map(|(at, _)| {
            let path = group.pod_field(&format!("topologySpreadConstraints[{at}].whenUnsatisfiable"));
            json!({"op": "add", "path": pointer(&path), "value": "ScheduleAnyway"})
        })
        .collect();
    if operations.is_empty() {
        return None;
    }
    let summary = "Set whenUnsatisfiable of the constraint to ScheduleAnyway: the spread is then a wish, and the pods run";
    Some(Remedy::patch(&workload.object, &Value::from(operations), summary)?.risk(Risk::Medium))
}

/// No node has the label that the spread counts by.
pub(super) fn label(template: &PodTemplate, nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    let missing = |key: &str| !nodes.iter().any(|n| n.labels.contains_key(key));
    let (at, key) = binding(template)
        .map(|(at, c)| (at, c.string("topologyKey")))
        .find(|(_, key)| !nodes.is_empty() && missing(key))
        .or_else(|| binding(template).map(|(at, c)| (at, c.string("topologyKey"))).next())
        .unwrap_or_default();
    let path = group.pod_field(&format!("topologySpreadConstraints[{at}].topologyKey"));
    let mut remedies = vec![];
    if let Some(workload) = group.workload.filter(|_| key != HOSTNAME) {
        let operation = json!([{"op": "replace", "path": pointer(&path), "value": HOSTNAME}]);
        let summary = format!("Spread over {HOSTNAME}, a label that every node has, instead of {key}");
        remedies.extend(Remedy::patch(&workload.object, &operation, summary).map(|r| r.risk(Risk::Medium)));
    }
    if let Some(node) = nodes.first() {
        let (name, key) = (quote(node.name()), quote(&key));
        remedies.push(Remedy::commands(
            format!("Or give each node the label, such as {}", node.name()),
            vec![format!("kubectl label node {name} {key}=VALUE")],
            vec![format!("kubectl label node {name} {key}-")],
        ));
    }
    Verdict {
        field: path.clone(),
        word: "topologySpreadConstraints",
        mechanism: "topology spread constraints by a label that nodes lack",
        short: format!("are spread over the label {key}, which nodes lack"),
        why: format!(
            "topologySpreadConstraints spread them over the label {key}, and the nodes that could take them lack it"
        ),
        evidence: vec![Evidence::object(&group.owner.field(&path), key)],
        remedies,
    }
}

/// Rules about other pods leave out every node.
pub(super) fn affinity(template: &PodTemplate, nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let anti = format!("affinity.podAntiAffinity.{REQUIRED}");
    let with = format!("affinity.podAffinity.{REQUIRED}");
    let own_anti = !template.spec.list(&anti).is_empty();
    let path = if own_anti {
        anti.clone()
    } else if !template.spec.list(&with).is_empty() {
        with
    } else {
        "affinity".to_owned()
    };
    let one_each = template.spec.list(&anti).iter().any(|term| term.text("topologyKey") == Some(HOSTNAME));
    let replicas = group.workload.and_then(|w| w.replicas).unwrap_or(0);
    let mut verdict = Verdict::plain(
        group.pod_field(&path),
        "affinity",
        "pod affinity or anti-affinity rules",
        "match no node: pod affinity or anti-affinity rules leave out every one",
        vec![],
    );
    if own_anti && one_each && !nodes.is_empty() && replicas > nodes.len() as i64 {
        verdict.why = format!(
            "podAntiAffinity allows one of them on each node, and {replicas} replicas do not fit on {} nodes",
            nodes.len()
        );
    }
    verdict.remedies.extend(prefer(template, group, &anti));
    verdict.remedies.push(Remedy::manual(
        "Or run no more replicas than there are nodes (or zones) that the rule counts by, or correct its labelSelector",
    ));
    verdict
}

/// Make required anti-affinity a preference.
fn prefer(template: &PodTemplate, group: &Group<'_, Case<'_>>, required: &str) -> Option<Remedy> {
    let workload = group.workload?;
    let terms = template.spec.list(required);
    if terms.is_empty() {
        return None;
    }
    let preferred = "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution";
    let mut all: Vec<Value> = template.spec.list(preferred).to_vec();
    all.extend(terms.iter().map(|term| json!({"weight": 100, "podAffinityTerm": term})));
    let operations = json!([
        {"op": "add", "path": pointer(&group.pod_field(preferred)), "value": all},
        {"op": "remove", "path": pointer(&group.pod_field(required))},
    ]);
    let summary = "Make the podAntiAffinity rule a preferred one: the pods keep apart where they can, and run where they cannot";
    Some(Remedy::patch(&workload.object, &operations, summary)?.risk(Risk::Medium))
}
