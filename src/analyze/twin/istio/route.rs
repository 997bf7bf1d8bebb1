//! One VirtualService's HTTP rules as routes of a virtual host.

use crate::model::json::Value;

use super::full_host;
use super::scope::Scope;
use super::virtual_services::{Effective, HttpRule, MESH};
use crate::analyze::rules::istio::hops::tries_answers_again;
use crate::analyze::twin::Twin;
use crate::analyze::twin::http::headers::HeaderOps;
use crate::analyze::twin::http::table::{
    Action, Cors, Destination, Fault, Forward, HeaderMatch, PathMatch, PathRewrite, Redirect, Rewrite, Route,
    RouteMatch, Weighted,
};
use crate::analyze::twin::http::text::{Pattern, TextMatch};
use crate::analyze::twin::registry::{Host, Origin, Resolution};
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;

/// For whom routes are made. Conditions on these are decided here, since each proxy gets its own table.
#[derive(Debug, Clone, Copy)]
pub struct Audience<'c, 'a> {
    /// What the mesh knows.
    pub twin: &'c Twin<'a>,
    /// What of it the proxy sees.
    pub scope: &'c Scope<'a>,
    /// The proxy's namespace.
    pub namespace: &'c str,
    /// The labels of its pod.
    pub labels: &'c Labels,
    /// `mesh`, or the gateway that the table is for.
    pub gateway: &'c str,
    /// The port of the listener, or of the gateway's server.
    pub port: u16,
    /// Whether the listener terminates TLS.
    pub tls: bool,
}

/// The routes of a VirtualService, in order; what follows one that takes everything is left out.
pub fn routes(vs: &Effective, audience: &Audience<'_, '_>) -> Vec<Route> {
    let mut out = vec![];
    for rule in &vs.http {
        if rule.matches.is_empty() {
            out.push(route(vs, rule, None, audience));
            return out;
        }
        for (condition, source) in &rule.matches {
            if !meant_for(condition, audience) {
                continue;
            }
            let made = route(vs, rule, Some((&**condition, source)), audience);
            let everything = takes_everything(&made.matching);
            out.push(made);
            if everything {
                return out;
            }
        }
    }
    out
}

/// Whether a route takes every request of its virtual host.
pub fn takes_everything(matching: &RouteMatch) -> bool {
    let path = match &matching.path {
        PathMatch::Any => true,
        PathMatch::Prefix(prefix) | PathMatch::Below(prefix) => prefix == "/",
        PathMatch::Regex(pattern) => pattern.text == ".*",
        PathMatch::Exact(_) => false,
    };
    path && matching.headers.is_empty() && matching.query.is_empty()
}

/// Whether the parts of a condition that concern the proxy hold.
pub fn meant_for(condition: &Value, audience: &Audience<'_, '_>) -> bool {
    let port = condition.int("port").filter(|port| *port != 0);
    if port.is_some_and(|port| port != i64::from(audience.port)) {
        return false;
    }
    let gateways = condition.texts("gateways");
    if !gateways.is_empty() {
        return gateways.iter().any(|gateway| names_gateway(gateway, audience.gateway));
    }
    let labels = condition.text_map("sourceLabels");
    let namespace = condition.text("sourceNamespace").unwrap_or_default();
    labels.iter().all(|(key, value)| audience.labels.get(key) == Some(value))
        && (namespace.is_empty() || namespace == audience.namespace)
}

/// Whether a gateway's name in a condition is this gateway's; without a namespace it is one beside it.
fn names_gateway(written: &str, gateway: &str) -> bool {
    written == gateway || (!written.contains('/') && gateway.rsplit('/').next() == Some(written))
}

