//! What a sidecar listens on for what its pod receives.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::outbound::wildcard_of;
use super::scope::Scope;
use super::targets::targets;
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::ProxyNode;
use crate::analyze::twin::http::table::{
    Action, Destination, Forward, Route, RouteTable, VirtualHost, Weighted,
};
use crate::analyze::twin::listener::{
    Chain, ChainMatch, Filter, Inspect, Listener, MESH_ANY, MESH_HTTP, MESH_TCP, PLAIN_HTTP, Termination,
    Transport,
};
use crate::analyze::twin::registry::declared;
use crate::model::fields::Fields;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;

/// The port to which connections to a pod are redirected.
pub(super) const REDIRECT_PORT: u16 = 15006;

/// How a filter chain reads what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Auto,
}

/// The mode of mutual TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strict,
    Permissive,
    Disable,
}

/// One kind of connection that a port takes.
struct Taken {
    kind: Kind,
    transport: Transport,
    alpn: &'static [&'static str],
    tls: bool,
}

const fn taken(kind: Kind, transport: Transport, alpn: &'static [&'static str], tls: bool) -> Taken {
    Taken { kind, transport, alpn, tls }
}

/// What a port takes, by the mode of mutual TLS and by how it is read.
fn options(mode: Mode, kind: Kind) -> Vec<Taken> {
    use Kind::{Auto, Http, Tcp};
    use Transport::{Raw, Tls};
    match (mode, kind) {
        (Mode::Strict, Http) => vec![taken(Http, Tls, &[], true)],
        (Mode::Strict, Tcp) => vec![taken(Tcp, Tls, &[], true)],
        (Mode::Strict, Auto) => vec![taken(Http, Tls, MESH_HTTP, true), taken(Tcp, Tls, &[], true)],
        // TLS of the client's own is no HTTP that the proxy could read.
        (Mode::Permissive, Http) => vec![taken(Http, Tls, MESH_ANY, true), taken(Http, Raw, &[], false)],
        (Mode::Permissive, Tcp) => {
            vec![taken(Tcp, Tls, MESH_ANY, true), taken(Tcp, Raw, &[], false), taken(Tcp, Tls, &[], false)]
        }
        (Mode::Permissive, Auto) => vec![
            taken(Http, Tls, MESH_HTTP, true),
            taken(Http, Raw, PLAIN_HTTP, false),
            taken(Tcp, Tls, MESH_TCP, true),
            taken(Tcp, Raw, &[], false),
            taken(Tcp, Tls, &[], false),
        ],
        (Mode::Disable, Http) => vec![taken(Http, Raw, &[], false)],
        (Mode::Disable, Tcp) => vec![taken(Tcp, Raw, &[], false)],
        (Mode::Disable, Auto) => vec![taken(Http, Raw, PLAIN_HTTP, false), taken(Tcp, Raw, &[], false)],
    }
}

fn kind(protocol: Protocol) -> Option<Kind> {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(Kind::Http),
        Protocol::Tcp | Protocol::Tls | Protocol::OtherTcp => Some(Kind::Tcp),
        Protocol::Unknown => Some(Kind::Auto),
        Protocol::Udp => None,
    }
}

/// One port that the pod takes connections on.
struct Own {
    /// The pod's port; none for all that nothing names.
    port: Option<u16>,
    /// The Service's port, for the name of the virtual host.
    service_port: u16,
    kind: Kind,
    /// The address in the chain's name.
    bind: String,
    /// TLS settings of a Sidecar's own.
    tls: Option<Value>,
    to: Destination,
    source: Option<ObjectRef>,
}

/// The listener.
pub(super) fn listener(twin: &Twin<'_>, node: &ProxyNode, scope: &Scope<'_>) -> Listener {
    let snapshot = twin.snapshot;
    let mode = |port: Option<u16>| {
        let (mode, source) = snapshot.istio.peer_mode(&node.namespace, &node.labels, port.map(i64::from));
        let mode = match mode.as_str() {
            "STRICT" => Mode::Strict,
            "DISABLE" => Mode::Disable,
            _ => Mode::Permissive,
        };
        (mode, source)
    };
    let own = own_ports(twin, node, scope);
    let named: BTreeSet<u16> = own.iter().filter_map(|own| own.port).collect();
    let blackhole = ChainMatch { port: Some(REDIRECT_PORT), ..ChainMatch::default() };
    let nowhere = Weighted::whole(Destination::BlackHole, ObjectRef::default());
    let mut chains = vec![Chain {
        name: "virtualInbound-blackhole".to_owned(),
        matching: blackhole,
        tls: None,
        filter: Filter::Tcp(vec![nowhere]),
        source: None,
    }];
    // Ports with a mode of their own that nothing else names are taken apart from the rest.
    let apart = ports_with_modes(twin, node).into_iter().filter(|port| !named.contains(port)).map(Some);
    for port in std::iter::once(None).chain(apart) {
        let (mode, source) = mode(port);
        let rest = Own {
            port,
            service_port: 0,
            kind: Kind::Auto,
            bind: String::new(),
            tls: None,
            to: Destination::Original("InboundPassthroughCluster"),
            source,
        };
        chains
            .extend(options(mode, Kind::Auto).iter().map(|option| chain(&rest, option, Termination::MUTUAL)));
    }
    for own in &own {
        let (mode, source) = mode(own.port);
        match &own.tls {
            Some(tls) if mode == Mode::Disable => {
                let termination = match tls.text("mode") {
                    Some("MUTUAL" | "ISTIO_MUTUAL") => Termination::MUTUAL,
                    Some("OPTIONAL_MUTUAL") => Termination::OPTIONAL,
                    _ => Termination::SIMPLE,
                };
                let kinds = if own.kind == Kind::Auto { vec![Kind::Tcp] } else { vec![own.kind] };
                for kind in kinds {
                    chains.push(chain(own, &taken(kind, Transport::Tls, &[], true), termination.clone()));
                }
            }
            _ => chains.extend(options(mode, own.kind).iter().map(|option| {
                let mut made = chain(own, option, Termination::MUTUAL);
                made.source = source.clone().or(made.source);
                made
            })),
        }
    }
    let (tls_inspector, http_inspector) = inspectors(&chains);
    Listener { name: "virtualInbound".to_owned(), chains, default: None, tls_inspector, http_inspector }
}

