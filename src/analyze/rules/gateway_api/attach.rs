//! Whether a route attaches to its parents, as the Gateway API decides it from configuration alone.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::{classes, listener_sets, status};
use crate::analyze::finding::Effect;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Gateway, Reference, Route};
use crate::model::mesh::istio::hosts_overlap;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome};

/// The group of the Gateway API.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// A listener of a Gateway or of a ListenerSet.
#[derive(Debug, Clone)]
pub struct Listener<'a> {
    /// The object it stands in.
    pub owner: &'a Object,
    /// Its name.
    pub name: String,
    /// Its hostname; empty takes any.
    pub hostname: String,
    /// Its port.
    pub port: i64,
    /// Its protocol.
    pub protocol: String,
    /// Where it stands.
    pub path: String,
    /// All of it.
    pub body: &'a Value,
}

/// The listeners of an object that has them in `spec.listeners`.
pub fn listeners(owner: &Object) -> Vec<Listener<'_>> {
    let list = owner.body.list("spec.listeners").iter().enumerate();
    list.map(|(index, body)| Listener {
        owner,
        name: body.string("name"),
        hostname: body.string("hostname"),
        port: body.int("port").unwrap_or(0),
        protocol: body.string("protocol"),
        path: format!("spec.listeners[{index}]"),
        body,
    })
    .collect()
}

/// What came of one parent reference.
#[derive(Debug)]
pub enum Attachment<'a> {
    /// At least one listener takes the route, or the parent is of a kind that takes any.
    Accepted,
    /// Whether it does cannot be told from what was read.
    Unknown,
    /// The parent does not exist.
    NoParent,
    /// No listener of the parent has this name or port.
    NoListener(&'a Object),
    /// Listeners that were asked for take no route of this kind.
    KindNotAllowed(Listener<'a>),
    /// A listener takes the hostname and not the route's namespace.
    NamespaceNotAllowed(Listener<'a>),
    /// No listener has a hostname in common with the route.
    NoHostname(Vec<Listener<'a>>),
}

/// The Gateway of the Gateway API with this name.
pub fn gateway<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Gateway> {
    // They come in order of namespace and name.
    let all = &snapshot.gateway_api.gateways;
    let at =
        all.binary_search_by(|g| (g.object.namespace(), g.object.name()).cmp(&(namespace, name))).ok()?;
    all.get(at)
}

/// The Gateway or ListenerSet that a reference names.
pub fn parent_object<'a>(snapshot: &'a Snapshot, parent: &Reference) -> Option<&'a Object> {
    match parent.kind.as_str() {
        "Gateway" => gateway(snapshot, &parent.namespace, &parent.name).map(|g| &*g.object),
        "ListenerSet" | "XListenerSet" => snapshot.object(&parent.kind, &parent.namespace, &parent.name),
        _ => None,
    }
}

/// Whether a route attaches to one of its parents.
pub fn attach<'a>(snapshot: &'a Snapshot, route: &Route, parent: &Reference) -> Attachment<'a> {
    let object = match (parent.group.as_str(), parent.kind.as_str()) {
        (GROUP, "Gateway") | (_, "ListenerSet" | "XListenerSet") => parent_object(snapshot, parent),
        ("" | "core", "Service") => {
            let name = ServiceName::new(&parent.namespace, &parent.name);
            return match snapshot.service(&name) {
                Some(service) => match parent.port {
                    Some(port) if service.port(port).is_none() => Attachment::NoListener(&service.object),
                    _ => Attachment::Accepted,
                },
                None if knows_namespace(snapshot, &parent.namespace) => Attachment::NoParent,
                None => Attachment::Unknown,
            };
        }
        ("networking.istio.io", "ServiceEntry") => {
            return match snapshot.object("ServiceEntry", &parent.namespace, &parent.name) {
                Some(entry) => {
                    let mut ports = entry.body.list("spec.ports").iter();
                    match parent.port {
                        Some(port) if !ports.any(|p| p.int("number") == Some(port)) => {
                            Attachment::NoListener(entry)
                        }
                        _ => Attachment::Accepted,
                    }
                }
                None if knows_namespace(snapshot, &parent.namespace) => Attachment::NoParent,
                None => Attachment::Unknown,
            };
        }
        _ => return Attachment::Unknown,
    };
    let Some(object) = object else {
        let known =
            parent.namespace == route.object.namespace() || knows_namespace(snapshot, &parent.namespace);
        return if known { Attachment::NoParent } else { Attachment::Unknown };
    };
    let all = listeners(object);
    let asked: Vec<Listener<'a>> = all
        .into_iter()
        .filter(|l| parent.section.is_empty() || l.name == parent.section)
        .filter(|l| parent.port.is_none_or(|port| l.port == port))
        .collect();
    if asked.is_empty() {
        return Attachment::NoListener(object);
    }
    let fits: Vec<Listener<'a>> =
        asked.iter().filter(|l| kind_allowed(snapshot, l, route)).cloned().collect();
    let Some(first) = asked.first().filter(|_| fits.is_empty()).cloned() else {
        let common: Vec<&Listener<'a>> = fits.iter().filter(|l| hostname_in_common(l, route)).collect();
        if common.is_empty() {
            return Attachment::NoHostname(fits);
        }
        let refused = common.iter().find(|l| !namespace_allowed(snapshot, l, route.object.namespace()));
        let all_refused = common.iter().all(|l| !namespace_allowed(snapshot, l, route.object.namespace()));
        return match refused {
            Some(listener) if all_refused => Attachment::NamespaceNotAllowed((**listener).clone()),
            _ => Attachment::Accepted,
        };
    };
    Attachment::KindNotAllowed(first)
}

