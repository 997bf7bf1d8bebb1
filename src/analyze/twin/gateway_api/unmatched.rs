//! Conditions of HTTPRoutes and GRPCRoutes that no request meets first: an earlier one takes all of theirs, wherever they are
//! served.

use std::collections::{BTreeMap, BTreeSet};

use super::{gateway::Door, mesh};
use crate::analyze::twin::http::table::{HeaderMatch, PathMatch, Route, RouteMatch};
use crate::analyze::twin::http::text::TextMatch;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// Routes of one virtual host that are compared with each other: beyond, each is compared with so many before it.
const MAX_BEFORE: usize = 512;

/// A condition that is never met first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// Where it stands.
    pub route: ObjectRef,
    /// What takes its requests.
    pub by: ObjectRef,
}

/// All conditions of routes that are attached somewhere and met first nowhere.
pub fn unmatched(snapshot: &Snapshot) -> Vec<Unmatched> {
    let mut met: BTreeSet<ObjectRef> = BTreeSet::new();
    let mut never: BTreeMap<ObjectRef, ObjectRef> = BTreeMap::new();
    let mut look = |routes: &[Route]| {
        for (at, route) in routes.iter().enumerate() {
            let mut before = routes.iter().take(at).rev().take(MAX_BEFORE);
            match before.find(|earlier| covers(&earlier.matching, &route.matching)) {
                Some(earlier) => {
                    never.entry(route.source.clone()).or_insert_with(|| earlier.source.clone());
                }
                None => {
                    met.insert(route.source.clone());
                }
            }
        }
    };
    for gateway in &snapshot.gateway_api.gateways {
        let ports: BTreeSet<u16> =
            gateway.listeners.iter().filter_map(|listener| u16::try_from(listener.port).ok()).collect();
        for port in ports {
            let door = Door::new(snapshot, gateway, port);
            door.tables().flat_map(|table| table.hosts()).for_each(|host| look(&host.routes));
        }
    }
    for service in &snapshot.services {
        let namespace = service.object.namespace();
        for port in service.ports.iter().filter_map(|port| u16::try_from(port.number).ok()) {
            if let Some(routes) = mesh::http_routes(snapshot, &service.object, namespace, port) {
                look(&routes);
            }
        }
    }
    let never = never.into_iter().filter(|(route, by)| !met.contains(route) && route != by);
    never.map(|(route, by)| Unmatched { route, by }).collect()
}

/// Whether every request that meets a condition meets another one, too. Expressions are compared as they are written.
fn covers(wide: &RouteMatch, narrow: &RouteMatch) -> bool {
    path_covers(wide, narrow)
        && wide.headers.iter().all(|own| narrow.headers.iter().any(|other| alike(own, other)))
        && wide.query.iter().all(|(name, value)| {
            narrow.query.iter().any(|(other, given)| name == other && same_text(value, given))
        })
}

