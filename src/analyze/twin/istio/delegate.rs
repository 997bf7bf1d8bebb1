//! Delegation: a root VirtualService's rule that names another VirtualService, whose rules take its place, narrowed by the
//! root's conditions.

use crate::model::json::{Map, Value};
use std::collections::BTreeMap;

use super::virtual_services::HttpRule;
use crate::analyze::twin::registry::visible;
use crate::model::fields::Fields;
use crate::model::mesh::istio::VirtualService;
use crate::model::mesh::part::Part;
use crate::model::object::ObjectRef;

type Known<'k> = BTreeMap<(&'k str, &'k str), &'k VirtualService>;

/// The rules of a VirtualService with its delegates' in place. A delegate cannot delegate further.
pub(super) fn rules(root: &VirtualService, known: &Known<'_>) -> Vec<HttpRule> {
    let mut out = vec![];
    for (at, rule) in root.object.body.list("spec.http").iter().enumerate() {
        let own = plain(root, at);
        let Some(delegate) = rule.at("delegate") else {
            out.push(own);
            continue;
        };
        let namespace =
            delegate.text("namespace").filter(|ns| !ns.is_empty()).unwrap_or(root.object.namespace());
        let name = delegate.text("name").unwrap_or_default();
        // One that is not there, or that the root cannot see, leaves the root's rule without effect.
        let Some(other) = known.get(&(namespace, name)).filter(|other| {
            other.hosts.is_empty() && visible(&other.export_to, namespace, root.object.namespace())
        }) else {
            continue;
        };
        for (at, inner) in other.object.body.list("spec.http").iter().enumerate() {
            if inner.at("delegate").is_none() {
                out.extend(merged(&own, plain(other, at)));
            }
        }
    }
    out
}

/// A rule as it stands.
fn plain(vs: &VirtualService, at: usize) -> HttpRule {
    let source = vs.reference().field(format!("spec.http[{at}]"));
    let body = Part::of(&vs.object.body, "spec.http", at);
    let matches = 0..body.list("match").len();
    HttpRule {
        matches: matches
            .map(|m| (body.inner("match", m), source.field(format!("spec.http[{at}].match[{m}]"))))
            .collect(),
        body,
        namespace: vs.object.namespace().to_owned(),
        source,
    }
}

/// A delegate's rule under its root's; `None` where one of its conditions can hold together with none of the root's.
fn merged(root: &HttpRule, inner: HttpRule) -> Option<HttpRule> {
    let matches: Vec<(Part, ObjectRef)> = match (root.matches.as_slice(), inner.matches.as_slice()) {
        ([], _) => inner.matches.clone(),
        (all, []) => all.to_vec(),
        (all, some) => {
            let mut joined = vec![];
            for (own, at) in some {
                let before = joined.len();
                joined.extend(
                    all.iter().filter_map(|(outer, _)| Some((Part::own(join(outer, own)?), at.clone()))),
                );
                // One condition that fits none of the root's costs the whole rule.
                if joined.len() == before {
                    return None;
                }
            }
            joined
        }
    };
    let mut body = inner.body.as_object().cloned().unwrap_or_default();
    // What the root says of the rule counts where the delegate says nothing.
    for (key, value) in root.body.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "match" | "delegate" | "name" | "route" | "redirect" | "directResponse") {
            body.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let names: Vec<String> = [root.body.string("name"), inner.body.string("name")]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    body.insert("name".to_owned(), Value::from(names.join("-")));
    Some(HttpRule { body: Part::own(Value::Object(body)), matches, ..inner })
}

/// Conditions that take one text; each may stand at the root or at the delegate, or at both where the delegate's is narrower.
const TEXTS: &[&str] = &["uri", "scheme", "method", "authority"];
/// Conditions by name.
const MAPS: &[&str] = &["headers", "withoutHeaders", "queryParams", "sourceLabels"];

/// Both conditions at once; `None` where they exclude each other.
fn join(root: &Value, inner: &Value) -> Option<Value> {
    let mut out = inner.as_object().cloned().unwrap_or_default();
    if root.flag("ignoreUriCase") != inner.flag("ignoreUriCase")
        && root.at("uri").is_some()
        && inner.at("uri").is_some()
    {
        return None;
    }
    for key in TEXTS {
        match (root.child(key), inner.child(key)) {
            (Some(outer), Some(own)) if !narrower(own, outer) => return None,
            (Some(outer), None) => {
                out.insert((*key).to_owned(), outer.clone());
            }
            _ => {}
        }
    }
    for key in MAPS {
        let outer = root.map(key).cloned().unwrap_or_default();
        let mut own = inner.map(key).cloned().unwrap_or_default();
        for (name, value) in outer {
            match own.get(&name) {
                Some(other) if *key == "sourceLabels" && *other != value => return None,
                Some(other) if *key != "sourceLabels" && !narrower(other, &value) => return None,
                Some(_) => {}
                None => {
                    own.insert(name, value);
                }
            }
        }
        put(&mut out, key, own);
    }
    for key in ["port", "sourceNamespace"] {
        match (root.child(key), inner.child(key)) {
            (Some(outer), Some(own)) if outer != own => return None,
            (Some(outer), None) => {
                out.insert(key.to_owned(), outer.clone());
            }
            _ => {}
        }
    }
    // A delegate has no gateways of its own; those of the root's condition stay.
    if let Some(gateways) = root.child("gateways") {
        out.insert("gateways".to_owned(), gateways.clone());
    }
    if root.flag("ignoreUriCase") && inner.at("uri").is_none() {
        out.insert("ignoreUriCase".to_owned(), Value::Bool(true));
    }
    let names: Vec<String> =
        [root.string("name"), inner.string("name")].into_iter().filter(|name| !name.is_empty()).collect();
    if !names.is_empty() {
        out.insert("name".to_owned(), Value::from(names.join("-")));
    }
    Some(Value::Object(out))
}

fn put(out: &mut Map, key: &str, map: Map) {
    if !map.is_empty() {
        out.insert(key.to_owned(), Value::Object(map));
    }
}

/// Whether a delegate's condition on a text lies within the root's.
fn narrower(own: &Value, root: &Value) -> bool {
    match (root.text("exact"), root.text("prefix")) {
        (Some(exact), _) => own.text("exact") == Some(exact),
        (_, Some(prefix)) => {
            own.text("exact").or_else(|| own.text("prefix")).is_some_and(|text| text.starts_with(prefix))
        }
        // Whether one expression lies within another is not looked at; equal ones do.
        _ => own == root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn conditions_join_where_they_can_hold_together() {
        let joined = join(
            &json!({"uri": {"prefix": "/a"}, "port": 80}),
            &json!({"uri": {"exact": "/a/b"}, "headers": {"x": {"exact": "1"}}}),
        );
        assert_eq!(
            joined,
            Some(json!({"uri": {"exact": "/a/b"}, "headers": {"x": {"exact": "1"}}, "port": 80}))
        );
        assert_eq!(join(&json!({"uri": {"prefix": "/a"}}), &json!({"uri": {"prefix": "/b"}})), None);
        assert_eq!(join(&json!({"uri": {"exact": "/a"}}), &json!({"uri": {"prefix": "/a"}})), None);
        assert_eq!(join(&json!({"port": 80}), &json!({"port": 81})), None);
        assert_eq!(
            join(&json!({"uri": {"prefix": "/a"}}), &json!({})),
            Some(json!({"uri": {"prefix": "/a"}}))
        );
    }
}