/// Whether a reference of a route names a listener: its object, and its name and port where they are written.
pub fn names(parent: &Reference, listener: &Listener<'_>) -> bool {
    let own = &listener.owner.reference;
    parent.kind == own.kind
        && parent.namespace == own.namespace
        && parent.name == own.name
        && (parent.section.is_empty() || parent.section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

/// Whether a listener takes a route: its kind, its namespace and a hostname in common.
pub fn takes(snapshot: &Snapshot, listener: &Listener<'_>, route: &Route) -> bool {
    kind_allowed(snapshot, listener, route)
        && hostname_in_common(listener, route)
        && namespace_allowed(snapshot, listener, route.object.namespace())
}

/// Whether something of a namespace was read: only then is it certain that an object is not there.
pub fn knows_namespace(snapshot: &Snapshot, namespace: &str) -> bool {
    snapshot.services.iter().any(|s| s.object.namespace() == namespace)
        || snapshot.workloads.iter().any(|w| w.object.namespace() == namespace)
        || snapshot.gateway_api.gateways.iter().any(|g| g.object.namespace() == namespace)
}

/// Kinds of routes that a listener's protocol carries. `None` where its implementation decides.
pub fn carried(snapshot: &Snapshot, listener: &Listener<'_>) -> Option<&'static [&'static str]> {
    let passes = listener.body.text("tls.mode") == Some("Passthrough");
    match listener.protocol.as_str() {
        "HTTP" | "HTTPS" => Some(&["HTTPRoute", "GRPCRoute"]),
        "TLS" if passes => Some(&["TLSRoute"]),
        "TLS" => Some(&["TLSRoute", "TCPRoute"]),
        "TCP" => Some(&["TCPRoute"]),
        "UDP" if !istios(snapshot, listener) => Some(&["UDPRoute"]),
        // The mesh's own gateways take any route over HBONE; Istio serves no other protocol.
        "HBONE" if of_the_mesh(snapshot, listener) => None,
        _ if istios(snapshot, listener) => Some(&[]),
        _ => None,
    }
}

/// The Gateway that a listener is of.
fn gateway_of<'a>(snapshot: &'a Snapshot, listener: &Listener<'_>) -> Option<&'a Gateway> {
    let owner = listener.owner;
    if listener_sets::KINDS.contains(&owner.reference.kind.as_str()) {
        return listener_sets::parent(snapshot, owner);
    }
    gateway(snapshot, owner.namespace(), owner.name())
}

fn istios(snapshot: &Snapshot, listener: &Listener<'_>) -> bool {
    gateway_of(snapshot, listener).is_some_and(|gateway| classes::is_istios(snapshot, gateway))
}

fn of_the_mesh(snapshot: &Snapshot, listener: &Listener<'_>) -> bool {
    gateway_of(snapshot, listener)
        .is_some_and(|g| matches!(g.class.as_str(), "istio-waypoint" | "istio-east-west"))
}

/// Whether a listener takes routes of this kind: it is among those that it lists, where it lists any, and its protocol
/// carries it.
fn kind_allowed(snapshot: &Snapshot, listener: &Listener<'_>, route: &Route) -> bool {
    let kind = route.object.reference.kind.as_str();
    let listed = listener.body.list("allowedRoutes.kinds");
    let own = |entry: &Value| {
        entry.text("kind") == Some(kind)
            && entry.text("group").unwrap_or(GROUP) == route.object.reference.group()
    };
    (listed.is_empty() || listed.iter().any(own))
        && carried(snapshot, listener).is_none_or(|kinds| kinds.contains(&kind))
}

/// Whether a listener and a route have a hostname in common; a side without one takes any.
pub fn hostname_in_common(listener: &Listener<'_>, route: &Route) -> bool {
    let bare = matches!(route.object.reference.kind.as_str(), "TCPRoute" | "UDPRoute");
    bare || listener.hostname.is_empty()
        || route.hostnames.is_empty()
        || route.hostnames.iter().any(|host| hosts_overlap(&listener.hostname, host))
}

/// Whether a listener takes routes of a namespace. An unseen Namespace object is given the benefit of the doubt.
pub fn namespace_allowed(snapshot: &Snapshot, listener: &Listener<'_>, namespace: &str) -> bool {
    match listener.body.text("allowedRoutes.namespaces.from").unwrap_or("Same") {
        "All" => true,
        "None" => false,
        "Selector" => {
            let Some(selector) = listener.body.at("allowedRoutes.namespaces.selector") else { return false };
            namespace_labels(snapshot, namespace)
                .is_none_or(|labels| Selector::read(selector).matches(&labels))
        }
        _ => listener.owner.namespace() == namespace,
    }
}

/// The labels of a namespace with the one that the API server adds; `None` where its object was not read.
pub fn namespace_labels(snapshot: &Snapshot, namespace: &str) -> Option<Labels> {
    let mut labels = snapshot.object("Namespace", "", namespace)?.labels.clone();
    if !labels.contains_key("kubernetes.io/metadata.name") {
        labels.insert("kubernetes.io/metadata.name", namespace);
    }
    Some(labels)
}

/// A status condition of a route for one parent: reason and message, of the route as it is now.
pub fn parent_condition<'a>(route: &'a Route, parent: &Reference, kind: &str) -> Option<&'a Value> {
    let mine = route.object.body.list("status.parents").iter().filter(|entry| {
        entry.text("parentRef.name") == Some(parent.name.as_str())
            && entry.text("parentRef.namespace").is_none_or(|ns| ns == parent.namespace)
            && entry.text("parentRef.sectionName").unwrap_or_default() == parent.section
    });
    let mut conditions = mine.flat_map(|entry| entry.list("conditions"));
    conditions.find(|c| c.text("type") == Some(kind) && status::current(&route.object, c))
}

/// Requests for a route that proxies answered in a way that `accept` picks: by the route's name as proxies have it
/// (`namespace.name.rule`), or by its hostnames.
pub fn requests(snapshot: &Snapshot, route: &Route, accept: impl Fn(&Outcome) -> bool) -> Seen {
    let name = format!("{}.{}.", route.object.namespace(), route.object.name());
    seen::outcomes(snapshot.traffic.iter(), |edge, outcome| {
        accept(outcome) && (outcome.route.starts_with(&name) || asks_for(route, edge, outcome))
    })
}

fn asks_for(route: &Route, edge: &EdgeTraffic, outcome: &Outcome) -> bool {
    let hosts = outcome.authorities.keys().map(String::as_str).chain([edge.authority.as_str()]);
    hosts.filter(|h| !h.is_empty()).any(|host| {
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        route.hostnames.iter().any(|own| hosts_overlap(own, bare))
    })
}

/// The Services that a route sends requests to and that exist.
pub fn services(snapshot: &Snapshot, route: &Route) -> BTreeSet<ServiceName> {
    let backends = route.backends.iter().filter(|b| b.kind == "Service" && b.group.is_empty());
    let names = backends.map(|b| ServiceName::new(&b.namespace, &b.name));
    names.filter(|name| snapshot.service(name).is_some()).collect()
}

/// Services in front of the proxies of a route's Gateways.
pub fn gateway_services(snapshot: &Snapshot, route: &Route) -> BTreeSet<ServiceName> {
    let mut out = BTreeSet::new();
    for parent in route.parents.iter().filter(|p| p.kind == "Gateway") {
        let Some(gateway) = gateway(snapshot, &parent.namespace, &parent.name) else { continue };
        for name in [format!("{}-{}", parent.name, gateway.class), parent.name.clone()] {
            let name = ServiceName::new(&parent.namespace, name);
            out.extend(snapshot.service(&name).map(|s| s.service_name()));
        }
    }
    out
}

/// A parent that a route names, and what came of it.
#[derive(Debug)]
pub struct Tried<'a> {
    /// The route.
    pub route: &'a Route,
    /// The parent.
    pub parent: &'a Reference,
    /// Whether it takes the route.
    pub result: Attachment<'a>,
    /// Whether another parent of the route takes it.
    pub elsewhere: bool,
}