fn route(
    vs: &Effective,
    rule: &HttpRule,
    condition: Option<(&Value, &ObjectRef)>,
    audience: &Audience<'_, '_>,
) -> Route {
    let body: &Value = &rule.body;
    let name = match condition.map(|(entry, _)| entry.string("name")).filter(|name| !name.is_empty()) {
        Some(part) => format!("{}.{part}", body.string("name")),
        None => body.string("name"),
    };
    let (request_headers, response_headers, authority) = header_ops(body);
    let action = if let Some(redirect) = body.at("redirect") {
        redirect_action(redirect, audience)
    } else if let Some(answer) = body.at("directResponse") {
        let status = answer.int("status").and_then(|status| u16::try_from(status).ok()).unwrap_or(200);
        Action::Respond { status, reason: String::new() }
    } else {
        forward(rule, authority, audience)
    };
    Route {
        name,
        source: condition.map_or_else(|| rule.source.clone(), |(_, at)| at.clone()),
        matching: condition.map(|(entry, _)| matching(entry, vs.ingress)).unwrap_or_default(),
        action,
        request_headers,
        response_headers,
        fault: body.at("fault").map(|entry| fault(entry, &rule.source)),
        cors: body.at("corsPolicy").map(cors),
    }
}

/// A condition of a rule.
fn matching(entry: &Value, segments: bool) -> RouteMatch {
    let path = match entry.at("uri") {
        None => PathMatch::Any,
        Some(uri) => match (uri.text("exact"), uri.text("prefix"), uri.text("regex")) {
            (Some(text), _, _) => PathMatch::Exact(text.to_owned()),
            (_, Some(text), _) if segments && text != "/" => PathMatch::Below(text.to_owned()),
            (_, Some(text), _) => PathMatch::Prefix(text.to_owned()),
            (_, _, Some(text)) => PathMatch::Regex(Pattern::new(text)),
            _ => PathMatch::Any,
        },
    };
    let mut headers = vec![];
    for (list, not) in [("headers", false), ("withoutHeaders", true)] {
        for (name, value) in entry.map(list).into_iter().flatten() {
            headers.push(HeaderMatch {
                name: name.to_ascii_lowercase().into(),
                value: text_match(value),
                not,
                ignore_case: false,
            });
        }
    }
    for (field, name) in [("method", ":method"), ("authority", ":authority"), ("scheme", ":scheme")] {
        if let Some(value) = entry.at(field) {
            headers.push(HeaderMatch {
                name: name.to_owned(),
                value: text_match(value),
                not: false,
                ignore_case: false,
            });
        }
    }
    let query = entry.map("queryParams").into_iter().flatten();
    RouteMatch {
        path,
        ignore_path_case: entry.flag("ignoreUriCase"),
        headers,
        query: query.map(|(name, value)| (name.to_string(), text_match(value))).collect(),
    }
}

/// `exact`, `prefix` or `regex`; nothing, and the expression `*`, ask for presence alone.
fn text_match(value: &Value) -> TextMatch {
    match (value.text("exact"), value.text("prefix"), value.text("regex")) {
        (Some(text), _, _) => TextMatch::Exact(text.to_owned()),
        (_, Some(text), _) => TextMatch::Prefix(text.to_owned()),
        (_, _, Some("*")) => TextMatch::Present,
        (_, _, Some(text)) => TextMatch::Regex(Pattern::new(text)),
        _ => TextMatch::Present,
    }
}

/// `headers` of a rule or a destination: for the request, for the response, and the Host header that they set.
fn header_ops(body: &Value) -> (HeaderOps, HeaderOps, Option<String>) {
    // Few rules have any.
    if body.at("headers").is_none() {
        return Default::default();
    }
    let mut authority = None;
    let mut read = |side: &str| {
        let mut ops = HeaderOps::default();
        for (list, out) in [("set", &mut ops.set), ("add", &mut ops.add)] {
            for (name, value) in body.text_map(&format!("headers.{side}.{list}")) {
                if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority") {
                    if side == "request" && (list == "set" || authority.is_none()) {
                        authority = Some(value.into());
                    }
                } else if !name.starts_with(':') {
                    out.push((name.into(), value.into()));
                }
            }
        }
        let removed = body.texts(&format!("headers.{side}.remove"));
        ops.remove = removed
            .into_iter()
            .filter(|name| !name.starts_with(':') && !name.eq_ignore_ascii_case("host"))
            .collect();
        ops
    };
    let (request, response) = (read("request"), read("response"));
    (request, response, authority)
}

