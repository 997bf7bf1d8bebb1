//! The nodes are there and keep the pods away: by a taint, or because they are cordoned.

use crate::model::json::json;

use super::{Case, Verdict};
use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, Risk, pointer, quote};
use crate::analyze::rules::pods::common::Group;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::workload::PodTemplate;

pub(super) fn verdict(
    taint: &str,
    template: &PodTemplate,
    nodes: &[&Object],
    group: &Group<'_, Case<'_>>,
) -> Verdict {
    let (key, value) = taint.split_once(": ").unwrap_or((taint.trim_end_matches(':'), ""));
    let (key, value) = (key.trim(), value.trim());
    let unhealthy =
        key.starts_with("node.kubernetes.io/") || key.starts_with("node.cloudprovider.kubernetes.io/");
    let effect = nodes
        .iter()
        .flat_map(|n| n.body.list("spec.taints"))
        .find(|t| t.text("key") == Some(key))
        .and_then(|t| t.text("effect"))
        .unwrap_or("NoSchedule");
    let mut remedies = vec![];
    if unhealthy {
        remedies.push(Remedy::manual(format!("Heal the nodes: the taint {key} is set by the control plane for their state, and a toleration would only put pods on them all the same")));
    } else if let Some(workload) = group.workload {
        let toleration = if value.is_empty() {
            json!({"key": key, "operator": "Exists", "effect": effect})
        } else {
            json!({"key": key, "operator": "Equal", "value": value, "effect": effect})
        };
        let path = pointer(&group.pod_field("tolerations"));
        let operations = if template.spec.at("tolerations").is_some() {
            json!([{"op": "add", "path": format!("{path}/-"), "value": toleration}])
        } else {
            json!([{"op": "add", "path": path, "value": [toleration]}])
        };
        remedies.extend(
            Remedy::patch(
                &workload.object,
                &operations,
                format!("Add a toleration for the taint {key}, if these pods belong on such nodes"),
            )
            .map(|r| r.risk(Risk::Medium)),
        );
    }
    let tainted: Vec<&str> = nodes
        .iter()
        .filter(|n| n.body.list("spec.taints").iter().any(|t| t.text("key") == Some(key)))
        .map(|n| n.name())
        .collect();
    for name in tainted.iter().take(1).filter(|_| !unhealthy) {
        let name = quote(name);
        let full =
            if value.is_empty() { format!("{key}:{effect}") } else { format!("{key}={value}:{effect}") };
        remedies.push(
            Remedy::commands(
                "Take the taint off a node that should take them",
                vec![format!("kubectl taint node {name} {}-", quote(&full))],
                vec![format!("kubectl taint node {name} {}", quote(&full))],
            )
            .risk(Risk::Medium),
        );
    }
    if remedies.is_empty() {
        remedies.push(Remedy::manual(format!(
            "Add a toleration for the taint {key}, or take the taint off the nodes"
        )));
    }
    Verdict {
        field: group.pod_field("tolerations"),
        word: "tolerations",
        mechanism: "an untolerated taint",
        short: format!("do not tolerate the taint {key} of the nodes"),
        why: format!("the nodes have the taint {taint} and the pods no toleration for it"),
        evidence: if tainted.is_empty() {
            vec![]
        } else {
            vec![Evidence::new(
                "Object",
                format!("{} Nodes", nodes.len()),
                format!(
                    "{} have the taint {key}: {}",
                    tainted.len(),
                    tainted.iter().take(5).copied().collect::<Vec<_>>().join(", ")
                ),
            )]
        },
        remedies,
    }
}

/// Every node that could take the pods is cordoned.
pub(super) fn cordoned(nodes: &[&Object], group: &Group<'_, Case<'_>>) -> Verdict {
    let shut: Vec<&str> =
        nodes.iter().filter(|n| n.body.flag("spec.unschedulable")).map(|n| n.name()).collect();
    let names: Vec<String> = shut.iter().take(8).map(|name| quote(name)).collect();
    let remedy = if names.is_empty() {
        Remedy::manual("Let the nodes that are fit to work take pods again (kubectl uncordon NODE)")
    } else {
        Remedy::commands(
            "Let the nodes that are fit to work take pods again",
            vec![format!("kubectl uncordon {}", names.join(" "))],
            vec![format!("kubectl cordon {}", names.join(" "))],
        )
        .risk(Risk::Medium)
    };
    let mut verdict = Verdict::plain(
        group.pod_field("tolerations"),
        "",
        "every node is cordoned",
        "find every node that could take them cordoned",
        vec![remedy],
    );
    if !shut.is_empty() {
        verdict.evidence.push(Evidence::new(
            "Object",
            format!("{} Nodes", nodes.len()),
            format!(
                "{} are cordoned: {}",
                shut.len(),
                shut.iter().take(5).copied().collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    verdict
}