fn path_covers(wide: &RouteMatch, narrow: &RouteMatch) -> bool {
    let fold = |text: &str| if wide.ignore_path_case { text.to_ascii_lowercase() } else { text.to_owned() };
    // What disregards case takes more than what does not.
    let stricter = narrow.ignore_path_case && !wide.ignore_path_case;
    let below = |text: &str, own: &str| {
        let own = own.trim_end_matches('/');
        text.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (&wide.path, &narrow.path) {
        (PathMatch::Any, _) => true,
        (PathMatch::Prefix(own) | PathMatch::Below(own), PathMatch::Any) => own == "/",
        (_, PathMatch::Any) => false,
        (PathMatch::Regex(own), PathMatch::Regex(other)) => own.text == other.text,
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => {
            matches!(&wide.path, PathMatch::Prefix(own) | PathMatch::Below(own) if own == "/")
        }
        _ if stricter => false,
        (
            PathMatch::Prefix(own),
            PathMatch::Exact(other) | PathMatch::Prefix(other) | PathMatch::Below(other),
        ) => fold(other).starts_with(&fold(own)),
        (PathMatch::Below(own), PathMatch::Exact(other) | PathMatch::Below(other)) => {
            below(&fold(other), &fold(own))
        }
        (PathMatch::Below(own), PathMatch::Prefix(other)) => {
            own == "/" || fold(other).starts_with(&format!("{}/", fold(own).trim_end_matches('/')))
        }
        (PathMatch::Exact(own), PathMatch::Exact(other)) => fold(own) == fold(other),
        (PathMatch::Exact(_), PathMatch::Prefix(_) | PathMatch::Below(_)) => false,
    }
}

fn alike(a: &HeaderMatch, b: &HeaderMatch) -> bool {
    // What must not be there at all asks for more than what must not be this.
    let wider = !a.not || !matches!(a.value, TextMatch::Present) || matches!(b.value, TextMatch::Present);
    a.name == b.name
        && a.not == b.not
        && a.ignore_case == b.ignore_case
        && wider
        && same_text(&a.value, &b.value)
}

fn same_text(a: &TextMatch, b: &TextMatch) -> bool {
    match (a, b) {
        (TextMatch::Present, _) => true,
        (TextMatch::Exact(a), TextMatch::Exact(b))
        | (TextMatch::Prefix(a), TextMatch::Prefix(b))
        | (TextMatch::Suffix(a), TextMatch::Suffix(b)) => a == b,
        (TextMatch::Regex(a), TextMatch::Regex(b)) => a.text == b.text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    /// The fields of the conditions of route `b`, beside an older route `a`, that are never met first.
    fn never(a: Value, b: Value, parent: &Value) -> Vec<String> {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "istio", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}));
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}}));
        for (name, rules) in [("a", a), ("b", b)] {
            builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": if name == "a" { "2026-01-01T00:00:00Z" } else { "2026-01-02T00:00:00Z" }},
                "spec": {"parentRefs": [parent], "rules": rules}}));
        }
        let found = unmatched(&builder.finish());
        found.iter().map(|own| format!("{} by {}", own.route.field_path, own.by)).collect()
    }

    fn rule(matches: Value) -> Value {
        json!({"matches": matches, "backendRefs": [{"name": "s", "port": 80}]})
    }

    #[test]
    fn a_condition_like_an_older_one_is_met_nowhere() {
        let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
        for parent in [json!({"name": "g"}), json!({"group": "", "kind": "Service", "name": "s"})] {
            let found = never(
                json!([rule(json!([path("PathPrefix", "/pay")]))]),
                json!([rule(json!([path("PathPrefix", "/pay"), path("Exact", "/pay")]))]),
                &parent,
            );
            // The exact one comes first by its kind.
            assert_eq!(found, ["spec.rules[0].matches[0] by HTTPRoute n/a"], "{parent}");
        }
    }

    #[test]
    fn what_asks_for_less_or_other_is_left_to_the_later_one() {
        let parent = json!({"name": "g"});
        let with = |name: &str, value: &str| json!({"path": {"value": "/pay"}, "headers": [{"name": name, "value": value}]});
        let narrow = json!([rule(json!([with("x-user", "beta")]))]);
        assert!(
            never(narrow.clone(), json!([rule(json!([{"path": {"value": "/pay"}}]))]), &parent).is_empty()
        );
        assert!(never(narrow.clone(), json!([rule(json!([with("x-user", "other")]))]), &parent).is_empty());
        assert_eq!(never(narrow.clone(), narrow, &parent).len(), 1);
        // Below /pay is not all that begins with /pay, and a segment more is its own.
        let found = never(
            json!([rule(json!([{"path": {"value": "/pay"}}]))]),
            json!([rule(json!([{"path": {"value": "/payments"}}]))]),
            &parent,
        );
        assert!(found.is_empty(), "{found:?}");
    }
}
