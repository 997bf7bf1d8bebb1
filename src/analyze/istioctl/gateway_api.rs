//! Policies that select pods of the Gateway API's gateways, and definitions too old for Istio to read.

use std::collections::BTreeMap;

use super::context::{
    AUTHORIZATION_POLICY, Context, DEFINITION, REQUEST_AUTHENTICATION, TELEMETRY, WASM_PLUGIN, covers, is_set,
};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// IST0166: such a pod takes policies by `targetRefs` alone.
pub(super) fn selectors(context: &Context<'_>, out: &mut Messages) {
    let mut pods: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    for pod in context.pods.iter().filter(|pod| pod.labels.contains_key(GATEWAY_NAME)) {
        pods.entry(pod.namespace()).or_default().push(pod);
    }
    for kind in [AUTHORIZATION_POLICY, REQUEST_AUTHENTICATION, TELEMETRY, WASM_PLUGIN] {
        for policy in context.all(kind) {
            // `targetRefs`, the newer list, is not looked at.
            if policy.body.at("spec.targetRef").is_some() || !is_set(&policy.body, "spec.selector") {
                continue;
            }
            let selector = policy.body.text_map("spec.selector.matchLabels");
            for pod in pods.get(policy.namespace()).into_iter().flatten() {
                if covers(&selector, &pod.labels) {
                    let gateway = pod.labels.get(GATEWAY_NAME).unwrap_or("");
                    let text = format!(
                        "the selector does nothing for pods of Gateway {gateway}: name it in targetRefs"
                    );
                    out.push("IST0166", policy, "", text);
                }
            }
        }
    }
}

const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";

/// Definitions and the oldest version of the Gateway API whose form of them Istio reads.
const OLDEST: &[(&str, (u64, u64, u64))] = &[
    ("backendtlspolicies.gateway.networking.k8s.io", (1, 4, 0)),
    ("grpcroutes.gateway.networking.k8s.io", (1, 1, 0)),
    ("tcproutes.gateway.networking.k8s.io", (1, 6, 0)),
    ("tlsroutes.gateway.networking.k8s.io", (1, 5, 0)),
];

/// IST0176.
pub(super) fn definitions(context: &Context<'_>, out: &mut Messages) {
    for definition in context.all(DEFINITION) {
        let oldest = OLDEST.iter().find(|(name, _)| *name == definition.name());
        let installed = definition.annotations.get(BUNDLE_VERSION);
        let (Some((_, oldest)), Some(installed)) = (oldest, installed) else { continue };
        if version(installed).is_some_and(|version| version < *oldest) {
            let (major, minor, patch) = oldest;
            let text = format!(
                "version {installed} is installed, and Istio reads it from {major}.{minor}.{patch} on"
            );
            out.push("IST0176", definition, "", text);
        }
    }
}

/// The three numbers of `v1.4.0-rc.1`; what is left out is 0.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let mut parts = numbers.split('.').map(|part| part.parse().ok());
    let version = (parts.next()??, parts.next().unwrap_or(Some(0))?, parts.next().unwrap_or(Some(0))?);
    parts.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("v1.5.0-rc.2"), Some((1, 5, 0)));
        assert_eq!(version("1.4"), Some((1, 4, 0)));
        assert_eq!(version("main"), None);
    }
}
