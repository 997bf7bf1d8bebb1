//! What a sidecar sees of the mesh: the Sidecar object that applies to it, and its egress listeners.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use super::virtual_services::{Effective, MESH};
use super::{full_host, subset_of};
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::{ProxyNode, ProxyType};
use crate::analyze::twin::http::table::Destination;
use crate::analyze::twin::registry::Host;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Policy, hosts_overlap};
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
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

/// A host that a proxy has a cluster of, or would have for another port.
#[derive(Debug, Clone, Copy)]
pub struct Known<'t, 'a> {
    /// The host; of several that add up the one that has the port.
    pub host: &'t Host<'a>,
    /// Whether the proxy knows it with the port.
    pub with_port: bool,
    /// Its only port, if it has one alone.
    pub only_port: Option<u16>,
}

/// A host as an egress listener imports it, and the ports that it is cut down to; none for all.
type Part<'t, 'a> = (&'t Host<'a>, Option<BTreeSet<u16>>);

/// By host, which egress listeners' VirtualServices lead there, and to which ports; none for all.
type Ways = HashMap<String, Vec<(usize, BTreeSet<u16>)>>;

/// What a proxy sees.
#[derive(Debug)]
pub struct Scope<'a> {
    /// The proxy's namespace.
    pub namespace: String,
    /// Whether it is a sidecar's; gateways and waypoints see whatever is exported to their namespace.
    of_sidecar: bool,
    /// The Sidecar that applies.
    pub sidecar: Option<&'a Policy>,
    /// Its egress listeners; one that imports everything where it names none.
    pub egress: Vec<Egress>,
    /// What becomes of unknown destinations, and the field that says so.
    pub unknown: (Unknown, Option<ObjectRef>),
    /// Where unknown destinations are sent instead (`egressProxy`).
    pub egress_proxy: Option<Destination>,
    /// Looked up when it is first asked for.
    ways: OnceLock<Ways>,
}

impl<'a> Scope<'a> {
    /// The scope of a proxy.
    pub fn new(twin: &Twin<'a>, node: &ProxyNode) -> Self {
        let snapshot = twin.snapshot;
        let of_sidecar = node.kind == ProxyType::Sidecar;
        let sidecar = if of_sidecar { applying(snapshot, &node.namespace, &node.labels) } else { None };
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
        Scope {
            namespace: node.namespace.clone(),
            of_sidecar,
            sidecar,
            egress,
            unknown,
            egress_proxy,
            ways: OnceLock::new(),
        }
    }

    /// Whether it is a sidecar's, and not a gateway's or waypoint's.
    pub fn is_sidecars(&self) -> bool {
        self.of_sidecar
    }

