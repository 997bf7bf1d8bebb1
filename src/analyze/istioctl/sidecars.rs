//! Sidecars that select nothing, the same pods, or pods without a sidecar.

use std::collections::BTreeMap;

use super::context::{Context, SIDECAR, first_label, pod_in_ambient_mode, selector_text};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// IST0101, IST0110, IST0111 and IST0167.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    let mut of_namespace: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    let mut of_pod: BTreeMap<(&str, &str), (&Object, Vec<&Object>)> = BTreeMap::new();
    for sidecar in context.all(SIDECAR) {
        let selector = sidecar.body.text_map("spec.workloadSelector.labels");
        if selector.is_empty() {
            of_namespace.entry(sidecar.namespace()).or_default().push(sidecar);
            continue;
        }
        let pods = context.pods_with(&selector);
        let mut found = false;
        for pod in pods.into_iter().filter(|pod| pod.namespace() == sidecar.namespace()) {
            found = true;
            of_pod.entry((pod.namespace(), pod.name())).or_insert((pod, vec![])).1.push(sidecar);
        }
        if !found {
            let field = first_label("spec.workloadSelector.labels", &selector);
            out.not_found(sidecar, &field, "selector", &selector_text(&selector));
        }
    }
    for (pod, sidecars) in of_pod.values() {
        let names = names(sidecars);
        for sidecar in sidecars {
            if pod_in_ambient_mode(pod) {
                out.push("IST0167", sidecar, "", "has no effect where the mesh is ambient");
            } else if sidecars.len() > 1 {
                let text = format!("Sidecars {names} select the same pod {}/{}", pod.namespace(), pod.name());
                out.push("IST0110", sidecar, "metadata.name", text);
            }
        }
    }
    for (namespace, sidecars) in of_namespace {
        let ambient = context.namespace_labels(namespace).is_some_and(is_ambient);
        let names = names(&sidecars);
        for sidecar in &sidecars {
            if ambient {
                out.push("IST0167", sidecar, "", "has no effect where the mesh is ambient");
            } else if sidecars.len() > 1 {
                let text = format!("Sidecars {names} in namespace {namespace} have no workload selector");
                out.push("IST0111", sidecar, "", text);
            }
        }
    }
}

fn names(sidecars: &[&Object]) -> String {
    let mut names: Vec<&str> = sidecars.iter().map(|sidecar| sidecar.name()).collect();
    names.sort_unstable();
    names.join(", ")
}

/// Whether the pods of a namespace with these labels go through their node's proxy. A label for sidecars wins.
fn is_ambient(labels: &Labels) -> bool {
    let label = |name: &str| labels.get(name).unwrap_or_default();
    label("istio-injection") != "enabled"
        && label("istio.io/rev").is_empty()
        && label("istio.io/dataplane-mode") == "ambient"
}
