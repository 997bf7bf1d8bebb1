//! Routes of HTTP in a VirtualService.

use crate::model::json::{Value, json};

use super::virtual_service::{destination, gateways, is_claim, weighted};
use super::words::{
    LABEL, duration, expression, is_label, items, labels, nanoseconds, port, set, shown, word,
};
use super::{Faults, Fix, HEADER_VALUE};
use crate::model::fields::Fields;

const HEADER: &str = "a name of a header";
const CHANGED: &str = "a header other than Host and those that begin with a colon";
const PERCENT: &str = "0 to 100";

pub(super) fn check(out: &mut Faults, route: &Value, delegate: bool, path: &str) {
    conflicts(out, route, delegate, path);
    for (path, one) in items(route, "match", path) {
        matching(out, one, &path);
    }
    for (path, one) in items(route, "match", path) {
        if let Some(number) = one.int("port").filter(|number| *number != 0) {
            port(out, format!("{path}.port"), number);
        }
        labels(out, one, "sourceLabels", &path);
        let before = out.0.len();
        gateways(out, one, &path);
        out.forget_warnings(before);
        let namespace = word(one, "sourceNamespace");
        if !namespace.is_empty() && !is_label(namespace) {
            out.error(
                format!("{path}.sourceNamespace"),
                format!("{} is no namespace", shown(namespace)),
                LABEL,
            );
        }
    }
    headers(out, route, path);
    if let Some(cors) = route.at("corsPolicy").filter(|cors| cors.is_object()) {
        cross_origin(out, cors, &format!("{path}.corsPolicy"));
    }
    if let Some(fault) = route.at("fault").filter(|fault| fault.is_object()) {
        injected(out, fault, &format!("{path}.fault"));
    }
    if let Some(percent) = route.int("mirrorPercent") {
        if percent > 100 {
            out.error(format!("{path}.mirrorPercent"), format!("mirrorPercent is {percent}"), PERCENT)
                .fix(Fix::Write(json!(100)));
        }
        out.warn(format!("{path}.mirrorPercent"), "mirrorPercent is on its way out", "mirrorPercentage");
    }
    percentage(out, route, "mirrorPercentage", path);
    if let Some(mirror) = route.at("mirror") {
        destination(out, mirror, &format!("{path}.mirror"));
    }
    for (path, mirror) in items(route, "mirrors", path) {
        let Some(to) = mirror.at("destination").filter(|to| to.is_object()) else {
            out.error(format!("{path}.destination"), "a mirror has no destination", "destination.host");
            continue;
        };
        destination(out, to, &format!("{path}.destination"));
        percentage(out, mirror, "percentage", &path);
    }
    if let Some(wrong) = redirect(route) {
        let accepts = "a URI, an authority, a scheme or a port, with a code of 3xx";
        out.error(format!("{path}.redirect"), wrong, accepts);
    }
    direct_response(out, route, path);
    if let Some(retries) = route.at("retries").filter(|retries| retries.is_object()) {
        retry(out, retries, &format!("{path}.retries"));
    }
    rewrite(out, route, path);
    authority(out, route, path);
    weighted(out, route, path, headers);
    duration(out, route, "timeout", path);
}

fn conflicts(out: &mut Faults, route: &Value, delegate: bool, path: &str) {
    let routes = !route.list("route").is_empty();
    let has = |key: &str| if key == "route" { routes } else { set(route, key) };
    if has("delegate") && !delegate {
        for key in ["redirect", "route"].into_iter().filter(|key| has(key)) {
            let what = format!("route \"{}\" delegates and has {key}", shown(word(route, "name")));
            out.error(format!("{path}.{key}"), what, "delegate, or routes of its own").fix(Fix::Remove);
        }
        return;
    }
    if has("delegate") {
        out.error(
            format!("{path}.delegate"),
            "a route that is delegated to delegates",
            "one level of delegation",
        );
    }
    for (way, others) in [
        ("redirect", &["route", "fault", "rewrite", "directResponse"][..]),
        ("directResponse", &["route", "fault", "rewrite"]),
    ] {
        if has(way) {
            for other in others.iter().filter(|other| has(other)) {
                out.error(
                    format!("{path}.{other}"),
                    format!("a route has {way} and {other}"),
                    "a route, a redirect or a direct response",
                );
            }
            break;
        }
    }
    if !routes && !has("redirect") && !has("directResponse") {
        out.error(path, "a route of HTTP leads nowhere", "route, redirect or directResponse");
    }
    if has("mirror") && !route.list("mirrors").is_empty() {
        out.error(format!("{path}.mirror"), "a route has mirror and mirrors", "one of the two")
            .fix(Fix::Remove);
    }
}

