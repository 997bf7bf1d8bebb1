//! The Gateway API: gateways, routes and grants, whatever implements them.

use crate::model::json::Value;
use std::sync::Arc;

use crate::model::fields::Fields;
use crate::model::mesh::part::Part;
use crate::model::object::{Object, ObjectRef};

/// A reference of a route to a parent or a backend, with the defaults of the API filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its group; empty for the core group.
    pub group: String,
    /// `Gateway` for a parent, `Service` for a backend, where nothing is written.
    pub kind: String,
    /// Its namespace; the route's own where nothing is written.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `sectionName`: a listener; empty means all.
    pub section: String,
    /// Its port.
    pub port: Option<i64>,
    /// The weight of a backend; 1 where nothing is written.
    pub weight: i64,
    /// Where it stands: `spec.rules[0].backendRefs[0]`.
    pub path: String,
}

impl Reference {
    /// Reads a reference; what it does not say is filled in.
    pub fn read(entry: &Value, group: &str, kind: &str, namespace: &str, path: String) -> Self {
        Reference {
            group: entry.text("group").unwrap_or(group).to_owned(),
            kind: entry.text("kind").unwrap_or(kind).to_owned(),
            namespace: entry.text("namespace").unwrap_or(namespace).to_owned(),
            name: entry.string("name"),
            section: entry.string("sectionName"),
            port: entry.int("port"),
            weight: entry.int("weight").unwrap_or(1),
            path,
        }
    }
}

/// An HTTPRoute, GRPCRoute, TLSRoute, TCPRoute or UDPRoute.
#[derive(Debug, Clone)]
pub struct Route {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// Its hostnames; empty takes those of the listener.
    pub hostnames: Vec<String>,
    /// What it attaches to.
    pub parents: Vec<Reference>,
    /// Where it sends requests, over all its rules.
    pub backends: Vec<Reference>,
}

impl Route {
    /// The kinds that are read as routes.
    pub const KINDS: &[&str] = &["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"];

    /// Reads one of [`Route::KINDS`].
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let (body, namespace) = (&object.body, object.namespace());
        let parents = body.list("spec.parentRefs").iter().enumerate().map(|(index, entry)| {
            Reference::read(
                entry,
                "gateway.networking.k8s.io",
                "Gateway",
                namespace,
                format!("spec.parentRefs[{index}]"),
            )
        });
        let mut backends = vec![];
        for (rule, entry) in body.list("spec.rules").iter().enumerate() {
            for (index, backend) in entry.list("backendRefs").iter().enumerate() {
                let path = format!("spec.rules[{rule}].backendRefs[{index}]");
                backends.push(Reference::read(backend, "", "Service", namespace, path));
            }
        }
        Route { hostnames: body.texts("spec.hostnames"), parents: parents.collect(), backends, object }
    }

    /// What names it.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }
}

/// A listener of a Gateway.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its hostname; empty takes any.
    pub hostname: String,
    /// Its port.
    pub port: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP` or `UDP`.
    pub protocol: String,
    /// Where it stands: `spec.listeners[0]`.
    pub path: String,
    /// All of it.
    pub body: Part,
}

/// A Gateway of the Gateway API.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// Its class.
    pub class: String,
    /// Its listeners.
    pub listeners: Vec<Listener>,
}

impl Gateway {
    /// Reads a Gateway.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let listeners =
            object.body.list("spec.listeners").iter().enumerate().map(|(index, entry)| Listener {
                name: entry.string("name"),
                hostname: entry.string("hostname"),
                port: entry.int("port").unwrap_or(0),
                protocol: entry.string("protocol"),
                path: format!("spec.listeners[{index}]"),
                body: Part::of(&object.body, "spec.listeners", index),
            });
        Gateway { class: object.body.string("spec.gatewayClassName"), listeners: listeners.collect(), object }
    }
}

/// All of the Gateway API's objects that were seen.
#[derive(Debug, Clone, Default)]
pub struct GatewayApi {
    /// Gateways.
    pub gateways: Vec<Gateway>,
    /// Routes of every kind.
    pub routes: Vec<Route>,
    /// ReferenceGrants.
    pub grants: Vec<Arc<Object>>,
}
