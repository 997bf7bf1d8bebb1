//! Values in the rules of a route that no implementation can carry out.

use super::prelude::*;
use super::references::{self, Filter};

/// One such value.
#[derive(Debug)]
pub struct Problem {
    /// The field that decides.
    pub path: String,
    /// The API's reason: `UnsupportedValue` or `IncompatibleFilters`.
    pub reason: &'static str,
    /// Why, with names.
    pub why: String,
}

fn unsupported(path: String, why: String) -> Problem {
    Problem { path, reason: "UnsupportedValue", why }
}

/// Types of filters, and whether a rule can have several of it.
const FILTERS: &[(&str, bool)] = &[
    ("RequestHeaderModifier", false),
    ("ResponseHeaderModifier", false),
    ("RequestMirror", true),
    ("RequestRedirect", false),
    ("URLRewrite", false),
    ("CORS", false),
    ("ExternalAuth", false),
    ("ExtensionRef", true),
];

/// Everything that is wrong with the rules of an HTTPRoute or GRPCRoute by themselves.
pub fn check(route: &Route) -> Vec<Problem> {
    let mut out = vec![];
    if !matches!(route.reference().kind.as_str(), "HTTPRoute" | "GRPCRoute") {
        return out;
    }
    for (index, rule) in route.object.body.list("spec.rules").iter().enumerate() {
        let path = format!("spec.rules[{index}]");
        for (at, entry) in rule.list("matches").iter().enumerate() {
            matches(&format!("{path}.matches[{at}]"), entry, &mut out);
        }
        timeouts(&path, rule, &mut out);
        together(&path, rule.list("filters"), rule, &mut out);
        for (at, backend) in rule.list("backendRefs").iter().enumerate() {
            together(&format!("{path}.backendRefs[{at}]"), backend.list("filters"), rule, &mut out);
        }
    }
    for filter in references::filters(route) {
        one(&filter, &mut out);
    }
    out
}

/// A match with a type: the type is one of `known` (the first where nothing is written), and expressions are well formed.
fn typed<'a>(
    field: &str,
    body: &'a Value,
    known: &[&'a str],
    words: &[&str],
    out: &mut Vec<Problem>,
) -> &'a str {
    let kind = body.text("type").unwrap_or(known.first().copied().unwrap_or_default());
    if !known.contains(&kind) {
        let why = format!("match type {kind} is none of {}", known.join(", "));
        out.push(unsupported(format!("{field}.type"), why));
    }
    for word in words.iter().filter(|_| kind == "RegularExpression") {
        if let Some(why) = body.text(word).and_then(broken) {
            out.push(unsupported(format!("{field}.{word}"), why));
        }
    }
    kind
}

fn matches(path: &str, entry: &Value, out: &mut Vec<Problem>) {
    let plain = &["Exact", "RegularExpression"];
    if let Some(body) = entry.at("path") {
        let known = &["PathPrefix", "Exact", "RegularExpression"];
        let kind = typed(&format!("{path}.path"), body, known, &["value"], out);
        let value = body.text("value").unwrap_or("/");
        if kind != "RegularExpression" && !value.starts_with('/') {
            let why = format!("path {value} does not begin with /");
            out.push(unsupported(format!("{path}.path.value"), why));
        }
    }
    if let Some(body) = entry.at("method").filter(|method| method.is_object()) {
        typed(&format!("{path}.method"), body, plain, &["service", "method"], out);
    }
    for list in ["headers", "queryParams"] {
        for (index, body) in entry.list(list).iter().enumerate() {
            typed(&format!("{path}.{list}[{index}]"), body, plain, &["value"], out);
        }
    }
}

/// Why an expression is none of RE2's syntax; `None` where it is one.
fn broken(pattern: &str) -> Option<String> {
    // What RE2 has and the parser here lacks is given the benefit of the doubt.
    if pattern.contains("\\Q") || pattern.contains("\\C") {
        return None;
    }
    let around = ["(?=", "(?!", "(?<=", "(?<!"].iter().find(|part| pattern.contains(*part));
    if let Some(part) = around {
        return Some(format!("the regular expression looks around ({part}), which RE2 does not have"));
    }
    regex::RegexBuilder::new(pattern).size_limit(1 << 20).build().err().and_then(|error| match error {
        regex::Error::Syntax(_) => Some("the regular expression is not well formed".to_owned()),
        _ => None,
    })
}