fn forward(rule: &HttpRule, authority: Option<String>, audience: &Audience<'_, '_>) -> Action {
    let body: &Value = &rule.body;
    let rewrite = Rewrite {
        host: body.text("rewrite.authority").filter(|host| !host.is_empty()).map(str::to_owned).or(authority),
        path: match (body.text("rewrite.uriRegexRewrite.match"), body.text("rewrite.uri")) {
            (Some(pattern), _) => Some(PathRewrite::Regex(
                Pattern::new(pattern),
                body.string("rewrite.uriRegexRewrite.rewrite"),
            )),
            (None, Some(uri)) if !uri.is_empty() => Some(PathRewrite::Matched(uri.to_owned())),
            _ => None,
        },
    };
    let entries = body.list("route");
    let mut to = vec![];
    for (at, entry) in entries.iter().enumerate() {
        let weight = entry.int("weight").and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0);
        if entries.len() > 1 && weight == 0 {
            continue;
        }
        let (request_headers, response_headers, host) = header_ops(entry);
        let field = format!("{}.route[{at}].destination", rule.source.field_path);
        to.push(Weighted {
            to: http_destination(entry.at("destination").unwrap_or(&Value::Null), &rule.namespace, audience),
            weight: if entries.len() > 1 { weight } else { 1 },
            request_headers,
            response_headers,
            rewrite: Rewrite { host: host.filter(|_| rewrite.host.is_none()), path: None },
            source: rule.source.field(field),
        });
    }
    if to.is_empty() && !entries.is_empty() {
        // All weights are zero: Envoy rejects such a route; nothing gets the request.
        return Action::Respond { status: 503, reason: "all weights of the rule are 0".to_owned() };
    }
    let mut mirrors = vec![];
    if let Some(mirror) = body.at("mirror") {
        let share = body
            .number("mirrorPercentage.value")
            .or_else(|| body.number("mirrorPercent"))
            .or_else(|| body.at("mirrorPercentage").map(|_| 0.0));
        mirrors.push((http_destination(mirror, &rule.namespace, audience), share.unwrap_or(100.0)));
    }
    for mirror in body.list("mirrors") {
        let share = mirror.number("percentage.value").or_else(|| mirror.at("percentage").map(|_| 0.0));
        if let Some(entry) = mirror.at("destination") {
            mirrors.push((http_destination(entry, &rule.namespace, audience), share.unwrap_or(100.0)));
        }
    }
    mirrors.retain(|(_, share)| *share > 0.0);
    let retries = body.int("retries.attempts").and_then(|n| u32::try_from(n).ok());
    Action::Forward(Box::new(Forward {
        to,
        rewrite,
        mirrors,
        timeout: body.seconds("timeout").filter(|seconds| *seconds > 0.0),
        // Two retries are Istio's default where nothing is written.
        retries: retries.unwrap_or(2),
        retries_answers: tries_answers_again(body.text("retries.retryOn")),
        per_try_timeout: body.seconds("retries.perTryTimeout").filter(|seconds| *seconds > 0.0),
    }))
}

/// The cluster of a destination of HTTP. A sidecar's table of a port knows hosts with that port alone: without a port it is the
/// table's, and another name of a host outside that lacks the port stands for nothing.
fn http_destination(entry: &Value, namespace: &str, audience: &Audience<'_, '_>) -> Destination {
    if audience.gateway != MESH {
        return destination(entry, namespace, audience);
    }
    let host = full_host(&entry.string("host"), namespace);
    let known = audience.scope.known(audience.twin, &host, audience.port).filter(|known| known.with_port);
    Destination::Host {
        host: known.and_then(|known| alias(known.host)).unwrap_or(host),
        subset: entry.string("subset"),
        port: own_port(entry).unwrap_or(audience.port),
    }
}

