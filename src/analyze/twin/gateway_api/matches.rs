//! Conditions of HTTPRoutes and GRPCRoutes, and which of two conditions is looked at first.

use crate::model::json::Value;
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::analyze::twin::http::table::{HeaderMatch, PathMatch, RouteMatch};
use crate::analyze::twin::http::text::{Pattern, TextMatch};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::Route;

/// The place of a condition among all for one hostname: the smallest comes first. Exact paths come before prefixes, and these
/// before expressions (where the specification leaves the choice; it is Istio's); then the longer path; then a method, more
/// headers, more query parameters; then the older route, its name, and the order within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Of exact, prefix and expression.
    kind: Reverse<u8>,
    /// The length of the path as it is written, in characters.
    length: Reverse<usize>,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: Option<Timestamp>,
    name: (String, String),
    rule: usize,
    at: usize,
}

/// One condition with its place.
#[derive(Debug, Clone)]
pub struct Condition {
    /// The condition.
    pub matching: RouteMatch,
    /// Its place.
    pub rank: Rank,
    /// Where it stands; the rule where the rule names no condition.
    pub path: String,
}

/// The conditions of one rule of a route: any one of them is enough. Without any the rule takes every request.
pub fn of_rule(route: &Route, index: usize, rule: &Value) -> Vec<Condition> {
    let grpc = route.reference().kind == "GRPCRoute";
    let list = rule.list("matches");
    let base = format!("spec.rules[{index}]");
    let read = |at: usize, entry: &Value, path: String| {
        let matching = if grpc { grpc_match(entry) } else { http_match(entry) };
        let rank = rank(route, &matching, index, at, entry);
        Condition { matching, rank, path }
    };
    if list.is_empty() {
        return vec![read(0, &Value::Null, base)];
    }
    let each = list.iter().enumerate();
    each.map(|(at, entry)| read(at, entry, format!("{base}.matches[{at}]"))).collect()
}

fn rank(route: &Route, matching: &RouteMatch, rule: usize, at: usize, entry: &Value) -> Rank {
    let (kind, length) = match &matching.path {
        PathMatch::Exact(path) => (3, path.chars().count()),
        PathMatch::Below(path) | PathMatch::Prefix(path) => (2, path.chars().count()),
        PathMatch::Regex(pattern) => (1, pattern.text.chars().count()),
        // A GRPCRoute's condition without service and method stands behind all that have one.
        PathMatch::Any => (0, 0),
    };
    let method = entry.at("method").is_some_and(Value::is_string);
    let headers = matching.headers.len() - usize::from(method);
    Rank {
        kind: Reverse(kind),
        length: Reverse(length),
        method: Reverse(method),
        headers: Reverse(headers),
        query: Reverse(matching.query.len()),
        created: route.object.created,
        name: (route.object.namespace().to_owned(), route.object.name().to_owned()),
        rule,
        at,
    }
}

fn http_match(entry: &Value) -> RouteMatch {
    let value = entry.text("path.value").unwrap_or("/");
    let path = match entry.text("path.type").unwrap_or("PathPrefix") {
        "Exact" => PathMatch::Exact(value.to_owned()),
        "RegularExpression" => PathMatch::Regex(Pattern::new(value)),
        _ => PathMatch::Below(value.to_owned()),
    };
    let mut headers = vec![];
    if let Some(method) = entry.text("method") {
        headers.push(header(":method", TextMatch::Exact(method.to_owned())));
    }
    headers.extend(header_matches(entry));
    let mut names = BTreeSet::new();
    // Of several entries for one parameter the first one counts.
    let query = entry.list("queryParams").iter().filter(|q| names.insert(q.string("name")));
    RouteMatch {
        path,
        headers,
        query: query.map(|q| (q.string("name"), text_match(q))).collect(),
        ..RouteMatch::default()
    }
}