fn timeouts(path: &str, rule: &Value, out: &mut Vec<Problem>) {
    let whole = rule.seconds("timeouts.request").filter(|s| *s > 0.0);
    let each = rule.seconds("timeouts.backendRequest").filter(|s| *s > 0.0);
    if let (Some(whole), Some(each)) = (whole, each)
        && each > whole
    {
        let why = format!("one try takes up to {each} s and the whole request up to {whole} s");
        out.push(unsupported(format!("{path}.timeouts.backendRequest"), why));
    }
}

/// Filters that exclude each other.
fn together(path: &str, filters: &[Value], rule: &Value, out: &mut Vec<Problem>) {
    let count = |kind: &str| filters.iter().filter(|f| f.text("type") == Some(kind)).count();
    let mut bad = |why: String| {
        out.push(Problem { path: format!("{path}.filters"), reason: "IncompatibleFilters", why });
    };
    if count("RequestRedirect") > 0 && count("URLRewrite") > 0 {
        bad("a request cannot be redirected and rewritten by one rule".to_owned());
    }
    for (kind, _) in FILTERS.iter().filter(|(kind, many)| !many && count(kind) > 1) {
        bad(format!("filter {kind} stands there {} times; once is allowed", count(kind)));
    }
    let own = path.ends_with(']') && !path.contains("backendRefs");
    if own && count("RequestRedirect") > 0 && !rule.list("backendRefs").is_empty() {
        bad("a rule that redirects sends nothing to backends, and it has backendRefs".to_owned());
    }
    // The prefix that is replaced is the one that one match names.
    let prefix = |f: &&Value| {
        ["urlRewrite", "requestRedirect"]
            .iter()
            .any(|part| f.text(&format!("{part}.path.type")) == Some("ReplacePrefixMatch"))
    };
    let kinds = |m: &Value| m.text("path.type").unwrap_or("PathPrefix") == "PathPrefix";
    let all = rule.list("matches");
    if filters.iter().any(|f| prefix(&f)) && (all.len() > 1 || !all.iter().all(kinds)) {
        let why = "ReplacePrefixMatch needs exactly one match, of type PathPrefix, in its rule".to_owned();
        out.push(unsupported(format!("{path}.filters"), why));
    }
}

/// One filter by itself.
fn one(filter: &Filter<'_>, out: &mut Vec<Problem>) {
    let kind = filter.body.text("type").unwrap_or_default();
    if !kind.is_empty() && !FILTERS.iter().any(|(known, _)| *known == kind) {
        let why = format!("filter type {kind} is none that the API has");
        out.push(unsupported(format!("{}.type", filter.path()), why));
    }
    let status = filter.body.int("requestRedirect.statusCode");
    if let Some(status) = status.filter(|s| ![301, 302, 303, 307, 308].contains(s)) {
        let why = format!("status {status} is no redirect; 301, 302, 303, 307 and 308 are");
        out.push(unsupported(format!("{}.requestRedirect.statusCode", filter.path()), why));
    }
    let percent = filter.body.int("requestMirror.percent");
    if percent.is_some() && filter.body.at("requestMirror.fraction").is_some() {
        let why = "a mirror has percent or fraction, and not both".to_owned();
        out.push(unsupported(format!("{}.requestMirror.percent", filter.path()), why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rule: Value) -> Vec<String> {
        let route = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "n"}, "spec": {"rules": [rule]}});
        check(&Route::read(Object::read(route).unwrap())).into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn expressions_that_re2_takes_are_fine_and_others_are_named() {
        let header = |value: &str| json!({"matches": [{"headers": [{"name": "a", "type": "RegularExpression", "value": value}]}]});
        assert!(said(header("^v[0-9]+$")).is_empty());
        for bad in ["a(", "(?=x)", "[a"] {
            assert_eq!(said(header(bad)), ["spec.rules[0].matches[0].headers[0].value"], "{bad}");
        }
    }

    #[test]
    fn filters_that_exclude_each_other_are_named() {
        let both = json!({"filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "a"}}, {"type": "RequestRedirect", "requestRedirect": {}}]});
        assert_eq!(said(both), ["spec.rules[0].filters"]);
        let mirrors = json!({"filters": [{"type": "RequestMirror"}, {"type": "RequestMirror"}], "backendRefs": [{"name": "a"}]});
        assert!(said(mirrors).is_empty());
        let prefix = |kind: &str| json!({"matches": [{"path": {"type": kind, "value": "/a"}}], "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}}]});
        assert!(said(prefix("PathPrefix")).is_empty());
        assert_eq!(said(prefix("Exact")), ["spec.rules[0].filters"]);
    }
}