    /// The host behind the clusters of a name. Of all hosts of the name that the egress listeners import, and of those that the
    /// listeners' VirtualServices lead to, the first one counts, a Service before a ServiceEntry; what adds up with it lends it its
    /// ports. Listeners and route tables know the others all the same: a route to a port that only they have ends at no cluster.
    pub fn known<'t>(&self, twin: &'t Twin<'a>, name: &str, port: u16) -> Option<Known<'t, 'a>> {
        let parts = self.parts(twin, name);
        let (first, _) = parts.first()?;
        let has = |(host, only): &&Part<'t, 'a>| {
            host.port(port).is_some() && only.as_ref().is_none_or(|only| only.contains(&port))
        };
        let own = parts.iter().find(has);
        let ports: BTreeSet<u16> = parts
            .iter()
            .flat_map(|(host, only)| {
                let kept = move |port: &u16| only.as_ref().is_none_or(|only| only.contains(port));
                host.ports.iter().map(|port| port.number).filter(kept)
            })
            .collect();
        Some(Known {
            host: own.map_or(*first, |(host, _)| *host),
            with_port: own.is_some(),
            only_port: ports.first().copied().filter(|_| ports.len() == 1),
        })
    }

    fn parts<'t>(&self, twin: &'t Twin<'a>, name: &str) -> Vec<Part<'t, 'a>> {
        let mut out: Vec<Part<'t, 'a>> = vec![];
        if !self.of_sidecar {
            let mut seen: Vec<&Host<'a>> =
                twin.registry.named(name).filter(|host| host.visible_to(&self.namespace)).collect();
            seen.sort_by_key(|host| host.public());
            seen.into_iter().for_each(|host| append(&mut out, (host, None)));
            return out;
        }
        for (at, egress) in self.egress.iter().enumerate() {
            let own_port = egress.port.map(|(port, _)| BTreeSet::from([port]));
            for host in self.imported(twin, egress, name) {
                if own_port.as_ref().is_none_or(|ports| ports.iter().any(|port| host.port(*port).is_some())) {
                    append(&mut out, (host, own_port.clone()));
                }
            }
            // Without a Sidecar everything visible is imported already.
            if self.sidecar.is_none() {
                continue;
            }
            let ways = self.ways(twin).get(&name.to_ascii_lowercase()).map_or(&[][..], Vec::as_slice);
            for (_, ports) in ways.iter().filter(|(of, _)| *of == at) {
                let Some(host) = self.led_to(twin, name) else { continue };
                let wanted =
                    own_port.clone().or_else(|| Some(ports.clone()).filter(|ports| !ports.is_empty()));
                if wanted.as_ref().is_none_or(|ports| ports.iter().any(|port| host.port(*port).is_some())) {
                    append(&mut out, (host, wanted));
                }
            }
        }
        out
    }

    /// Where the VirtualServices of each egress listener lead.
    fn ways(&self, twin: &Twin<'a>) -> &Ways {
        self.ways.get_or_init(|| {
            let mut out = Ways::new();
            for (at, egress) in self.egress.iter().enumerate() {
                for vs in self.virtual_services(twin, egress) {
                    let mut own: BTreeMap<String, Vec<Option<u16>>> = BTreeMap::new();
                    for (host, port) in vs.destinations(&self.namespace) {
                        own.entry(host).or_default().push(port);
                    }
                    for (host, ports) in own {
                        // A destination without a port means all of them.
                        let ports: Option<BTreeSet<u16>> = ports.into_iter().collect();
                        out.entry(host).or_default().push((at, ports.unwrap_or_default()));
                    }
                }
            }
            out
        })
    }

    /// The host that a VirtualService means by a name that no egress listener imports: the namespace's own, else a Service, else the
    /// oldest that is visible.
    fn led_to<'t>(&self, twin: &'t Twin<'a>, name: &str) -> Option<&'t Host<'a>> {
        let visible = || {
            let all = twin.registry.named(name).filter(|host| host.visible_to(&self.namespace));
            all.min_by_key(|host| host.of_entry())
        };
        twin.registry.declared_in(name, &self.namespace).or_else(visible)
    }

    /// The hosts of a name that an egress listener imports, in order: of several namespaces those of one.
    fn imported<'t>(&self, twin: &'t Twin<'a>, egress: &Egress, name: &str) -> Vec<&'t Host<'a>> {
        let mut seen: Vec<&Host<'a>> = twin
            .registry
            .named(name)
            .filter(|host| {
                host.visible_to(&self.namespace)
                    && egress.imports_host(host.namespace, &host.name, &self.namespace)
            })
            .collect();
        let first = seen.iter().min_by_key(|host| host.rank(&self.namespace)).map(|host| host.namespace);
        seen.retain(|host| Some(host.namespace) == first);
        seen.sort_by_key(|host| host.public());
        seen
    }

    /// The egress listener that makes the routes of a port: the one of that port, else the one for all ports.
    pub fn egress_for(&self, port: u16) -> Option<&Egress> {
        let own = self.egress.iter().find(|egress| egress.port.is_some_and(|(number, _)| number == port));
        own.or_else(|| self.egress.iter().find(|egress| egress.port.is_none()))
    }

    /// The hosts with a port that an egress listener imports, in order: of one name those of one namespace, the proxy's own, else a
    /// Service's, else the first one's.
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
        let mut seen: Vec<&Host<'a>> = candidates
            .filter(|host| {
                host.visible_to(&self.namespace)
                    && egress.imports_host(host.namespace, &host.name, &self.namespace)
                    && self.is_of_the_chosen(twin, egress, host)
            })
            .collect();
        seen.sort_by_key(|host| host.public());
        seen
    }

    /// Whether a host that an egress listener imports is of the namespace that counts for its name, whatever its ports are.
    fn is_of_the_chosen(&self, twin: &Twin<'a>, egress: &Egress, host: &Host<'a>) -> bool {
        let named = twin.registry.named(&host.name).filter(|other| {
            other.visible_to(&self.namespace)
                && egress.imports_host(other.namespace, &other.name, &self.namespace)
        });
        let first = named.min_by_key(|other| other.rank(&self.namespace));
        first.is_none_or(|first| first.namespace == host.namespace)
    }

    /// The VirtualServices for sidecars that an egress listener imports, in order.
    pub fn virtual_services<'s>(&'s self, twin: &'s Twin<'a>, egress: &'s Egress) -> Vec<&'s Effective> {
        let bound = twin.virtual_services.bound(MESH, &self.namespace);
        let imported = bound.into_iter().filter(|vs| {
            vs.hosts.iter().any(|host| egress.imports_routes(vs.namespace(), host, &self.namespace))
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
        self.covers(namespace, own, |import| subset_of(host, import))
            && !self.leaves_out(namespace, host, own)
    }

    /// Whether it imports the routes of a VirtualService for a host: those for a pattern that covers more count, too.
    fn imports_routes(&self, namespace: &str, host: &str, own: &str) -> bool {
        self.covers(namespace, own, |import| hosts_overlap(host, import))
            && !self.leaves_out(namespace, host, own)
    }

    fn covers(&self, namespace: &str, own: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.imports.iter().any(|import| !import.not && import.of(namespace, own) && fits(&import.host))
    }

    fn leaves_out(&self, namespace: &str, host: &str, own: &str) -> bool {
        self.imports
            .iter()
            .any(|import| import.not && import.of(namespace, own) && subset_of(host, &import.host))
    }
}

impl Import {
    /// Whether it is about hosts of a namespace.
    fn of(&self, namespace: &str, own: &str) -> bool {
        self.namespace == "*" || self.namespace == namespace || (self.namespace == "." && namespace == own)
    }
}

/// Adds a host to those that are known by its name.
fn append<'t, 'a>(out: &mut Vec<Part<'t, 'a>>, (host, only): Part<'t, 'a>) {
    let Some((first, _)) = out.first() else { return out.push((host, only)) };
    match (first.of_entry(), host.of_entry()) {
        (true, false) => *out = vec![(host, only)],
        (false, false) if std::ptr::eq(*first, host) => out.push((host, only)),
        (true, true) if first.adds_up_with(host) => out.push((host, only)),
        _ => {}
    }
}

/// The Sidecar that applies to a pod: one of its namespace whose selector picks it, one of its namespace without selector,
/// then the root namespace's without selector; of several the oldest.
pub fn applying<'a>(snapshot: &'a Snapshot, namespace: &str, labels: &Labels) -> Option<&'a Policy> {
    let mut all: Vec<&Policy> = snapshot.istio.sidecars.iter().collect();
    all.sort_by_key(|policy| (policy.object.created, policy.object.name(), policy.object.namespace()));
    let beside = |policy: &&&Policy| policy.object.namespace() == namespace;
    let chosen = all
        .iter()
        .filter(beside)
        .find(|policy| !policy.selector.is_empty() && policy.selector.matches(labels));
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

