//! The route tables of listeners: a virtual host for each hostname, with the rules of all routes that share it.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::hostnames::{closeness, common};
use super::listeners::{self, Served};
use super::rules::{self, Made, Place};
use crate::analyze::twin::http::table::{self, RouteTable, VirtualHost};
use crate::analyze::twin::istio::route::takes_everything;
use crate::model::mesh::gateway_api::Route;
use crate::model::snapshot::Snapshot;

/// The table of listeners that share a port and are told apart by the Host header. Each host belongs to the listener whose
/// hostname is closest to it, and finds that listener's routes alone. A listener to which nothing is attached leaves its hosts
/// to wider ones, as a real gateway of Istio's does.
pub fn of(snapshot: &Snapshot, name: String, together: &[&Served<'_>], port: u16) -> RouteTable {
    let mut table = RouteTable::new(name);
    let mut hosts: BTreeMap<String, BTreeMap<(&str, &str), Group>> = BTreeMap::new();
    for served in together {
        let hostname = served.listener.hostname.as_str();
        for (route, shared) in listeners::routes(snapshot, &served.listener, &["HTTPRoute", "GRPCRoute"]) {
            let place = Place { port, mesh: false };
            if !rules::is_taken(snapshot, route, place) {
                continue;
            }
            let made = rules::of_route(snapshot, route, place);
            let kept = shared.into_iter().filter(|host| !belongs_elsewhere(together, hostname, host));
            for host in kept {
                let groups = hosts.entry(host.clone()).or_default();
                for written in as_written(route, hostname, &host) {
                    let group = groups.entry((&served.listener.name, written)).or_default();
                    group.oldest = group.oldest.into_iter().chain(route.object.created).min();
                    group.made.extend(made.clone());
                }
            }
        }
    }
    for (host, groups) in hosts {
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.sort_by_key(|group| group.oldest);
        let mut routes: Vec<_> =
            groups.into_iter().flat_map(|group| reachable(rules::in_order(group.made))).collect();
        // What takes every request stands behind the other groups' conditions, too.
        routes.sort_by_key(|route| takes_everything(&route.matching));
        table.push(VirtualHost {
            name: format!("{host}:{port}"),
            domains: vec![host],
            routes,
            require_tls: None,
        });
    }
    table
}

/// The rules of all routes that name a host in the same way. Only among them the more specific condition counts: what routes name
/// in different ways (`*.example.com`, or nothing at all) and the listener's hostname makes one host of stands group by group,
/// the oldest first.
#[derive(Debug, Default)]
struct Group {
    oldest: Option<Timestamp>,
    made: Vec<Made>,
}

/// The routes up to the first one that takes every request: what stands behind it in its group is left out, even where it would
/// stand before that one in the end.
fn reachable(mut routes: Vec<table::Route>) -> Vec<table::Route> {
    if let Some(last) = routes.iter().position(|route| takes_everything(&route.matching)) {
        routes.truncate(last + 1);
    }
    routes
}

/// The hostnames of a route, as they are written, that a listener's makes this host of.
fn as_written<'r>(route: &'r Route, listener: &str, host: &str) -> Vec<&'r str> {
    if route.hostnames.is_empty() {
        return vec!["*"];
    }
    let own = route.hostnames.iter().map(String::as_str);
    own.filter(|own| common(listener, own).as_deref() == Some(host)).collect()
}

/// Whether another listener is closer to all of a hostname than the one with `hostname`.
pub fn belongs_elsewhere(together: &[&Served<'_>], hostname: &str, host: &str) -> bool {
    together.iter().any(|other| {
        let other = other.listener.hostname.as_str();
        closeness(other) > closeness(hostname) && common(other, host).as_deref() == Some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::http::engine::{Routed, Seen, route};
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    fn http(name: &str, parent: Value, hostnames: Value, value: &str) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "n"},
            "spec": {"parentRefs": [parent], "hostnames": hostnames, "rules": [{"matches": [{"path": {"value": value}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {}}]}]}})
    }

    #[test]
    fn a_host_finds_the_routes_of_its_closest_listener_alone() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "istio", "listeners": [
                {"name": "any", "port": 80, "protocol": "HTTP"}, {"name": "wide", "port": 80, "protocol": "HTTP", "hostname": "*.b.c"},
                {"name": "exact", "port": 80, "protocol": "HTTP", "hostname": "a.b.c"}]}}));
        builder.object(http("of-any", json!({"name": "g", "sectionName": "any"}), json!([]), "/any"));
        builder.object(http(
            "of-any-narrow",
            json!({"name": "g", "sectionName": "any"}),
            json!(["*.x.b.c"]),
            "/narrow",
        ));
        builder.object(http("of-wide", json!({"name": "g", "sectionName": "wide"}), json!([]), "/wide"));
        let snapshot = builder.finish();
        let served = listeners::of(&snapshot, &snapshot.gateway_api.gateways[0]);
        let together: Vec<&Served<'_>> = served.iter().collect();
        let table = of(&snapshot, "http.80".into(), &together, 80);
        let none = BTreeMap::new();
        let find = |host: &str, path: &str| {
            let seen = Seen { method: "GET", scheme: "http", authority: host, host, path, headers: &none };
            match route(&table, &seen) {
                Routed::To(_, route) => route.name.clone(),
                Routed::NoRoute(host) => format!("no route of {}", host.name),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(find("q", "/any"), "n.of-any.0");
        assert_eq!(find("y.b.c", "/wide"), "n.of-wide.0");
        assert_eq!(find("y.b.c", "/any"), "no route of *.b.c:80");
        assert_eq!(find("z.x.b.c", "/narrow"), "no route of *.b.c:80");
        assert_eq!(find("a.b.c", "/wide"), "n.of-wide.0");
    }

    #[test]
    fn what_takes_every_request_stands_behind_the_conditions_of_all_names() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"gatewayClassName": "istio", "listeners": [{"name": "exact", "port": 80, "protocol": "HTTP", "hostname": "a.b.c"}]}}));
        let mut older = http("older", json!({"name": "g"}), json!([]), "/");
        older["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        builder.object(older);
        let mut younger = http("younger", json!({"name": "g"}), json!(["a.b.c"]), "/x");
        younger["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
        builder.object(younger);
        let snapshot = builder.finish();
        let served = listeners::of(&snapshot, &snapshot.gateway_api.gateways[0]);
        let together: Vec<&Served<'_>> = served.iter().collect();
        let table = of(&snapshot, "http.80".into(), &together, 80);
        let names: Vec<&str> = table.hosts()[0].routes.iter().map(|route| route.name.as_str()).collect();
        assert_eq!(names, ["n.younger.0", "n.older.0"]);
    }
}