/// Characters of a token of HTTP (RFC 7230).
fn is_token(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn header_name(out: &mut Faults, path: String, name: &str) {
    if name.is_empty() {
        out.error(path, "a header has no name", HEADER);
    } else if !is_token(name) {
        out.error(path, format!("{} is no name of a header", shown(name)), HEADER);
    }
}

fn matching(out: &mut Faults, one: &Value, path: &str) {
    for key in ["headers", "withoutHeaders"] {
        for (name, value) in one.map(key).into_iter().flatten() {
            let known = matches!(name.as_str(), ":method" | ":scheme" | ":authority" | ":path" | ":status");
            if !known && !is_claim(name) {
                header_name(out, format!("{path}.{key}"), name);
            }
            if key == "headers" || word(value, "regex") != "*" {
                text(out, value, format!("{path}.{key}"), key, true);
            }
        }
    }
    for (key, strict) in [("uri", false), ("scheme", true), ("method", true), ("authority", true)] {
        if let Some(value) = one.at(key) {
            text(out, value, format!("{path}.{key}"), key, strict);
        }
    }
    for (_, value) in one.map("queryParams").into_iter().flatten() {
        text(out, value, format!("{path}.queryParams"), "queryParams", true);
    }
}

/// What a text is compared with. `strict` is whether an empty prefix is none.
fn text(out: &mut Faults, value: &Value, path: String, place: &str, strict: bool) {
    if let Some(regex) = value.text("regex") {
        if regex.is_empty() {
            out.error(path, format!("the expression for {place} is empty"), "a regular expression of RE2");
        } else {
            expression(out, format!("{path}.regex"), regex, place);
        }
    } else if strict && value.text("prefix") == Some("") {
        out.error(path, format!("the prefix for {place} is empty"), "a text");
    }
}

/// Changes of headers, of a route or of one destination.
fn headers(out: &mut Faults, route: &Value, path: &str) {
    let Some(headers) = route.at("headers") else { return };
    for (side, request) in [("request", true), ("response", false)] {
        let Some(changes) = headers.at(side) else { continue };
        let path = format!("{path}.headers.{side}");
        for key in ["add", "set"] {
            for (name, value) in changes.map(key).into_iter().flatten() {
                let path = format!("{path}.{key}");
                changed(out, path.clone(), name, request);
                if let Some(value) = value.as_str() {
                    let control = value.bytes().any(|byte| byte < 0x20 && byte != b'\t' || byte == 0x7f);
                    if control {
                        out.error(
                            path,
                            format!("the header value {} has a control character", shown(value)),
                            "printable characters",
                        );
                    } else if let Some(what) = operators(value) {
                        out.error(path, what, HEADER_VALUE);
                    }
                }
            }
        }
        for (path, name) in items(changes, "remove", &path) {
            changed(out, path, name.as_str().unwrap_or_default(), false);
        }
    }
}

fn changed(out: &mut Faults, path: String, name: &str, request: bool) {
    let host = name.eq_ignore_ascii_case("host");
    let authority = request && (host || name.eq_ignore_ascii_case(":authority"));
    if name.is_empty() {
        out.error(path, "a header has no name", HEADER);
    } else if !authority && (host || name.starts_with(':')) {
        out.error(path, format!("header {} is changed", shown(name)), CHANGED);
    }
}

/// Where the operators in a header's value end early: `%NAME%`, `%NAME(argument)%`, `%NAME(["a", "b"])%`, and `%%` for a percent sign.
fn operators(value: &str) -> Option<String> {
    let ended = || Some(format!("an operator in the header value {} has no end", shown(value)));
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        rest = rest.get(at + 1..)?;
        if rest.is_empty() {
            return Some("a percent sign ends a header value".to_owned());
        }
        if let Some(after) = rest.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some(end) = rest.find(['%', '(']) else { return ended() };
        let call = rest.get(end..)?.strip_prefix('(');
        rest = match call {
            None => rest.get(end + 1..)?,
            Some(arguments) => {
                let Some(close) = arguments.find(')') else { return ended() };
                let after = arguments.get(close + 1..)?.trim_start_matches(' ');
                match after.strip_prefix('%') {
                    Some(after) => after,
                    None if after.is_empty() => return ended(),
                    None => {
                        return Some(
                            "something stands between the argument and the end of an operator".to_owned(),
                        );
                    }
                }
            }
        };
    }
    None
}

