//! Filters of rules and backends: what they do to a request and to its answer.

use crate::model::json::Value;
use std::collections::BTreeSet;

use crate::analyze::twin::http::headers::HeaderOps;
use crate::analyze::twin::http::table::{Cors, PathRewrite, Redirect, Rewrite};
use crate::analyze::twin::http::text::{Pattern, TextMatch};
use crate::model::fields::Fields;

/// What a list of filters comes to.
#[derive(Debug, Clone, Default)]
pub struct Filters<'a> {
    /// Changes of the request's headers.
    pub request: HeaderOps,
    /// Changes of the response's headers.
    pub response: HeaderOps,
    /// Changes of host and path.
    pub rewrite: Rewrite,
    /// Where the client is sent instead.
    pub redirect: Option<Redirect>,
    /// Who gets a copy: the reference, its place in the list, and of how many percent.
    pub mirrors: Vec<(&'a Value, usize, f64)>,
    /// Cross-origin requests.
    pub cors: Option<Cors>,
    /// A filter that nobody here can carry out: its place and type. The specification has such requests answered with an
    /// error.
    pub unknown: Option<(usize, String)>,
    /// A filter by which somebody outside of the mesh decides: its place.
    pub asks: Option<usize>,
}

/// Reads a list of filters. `port` is the one at which the request came in: a redirect without scheme and port keeps it.
pub fn read(list: &[Value], port: u16) -> Filters<'_> {
    let mut out = Filters::default();
    for (at, filter) in list.iter().enumerate() {
        match filter.text("type").unwrap_or_default() {
            "RequestHeaderModifier" => out.request = header_ops(filter.at("requestHeaderModifier")),
            "ResponseHeaderModifier" => out.response = header_ops(filter.at("responseHeaderModifier")),
            "RequestRedirect" => out.redirect = Some(redirect(filter.at("requestRedirect"), port)),
            "URLRewrite" => {
                let body = filter.at("urlRewrite");
                out.rewrite = Rewrite {
                    host: body.and_then(|b| b.text("hostname")).map(str::to_owned),
                    path: body.and_then(|b| b.at("path")).and_then(path),
                };
            }
            "RequestMirror" => {
                if let Some(body) = filter.at("requestMirror")
                    && let Some(backend) = body.at("backendRef")
                {
                    out.mirrors.push((backend, at, share(body)));
                }
            }
            "CORS" => out.cors = filter.at("cors").map(cors),
            "ExternalAuth" => out.asks = Some(at),
            other => out.unknown = Some((at, other.to_owned())),
        }
    }
    out
}

/// The percentage of requests that a mirror gets: all where nothing is written.
fn share(body: &Value) -> f64 {
    if let Some(percent) = body.number("percent") {
        return percent.clamp(0.0, 100.0);
    }
    match body.number("fraction.numerator") {
        Some(numerator) => {
            let whole = body.number("fraction.denominator").filter(|d| *d > 0.0).unwrap_or(100.0);
            (numerator / whole * 100.0).clamp(0.0, 100.0)
        }
        None => 100.0,
    }
}

/// Changes of headers. Of several entries for one name the first one counts, whatever its case.
fn header_ops(body: Option<&Value>) -> HeaderOps {
    let pairs = |part: &str| -> Vec<(String, String)> {
        let mut names = BTreeSet::new();
        let list = body.map(|b| b.list(part)).unwrap_or_default().iter();
        list.filter(|entry| names.insert(entry.string("name").to_ascii_lowercase()))
            .map(|entry| (entry.string("name"), entry.string("value")))
            .collect()
    };
    HeaderOps {
        set: pairs("set"),
        add: pairs("add"),
        remove: body.map(|b| b.texts("remove")).unwrap_or_default(),
    }
}

fn path(body: &Value) -> Option<PathRewrite> {
    match body.text("type")? {
        "ReplaceFullPath" => Some(PathRewrite::Full(body.string("replaceFullPath"))),
        "ReplacePrefixMatch" => Some(PathRewrite::Matched(body.string("replacePrefixMatch"))),
        _ => None,
    }
}

/// A redirect. Without a port it leads to the port of the scheme that is written, and where none is to the one at which the
/// request came in.
fn redirect(body: Option<&Value>, port: u16) -> Redirect {
    let Some(body) = body else { return Redirect { status: 302, ..Redirect::default() } };
    let scheme = body.text("scheme").map(str::to_ascii_lowercase);
    let written = body.int("port").and_then(|p| u16::try_from(p).ok());
    let implied = match scheme.as_deref() {
        Some("https") => 443,
        Some("http") => 80,
        _ => port,
    };
    Redirect {
        scheme,
        host: body.text("hostname").map(str::to_owned),
        port: Some(written.unwrap_or(implied)),
        path: body.at("path").and_then(path),
        status: body.int("statusCode").and_then(|s| u16::try_from(s).ok()).unwrap_or(302),
    }
}

fn cors(body: &Value) -> Cors {
    let origins = body.texts("allowOrigins").into_iter().map(|origin| {
        if !origin.contains('*') {
            return TextMatch::Exact(origin);
        }
        if origin == "*" {
            return TextMatch::Present;
        }
        let parts: Vec<String> = origin.split('*').map(regex::escape).collect();
        TextMatch::Regex(Pattern::new(&parts.join(".*")))
    });
    Cors {
        origins: origins.collect(),
        methods: body.texts("allowMethods"),
        allow_headers: body.texts("allowHeaders"),
        expose_headers: body.texts("exposeHeaders"),
        max_age: body.int("maxAge").and_then(|s| u64::try_from(s).ok()),
        credentials: body.at("allowCredentials").and_then(Value::as_bool),
        forward_not_matching: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_redirect_keeps_the_port_only_without_a_scheme() {
        let to = |body: Value| redirect(Some(&body), 8080).port;
        assert_eq!(to(json!({})), Some(8080));
        assert_eq!(to(json!({"scheme": "https"})), Some(443));
        assert_eq!(to(json!({"scheme": "HTTPS", "port": 8443})), Some(8443));
        assert_eq!(redirect(None, 80).status, 302);
    }

    #[test]
    fn of_two_entries_for_one_header_the_first_counts() {
        let list = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "A", "value": "1"}, {"name": "a", "value": "2"}], "remove": ["b"]}}]);
        let read = read(list.as_array().unwrap(), 80);
        assert_eq!(read.request.set, [("A".to_owned(), "1".to_owned())]);
        assert_eq!(read.request.remove, ["b"]);
    }

    #[test]
    fn shares_of_mirrors() {
        assert_eq!(share(&json!({})), 100.0);
        assert_eq!(share(&json!({"percent": 5})), 5.0);
        assert_eq!(share(&json!({"fraction": {"numerator": 1, "denominator": 4}})), 25.0);
    }

    #[test]
    fn what_nobody_knows_is_named() {
        let list = json!([{"type": "ExtensionRef", "extensionRef": {}}]);
        assert_eq!(read(list.as_array().unwrap(), 80).unknown, Some((0, "ExtensionRef".to_owned())));
    }
}
