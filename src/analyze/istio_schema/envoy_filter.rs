//! EnvoyFilter: what each patch is for and where it goes. What a patch writes is Envoy's own configuration, of which only types of its
//! retired API are known here.

use crate::model::json::Value;

use super::words::{alpha_selector, expression, items, set, shown, warn_unlabelled, word};
use super::{By, Faults};
use crate::model::fields::Fields;

/// Names of Envoy's filters before they got their family's name in front.
const FORMER: &[&str] = &[
    "envoy.buffer",
    "envoy.client_ssl_auth",
    "envoy.cors",
    "envoy.csrf",
    "envoy.ext_authz",
    "envoy.fault",
    "envoy.grpc_http1_bridge",
    "envoy.grpc_json_transcoder",
    "envoy.grpc_web",
    "envoy.gzip",
    "envoy.health_check",
    "envoy.http_connection_manager",
    "envoy.http_dynamo_filter",
    "envoy.ip_tagging",
    "envoy.listener.http_inspector",
    "envoy.listener.original_dst",
    "envoy.listener.original_src",
    "envoy.listener.proxy_protocol",
    "envoy.listener.tls_inspector",
    "envoy.lua",
    "envoy.mongo_proxy",
    "envoy.rate_limit",
    "envoy.ratelimit",
    "envoy.redis_proxy",
    "envoy.router",
    "envoy.squash",
    "envoy.tcp_proxy",
];
const MANAGERS: &[&str] = &["envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"];

pub(super) fn check(out: &mut Faults, spec: &Value) {
    if !alpha_selector(out, spec) {
        return;
    }
    // Said of every one, it tells nothing of this one.
    out.warn("spec", "an EnvoyFilter depends on what Istio makes for Envoy", "another API").by(By::Istioctl);
    warn_unlabelled(out, spec);
    for (path, patch) in items(spec, "configPatches", "spec") {
        if word(patch, "match.context") != "WAYPOINT" {
            check_patch(out, patch, &path);
        }
    }
}

fn check_patch(out: &mut Faults, patch: &Value, path: &str) {
    let target = word(patch, "applyTo");
    let operation = word(patch, "patch.operation");
    let missing = if matches!(target, "" | "INVALID") {
        Some(("applyTo", "a patch has no applyTo"))
    } else if !set(patch, "patch") {
        Some(("patch", "a patch is empty"))
    } else if matches!(operation, "" | "INVALID") {
        Some(("patch.operation", "a patch has no operation"))
    } else if operation != "REMOVE" && !set(patch, "patch.value") {
        Some(("patch.value", "a patch has no value"))
    } else {
        None
    };
    if let Some((field, what)) = missing {
        out.error(format!("{path}.{field}"), what, "applyTo, an operation, and a value for it");
        return;
    }
    let version = word(patch, "match.proxy.proxyVersion");
    let at = format!("{path}.match.proxy.proxyVersion");
    if version.len() > 1024 {
        out.warn(at, "a version of proxies is longer than 1024 characters", "a regular expression");
    } else {
        let before = out.0.len();
        expression(out, at, version, "a version of proxies");
        if out.0.len() > before {
            return;
        }
    }
    let own = match target {
        "LISTENER" | "FILTER_CHAIN" | "NETWORK_FILTER" | "HTTP_FILTER" => "listener",
        "ROUTE_CONFIGURATION" | "VIRTUAL_HOST" | "HTTP_ROUTE" => "routeConfiguration",
        "CLUSTER" => "cluster",
        _ => "",
    };
    let mut given = ["listener", "routeConfiguration", "cluster"].into_iter();
    let given = given.find(|kind| set(patch, &format!("match.{kind}")));
    if let Some(given) = given.filter(|given| !own.is_empty() && *given != own) {
        let class = if own == "routeConfiguration" { "routes" } else { own };
        out.error(
            format!("{path}.match.{given}"),
            format!("a patch of {class} matches something else"),
            "the match that belongs to applyTo",
        );
        if own == "listener" {
            return;
        }
    }
    if own == "listener"
        && set(patch, "match.listener.filterChain.filter")
        && !filter(out, patch, target, path)
    {
        return;
    }
    let Some(value) = patch.at("patch.value") else { return };
    if let Some(kind) = retired(value) {
        let what = format!("a patch has type {}, which Envoy no longer has", shown(kind));
        out.error(format!("{path}.patch.value"), what, "types of Envoy's API v3");
    } else if matches!(target, "NETWORK_FILTER" | "HTTP_FILTER" | "LISTENER_FILTER" | "EXTENSION_CONFIG") {
        let typed = ["typedConfig", "typed_config", "configDiscovery", "config_discovery"];
        if !typed.iter().any(|key| set(value, key)) {
            let what = format!("filter {} has no typed_config", shown(word(value, "name")));
            out.warn(format!("{path}.patch.value"), what, "typed_config with a type of Envoy's API v3");
        }
    }
}

/// The match of a filter; whether what comes behind it is to be looked at.
fn filter(out: &mut Faults, patch: &Value, target: &str, path: &str) -> bool {
    let base = format!("{path}.match.listener.filterChain.filter");
    let (name, sub) = (
        word(patch, "match.listener.filterChain.filter.name"),
        word(patch, "match.listener.filterChain.filter.subFilter.name"),
    );
    if matches!(target, "LISTENER" | "FILTER_CHAIN") {
        let what = format!("a patch of {target} matches a filter, which changes nothing");
        out.warn(base.clone(), what, "a match without a filter");
    }
    let wrong = if name.is_empty() {
        Some(("name", "a filter is matched without its name"))
    } else if !set(patch, "match.listener.filterChain.filter.subFilter") {
        None
    } else if target != "HTTP_FILTER" {
        Some(("subFilter", "a filter within a filter is matched for what is no HTTP filter"))
    } else if !MANAGERS.contains(&name) {
        Some(("name", "a filter is matched within one that is not of HTTP"))
    } else if sub.is_empty() {
        Some(("subFilter.name", "a filter within a filter is matched without its name"))
    } else {
        None
    };
    if let Some((field, what)) = wrong {
        out.error(
            format!("{base}.{field}"),
            what,
            "names of filters; subFilter in the HTTP connection manager",
        );
        return false;
    }
    for (field, name) in [("name", name), ("subFilter.name", sub)] {
        if FORMER.contains(&name) {
            let what = format!("filter {} goes by its former name", shown(name));
            out.warn(format!("{base}.{field}"), what, "the name that begins with envoy.filters.");
        }
    }
    true
}

/// A type of Envoy's API v2 anywhere in a value.
fn retired(value: &Value) -> Option<&str> {
    match value {
        Value::Object(map) => {
            let own = map.get("@type").and_then(Value::as_str).filter(|kind| kind.contains(".v2."));
            own.or_else(|| map.values().find_map(retired))
        }
        Value::Array(list) => list.iter().find_map(retired),
        _ => None,
    }
}
