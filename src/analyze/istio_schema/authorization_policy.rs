//! AuthorizationPolicy.

use crate::model::json::{Value, json};

use super::words::{block, items, set, shown, word};
use super::{Faults, Fix, attachment};
use crate::model::fields::Fields;

const SOURCES: &[&str] = &[
    "principals",
    "requestPrincipals",
    "namespaces",
    "serviceAccounts",
    "trustDomains",
    "ipBlocks",
    "remoteIpBlocks",
    "notPrincipals",
    "notRequestPrincipals",
    "notNamespaces",
    "notServiceAccounts",
    "notTrustDomains",
    "notIpBlocks",
    "notRemoteIpBlocks",
];
/// What Istio hands to no external authorizer.
const NOT_CUSTOM: &[&str] = &[
    "namespaces",
    "notNamespaces",
    "serviceAccounts",
    "notServiceAccounts",
    "trustDomains",
    "notTrustDomains",
    "principals",
    "notPrincipals",
    "requestPrincipals",
    "notRequestPrincipals",
];
/// What a connection has without HTTP.
const OF_CONNECTIONS: &[&str] = &[
    "principals",
    "notPrincipals",
    "ipBlocks",
    "notIpBlocks",
    "namespaces",
    "notNamespaces",
    "remoteIpBlocks",
    "notRemoteIpBlocks",
    "serviceAccounts",
    "notServiceAccounts",
];
const OPERATIONS: &[&str] =
    &["ports", "methods", "paths", "hosts", "notPorts", "notMethods", "notPaths", "notHosts"];
const ACCOUNT: &str = "at most 16 names, each `name` or `namespace/name`, without wildcards";
const CONDITION: &str = "an attribute of requests, connections or sources, with at least one value";
const TEMPLATE: &str = "segments of a path, `{*}` for one and `{**}` as the last for any";

pub(super) fn check(out: &mut Faults, spec: &Value) {
    attachment::check(out, spec);
    let action = word(spec, "action");
    let none = spec.list("rules").is_empty();
    if none && matches!(action, "CUSTOM" | "DENY") {
        let what = format!("action {action} has no rules, and is never taken");
        out.error("spec.rules", what, "rules; an empty one is for every request")
            .fix(Fix::Write(json!([{}])));
    }
    if action == "CUSTOM" {
        custom(out, spec, none);
    } else if set(spec, "provider") {
        let what = format!("action {} has a provider", if action.is_empty() { "ALLOW" } else { action });
        out.error("spec.provider", what, "a provider with action CUSTOM alone").fix(Fix::Remove);
    }
    for (at, (path, rule)) in items(spec, "rules", "spec").enumerate() {
        let (from, by_connection) = sources(out, rule, &path, at);
        let (to, by_port) = operations(out, rule, &path, at);
        for (path, condition) in items(rule, "when", &path) {
            when(out, condition, &path);
        }
        if action == "DENY" && (from && !to && !by_connection || to && !by_port) {
            out.warn(
                path,
                "a rule that denies by HTTP alone denies everything at ports without HTTP",
                "`ports` in the operations of a rule that denies",
            );
        }
    }
}

fn custom(out: &mut Faults, spec: &Value, none: bool) {
    if !none && word(spec, "provider.name").is_empty() {
        out.error("spec.provider.name", "action CUSTOM has no provider", "an extension provider of the mesh");
    }
    let mut refuse = |path: String, key: &str| {
        out.error(
            path,
            format!("action CUSTOM does not take {}", shown(key)),
            "paths, methods, hosts, addresses",
        );
    };
    for (path, rule) in items(spec, "rules", "spec") {
        for (path, from) in items(rule, "from", &path) {
            for key in NOT_CUSTOM.iter().filter(|key| !from.list(&format!("source.{key}")).is_empty()) {
                refuse(format!("{path}.source.{key}"), key);
            }
        }
        for (path, condition) in items(rule, "when", &path) {
            let key = word(condition, "key");
            let of_source =
                ["source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"];
            if of_source.contains(&key) || key.starts_with("request.auth.") {
                refuse(format!("{path}.key"), key);
            }
        }
    }
}