/// The ports of Services and of the Sidecar's ingress listeners; with such listeners Services make none.
fn own_ports(twin: &Twin<'_>, node: &ProxyNode, scope: &Scope<'_>) -> Vec<Own> {
    let mut out: BTreeMap<u16, Own> = BTreeMap::new();
    let ingress = scope.sidecar.map_or(&[][..], |sidecar| sidecar.object.body.list("spec.ingress"));
    for (at, entry) in ingress.iter().enumerate() {
        let Some(port) = entry.int("port.number").and_then(|port| u16::try_from(port).ok()) else { continue };
        let protocol = entry.string("port.protocol");
        let tls = entry.at("tls").cloned();
        // What is inside of TLS that ends here is what is read.
        let inside = match (tls.is_some(), protocol.to_ascii_uppercase().as_str()) {
            (true, "HTTPS") => Protocol::Http,
            (true, "TLS") => Protocol::Tcp,
            _ => declared(&protocol),
        };
        let Some(kind) = kind(inside) else { continue };
        let bind = entry.text("bind").filter(|bind| !bind.is_empty()).map(str::to_owned);
        let own = node.ips.first().cloned();
        out.entry(port).or_insert(Own {
            port: Some(port),
            service_port: port,
            kind,
            bind: bind.or(own).unwrap_or_else(|| wildcard_of(&node.ips).to_owned()),
            tls,
            to: Destination::Local { port },
            source: scope
                .sidecar
                .map(|sidecar| sidecar.object.reference.field(format!("spec.ingress[{at}]"))),
        });
    }
    if ingress.is_empty() {
        for target in targets(twin, node) {
            let Some(kind) = kind(target.port.protocol) else { continue };
            // Of two Services that name one port the older one decides.
            out.entry(target.number).or_insert(Own {
                port: Some(target.number),
                service_port: target.port.number,
                kind,
                bind: wildcard_of(&node.ips).to_owned(),
                tls: None,
                to: Destination::Local { port: target.number },
                source: Some(target.host.reference().clone()),
            });
        }
    }
    out.into_values().collect()
}

/// The ports for which a PeerAuthentication of the pod's own has a mode.
fn ports_with_modes(twin: &Twin<'_>, node: &ProxyNode) -> BTreeSet<u16> {
    let istio = &twin.snapshot.istio;
    let own = istio.peer_authentications.iter().filter(|policy| {
        !policy.selector.is_empty()
            && policy.object.namespace() == node.namespace
            && policy.applies_to(&node.namespace, &node.labels, &istio.root_namespace)
    });
    let ports = own.filter_map(|policy| policy.object.body.map("spec.portLevelMtls"));
    ports.flat_map(|ports| ports.keys()).filter_map(|port| port.parse().ok()).collect()
}

fn chain(own: &Own, option: &Taken, termination: Termination) -> Chain {
    let passthrough = matches!(own.to, Destination::Original(_));
    let name = match (passthrough, option.kind) {
        (true, Kind::Http) => "virtualInbound-catchall-http".to_owned(),
        (true, _) => "virtualInbound".to_owned(),
        (false, _) => format!("{}_{}", own.bind, own.port.unwrap_or(0)),
    };
    let source = own.source.clone().unwrap_or_default();
    let filter = if option.kind == Kind::Http {
        let table = table(own, &source);
        Filter::Http(table.name.clone(), Some(Arc::new(table)))
    } else {
        Filter::Tcp(vec![Weighted::whole(own.to.clone(), source)])
    };
    Chain {
        name,
        matching: ChainMatch {
            port: own.port,
            transport: Some(option.transport),
            alpn: option.alpn.to_vec(),
            ..ChainMatch::default()
        },
        tls: option.tls.then_some(termination),
        filter,
        source: own.source.clone(),
    }
}

/// The route table of an inbound filter chain: everything goes to the application.
fn table(own: &Own, source: &ObjectRef) -> RouteTable {
    let mut table = RouteTable::new(own.to.cluster());
    let to = vec![Weighted::whole(own.to.clone(), source.clone())];
    let route = Route {
        name: "default".to_owned(),
        ..Route::any(source.clone(), Action::Forward(Box::new(Forward { to, ..Forward::default() })))
    };
    table.push(VirtualHost {
        name: format!("inbound|http|{}", own.service_port),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        require_tls: None,
    });
    table
}

/// On which ports the listener looks into the first bytes: where a chain asks for what is found there. Ports that nothing
/// names are as the chains for everything else ask.
fn inspectors(chains: &[Chain]) -> (Inspect, Inspect) {
    let (mut tls, mut http) = (BTreeMap::new(), BTreeMap::new());
    for chain in chains {
        let port = chain.matching.port.unwrap_or(0);
        *tls.entry(port).or_insert(false) |= chain.matching.transport == Some(Transport::Tls);
        *http.entry(port).or_insert(false) |=
            chain.matching.alpn.iter().any(|word| PLAIN_HTTP.contains(word));
    }
    let tls_others = tls.remove(&0).unwrap_or(false);
    let http_others = http.remove(&0).unwrap_or(false);
    (Inspect { ports: tls, others: tls_others }, Inspect { ports: http, others: http_others })
}
