//! Which route takes a request.

use std::collections::BTreeMap;

use super::headers;
use super::table::{HeaderMatch, PathMatch, Route, RouteMatch, RouteTable, VirtualHost};
use super::text::TextMatch;

/// A request as a proxy sees it.
#[derive(Debug, Clone)]
pub struct Seen<'r> {
    /// The method.
    pub method: &'r str,
    /// `http` or `https`: whether the proxy took it out of TLS.
    pub scheme: &'r str,
    /// The Host header as it is written.
    pub authority: &'r str,
    /// The Host header without its port.
    pub host: &'r str,
    /// The path with its query.
    pub path: &'r str,
    /// Headers by name, as they are written.
    pub headers: &'r BTreeMap<String, String>,
}

/// What the table says.
#[derive(Debug, Clone, Copy)]
pub enum Routed<'t> {
    /// This route.
    To(&'t VirtualHost, &'t Route),
    /// The virtual host takes no plaintext.
    TlsRequired(&'t VirtualHost),
    /// The virtual host has no route that fits.
    NoRoute(&'t VirtualHost),
    /// No virtual host has the host.
    NoVirtualHost,
}

/// The route of a request: the most specific virtual host, and in it the first route that fits.
pub fn route<'t>(table: &'t RouteTable, seen: &Seen<'_>) -> Routed<'t> {
    let Some(host) = table.host(seen.host) else { return Routed::NoVirtualHost };
    if host.require_tls.is_some() && seen.scheme != "https" {
        return Routed::TlsRequired(host);
    }
    match host.routes.iter().find(|route| fits(&route.matching, seen)) {
        Some(route) => Routed::To(host, route),
        None => Routed::NoRoute(host),
    }
}

/// Whether a request satisfies all of a condition.
pub fn fits(matching: &RouteMatch, seen: &Seen<'_>) -> bool {
    let (path, query) = seen.path.split_once('?').unwrap_or((seen.path, ""));
    path_fits(&matching.path, path, matching.ignore_path_case)
        && matching.headers.iter().all(|header| header_fits(header, seen))
        && matching
            .query
            .iter()
            .all(|(name, value)| parameter(query, name).is_some_and(|given| value.matches(&given, false)))
}

fn path_fits(wanted: &PathMatch, path: &str, ignore_case: bool) -> bool {
    let same = |a: &str, b: &str| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
    let begins = |prefix: &str| path.get(..prefix.len()).is_some_and(|head| same(head, prefix));
    match wanted {
        PathMatch::Any => true,
        PathMatch::Exact(own) => same(path, own),
        PathMatch::Prefix(own) => begins(own),
        PathMatch::Below(own) => {
            let own = own.trim_end_matches('/');
            begins(own) && path.get(own.len()..).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Regex(pattern) => pattern.matches(path),
    }
}

fn header_fits(wanted: &HeaderMatch, seen: &Seen<'_>) -> bool {
    let value = match wanted.name.as_str() {
        ":method" => Some(seen.method),
        ":authority" | "host" => Some(seen.authority),
        ":scheme" => Some(seen.scheme),
        ":path" => Some(seen.path),
        name => headers::get(seen.headers, name),
    };
    // A condition that something is not so takes a header that is missing for an empty one.
    let value = value.or((wanted.not && !matches!(wanted.value, TextMatch::Present)).then_some(""));
    value.is_some_and(|value| wanted.value.matches(value, wanted.ignore_case)) != wanted.not
}

/// The first value of a query's parameter. Envoy compares it as it is written, without decoding.
fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').filter(|part| !part.is_empty()).find_map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (key == name).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::http::table::Action;
    use crate::analyze::twin::http::text::Pattern;
    use crate::model::object::ObjectRef;
    use proptest::prelude::*;

    fn seen<'r>(path: &'r str, headers: &'r BTreeMap<String, String>) -> Seen<'r> {
        Seen { method: "GET", scheme: "http", authority: "a:80", host: "a", path, headers }
    }

    fn path(path: PathMatch) -> RouteMatch {
        RouteMatch { path, ..RouteMatch::default() }
    }

    #[test]
    fn paths() {
        let none = BTreeMap::new();
        let fits = |wanted: PathMatch, given: &str| super::fits(&path(wanted), &seen(given, &none));
        assert!(fits(PathMatch::Prefix("/a".into()), "/ab?x=1"));
        assert!(fits(PathMatch::Below("/a".into()), "/a/b") && fits(PathMatch::Below("/a/".into()), "/a"));
        assert!(!fits(PathMatch::Below("/a".into()), "/ab"));
        assert!(fits(PathMatch::Below("/".into()), "/ab"));
        assert!(fits(PathMatch::Exact("/a".into()), "/a?x") && !fits(PathMatch::Exact("/a".into()), "/A"));
        assert!(
            fits(PathMatch::Regex(Pattern::new("/[0-9]+")), "/12")
                && !fits(PathMatch::Regex(Pattern::new("/[0-9]+")), "/1/")
        );
        let blind = RouteMatch {
            path: PathMatch::Prefix("/API".into()),
            ignore_path_case: true,
            ..RouteMatch::default()
        };
        assert!(super::fits(&blind, &seen("/api/x", &none)));
    }

    #[test]
    fn headers_and_query_parameters() {
        let headers: BTreeMap<String, String> = [("X-User".to_owned(), "beta".to_owned())].into();
        let header = |name: &str, value: TextMatch, not: bool| RouteMatch {
            headers: vec![HeaderMatch { name: name.into(), value, not, ignore_case: false }],
            ..RouteMatch::default()
        };
        let fits = |wanted: RouteMatch| super::fits(&wanted, &seen("/?a=1&b&a=2", &headers));
        assert!(fits(header("x-user", TextMatch::Present, false)));
        assert!(!fits(header("x-user", TextMatch::Exact("beta".into()), true)));
        assert!(fits(header("x-other", TextMatch::Exact("beta".into()), true)));
        assert!(!fits(header("x-other", TextMatch::Regex(Pattern::new(".*")), true)), "missing is empty");
        assert!(fits(header("x-other", TextMatch::Present, true)));
        assert!(fits(header(":method", TextMatch::Exact("GET".into()), false)));
        let query = |name: &str, value: &str| RouteMatch {
            query: vec![(name.into(), TextMatch::Exact(value.into()))],
            ..RouteMatch::default()
        };
        assert!(
            fits(query("a", "1")) && !fits(query("a", "2")) && fits(query("b", "")) && !fits(query("c", ""))
        );
    }

    proptest! {
        /// Whatever follows the first route that fits is never looked at.
        #[test]
        fn the_first_route_that_fits_wins(prefixes in proptest::collection::vec("/[ab]{0,3}", 1..8), given in "/[ab]{0,4}") {
            let none = BTreeMap::new();
            let routes = prefixes.iter().enumerate().map(|(at, prefix)| {
                let mut route = Route::any(ObjectRef::default(), Action::Respond { status: 200, reason: String::new() });
                route.name = at.to_string();
                route.matching = path(PathMatch::Prefix(prefix.clone()));
                route
            });
            let mut table = RouteTable::new("t");
            table.push(VirtualHost { name: "v".into(), domains: vec!["a".into()], routes: routes.collect(), require_tls: None });
            let expected = prefixes.iter().position(|prefix| given.starts_with(prefix.as_str())).map(|at| at.to_string());
            let got = match super::route(&table, &seen(&given, &none)) {
                Routed::To(_, route) => Some(route.name.clone()),
                _ => None,
            };
            prop_assert_eq!(got, expected);
        }
    }
}