/// The cluster of a destination. Without a port it is the host's only one, else the listener's. A gateway looks for the host beside
/// the VirtualService first.
pub fn destination(entry: &Value, namespace: &str, audience: &Audience<'_, '_>) -> Destination {
    let host = full_host(&entry.string("host"), namespace);
    let twin = audience.twin;
    let beside = twin.registry.declared_in(&host, namespace);
    let beside = beside.filter(|host| audience.gateway != MESH && host.visible_to(audience.namespace));
    let (known, only) = match beside {
        Some(host) => (Some(host), host.only_port()),
        None => {
            let known = audience.scope.known(twin, &host, audience.port);
            (known.map(|known| known.host), known.and_then(|known| known.only_port))
        }
    };
    Destination::Host {
        host: known.and_then(alias).unwrap_or(host),
        subset: entry.string("subset"),
        port: own_port(entry).or(only).unwrap_or(audience.port),
    }
}

fn own_port(entry: &Value) -> Option<u16> {
    entry.int("port.number").and_then(|port| u16::try_from(port).ok())
}

/// The host outside that an ExternalName Service stands for.
fn alias(host: &Host<'_>) -> Option<String> {
    match host.origin {
        Origin::Service(service) if host.resolution == Resolution::Alias => {
            Some(service.external_name.clone()).filter(|name| !name.is_empty())
        }
        _ => None,
    }
}

fn redirect_action(redirect: &Value, audience: &Audience<'_, '_>) -> Action {
    let code = redirect.int("redirectCode").filter(|code| *code != 0).unwrap_or(301);
    let text = |field: &str| redirect.text(field).filter(|text| !text.is_empty()).map(str::to_owned);
    let port = match redirect.int("port") {
        Some(port) => u16::try_from(port).ok().filter(|port| *port != 0),
        None if redirect.text("derivePort") == Some("FROM_REQUEST_PORT") => Some(audience.port),
        None => None,
    };
    let path = text("uri").map(PathRewrite::Full).or_else(|| text("prefixRewrite").map(PathRewrite::Matched));
    let Some(status) = u16::try_from(code).ok().filter(|code| matches!(code, 301 | 302 | 303 | 307 | 308))
    else {
        return Action::Respond { status: 500, reason: format!("{code} is no code of a redirect") };
    };
    Action::Redirect(Redirect { scheme: text("scheme"), host: text("authority"), port, path, status })
}

fn fault(entry: &Value, rule: &ObjectRef) -> Fault {
    // Without a percentage no request is meant.
    let share = |kind: &str| entry.number(&format!("{kind}.percentage.value")).unwrap_or(0.0);
    let delayed = match entry.at("delay.percentage") {
        Some(_) => share("delay"),
        None => entry.number("delay.percent").unwrap_or(0.0),
    };
    let delay = entry.seconds("delay.fixedDelay").map(|seconds| (seconds, delayed));
    let status = entry
        .int("abort.httpStatus")
        .or_else(|| entry.text("abort.grpcStatus").map(|_| 200))
        .and_then(|status| u16::try_from(status).ok());
    Fault {
        delay: delay.filter(|(_, share)| *share > 0.0),
        abort: status.map(|status| (status, share("abort"))).filter(|(_, share)| *share > 0.0),
        source: rule.field(format!("{}.fault", rule.field_path)),
    }
}

fn cors(entry: &Value) -> Cors {
    let mut origins: Vec<TextMatch> = entry.list("allowOrigins").iter().map(text_match).collect();
    if origins.is_empty() {
        origins = entry.texts("allowOrigin").into_iter().map(TextMatch::Exact).collect();
    }
    Cors {
        origins,
        methods: entry.texts("allowMethods"),
        allow_headers: entry.texts("allowHeaders"),
        expose_headers: entry.texts("exposeHeaders"),
        max_age: entry.seconds("maxAge").filter(|seconds| *seconds >= 0.0).map(|seconds| seconds as u64),
        credentials: entry.at("allowCredentials").and_then(Value::as_bool),
        forward_not_matching: entry.text("unmatchedPreflights") != Some("IGNORE"),
    }
}
