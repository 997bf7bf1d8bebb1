//! Telemetry that selects nothing, the same pods, or sends its logs nowhere.

use std::collections::BTreeMap;

use super::context::{Context, TELEMETRY, first_label, full_name, is_set, selector_text};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;

/// IST0101, IST0157, IST0159 and IST0160.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    let mut of_namespace: BTreeMap<&str, Vec<&Object>> = BTreeMap::new();
    let mut of_pod: BTreeMap<(&str, &str), Vec<&Object>> = BTreeMap::new();
    let by_default = context.istio().mesh_config.list("defaultProviders.accessLogging");
    for telemetry in context.all(TELEMETRY) {
        let selector = telemetry.body.text_map("spec.selector.matchLabels");
        if !is_set(&telemetry.body, "spec.selector") {
            of_namespace.entry(telemetry.namespace()).or_default().push(telemetry);
        } else if !selector.is_empty() {
            let mut found = false;
            for pod in context.pods_with(&selector) {
                if pod.namespace() == telemetry.namespace() {
                    found = true;
                    of_pod.entry((pod.namespace(), pod.name())).or_default().push(telemetry);
                }
            }
            if !found {
                let field = first_label("spec.selector.matchLabels", &selector);
                out.not_found(telemetry, &field, "selector", &selector_text(&selector));
            }
        }
        let logging = telemetry.body.list("spec.accessLogging").iter();
        let mut active = logging.filter(|logging| !logging.flag("disabled"));
        if by_default.is_empty() && active.any(|logging| logging.list("providers").is_empty()) {
            let text = format!(
                "Telemetry {} names no provider, and the mesh has none by default",
                full_name(telemetry)
            );
            out.push("IST0157", telemetry, "", text);
        }
    }
    for ((namespace, pod), all) in of_pod.iter().filter(|(_, all)| all.len() > 1) {
        for telemetry in all {
            let text = format!("Telemetries {} select the same pod {namespace}/{pod}", names(all));
            out.push("IST0159", telemetry, "metadata.name", text);
        }
    }
    for (namespace, all) in of_namespace.iter().filter(|(_, all)| all.len() > 1) {
        for telemetry in all {
            let text = format!("Telemetries {} in namespace {namespace} have no selector", names(all));
            out.push("IST0160", telemetry, "", text);
        }
    }
}

fn names(all: &[&Object]) -> String {
    let mut names: Vec<&str> = all.iter().map(|telemetry| telemetry.name()).collect();
    names.sort_unstable();
    names.join(", ")
}
