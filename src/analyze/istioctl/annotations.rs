//! Annotations of Istio's: unknown, retired, on the wrong kind, with a value that cannot be, and (a quiet analyzer) not settled.

use super::annotation_table::{self, Stage};
use super::annotation_values;
use super::context::{Context, DEPLOYMENT, NAMESPACE, POD, SERVICE};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// Written by Istio itself.
const OWN: &[&str] = &["sidecar.istio.io/status", "gateway.istio.io/controller-version", "istio.io/rev"];

/// Written by the node agent on each pod, where it does the redirection.
const OF_THE_NODE_AGENT: &[&str] = &[
    "sidecar.istio.io/interceptionMode",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
];

const INJECT: &str = "sidecar.istio.io/inject";

/// IST0107, IST0108, IST0125, IST0135, IST0136.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    for kind in [NAMESPACE, SERVICE, POD, DEPLOYMENT] {
        for object in context.all(kind) {
            for (name, value) in &object.annotations {
                if is_istios(name) && !OWN.contains(&name) {
                    check(object, name, value, out);
                }
            }
        }
    }
}

/// Whether Istio answers for an annotation: its part before the slash ends in `istio.io`. One of Kubernetes' is documented too.
fn is_istios(name: &str) -> bool {
    name == "kubernetes.io/ingress.class"
        || name.split('/').next().is_some_and(|domain| domain.ends_with("istio.io"))
}

fn check(object: &Object, name: &str, value: &str, out: &mut Messages) {
    let field = format!("metadata.annotations[{name}]");
    let Some(known) = annotation_table::find(name) else {
        out.push("IST0108", object, &field, format!("annotation {name} is not known to Istio"));
        return;
    };
    if known.stage == Stage::Alpha && !set_by_node_agent(object, name) {
        let text = format!("annotation {name} is alpha: its meaning can change with a release");
        out.push("IST0136", object, &field, text);
    }
    // Who has the label too knows that the annotation is on its way out and serves old versions as well.
    if known.deprecated && !(name == INJECT && object.labels.contains_key(INJECT)) {
        let instead = if name == INJECT { ": the label of that name takes its place" } else { "" };
        out.push("IST0135", object, &field, format!("annotation {name} is deprecated{instead}"));
    }
    if known.on.contains(&"Any") {
        return;
    }
    if !known.on.contains(&object.reference.kind.as_str()) {
        let text = format!("annotation {name} has no meaning here: it belongs on {}", known.on.join(", "));
        out.push("IST0107", object, &field, text);
    } else if let Err(problem) = annotation_values::check(name, value) {
        out.push("IST0125", object, &field, format!("the value of annotation {name} is no good: {problem}"));
    }
}

fn set_by_node_agent(object: &Object, name: &str) -> bool {
    let initialised = object
        .body
        .list("spec.initContainers")
        .iter()
        .any(|container| container.text("name") == Some("istio-init"));
    object.reference.kind == "Pod" && !initialised && OF_THE_NODE_AGENT.contains(&name)
}