fn cross_origin(out: &mut Faults, cors: &Value, path: &str) {
    for (path, origin) in items(cors, "allowOrigins", path) {
        let any = ["exact", "prefix", "regex"].iter().any(|key| !word(origin, key).is_empty());
        if !any {
            out.error(path, "an origin is empty", "exact, prefix or regex");
        } else if let Some(regex) = origin.text("regex") {
            expression(out, format!("{path}.regex"), regex, "origins");
        }
    }
    for (path, method) in items(cors, "allowMethods", path) {
        let method = method.as_str().unwrap_or_default();
        if !matches!(
            method,
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "CONNECT" | "OPTIONS" | "TRACE" | "*"
        ) {
            out.error(path, format!("{} is no method", shown(method)), "methods of HTTP in capitals, or *");
        }
    }
    for key in ["allowHeaders", "exposeHeaders"] {
        for (path, name) in items(cors, key, path) {
            header_name(out, path, name.as_str().unwrap_or_default());
        }
    }
    duration(out, cors, "maxAge", path);
    if nanoseconds(cors, "maxAge").is_some_and(|long| long % 1_000_000_000 > 0) {
        out.error(format!("{path}.maxAge"), "maxAge is finer than seconds", "whole seconds");
    }
}

fn injected(out: &mut Faults, fault: &Value, path: &str) {
    let (abort, delay) = (fault.at("abort"), fault.at("delay"));
    if abort.is_none() && delay.is_none() {
        out.error(path, "a fault is empty", "abort, delay or both").fix(Fix::Remove);
    }
    if let Some(abort) = abort {
        let path = format!("{path}.abort");
        share(out, abort, &path);
        if let Some(grpc) = abort.text("grpcStatus") {
            if !GRPC.contains(&grpc) {
                out.error(
                    format!("{path}.grpcStatus"),
                    format!("{} is no status of gRPC", shown(grpc)),
                    "a status such as UNAVAILABLE",
                );
            }
        } else if abort.text("http2Error").is_some() {
            out.error(format!("{path}.http2Error"), "http2Error does nothing", "httpStatus or grpcStatus");
        } else if let Some(status) = abort.int("httpStatus") {
            http_status(out, format!("{path}.httpStatus"), status);
        }
    }
    if let Some(delay) = delay {
        let path = format!("{path}.delay");
        share(out, delay, &path);
        duration(out, delay, "fixedDelay", &path);
        duration(out, delay, "exponentialDelay", &path);
        if delay.text("exponentialDelay").is_some() {
            out.error(format!("{path}.exponentialDelay"), "exponentialDelay does nothing", "fixedDelay");
        }
    }
}

#[rustfmt::skip]
const GRPC: &[&str] = &["OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"];

fn http_status(out: &mut Faults, path: String, status: i64) {
    if !(200..=600).contains(&status) {
        out.error(path, format!("{status} is no status of HTTP"), "200 to 599");
    }
}

fn share(out: &mut Faults, fault: &Value, path: &str) {
    let percent = fault.number("percentage.value").unwrap_or(0.0);
    if !(0.0..=100.0).contains(&percent) || percent > 0.0 && percent < 0.0001 {
        out.error(
            format!("{path}.percentage.value"),
            format!("{percent} is no percentage"),
            "0, or 0.0001 to 100",
        );
    }
}

fn percentage(out: &mut Faults, value: &Value, key: &str, path: &str) {
    let percent = value.at(key).and_then(|share| share.number("value")).unwrap_or(0.0);
    if !(0.0..=100.0).contains(&percent) {
        out.error(format!("{path}.{key}.value"), format!("{key} is {percent}"), PERCENT)
            .fix(Fix::Write(json!(percent.clamp(0.0, 100.0))));
    }
}

/// What is wrong with a redirect: Istio says the first.
fn redirect(route: &Value) -> Option<String> {
    let redirect = route.at("redirect").filter(|redirect| redirect.is_object())?;
    let has = |key: &str| !word(redirect, key).is_empty();
    let prefixed = has("prefixRewrite");
    let exact = || route.list("match").iter().any(|one| set(one, "uri") && one.text("uri.prefix").is_none());
    let coded = redirect.int("redirectCode").unwrap_or(0);
    let number = redirect.int("port");
    let derived = redirect.text("derivePort").is_some();
    if has("uri") && prefixed {
        return Some("a redirect has uri and prefixRewrite".to_owned());
    }
    if prefixed && exact() {
        return Some("a redirect replaces a prefix of paths that are not matched by prefix".to_owned());
    }
    if !["uri", "prefixRewrite", "authority", "scheme"].iter().any(|key| has(key))
        && number.is_none()
        && !derived
    {
        return Some("a redirect is empty".to_owned());
    }
    if coded != 0 && !(300..=399).contains(&coded) {
        return Some(format!("{coded} is no code of a redirect"));
    }
    if !matches!(word(redirect, "scheme"), "" | "http" | "https") {
        return Some("a redirect has a scheme of its own".to_owned());
    }
    number.filter(|number| *number > 65535).map(|number| format!("port {number} is not in range"))
}

