//! Routes that are attached to Services: what the proxy beside a client does with requests to them.

use super::attached;
use super::rules::{self, Place};
use crate::analyze::twin::http::table::Route as TableRoute;
use crate::model::mesh::gateway_api::{Reference, Route};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

/// The routes of some kinds that are attached to a Service or ServiceEntry, for clients of a namespace and requests to a port.
///
/// A route beside the Service is its producer's and holds for every client; one in another namespace is a consumer's and
/// holds for clients of that namespace alone, where it takes precedence over those of the producer. Routes that name the port and routes that name
/// none do not add up: those of the older one count.
pub fn routes<'a>(
    snapshot: &'a Snapshot,
    parent: &Object,
    client: &str,
    port: u16,
    kinds: &[&str],
) -> Vec<&'a Route> {
    let names = |reference: &Reference| {
        let group = parent.reference.group();
        let own = if reference.group == "core" { "" } else { reference.group.as_str() };
        reference.kind == parent.reference.kind
            && own == group
            && reference.namespace == parent.namespace()
            && reference.name == parent.name()
            && reference.port.is_none_or(|wanted| wanted == i64::from(port))
    };
    let mut attached = attached::to(snapshot, &parent.reference, kinds);
    attached.retain(|route| route.parents.iter().any(names));
    let of = |namespace: &str| -> Vec<&'a Route> {
        attached.iter().copied().filter(|route| route.object.namespace() == namespace).collect()
    };
    let consumer = if client == parent.namespace() { vec![] } else { of(client) };
    let own = if consumer.is_empty() { of(parent.namespace()) } else { consumer };
    // Istio makes one VirtualService of the routes that name the port, and one of those that name none: of two for one host the older one
    // counts, and of two that are equally old the first one by the name that it gives them.
    let naming = |wanted: Option<i64>| -> Vec<&'a Route> {
        let name = |route: &&&Route| route.parents.iter().any(|r| names(r) && r.port == wanted);
        own.iter().filter(name).copied().collect()
    };
    let host = format!("{}.{}", parent.name(), parent.namespace());
    let key = |routes: &[&Route], name: String| (routes.iter().filter_map(|r| r.object.created).min(), name);
    match (naming(Some(i64::from(port))), naming(None)) {
        (with, without) if !with.is_empty() && !without.is_empty() => {
            let first = key(&with, format!("{port}~{host}")) < key(&without, host.clone());
            if first { with } else { without }
        }
        _ => own,
    }
}

/// The routes of a Service's virtual host at a proxy of `client`, in order. `None` where no HTTPRoute or GRPCRoute is attached: requests go to the Service as they are. With routes, requests that
/// fit none of them find nothing.
pub fn http_routes(snapshot: &Snapshot, parent: &Object, client: &str, port: u16) -> Option<Vec<TableRoute>> {
    let attached = routes(snapshot, parent, client, port, &["HTTPRoute", "GRPCRoute"]);
    let place = Place { port, mesh: true };
    let taken = attached.into_iter().filter(|route| rules::is_taken(snapshot, route, place));
    let taken: Vec<_> = taken.collect();
    if taken.is_empty() {
        return None;
    }
    let made = taken.into_iter().flat_map(|route| rules::of_route(snapshot, route, place)).collect();
    Some(rules::in_order(made))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::network::ServiceName;
    use crate::model::snapshot::Builder;

    #[test]
    fn a_consumers_route_comes_before_the_producers_for_its_own_namespace_alone() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "own"}, "spec": {"ports": [{"port": 80}, {"port": 81}]}}));
        for (namespace, name, port) in
            [("own", "producer", None), ("far", "consumer", None), ("own", "other-port", Some(81))]
        {
            builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": namespace},
                "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "s", "namespace": "own", "port": port}], "rules": [{}]}}));
        }
        let snapshot = builder.finish();
        let parent = &snapshot.service(&ServiceName::new("own", "s")).unwrap().object;
        let names = |client: &str, port: u16| -> Vec<&str> {
            routes(&snapshot, parent, client, port, &["HTTPRoute"])
                .into_iter()
                .map(|r| r.object.name())
                .collect()
        };
        assert_eq!(names("own", 80), ["producer"]);
        assert_eq!(names("far", 80), ["consumer"]);
        assert_eq!(
            names("third", 81),
            ["other-port"],
            "those without a port are another VirtualService for the host"
        );
    }
}