/// Reads `namespace/host`; `~namespace/host` takes away, and so does `~/host` in all namespaces.
fn import(text: &str) -> Option<Import> {
    let (namespace, host) = text.split_once('/')?;
    let (not, namespace) = match namespace.strip_prefix('~') {
        Some("") => (true, "*"),
        Some(rest) => (true, rest),
        None => (false, namespace),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::selector::Labels;
    use crate::model::snapshot::Builder;

    /// A ServiceEntry for `x.example.com`; those of a later minute are younger.
    fn entry(builder: &mut Builder, namespace: &str, minute: u8, resolution: &str, ports: &[u16]) {
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| json!({"number": port, "name": format!("http-{port}"), "protocol": "HTTP"}))
            .collect();
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": format!("e{minute}"), "namespace": namespace, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
            "spec": {"hosts": ["x.example.com"], "resolution": resolution, "ports": ports}}));
    }

    fn sidecar(builder: &mut Builder, hosts: &[&str]) {
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": {"name": "s", "namespace": "own"},
            "spec": {"egress": [{"hosts": hosts}]}}));
    }

    /// Of each port: the ServiceEntry behind its cluster, if there is one, and how many hosts its listeners and routes know.
    fn seen(builder: Builder, ports: &[u16]) -> Vec<(Option<String>, usize)> {
        let snapshot = builder.finish();
        let twin = Twin::new(&snapshot);
        let node = ProxyNode {
            namespace: "own".to_owned(),
            kind: ProxyType::Sidecar,
            labels: Labels::new(),
            ips: vec![],
        };
        let scope = Scope::new(&twin, &node);
        let of = |port: &u16| {
            let known = scope.known(&twin, "x.example.com", *port).filter(|known| known.with_port);
            let named = known.map(|known| {
                let reference = known.host.reference();
                format!("{}/{}", reference.namespace, reference.name)
            });
            (named, scope.hosts(&twin, scope.egress_for(*port).unwrap(), Some(*port)).len())
        };
        ports.iter().map(of).collect()
    }

    #[test]
    fn entries_of_one_namespace_lend_ports_where_they_are_resolved_alike_and_are_routed_to_anyway() {
        let both = |second: &str| {
            let mut builder = Builder::new();
            entry(&mut builder, "far", 1, "NONE", &[80]);
            entry(&mut builder, "far", 2, second, &[80, 81]);
            seen(builder, &[80, 81])
        };
        let first = (Some("far/e1".to_owned()), 2);
        assert_eq!(both("NONE"), [first.clone(), (Some("far/e2".to_owned()), 1)]);
        assert_eq!(both("STATIC"), [first, (None, 1)], "a route to nowhere");
    }

    #[test]
    fn of_several_namespaces_one_counts_and_a_sidecar_says_which() {
        let mesh = |imports: &[&str]| {
            let mut builder = Builder::new();
            entry(&mut builder, "far", 1, "STATIC", &[80, 81]);
            entry(&mut builder, "own", 2, "STATIC", &[80]);
            if !imports.is_empty() {
                sidecar(&mut builder, imports);
            }
            seen(builder, &[80, 81])
        };
        let own = (Some("own/e2".to_owned()), 1);
        let far = (Some("far/e1".to_owned()), 1);
        assert_eq!(mesh(&[]), [own.clone(), (None, 0)]);
        assert_eq!(mesh(&["*/*"]), [own, (None, 0)]);
        assert_eq!(mesh(&["far/*"]), [far.clone(), far]);
        assert_eq!(mesh(&["*/*", "~*/x.example.com"]), [(None, 0), (None, 0)]);
    }

    #[test]
    fn what_routes_lead_to_has_a_cluster_without_being_imported() {
        let mut builder = Builder::new();
        entry(&mut builder, "far", 1, "STATIC", &[80, 81]);
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "own"},
            "spec": {"hosts": ["a.example.com"], "http": [{"route": [{"destination": {"host": "x.example.com", "port": {"number": 80}}}]}]}}));
        sidecar(&mut builder, &["own/*"]);
        assert_eq!(seen(builder, &[80, 81]), [(Some("far/e1".to_owned()), 0), (None, 0)]);
    }
}
