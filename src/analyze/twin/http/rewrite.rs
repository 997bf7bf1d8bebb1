//! Hosts and paths after a rewrite, and where redirects lead.

use regex::Regex;

use super::engine::Seen;
use super::table::{PathMatch, PathRewrite, Redirect};

/// The path with its query after a rewrite, on a route with this condition.
pub fn path(rewrite: &PathRewrite, matched: &PathMatch, given: &str) -> String {
    let (path, query) = match given.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (given, None),
    };
    let new = match rewrite {
        PathRewrite::Full(text) => text.clone(),
        PathRewrite::Regex(pattern, substitution) => substitute(&pattern.text, substitution, path),
        PathRewrite::Matched(text) => match matched {
            PathMatch::Prefix(prefix) => format!("{text}{}", path.get(prefix.len()..).unwrap_or_default()),
            PathMatch::Below(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                below(text, path.get(prefix.len()..).unwrap_or_default())
            }
            PathMatch::Any => format!("{text}{}", path.strip_prefix('/').unwrap_or(path)),
            PathMatch::Exact(_) | PathMatch::Regex(_) => text.clone(),
        },
    };
    match query {
        // A path of the configuration's own may carry a query already; the client's follows none.
        Some(query) if !new.contains('?') => format!("{new}?{query}"),
        _ => new,
    }
}

/// A replaced prefix of whole segments and what follows it: `/x` and `/b` make `/x/b`, `/` and `/b` make `/b`, `/` and
/// nothing make `/`.
fn below(text: &str, rest: &str) -> String {
    let head = text.trim_end_matches('/');
    match (head, rest) {
        ("", "") => "/".to_owned(),
        (head, "") => {
            if text.is_empty() {
                "/".to_owned()
            } else {
                head.to_owned()
            }
        }
        (head, rest) => format!("{head}{rest}"),
    }
}

/// All occurrences of an expression replaced, with RE2's `\1` for groups.
fn substitute(pattern: &str, substitution: &str, text: &str) -> String {
    let Ok(regex) = Regex::new(pattern) else { return text.to_owned() };
    let mut replacement = String::new();
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => replacement.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit) if digit.is_ascii_digit() => replacement.push_str(&format!("${{{digit}}}")),
                Some(other) => replacement.push(other),
                None => {}
            },
            c => replacement.push(c),
        }
    }
    regex.replace_all(text, replacement.as_str()).into_owned()
}

/// Where a redirect leads. A port that is written stands in it unless it is the scheme's own. Without one the Host header
/// stays as it came, with its port; a change of scheme drops that where it is the old scheme's own.
pub fn location(redirect: &Redirect, matched: &PathMatch, seen: &Seen<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(seen.scheme).to_ascii_lowercase();
    let standard = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let (bare, own) = crate::analyze::twin::ask::split_port(seen.authority);
    let kept = own.filter(|port| scheme == seen.scheme || *port != standard(seen.scheme));
    // The scheme's own port is left to Envoy, which then knows of no other than the request's.
    let written = redirect.port.filter(|port| *port != standard(&scheme));
    let port = written.or_else(|| kept.filter(|_| redirect.host.is_none()));
    let host = redirect.host.as_deref().unwrap_or(bare);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let path = match &redirect.path {
        Some(rewrite) => path(rewrite, matched, seen.path),
        None => seen.path.to_owned(),
    };
    match port {
        Some(port) => format!("{scheme}://{host}:{port}{path}"),
        None => format!("{scheme}://{host}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::http::text::Pattern;
    use std::collections::BTreeMap;

    #[test]
    fn paths_are_rewritten() {
        let prefix = |text: &str| PathMatch::Prefix(text.into());
        let below = |text: &str| PathMatch::Below(text.into());
        let to = |text: &str| PathRewrite::Matched(text.into());
        assert_eq!(path(&to("/"), &prefix("/api/"), "/api/x?q=1"), "/x?q=1");
        assert_eq!(path(&to("/v2"), &prefix("/api"), "/api/x"), "/v2/x");
        assert_eq!(path(&to("/v2"), &PathMatch::Exact("/api".into()), "/api"), "/v2");
        assert_eq!(path(&to("/"), &below("/api"), "/api/x"), "/x");
        assert_eq!(path(&to("/"), &below("/api"), "/api"), "/");
        assert_eq!(path(&to("/v2/"), &below("/api"), "/api/x"), "/v2/x");
        assert_eq!(path(&PathRewrite::Full("/all".into()), &prefix("/"), "/a?b"), "/all?b");
        let regex = PathRewrite::Regex(Pattern::new("^/service/([^/]+)(/.*)$"), r"\2/instance/\1".into());
        assert_eq!(path(&regex, &prefix("/"), "/service/foo/v1/api?x"), "/v1/api/instance/foo?x");
    }

    #[test]
    fn redirects_lead_somewhere() {
        let none = BTreeMap::new();
        let seen = |authority| Seen {
            method: "GET",
            scheme: "http",
            authority,
            host: "a.com",
            path: "/x?y",
            headers: &none,
        };
        let to = |redirect: Redirect| location(&redirect, &PathMatch::Any, &seen("a.com:8080"));
        let https = Redirect { scheme: Some("https".into()), ..Redirect::default() };
        assert_eq!(location(&https, &PathMatch::Any, &seen("a.com:80")), "https://a.com/x?y");
        assert_eq!(to(https), "https://a.com:8080/x?y", "a port of one's own stays, as in Envoy");
        assert_eq!(to(Redirect { host: Some("b.com".into()), ..Redirect::default() }), "http://b.com/x?y");
        let port = |port| Redirect { port: Some(port), ..Redirect::default() };
        assert_eq!(to(port(81)), "http://a.com:81/x?y");
        assert_eq!(to(port(80)), "http://a.com:8080/x?y", "a scheme's own port is none of its own");
        assert_eq!(
            to(Redirect { path: Some(PathRewrite::Full("/z".into())), ..Redirect::default() }),
            "http://a.com:8080/z?y"
        );
    }
}
