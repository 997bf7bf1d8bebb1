//! What policies are for: pods by labels, or objects by name.

use crate::model::json::Value;

use super::Faults;
use super::words::{items, selector, set, shown, word};
use crate::model::fields::Fields;

/// Kinds that a policy can name, with their groups; `core` is the one without a name.
const TARGETS: &[(&str, &str)] = &[
    ("Service", "core"),
    ("ServiceEntry", "networking.istio.io"),
    ("Gateway", "gateway.networking.k8s.io"),
    ("GatewayClass", "gateway.networking.k8s.io"),
];

/// `selector`, `targetRef` and `targetRefs`, of which one is there at most.
pub(super) fn check(out: &mut Faults, spec: &Value) {
    let ways = [set(spec, "selector"), set(spec, "targetRef"), !spec.list("targetRefs").is_empty()];
    if ways.into_iter().filter(|there| *there).count() > 1 {
        out.error(
            "spec",
            "a policy is for pods and for objects, or for objects twice",
            "selector or targetRefs",
        );
    }
    selector(out, spec.at("selector"), "spec.selector");
    if let Some(one) = spec.at("targetRef").filter(|one| one.is_object()) {
        target(out, one, "spec.targetRef");
    }
    for (path, one) in items(spec, "targetRefs", "spec") {
        target(out, one, &path);
    }
}

fn target(out: &mut Faults, target: &Value, path: &str) {
    if word(target, "name").is_empty() {
        out.error(format!("{path}.name"), "a target has no name", "the name of an object beside the policy");
    }
    if !word(target, "namespace").is_empty() {
        out.error(
            format!("{path}.namespace"),
            "a target names a namespace",
            "an object of the policy's own namespace, without naming it",
        )
        .fix(super::Fix::Remove);
    }
    let (kind, group) = (word(target, "kind"), word(target, "group"));
    let full = if group.is_empty() { "core" } else { group };
    if !TARGETS.contains(&(kind, full)) {
        out.error(
            format!("{path}.kind"),
            format!("a target is a {}/{}", shown(group), shown(kind)),
            "a Service, ServiceEntry, Gateway of the Gateway API or GatewayClass, with its group",
        );
    }
}