/// Every parent of every route that is looked at.
pub fn tried(snapshot: &Snapshot) -> Vec<Tried<'_>> {
    let mut out = vec![];
    for route in snapshot.gateway_api.routes.iter().filter(|r| seen::configured(r.object.namespace())) {
        let results: Vec<_> =
            route.parents.iter().map(|parent| (parent, attach(snapshot, route, parent))).collect();
        let elsewhere = results.iter().any(|(_, result)| matches!(result, Attachment::Accepted));
        out.extend(results.into_iter().map(|(parent, result)| Tried { route, parent, result, elsewhere }));
    }
    out
}

/// Requests for a route's hosts that a proxy had no route for.
pub fn unrouted(snapshot: &Snapshot, route: &Route) -> Seen {
    requests(snapshot, route, |outcome| outcome.has_flag("NR") && !outcome.connection)
}

/// What fails where a route does not work: requests to its Gateways and to its backends.
pub fn effects(snapshot: &Snapshot, route: &Route, flags: &[&str]) -> Vec<Effect> {
    let mut all = services(snapshot, route);
    all.extend(gateway_services(snapshot, route));
    all.iter().map(|service| Effect::requests(service, flags)).collect()
}

/// The Service whose users feel it: a backend, else the Gateway's own.
pub fn service(snapshot: &Snapshot, route: &Route) -> Option<ServiceName> {
    services(snapshot, route)
        .into_iter()
        .next()
        .or_else(|| gateway_services(snapshot, route).into_iter().next())
}

/// A parent in a sentence: `Gateway edge/public, listener "web"`.
pub fn called(parent: &Reference) -> String {
    let reference = ObjectRef::new(&parent.kind, &parent.namespace, &parent.name);
    match (parent.section.is_empty(), parent.port) {
        (false, _) => format!("{reference} listener \"{}\"", parent.section),
        (true, Some(port)) => format!("{reference} port {port}"),
        (true, None) => reference.to_string(),
    }
}
