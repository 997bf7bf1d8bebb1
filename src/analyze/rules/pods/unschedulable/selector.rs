//! No node has the labels that the pods want.

use crate::model::json::{Value, json};

use super::{Case, Verdict};
use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, Risk, pointer, pointer_segment, quote};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common::Group;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::workload::PodTemplate;

/// What of a node selector a node's labels do not satisfy.
fn unmatched<'a>(selector: &'a Labels, labels: &Labels) -> Vec<(&'a str, &'a str)> {
    selector.iter().filter(|(k, v)| labels.get(k) != Some(*v)).collect()
}

pub(super) fn verdict(template: &PodTemplate, nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    let selector = template.spec.text_map("nodeSelector");
    let (field, word) = if selector.is_empty() {
        ("affinity.nodeAffinity", "nodeAffinity")
    } else {
        ("nodeSelector", "nodeSelector")
    };
    let text = selector.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",");
    let mut evidence = vec![];
    let mut remedies = vec![];
    // The labels that no node has with this value, and the values that nodes have instead.
    let nowhere: Vec<_> =
        selector.iter().filter(|(k, v)| !nodes.iter().any(|n| n.labels.get(k) == Some(*v))).collect();
    if !nodes.is_empty() && !selector.is_empty() {
        for (key, value) in &nowhere {
            let mut values: Vec<&str> = nodes.iter().filter_map(|n| n.labels.get(key)).collect();
            values.sort();
            values.dedup();
            let have = values.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            let have = if have.is_empty() {
                "no node has this label".to_owned()
            } else {
                format!("nodes have {have}")
            };
            evidence.push(Evidence::new(
                "Object",
                format!("{} Nodes", nodes.len()),
                format!("label {key}: the pods want {value}, {have}"),
            ));
            if let (Some(workload), Some(near)) = (group.workload, nearest(value, values.iter().copied())) {
                let path = format!("{}/{}", pointer(&group.pod_field("nodeSelector")), pointer_segment(key));
                remedies.extend(Remedy::patch(
                    &workload.object,
                    &json!([{"op": "replace", "path": path, "value": near}]),
                    format!("Correct nodeSelector {key} to {near}, which nodes have"),
                ));
            }
        }
    }
    if let Some(workload) = group.workload
        && !selector.is_empty()
    {
        let root = pointer(&group.pod_field("nodeSelector"));
        let all = nowhere.is_empty() || nowhere.len() == selector.len();
        let operations: Vec<Value> = if all {
            vec![json!({"op": "remove", "path": root})]
        } else {
            nowhere
                .iter()
                .map(|(key, _)| json!({"op": "remove", "path": format!("{root}/{}", pointer_segment(key))}))
                .collect()
        };
        let what = if all {
            format!("the nodeSelector {text}")
        } else {
            "the labels that no node has from nodeSelector".to_owned()
        };
        remedies.extend(
            Remedy::patch(
                &workload.object,
                &Value::from(operations),
                format!("Remove {what}: the pods then fit any node with room"),
            )
            .map(|r| r.risk(Risk::Medium)),
        );
    }
    let closest = nodes.iter().min_by_key(|n| unmatched(&selector, &n.labels).len());
    if let Some(node) = closest
        && !selector.is_empty()
    {
        let labels: Vec<String> =
            unmatched(&selector, &node.labels).iter().map(|(k, v)| quote(&format!("{k}={v}"))).collect();
        let undo: Vec<String> = unmatched(&selector, &node.labels)
            .iter()
            .map(|(k, _)| match node.labels.get(k) {
                Some(old) => quote(&format!("{k}={old}")),
                None => quote(&format!("{k}-")),
            })
            .collect();
        if !labels.is_empty() {
            let name = quote(node.name());
            remedies.push(Remedy::commands(
                format!("Label a node that is meant for them, such as {}", node.name()),
                vec![format!("kubectl label node {name} --overwrite {}", labels.join(" "))],
                vec![format!("kubectl label node {name} --overwrite {}", undo.join(" "))],
            ));
        }
    }
    if remedies.is_empty() {
        remedies.push(Remedy::manual(format!(
            "Correct {field} so that it matches a node (kubectl get nodes --show-labels), or label a node"
        )));
    }
    let what = if selector.is_empty() {
        "the node affinity of the pod".to_owned()
    } else {
        format!("nodeSelector {text}")
    };
    Verdict {
        field: group.pod_field(field),
        word,
        mechanism: "node selector or node affinity matches no node",
        short: format!("match no node: {what}"),
        why: format!("{what} matches none of the nodes that could take them"),
        evidence,
        remedies,
    }
}
