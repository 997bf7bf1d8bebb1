//! AuthorizationPolicies that reach nobody or name namespaces that are not there, and where tokens' keys are fetched from.

use std::collections::BTreeMap;

use super::context::{
    AUTHORIZATION_POLICY, Context, DEPLOYMENT, NAMESPACE, REQUEST_AUTHENTICATION, covers, full_name, is_set,
    pod_in_ambient_mode, selector_text,
};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// IST0127 for policies, IST0101 for the namespaces they name.
pub(super) fn policies(context: &Context<'_>, out: &mut Messages) {
    let mut in_mesh: BTreeMap<&str, Vec<&Labels>> = BTreeMap::new();
    for pod in &context.pods {
        if context.pod_in_mesh(pod) || pod_in_ambient_mode(pod) {
            in_mesh.entry(pod.namespace()).or_default().push(&pod.labels);
        }
    }
    for policy in context.all(AUTHORIZATION_POLICY) {
        unreached(context, policy, &in_mesh, out);
        namespaces(context, policy, out);
    }
}

/// A selector in the root namespace is taken to reach the pods of all namespaces; what a policy is attached to instead of a
/// selector is not looked at.
fn unreached(
    context: &Context<'_>,
    policy: &Object,
    in_mesh: &BTreeMap<&str, Vec<&Labels>>,
    out: &mut Messages,
) {
    let selector =
        is_set(&policy.body, "spec.selector").then(|| policy.body.text_map("spec.selector.matchLabels"));
    let beside = in_mesh.get(policy.namespace()).map_or(&[][..], Vec::as_slice);
    let reached = if policy.namespace() == context.istio().root_namespace {
        selector.as_ref().is_none_or(|wanted| in_mesh.values().flatten().any(|labels| covers(wanted, labels)))
    } else {
        match &selector {
            None => !beside.is_empty(),
            Some(wanted) => beside.iter().any(|labels| covers(wanted, labels)),
        }
    };
    if !reached {
        let labels = selector_text(&selector.unwrap_or_default());
        out.push("IST0127", policy, "", format!("no pod in the mesh matches the selector {labels:?}"));
    }
}

fn namespaces(context: &Context<'_>, policy: &Object, out: &mut Messages) {
    for (rule, entry) in policy.body.list("spec.rules").iter().enumerate() {
        for (from, source) in entry.list("from").iter().enumerate() {
            for field in ["namespaces", "notNamespaces"] {
                for (at, pattern) in source.texts(&format!("source.{field}")).iter().enumerate() {
                    if !context.all(NAMESPACE).any(|namespace| matches(pattern, namespace.name())) {
                        let path = format!("spec.rules[{rule}].from[{from}].source.{field}[{at}]");
                        out.not_found(policy, &path, "namespace", pattern);
                    }
                }
            }
        }
    }
}

/// `*`, `*suffix`, `prefix*`, or a name whatever its case.
fn matches(pattern: &str, namespace: &str) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        namespace.ends_with(suffix)
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        namespace.starts_with(prefix)
    } else {
        namespace.eq_ignore_ascii_case(pattern)
    }
}

/// IST0175: istiod fetches keys from wherever a RequestAuthentication tells it, and nothing keeps it from internal addresses.
pub(super) fn blocked_addresses(context: &Context<'_>, out: &mut Messages) {
    let asking: Vec<String> = context.all(REQUEST_AUTHENTICATION).map(full_name).collect();
    let Some(first) = asking.first() else { return };
    for deployment in context.all(DEPLOYMENT) {
        let istiod = deployment.labels.get("app").is_some_and(|app| app == "istiod");
        let containers = deployment.body.list("spec.template.spec.containers").iter();
        let blocks = containers.flat_map(|container| container.list("env")).any(|entry| {
            entry.text("name") == Some("BLOCKED_CIDRS_IN_JWKS_URIS") && !entry.string("value").is_empty()
        });
        if istiod && !blocks {
            let text = format!(
                "BLOCKED_CIDRS_IN_JWKS_URIS is not set, and {} RequestAuthentications ({first}, …) make istiod fetch keys",
                asking.len()
            );
            out.push("IST0175", deployment, "", text);
        }
    }
}
