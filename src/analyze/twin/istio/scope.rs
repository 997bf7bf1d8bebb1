//! What a sidecar sees of the mesh: the Sidecar object that applies to it, and its egress listeners.

use super::virtual_services::{Effective, MESH};
use super::{full_host, host_matches};
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::{ProxyNode, ProxyType};
use crate::analyze::twin::http::table::Destination;
use crate::analyze::twin::registry::Host;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// What becomes of connections to nothing that the mesh knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// They pass.
    AllowAny,
    /// They end.
    RegistryOnly,
    /// They pass; plaintext HTTP goes where its own host leads.
    DynamicDns,
}

/// One import of an egress listener: `namespace/host`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    /// `*`, or a namespace.
    namespace: String,
    host: String,
    /// Takes away instead of adding.
    not: bool,
}

/// An egress listener.
#[derive(Debug, Clone)]
pub struct Egress {
    /// Its port and protocol; none for the one that takes all other ports.
    pub port: Option<(u16, Protocol)>,
    /// The address it binds to; empty for none of its own.
    pub bind: String,
    /// Whether it is a port of its own, without interception.
    pub own_port: bool,
    imports: Vec<Import>,
    /// Where it stands; none where no Sidecar applies.
    pub source: Option<ObjectRef>,
}

/// What a proxy sees.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The proxy's namespace.
    pub namespace: String,
    /// The Sidecar that applies.
    pub sidecar: Option<&'a Policy>,
    /// Its egress listeners; one that imports everything where it names none.
    pub egress: Vec<Egress>,
    /// What becomes of unknown destinations, and the field that says so.
    pub unknown: (Unknown, Option<ObjectRef>),
    /// Where unknown destinations are sent instead (`egressProxy`).
    pub egress_proxy: Option<Destination>,
}

impl<'a> Scope<'a> {
    /// The scope of a proxy.
    pub fn new(twin: &Twin<'a>, node: &ProxyNode) -> Self {
        let snapshot = twin.snapshot;
        // A waypoint is nobody's sidecar.
        let sidecar = if node.kind == ProxyType::Waypoint { None } else { applying(snapshot, node) };
        let mut egress: Vec<Egress> = sidecar.map(read).unwrap_or_default();
        if egress.is_empty() {
            let all = Import { namespace: "*".to_owned(), host: "*".to_owned(), not: false };
            egress.push(Egress {
                port: None,
                bind: String::new(),
                own_port: false,
                imports: vec![all],
                source: None,
            });
        }
        let (unknown, egress_proxy) = unknown(snapshot, sidecar, &node.namespace);
        Scope { namespace: node.namespace.clone(), sidecar, egress, unknown, egress_proxy }
    }

    /// The egress listener that makes the routes of a port: the one of that port, else the one for all ports.
    pub fn egress_for(&self, port: u16) -> Option<&Egress> {
        let own = self.egress.iter().find(|egress| egress.port.is_some_and(|(number, _)| number == port));
        own.or_else(|| self.egress.iter().find(|egress| egress.port.is_none()))
    }

    /// The hosts with a port that an egress listener imports, in order; of one name the proxy's own namespace's, then a
    /// Service, then the first.
    pub fn hosts<'s>(
        &'s self,
        twin: &'s Twin<'a>,
        egress: &'s Egress,
        port: Option<u16>,
    ) -> Vec<&'s Host<'a>> {
        let candidates: Box<dyn Iterator<Item = &'s Host<'a>>> = match port {
            Some(port) => Box::new(twin.registry.with_port(port)),
            None => Box::new(twin.registry.hosts().iter()),
        };
        let seen: Vec<&Host<'a>> = candidates
            .filter(|host| {
                host.visible_to(&self.namespace)
                    && egress.imports_host(host.namespace, &host.name, &self.namespace)
            })
            .collect();
        let (mut own, mut others) = (vec![], vec![]);
        for host in seen {
            // Of one name the first in rank counts, whatever its ports are, and what adds up with it.
            let named = twin.registry.named(&host.name).filter(|other| {
                other.visible_to(&self.namespace)
                    && egress.imports_host(other.namespace, &other.name, &self.namespace)
            });
            let first = named.min_by_key(|other| other.rank(&self.namespace));
            if first.is_some_and(|first| !std::ptr::eq(first, host) && !first.adds_up_with(host)) {
                continue;
            }
            if host.private() { own.push(host) } else { others.push(host) }
        }
        own.extend(others);
        own
    }

    /// The VirtualServices for sidecars that an egress listener imports, in order.
    pub fn virtual_services<'s>(&'s self, twin: &'s Twin<'a>, egress: &'s Egress) -> Vec<&'s Effective> {
        let bound = twin.virtual_services.bound(MESH, &self.namespace);
        let imported = bound.into_iter().filter(|vs| {
            vs.hosts.iter().any(|host| egress.imports_host(vs.namespace(), host, &self.namespace))
        });
        imported.collect()
    }

    /// Where a connection to an unknown destination goes.
    pub fn fallback(&self) -> Destination {
        match (&self.egress_proxy, self.unknown.0) {
            (_, Unknown::RegistryOnly) => Destination::BlackHole,
            (Some(proxy), _) => proxy.clone(),
            _ => Destination::Original("PassthroughCluster"),
        }
    }
}