fn direct_response(out: &mut Faults, route: &Value, path: &str) {
    let Some(response) = route.at("directResponse").filter(|response| response.is_object()) else { return };
    let path = format!("{path}.directResponse");
    let size = match response.text("body.string") {
        Some(body) => body.len(),
        // Four characters of Base64 are three bytes.
        None => word(response, "body.bytes").trim_end_matches('=').len() * 3 / 4,
    };
    if size > 1024 * 1024 {
        out.error(format!("{path}.body"), "a direct response is larger than 1 MB", "less than 100 kB");
    } else if size > 100 * 1024 {
        out.warn(format!("{path}.body"), "a direct response is larger than 100 kB", "less than 100 kB");
    }
    http_status(out, format!("{path}.status"), response.int("status").unwrap_or(0));
}

fn retry(out: &mut Faults, retries: &Value, path: &str) {
    let attempts = retries.int("attempts").unwrap_or(0);
    if attempts < 0 {
        out.error(format!("{path}.attempts"), "attempts are negative", "0 or more");
    }
    if attempts == 0
        && ["perTryTimeout", "retryOn", "retryRemoteLocalities"]
            .iter()
            .any(|key| retries.at(key).is_some_and(|value| *value != json!("")))
    {
        out.error(
            format!("{path}.attempts"),
            "retries are set up and off",
            "attempts above 0, or nothing beside 0",
        );
    }
    duration(out, retries, "perTryTimeout", path);
    for reason in word(retries, "retryOn").split(',').filter(|_| !word(retries, "retryOn").is_empty()) {
        let status = reason.parse::<i64>().is_ok_and(|code| {
            matches!(code, 100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
        });
        if !status && !REASONS.contains(&reason) {
            out.error(
                format!("{path}.retryOn"),
                format!("\"{}\" is nothing to retry on", shown(reason)),
                "reasons that Envoy knows and codes of HTTP, with commas and no blanks",
            );
        }
    }
    duration(out, retries, "backoff", path);
}

/// Reasons to try again that Envoy knows, for HTTP and for gRPC.
#[rustfmt::skip]
const REASONS: &[&str] = &["5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
    "retriable-status-codes", "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure", "cancelled", "deadline-exceeded", "internal",
    "resource-exhausted", "unavailable"];

fn rewrite(out: &mut Faults, route: &Value, path: &str) {
    let Some(rewrite) = route.at("rewrite").filter(|rewrite| rewrite.is_object()) else { return };
    let path = format!("{path}.rewrite");
    let has = |key: &str| !word(rewrite, key).is_empty();
    let regex = set(rewrite, "uriRegexRewrite");
    if has("uri") && regex {
        out.error(path, "a rewrite has uri and uriRegexRewrite", "one of the two");
    } else if !has("uri") && !regex && !has("authority") {
        out.error(path, "a rewrite is empty", "uri, uriRegexRewrite or authority").fix(Fix::Remove);
    } else if regex {
        let path = format!("{path}.uriRegexRewrite");
        if !has("uriRegexRewrite.match") || !has("uriRegexRewrite.rewrite") {
            out.error(path, "uriRegexRewrite is not whole", "match and rewrite");
        } else {
            expression(
                out,
                format!("{path}.match"),
                word(rewrite, "uriRegexRewrite.match"),
                "uriRegexRewrite",
            );
        }
    }
}

/// The authority can be written anew once.
fn authority(out: &mut Faults, route: &Value, path: &str) {
    let is_authority =
        |name: &str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority");
    let mut current = word(route, "rewrite.authority");
    let Some(changes) = route.at("headers.request") else { return };
    for key in ["set", "add"] {
        for (name, value) in changes.map(key).into_iter().flatten() {
            if is_authority(name) {
                if !current.is_empty() {
                    out.error(
                        format!("{path}.headers.request.{key}"),
                        "the authority is written twice",
                        "rewrite.authority or one header",
                    );
                    return;
                }
                current = value.as_str().unwrap_or_default();
            }
        }
    }
}