/// A GRPCRoute's condition on service and method is one on the path `/service/method`.
fn grpc_match(entry: &Value) -> RouteMatch {
    let (service, method) = (entry.text("method.service"), entry.text("method.method"));
    let regex = entry.text("method.type") == Some("RegularExpression");
    let path = match (service, method) {
        (None, None) => PathMatch::Any,
        (Some(service), Some(method)) if !regex => PathMatch::Exact(format!("/{service}/{method}")),
        (Some(service), None) if !regex => PathMatch::Prefix(format!("/{service}/")),
        (service, method) => {
            let part = |text: Option<&str>, any: &str| match text {
                Some(text) if regex => text.to_owned(),
                Some(text) => regex::escape(text),
                None => any.to_owned(),
            };
            PathMatch::Regex(Pattern::new(&format!("/{}/{}", part(service, "[^/]+"), part(method, ".+"))))
        }
    };
    RouteMatch { path, headers: header_matches(entry), ..RouteMatch::default() }
}

fn header(name: &str, value: TextMatch) -> HeaderMatch {
    HeaderMatch { name: name.to_ascii_lowercase(), value, not: false, ignore_case: false }
}

fn header_matches(entry: &Value) -> Vec<HeaderMatch> {
    let mut names = BTreeSet::new();
    // Names are compared without case, and of several entries for one name the first one counts.
    let list = entry.list("headers").iter().filter(|h| names.insert(h.string("name").to_ascii_lowercase()));
    list.map(|h| header(&h.string("name"), text_match(h))).collect()
}