/// Whether the rule has sources, and whether one of them is known without HTTP.
fn sources(out: &mut Faults, rule: &Value, path: &str, at: usize) -> (bool, bool) {
    let (mut there, mut by_connection) = (false, false);
    for (path, from) in items(rule, "from", path) {
        let Some(source) = from.at("source").filter(|source| source.is_object()) else {
            out.error(format!("{path}.source"), format!("rule {at} has no source in `from`"), "a source");
            continue;
        };
        there = true;
        let path = format!("{path}.source");
        let given = |keys: &[&str]| keys.iter().any(|key| !source.list(key).is_empty());
        if given(&["principals", "notPrincipals", "namespaces", "notNamespaces"])
            && given(&["serviceAccounts", "notServiceAccounts"])
        {
            let what = format!("rule {at} has serviceAccounts beside namespaces or principals");
            out.error(path.clone(), what, "one of them");
        }
        if !given(SOURCES) {
            out.error(path.clone(), format!("rule {at} has an empty source"), "at least one attribute");
        }
        by_connection |= given(OF_CONNECTIONS);
        for key in ["ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks"] {
            for (path, one) in items(source, key, &path) {
                block(out, path, one.as_str().unwrap_or_default());
            }
        }
        for (key, list) in given_of(source, SOURCES) {
            let path = format!("{path}.{key}");
            match key {
                "serviceAccounts" | "notServiceAccounts" => accounts(out, list, &path, key),
                "trustDomains" | "notTrustDomains" => domains(out, list, &path, key),
                _ => filled(out, list, &path, key),
            };
        }
    }
    (there, by_connection)
}

/// Whether the rule has operations, and whether one of them names ports.
fn operations(out: &mut Faults, rule: &Value, path: &str, at: usize) -> (bool, bool) {
    let (mut there, mut by_port) = (false, false);
    for (path, to) in items(rule, "to", path) {
        let Some(operation) = to.at("operation").filter(|operation| operation.is_object()) else {
            out.error(
                format!("{path}.operation"),
                format!("rule {at} has no operation in `to`"),
                "an operation",
            );
            continue;
        };
        there = true;
        let path = format!("{path}.operation");
        if OPERATIONS.iter().all(|key| operation.list(key).is_empty()) {
            out.error(path.clone(), format!("rule {at} has an empty operation"), "at least one attribute");
        }
        for (key, list) in given_of(operation, &["ports", "notPorts"]) {
            by_port = true;
            ports(out, list, &format!("{path}.{key}"));
        }
        for (key, list) in given_of(operation, OPERATIONS) {
            filled(out, list, &format!("{path}.{key}"), key);
        }
        for (key, list) in given_of(operation, &["paths", "notPaths"]) {
            templates(out, list, &format!("{path}.{key}"), key);
        }
    }
    (there, by_port)
}

/// The lists of these names that have something in them.
fn given_of<'a>(of: &'a Value, keys: &[&'static str]) -> impl Iterator<Item = (&'static str, &'a [Value])> {
    keys.iter().map(|key| (*key, of.list(key))).filter(|(_, list)| !list.is_empty())
}

fn texts(list: &[Value]) -> impl Iterator<Item = (usize, &str)> {
    list.iter().enumerate().map(|(at, value)| (at, value.as_str().unwrap_or_default()))
}

/// No empty text; whether that holds.
fn filled(out: &mut Faults, list: &[Value], path: &str, key: &str) -> bool {
    let empty = texts(list).find(|(_, text)| text.is_empty());
    if let Some((at, _)) = empty {
        out.error(
            format!("{path}[{at}]"),
            format!("{} has an empty value", shown(key)),
            "values that are not empty",
        )
        .fix(Fix::Remove);
    }
    empty.is_none()
}

fn ports(out: &mut Faults, list: &[Value], path: &str) {
    for (at, text) in texts(list) {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || !text.parse::<u32>().is_ok_and(|port| port <= 65535) {
            out.error(
                format!("{path}[{at}]"),
                format!("{} is no port", shown(text)),
                "a number from 0 to 65535",
            );
        }
    }
}

fn accounts(out: &mut Faults, list: &[Value], path: &str, key: &str) -> bool {
    if list.len() > 16 {
        out.error(path, "more than 16 ServiceAccounts", ACCOUNT);
        return false;
    }
    let wrong = texts(list).find_map(|(at, text)| {
        let parts: Vec<&str> = text.split('/').collect();
        let what = if text.is_empty() {
            format!("{} has an empty value", shown(key))
        } else if text.contains('*') {
            format!("{} has a wildcard", shown(key))
        } else if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            format!("{} has \"{}\"", shown(key), shown(text))
        } else if text.len() > 320 {
            format!("{} has a name of more than 320 characters, {}", shown(key), shown(text))
        } else {
            return None;
        };
        Some((at, what))
    });
    let good = wrong.is_none();
    if let Some((at, what)) = wrong {
        out.error(format!("{path}[{at}]"), what, ACCOUNT);
    }
    good
}

