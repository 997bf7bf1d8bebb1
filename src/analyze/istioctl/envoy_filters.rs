//! EnvoyFilters whose operation does nothing where it is applied, or depends on the order in which filters came.

use crate::model::json::Value;

use super::context::{Context, ENVOY_FILTER};
use super::message::Messages;
use crate::model::fields::Fields;

/// IST0151 to IST0155.
pub(super) fn analyze(context: &Context<'_>, out: &mut Messages) {
    // Names of filters that an earlier patch gave for some versions of the proxy only.
    let mut versioned: Vec<String> = vec![];
    for filter in context.all(ENVOY_FILTER) {
        let ordered = filter.body.int("spec.priority").is_some_and(|priority| priority != 0);
        for (index, entry) in filter.body.list("spec.configPatches").iter().enumerate() {
            let Some(patch) = entry.at("patch") else { break };
            let field = format!("spec.configPatches[{index}].patch.value");
            let apply_to = entry.string("applyTo");
            let name = filter_name(entry);
            let routes = matches!(apply_to.as_str(), "ROUTE_CONFIGURATION" | "HTTP_ROUTE");
            let replaceable = matches!(apply_to.as_str(), "NETWORK_FILTER" | "HTTP_FILTER" | "VIRTUAL_HOST");
            match patch.text("operation").unwrap_or_default() {
                "ADD" if routes => {
                    out.push(
                        "IST0153",
                        filter,
                        &field,
                        "operation ADD is ignored where it applies to routes",
                    );
                }
                "REMOVE" if routes => {
                    out.push(
                        "IST0154",
                        filter,
                        &field,
                        "operation REMOVE is ignored where it applies to routes",
                    );
                }
                "REPLACE" if !replaceable => {
                    let text = "operation REPLACE is for HTTP_FILTER, NETWORK_FILTER and VIRTUAL_HOST alone";
                    out.push("IST0152", filter, &field, text);
                }
                "REMOVE" | "REPLACE" | "INSERT_BEFORE" | "INSERT_AFTER" if !ordered => {
                    if versioned.contains(&name) {
                        let text = "a relative operation without priority, for a filter that is bound to proxy versions";
                        out.push("IST0155", filter, &field, text);
                    } else {
                        out.push("IST0151", filter, &field, "a relative operation without priority");
                    }
                }
                _ => {}
            }
            if entry.text("match.proxy.proxyVersion").is_some_and(|version| !version.is_empty()) {
                versioned.push(name);
            }
        }
    }
}

/// The name that a patch gives its filter; where it gives a value without one, be it empty, the name of the filter that it matches.
/// Both are told apart: the first is written as the value that it is.
fn filter_name(entry: &Value) -> String {
    let Some(value) = entry.at("patch.value").and_then(Value::as_object) else { return String::new() };
    match value.get("name") {
        Some(name) => format!("value {name}"),
        None => entry.string("match.listener.filterChain.filter.name"),
    }
}