impl Egress {
    /// Whether it imports a host of a namespace.
    fn imports_host(&self, namespace: &str, host: &str, own: &str) -> bool {
        let covers = |import: &Import| {
            let place = import.namespace == "*"
                || import.namespace == namespace
                || (import.namespace == "." && namespace == own);
            place
                && (host_matches(&import.host, host)
                    || super::subset_of(host, &import.host)
                    || super::subset_of(&import.host, host))
        };
        self.imports.iter().any(|import| !import.not && covers(import))
            && !self.imports.iter().any(|import| import.not && covers(import))
    }
}

/// The Sidecar that applies to a pod: one of its namespace whose selector picks it, one of its namespace without selector,
/// then the root namespace's without selector; of several the oldest.
fn applying<'a>(snapshot: &'a Snapshot, node: &ProxyNode) -> Option<&'a Policy> {
    let mut all: Vec<&Policy> = snapshot.istio.sidecars.iter().collect();
    all.sort_by_key(|policy| (policy.object.created, policy.object.name(), policy.object.namespace()));
    let beside = |policy: &&&Policy| policy.object.namespace() == node.namespace;
    let chosen = all
        .iter()
        .filter(beside)
        .find(|policy| !policy.selector.is_empty() && policy.selector.matches(&node.labels));
    let whole = || all.iter().filter(beside).find(|policy| policy.selector.is_empty());
    let root = || {
        let own = |policy: &&&Policy| policy.object.namespace() == snapshot.istio.root_namespace;
        all.iter().filter(own).find(|policy| policy.selector.is_empty())
    };
    chosen.or_else(whole).or_else(root).copied()
}

/// The egress listeners of a Sidecar.
fn read(sidecar: &Policy) -> Vec<Egress> {
    let entries = sidecar.object.body.list("spec.egress").iter().enumerate();
    let listeners = entries.map(|(at, entry)| Egress {
        port: entry
            .int("port.number")
            .and_then(|port| u16::try_from(port).ok())
            .map(|port| (port, crate::analyze::twin::registry::declared(&entry.string("port.protocol")))),
        bind: entry.string("bind"),
        own_port: entry.text("captureMode") == Some("NONE"),
        imports: entry.texts("hosts").iter().filter_map(|host| import(host)).collect(),
        source: Some(sidecar.object.reference.field(format!("spec.egress[{at}]"))),
    });
    listeners.collect()
}

/// Reads `namespace/host`; `~/*` imports nothing, `~namespace/host` takes away.
fn import(text: &str) -> Option<Import> {
    let (namespace, host) = text.split_once('/')?;
    let (not, namespace) = match namespace.strip_prefix('~') {
        Some("") => return None,
        Some(rest) => (true, rest),
        None => (false, namespace),
    };
    let (not, host) = match host.strip_prefix('~') {
        Some(rest) => (true, rest),
        None => (not, host),
    };
    Some(Import { namespace: namespace.to_owned(), host: host.to_ascii_lowercase(), not })
}

/// What becomes of unknown destinations: the Sidecar's word, else the mesh's.
fn unknown(
    snapshot: &Snapshot,
    sidecar: Option<&Policy>,
    namespace: &str,
) -> ((Unknown, Option<ObjectRef>), Option<Destination>) {
    let mode = |word: &str| match word {
        "REGISTRY_ONLY" => Unknown::RegistryOnly,
        "ALLOW_ANY_DYNAMIC_DNS" => Unknown::DynamicDns,
        _ => Unknown::AllowAny,
    };
    if let Some(sidecar) = sidecar
        && let Some(policy) = sidecar.object.body.at("spec.outboundTrafficPolicy")
    {
        let source = sidecar.object.reference.field("spec.outboundTrafficPolicy.mode");
        // Written without a mode it is the first of its kind: registry only.
        let own = mode(policy.text("mode").unwrap_or("REGISTRY_ONLY"));
        let proxy = policy.at("egressProxy").map(|entry| Destination::Host {
            host: full_host(&entry.string("host"), namespace),
            subset: entry.string("subset"),
            port: entry.int("port.number").and_then(|port| u16::try_from(port).ok()).unwrap_or(0),
        });
        return ((own, Some(source)), proxy);
    }
    let word = snapshot.istio.mesh_config.text("outboundTrafficPolicy.mode").unwrap_or("ALLOW_ANY");
    let source = snapshot.istio.mesh_config.at("outboundTrafficPolicy.mode").map(|_| {
        ObjectRef::new("MeshConfig", snapshot.istio.root_namespace.clone(), "istio")
            .field("outboundTrafficPolicy.mode")
    });
    ((mode(word), source), None)
}