/// Text with a wildcard at its beginning or its end at most.
fn wildcards(out: &mut Faults, list: &[Value], path: &str, key: &str) -> bool {
    if !filled(out, list, path, key) {
        return false;
    }
    let wrong = texts(list).find(|(_, text)| {
        let count = text.matches('*').count();
        count > 1 || count == 1 && !text.starts_with('*') && !text.ends_with('*')
    });
    if let Some((at, text)) = wrong {
        let what = format!("{} has a wildcard within \"{}\"", shown(key), shown(text));
        out.error(format!("{path}[{at}]"), what, "one wildcard, at the beginning or the end");
    }
    wrong.is_none()
}

fn domains(out: &mut Faults, list: &[Value], path: &str, key: &str) -> bool {
    if !wildcards(out, list, path, key) {
        return false;
    }
    let wrong = texts(list).find(|(_, text)| text.contains('/'));
    if let Some((at, text)) = wrong {
        let what = format!("{} has a slash in \"{}\"", shown(key), shown(text));
        out.error(format!("{path}[{at}]"), what, "the name of a trust domain alone");
    }
    wrong.is_none()
}

fn templates(out: &mut Faults, list: &[Value], path: &str, key: &str) {
    let wrong = texts(list).find_map(|(at, text)| Some((at, text, template(text)?)));
    if let Some((at, text, what)) = wrong {
        out.error(format!("{path}[{at}]"), format!("{} has {}: {what}", shown(key), shown(text)), TEMPLATE);
    }
}

/// What is wrong with a path that can be a template.
fn template(path: &str) -> Option<&'static str> {
    let is_template = path.contains("{*}") || path.contains("{**}");
    let mut ended = false;
    for segment in path.trim_matches('/').split('/') {
        match segment {
            "{*}" | "{**}" if ended => return Some("{**} is not the last"),
            "{*}" => {}
            "{**}" => ended = true,
            _ if segment.contains(['{', '}']) => return Some("a brace is outside of {*} and {**}"),
            _ if is_template && !is_literal(segment) => return Some("a segment has what a path does not"),
            _ => {}
        }
    }
    None
}

/// `pchar` of RFC 3986, appendix A; more than none.
fn is_literal(segment: &str) -> bool {
    !segment.is_empty()
        && segment.chars().all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=".contains(c))
}

fn when(out: &mut Faults, condition: &Value, path: &str) {
    let key = word(condition, "key");
    if key.is_empty() {
        out.error(format!("{path}.key"), "a condition has no key", CONDITION);
        return;
    }
    if condition.list("values").is_empty() && condition.list("notValues").is_empty() {
        out.error(path, format!("the condition for {} has no values", shown(key)), CONDITION);
        return;
    }
    for list in ["values", "notValues"] {
        let mut own = Faults::default();
        attribute(&mut own, key, condition.list(list), &format!("{path}.{list}"));
        // All that is wrong with one list is one statement.
        if let Some(first) = own.0.into_iter().next() {
            let what = format!("the condition for {} has wrong {list}: {}", shown(key), first.what);
            out.error(first.path, what, CONDITION);
        }
    }
}

fn attribute(out: &mut Faults, key: &str, list: &[Value], path: &str) {
    if !filled(out, list, path, key) {
        return;
    }
    let at = |index: usize| format!("{path}[{index}]");
    match key {
        _ if ["request.headers", "request.auth.claims", "experimental.envoy.filters."]
            .iter()
            .any(|prefix| key.starts_with(prefix)) =>
        {
            let open = key.find('[').unwrap_or_default();
            if open == 0 || !key.ends_with(']') || open + 2 >= key.len() {
                out.error(path, "the key has no name in brackets", CONDITION);
            }
        }
        "source.ip" | "remote.ip" | "destination.ip" => {
            for (index, text) in texts(list) {
                block(out, at(index), text);
            }
        }
        "source.serviceAccount" => {
            accounts(out, list, path, key);
        }
        "source.trustDomain" => {
            wildcards(out, list, path, key);
        }
        "destination.port" => ports(out, list, path),
        "source.namespace"
        | "source.principal"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => {}
        _ => {
            out.error(path, "the key is no attribute of this API", CONDITION);
        }
    }
}
