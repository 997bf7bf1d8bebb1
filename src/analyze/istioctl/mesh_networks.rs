//! The networks of a mesh over several clusters.

use crate::model::json::{Text, Value};
use std::collections::BTreeSet;

use super::context::{Context, SECRET};
use super::message::Messages;
use crate::model::fields::Fields;

/// Registries that every control plane has.
const BUILT_IN: &[&str] = &["Mock", "Kubernetes", "External"];

/// IST0126: endpoints from a registry that is neither built in nor named by the Secret of a remote cluster. The networks stand as
/// YAML in the control plane's ConfigMap.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    let root = &context.istio().root_namespace;
    let Some(map) = context.snapshot.object("ConfigMap", root, "istio") else { return };
    let text = map.body.at("data").and_then(|data| data.child("meshNetworks")).and_then(Value::as_str);
    let parsed: Option<Value> = text.and_then(|text| serde_saphyr::from_str(text).ok());
    let Some(networks) = parsed else { return };
    let mut known: BTreeSet<&str> = BUILT_IN.iter().copied().collect();
    for secret in context.all(SECRET) {
        if secret.labels.get("istio/multiCluster").is_some_and(|value| value == "true") {
            known.extend(secret.body.map("data").into_iter().flat_map(|data| data.keys().map(Text::as_str)));
        }
    }
    for (network, entry) in networks.map("networks").into_iter().flatten() {
        for endpoint in entry.list("endpoints") {
            let Some(registry) = endpoint.text("fromRegistry") else { continue };
            if !known.contains(registry) {
                let text = format!(
                    "network {network} takes endpoints from registry {registry}, which nothing names"
                );
                out.push("IST0126", map, "data.meshNetworks", text);
            }
        }
    }
}
