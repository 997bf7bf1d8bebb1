//! Namespaces whose labels say nothing or too much about injection, and pods that came up without their proxy.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::context::{CONFIG_MAP, Context, NAMESPACE, PROXY, full_name};
use super::message::Messages;
use crate::model::fields::Fields;

const INJECTION: &str = "istio-injection";
const REVISION: &str = "istio.io/rev";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const INJECT: &str = "sidecar.istio.io/inject";

/// The ConfigMap of a revision's injector.
pub(super) fn injector_of(revision: &str) -> String {
    let base = "istio-sidecar-injector";
    if matches!(revision, "" | "default") { base.to_owned() } else { format!("{base}-{revision}") }
}

/// The values of an injector, where they are JSON.
pub(super) fn injector_values(body: &Value) -> Option<Value> {
    serde_json::from_str(body.text("data.values")?).ok()
}

/// IST0102, IST0103, IST0123 and IST0148.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    let mut injected = BTreeSet::new();
    // What one revision's injector says stays in force for namespaces whose own injector was not seen.
    let mut by_default = false;
    for namespace in context.all(NAMESPACE).filter(|namespace| namespace.name() != "istio-system") {
        let label = |name: &str| namespace.labels.get(name);
        let (injection, revision) = (label(INJECTION), label(REVISION));
        let mut labels: Vec<String> =
            injection.map(|value| format!("{INJECTION}={value}")).into_iter().collect();
        if injection.is_none_or(|value| value == "enabled") {
            let others = [REVISION, DATAPLANE_MODE];
            labels.extend(others.iter().filter_map(|name| Some(format!("{name}={}", label(name)?))));
        }
        if labels.len() > 1 {
            let text = format!("the labels {} exclude each other", labels.join(", "));
            out.push("IST0123", namespace, "", text);
        }
        if label(DATAPLANE_MODE) == Some("ambient") {
            continue;
        }
        let injector = injector_of(revision.unwrap_or_default());
        if let Some(map) = context.all(CONFIG_MAP).find(|map| map.name() == injector) {
            let values = injector_values(&map.body).unwrap_or_default();
            by_default = values.flag("sidecarInjectorWebhook.enableNamespacesByDefault");
        }
        if injection.unwrap_or_default().is_empty() && revision.is_none() {
            if by_default {
                let text = "no label says anything of injection, and the injector is on by default";
                out.push("IST0148", namespace, "", text);
            } else {
                let text = "no label turns injection on";
                out.push("IST0102", namespace, "metadata.name", text);
            }
        } else if injection == Some("enabled") {
            injected.insert(namespace.name());
        }
    }
    for pod in context.pods.iter().filter(|pod| injected.contains(pod.namespace())) {
        let asked = pod.labels.get(INJECT).or_else(|| pod.annotations.get(INJECT));
        let refused = asked.is_some_and(|value| value.eq_ignore_ascii_case("false"));
        let mut containers =
            pod.body.list("spec.containers").iter().chain(pod.body.list("spec.initContainers"));
        let proxy = containers.find(|container| container.text("name") == Some(PROXY));
        let runs = proxy.is_some_and(|container| !container.string("image").is_empty());
        if !refused && !runs && !pod.body.flag("spec.hostNetwork") {
            let text = format!("pod {} has no proxy, and its namespace turns injection on", full_name(pod));
            out.push("IST0103", pod, "", text);
        }
    }
}
