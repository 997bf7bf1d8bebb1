//! The volume of a claim can be reached from some nodes only, and these cannot take the pods.

use super::{Case, Verdict};
use crate::analyze::finding::Evidence;
use crate::analyze::remedy::Remedy;
use crate::analyze::rules::pods::common::{self, Group};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::PodTemplate;

/// The labels that a volume asks of its node, as `key in value, value`.
fn wanted(volume: &Object) -> Vec<(String, Vec<String>)> {
    let terms = volume.body.list("spec.nodeAffinity.required.nodeSelectorTerms").iter();
    terms
        .flat_map(|term| term.list("matchExpressions"))
        .map(|e| (e.string("key"), e.texts("values")))
        .collect()
}

/// The volume lies in another zone, or on another node.
pub(super) fn elsewhere(
    snapshot: &Snapshot,
    template: &PodTemplate,
    nodes: &[&Object],
    group: &Group<'_, Case<'_>>,
) -> Verdict {
    let claims =
        template.spec.list("volumes").iter().filter_map(|v| v.text("persistentVolumeClaim.claimName"));
    let found = claims
        .filter_map(|name| {
            let claim = snapshot.object("PersistentVolumeClaim", &group.owner.namespace, name)?;
            let volume = snapshot.object("PersistentVolume", "", claim.body.text("spec.volumeName")?)?;
            let wants = wanted(volume);
            (!wants.is_empty()).then_some((claim, volume, wants))
        })
        .next();
    let mut verdict = Verdict::plain(
        group.pod_field("volumes"),
        "volumes",
        "volume node affinity conflict: the volume lies elsewhere",
        "have a volume that none of the free nodes can reach",
        vec![],
    );
    let mut place = "where the volume lies".to_owned();
    if let Some((claim, volume, wants)) = &found {
        let text = wants
            .iter()
            .map(|(key, values)| format!("{key}={}", values.join("|")))
            .collect::<Vec<_>>()
            .join(", ");
        let fits = |node: &&&Object| {
            wants.iter().all(|(k, v)| node.labels.get(k).is_some_and(|have| v.iter().any(|v| v == have)))
        };
        let there: Vec<&str> = nodes.iter().filter(fits).map(|n| n.name()).collect();
        let who = if there.is_empty() {
            "no node is there".to_owned()
        } else {
            format!("only {} there", there.join(", "))
        };
        verdict.why = format!(
            "the volume {} of claim {} can be reached from nodes with {text} only, {who}, and the others that have room cannot",
            volume.name(),
            claim.name()
        );
        verdict.evidence.push(Evidence::object(&volume.reference.field("spec.nodeAffinity"), text.clone()));
        verdict.remedies.push(Remedy::commands(
            format!("See why the nodes with {text} do not take the pods: cordoned, full or gone"),
            nodes.iter().filter(fits).take(2).map(|node| common::describe_command(&node.reference)).collect(),
            vec![],
        ));
        place = format!("with {text}");
    }
    verdict.remedies.push(Remedy::manual(format!(
        "Bring back a node {place}, or restore the volume's data from its backup into a claim that is made anew"
    )));
    verdict
}