fn text_match(entry: &Value) -> TextMatch {
    let value = entry.string("value");
    match entry.text("type") {
        Some("RegularExpression") => TextMatch::Regex(Pattern::new(&value)),
        _ => TextMatch::Exact(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::http::engine::{Seen, fits};
    use crate::model::json::json;
    use crate::model::object::Object;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn route(kind: &str, name: &str, created: &str, rules: Value) -> Route {
        let body = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "namespace": "n", "creationTimestamp": created}, "spec": {"rules": rules}});
        Route::read(Object::read(body).unwrap())
    }

    fn conditions(route: &Route) -> Vec<Condition> {
        let rules = route.object.body.list("spec.rules").iter().enumerate();
        rules.flat_map(|(index, rule)| of_rule(route, index, rule)).collect()
    }

    /// Where conditions end up, by their paths.
    fn order(matches: Value) -> Vec<String> {
        let mut all =
            conditions(&route("HTTPRoute", "r", "2026-01-01T00:00:00Z", json!([{"matches": matches}])));
        all.sort_by(|a, b| a.rank.cmp(&b.rank));
        all.into_iter().map(|c| c.path.trim_start_matches("spec.rules[0].matches").to_owned()).collect()
    }

    #[test]
    fn the_order_is_that_of_the_specification() {
        assert_eq!(
            order(json!([
                {"path": {"value": "/a"}},
                {"path": {"value": "/a/b"}},
                {"path": {"type": "Exact", "value": "/a"}},
                {"path": {"value": "/a"}, "method": "GET"},
                {"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}, {"name": "y", "value": "1"}]},
                {"path": {"value": "/a"}, "queryParams": [{"name": "q", "value": "1"}]},
                {"path": {"value": "/a"}, "headers": [{"name": "x", "value": "1"}, {"name": "X", "value": "2"}]},
                {"path": {"type": "RegularExpression", "value": "/a/very/long/.*"}}])),
            ["[2]", "[1]", "[3]", "[4]", "[6]", "[5]", "[0]", "[7]"]
        );
    }

    #[test]
    fn age_then_name_then_place_decide_among_equals() {
        let rules = json!([{}, {}]);
        let (old, young) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let routes = [
            route("HTTPRoute", "a", young, rules.clone()),
            route("HTTPRoute", "c", old, rules.clone()),
            route("HTTPRoute", "b", old, rules),
        ];
        let mut all: Vec<(Rank, String)> = routes
            .iter()
            .flat_map(|r| {
                conditions(r).into_iter().map(|c| (c.rank, format!("{} {}", r.object.name(), c.path)))
            })
            .collect();
        all.sort();
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "b spec.rules[0]",
                "b spec.rules[1]",
                "c spec.rules[0]",
                "c spec.rules[1]",
                "a spec.rules[0]",
                "a spec.rules[1]"
            ]
        );
    }

    #[test]
    fn grpc_methods_are_paths() {
        let none = BTreeMap::new();
        let fit = |method: Value, path: &str| {
            let made = conditions(&route("GRPCRoute", "r", "", json!([{"matches": [{"method": method}]}])));
            fits(
                &made[0].matching,
                &Seen { method: "POST", scheme: "http", authority: "a", host: "a", path, headers: &none },
            )
        };
        assert!(
            fit(json!({"service": "p.S", "method": "M"}), "/p.S/M")
                && !fit(json!({"service": "p.S", "method": "M"}), "/p.S/Mx")
        );
        assert!(fit(json!({"service": "p.S"}), "/p.S/X") && !fit(json!({"service": "p.S"}), "/p.Sx/X"));
        assert!(fit(json!({"method": "M"}), "/any/M") && !fit(json!({"method": "M"}), "/any/x/M"));
        assert!(fit(json!({"type": "RegularExpression", "service": "p\\.[ST]", "method": "M.*"}), "/p.T/Mx"));
        let service = json!({"type": "RegularExpression", "service": "p.*"});
        assert!(fit(service.clone(), "/p.S/M/x") && !fit(service, "/q.S/M"));
        assert!(fit(json!({}), "/p.S/M"));
    }

    #[test]
    fn a_grpc_rule_for_everything_stands_behind_those_with_a_method() {
        let rules = json!([
            {},
            {"matches": [{"headers": [{"name": "x", "value": "1"}]}]},
            {"matches": [{"method": {"type": "RegularExpression", "service": "a.*", "method": "[a-z].*"}}]},
            {"matches": [{"method": {"service": "a"}}]}
        ]);
        let made = route("GRPCRoute", "r", "", rules);
        let mut all: Vec<(Rank, String)> = conditions(&made).into_iter().map(|c| (c.rank, c.path)).collect();
        all.sort();
        let order: Vec<&str> = all.iter().filter_map(|(_, path)| path.get(11..12)).collect();
        assert_eq!(order, ["3", "2", "1", "0"]);
    }

    fn any_match() -> impl Strategy<Value = Value> {
        let path = ("(Exact|PathPrefix)", "/[ab]{0,2}(/[ab]){0,1}");
        let headers = proptest::collection::vec(("[xy]", "[12]"), 0..3);
        (path, proptest::option::of("(GET|POST)"), headers, proptest::collection::vec(("[pq]", "[12]"), 0..3)).prop_map(
            |((kind, path), method, headers, query)| {
                let pairs = |list: Vec<(String, String)>| -> Vec<Value> {
                    list.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
                };
                json!({"path": {"type": kind, "value": path}, "method": method, "headers": pairs(headers), "queryParams": pairs(query)})
            },
        )
    }

    /// The specification's list, word for word: which of two conditions is to be preferred, `None` where they are equal.
    fn preferred(a: &Value, b: &Value) -> Option<bool> {
        let distinct = |v: &Value, list: &str| {
            v.list(list).iter().map(|e| e.string("name")).collect::<BTreeSet<_>>().len()
        };
        let keys = |v: &Value| {
            let exact = v.text("path.type") == Some("Exact");
            // Among exact paths that take the same request the length is equal; it stands for a fixed order of the others.
            let length = v.text("path.value").unwrap_or("/").len();
            (exact, length, v.text("method").is_some(), distinct(v, "headers"), distinct(v, "queryParams"))
        };
        let (x, y) = (keys(a), keys(b));
        (x != y).then(|| x > y)
    }

    proptest! {
        /// Sorting by rank never puts a condition behind one that the specification prefers less.
        #[test]
        fn no_condition_stands_behind_a_less_preferred_one(matches in proptest::collection::vec(any_match(), 1..8)) {
            let made = route("HTTPRoute", "r", "", json!([{"matches": matches.clone()}]));
            let mut all: Vec<(Rank, usize)> = conditions(&made).into_iter().enumerate().map(|(at, c)| (c.rank, at)).collect();
            all.sort();
            for pair in all.windows(2) {
                let (a, b) = (pair[0].1, pair[1].1);
                match preferred(&matches[a], &matches[b]) {
                    Some(first) => prop_assert!(first, "{} before {}", matches[a], matches[b]),
                    None => prop_assert!(a < b),
                }
            }
        }
    }
}
