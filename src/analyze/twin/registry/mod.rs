//! The mesh's registry: every host that the mesh knows, from Services and from ServiceEntries, in one form.

mod allocate;
mod read;

pub use crate::model::mesh::istio::visible;
pub use read::declared;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::address::Block;
use crate::model::fields::Fields;
use crate::model::mesh::istio::ServiceEntry;
use crate::model::network::{Protocol, Service, TargetPort};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

/// How a host's endpoints are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// From the registry: pods, or the addresses that a ServiceEntry lists.
    Registry,
    /// By the proxy, which asks the name server.
    Dns,
    /// Not at all: the connection goes where it was going (a headless Service, `resolution: NONE`).
    Original,
    /// By the proxy, for each request's own host (`DYNAMIC_DNS`).
    DynamicDns,
    /// It is another name of a host outside (`type: ExternalName`).
    Alias,
}

/// What a host was made from.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// A Service of the cluster.
    Service(&'a Service),
    /// A ServiceEntry.
    Entry(&'a ServiceEntry),
}

/// A port of a host.
#[derive(Debug, Clone)]
pub struct HostPort {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u16,
    /// How its traffic is read.
    pub protocol: Protocol,
    /// What it points at.
    pub target: TargetPort,
}

/// A host of the mesh. A ServiceEntry with several hosts, or several addresses, makes several.
#[derive(Debug, Clone)]
pub struct Host<'a> {
    /// Its full name: `checkout.shop.svc.cluster.local`, `api.example.com`, `*.example.com`.
    pub name: String,
    /// The namespace that declares it.
    pub namespace: &'a str,
    /// What it was made from.
    pub origin: Origin<'a>,
    /// Its ports.
    pub ports: Vec<HostPort>,
    /// Its addresses; none where it has none of its own.
    pub addresses: Vec<Block>,
    /// The address that the mesh's own name server answers with, where the host has none of its own.
    pub allocated: Option<IpAddr>,
    /// Stands for the address of a Service of which only the manifest was seen: every one has an address in a cluster.
    pub placeholder: Option<IpAddr>,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// Whether it is outside of the mesh.
    pub external: bool,
    /// Who sees it.
    pub export_to: Vec<String>,
}

impl<'a> Host<'a> {
    /// The object that declares it.
    pub fn object(&self) -> &'a Object {
        match self.origin {
            Origin::Service(service) => &service.object,
            Origin::Entry(entry) => &entry.object,
        }
    }

    /// What names that object.
    pub fn reference(&self) -> &'a ObjectRef {
        &self.object().reference
    }

    /// A port by its number.
    pub fn port(&self, number: u16) -> Option<&HostPort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// Its port, where it has one alone.
    pub fn only_port(&self) -> Option<u16> {
        match self.ports.as_slice() {
            [port] => Some(port.number),
            _ => None,
        }
    }

    /// Whether it is a pattern.
    pub fn is_wildcard(&self) -> bool {
        self.name.starts_with('*')
    }

    /// Whether proxies of a namespace see it.
    pub fn visible_to(&self, namespace: &str) -> bool {
        visible(&self.export_to, self.namespace, namespace)
    }

    /// Which of several hosts of one name counts for sidecars of a namespace, the least first: their own namespace's, then a
    /// Service's, then one that is exported to some namespaces alone. Of equal ones the first does.
    pub fn rank(&self, client: &str) -> (bool, bool, bool) {
        (self.namespace != client, self.of_entry(), self.public())
    }

    /// Whether a ServiceEntry declares it.
    pub fn of_entry(&self) -> bool {
        matches!(self.origin, Origin::Entry(_))
    }

    /// Whether another host of its name lends it its ports: of ServiceEntries of one namespace those that are resolved alike,
    /// carry the same labels, select the same workloads and are exported alike.
    pub fn adds_up_with(&self, other: &Host<'_>) -> bool {
        let (Origin::Entry(own), Origin::Entry(theirs)) = (self.origin, other.origin) else { return false };
        let selector = |entry: &ServiceEntry| entry.object.body.text_map("spec.workloadSelector.labels");
        let exported = |host: &Host<'_>| host.export_to.iter().cloned().collect::<BTreeSet<_>>();
        let resolution = |entry: &ServiceEntry| entry.object.body.string("spec.resolution");
        self.namespace == other.namespace
            && resolution(own) == resolution(theirs)
            && exported(self) == exported(other)
            && own.object.labels == theirs.object.labels
            && selector(own) == selector(theirs)
    }

    /// Whether everyone sees it; what is exported to some namespaces alone counts before it there.
    pub fn public(&self) -> bool {
        self.export_to.is_empty() || self.export_to.iter().any(|to| to == "*")
    }
}

/// All hosts, in the order in which the control plane looks at them: oldest first, then by name.
#[derive(Debug, Default)]
pub struct Registry<'a> {
    hosts: Vec<Host<'a>>,
    by_name: HashMap<String, Vec<usize>>,
    by_port: BTreeMap<u16, Vec<usize>>,
    by_address: HashMap<IpAddr, Vec<usize>>,
    /// Those of which an address is a block.
    with_blocks: Vec<usize>,
    wildcards: Vec<usize>,
    /// Hosts by the name that they are another name of.
    aliases: HashMap<String, Vec<String>>,
}

impl<'a> Registry<'a> {
    /// Reads all Services and ServiceEntries.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut hosts = read::hosts(snapshot);
        allocate::addresses(&mut hosts);
        let key = |host: &Host<'a>| {
            let object = host.object();
            // A Service sorts by its own name, what a ServiceEntry makes by its host.
            let name = match host.origin {
                Origin::Service(service) => service.object.name().to_owned(),
                Origin::Entry(_) => host.name.clone(),
            };
            (object.created, format!("{name}.{}", host.namespace))
        };
        hosts.sort_by_cached_key(key);
        for (at, host) in hosts.iter_mut().enumerate() {
            let unknown = host.addresses.is_empty() && host.resolution == Resolution::Registry;
            if unknown && matches!(host.origin, Origin::Service(_)) {
                // From the block that routes nowhere (RFC 6666), so that it is no address of anything else.
                host.placeholder = Some(IpAddr::from((0x0100_u128 << 112 | (at as u128 + 1)).to_be_bytes()));
            }
        }
        let mut registry = Registry { hosts, ..Registry::default() };
        for (at, host) in registry.hosts.iter().enumerate() {
            registry.by_name.entry(host.name.to_ascii_lowercase()).or_default().push(at);
            for port in &host.ports {
                let list = registry.by_port.entry(port.number).or_default();
                if list.last() != Some(&at) {
                    list.push(at);
                }
            }
            for ip in
                host.addresses.iter().filter_map(Block::single).chain(host.allocated).chain(host.placeholder)
            {
                registry.by_address.entry(ip).or_default().push(at);
            }
            if host.addresses.iter().any(|block| block.single().is_none()) {
                registry.with_blocks.push(at);
            }
            if host.is_wildcard() {
                registry.wildcards.push(at);
            }
        }
        registry.aliases = aliases(&registry.hosts);
        registry
    }

    /// The names of ExternalName Services that stand for a host.
    pub fn aliases_of(&self, name: &str) -> impl Iterator<Item = &str> {
        self.aliases.get(&name.to_ascii_lowercase()).into_iter().flatten().map(String::as_str)
    }

    /// All hosts in order.
    pub fn hosts(&self) -> &[Host<'a>] {
        &self.hosts
    }

    /// The hosts of exactly this name, in order.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Host<'a>> {
        let at = self.by_name.get(&name.to_ascii_lowercase()).map_or(&[][..], Vec::as_slice);
        at.iter().filter_map(|at| self.hosts.get(*at))
    }

    /// The host of this name as a proxy of a namespace sees it: its own namespace's rather than another's, and a Service
    /// rather than a ServiceEntry.
    pub fn find(&self, name: &str, client: &str) -> Option<&Host<'a>> {
        self.named(name).filter(|host| host.visible_to(client)).min_by_key(|host| host.rank(client))
    }

    /// The host of this name that a namespace declares: a Service rather than a ServiceEntry, else the oldest.
    pub fn declared_in(&self, name: &str, namespace: &str) -> Option<&Host<'a>> {
        self.named(name).filter(|host| host.namespace == namespace).min_by_key(|host| host.of_entry())
    }

    /// The same, and of several that add up the one with a port.
    pub fn find_with_port(&self, name: &str, client: &str, port: u16) -> Option<&Host<'a>> {
        let first = self.find(name, client)?;
        let mut more = self.named(name).filter(|host| host.visible_to(client) && first.adds_up_with(host));
        Some(more.find(|host| first.port(port).is_none() && host.port(port).is_some()).unwrap_or(first))
    }

    /// The most specific pattern that covers a name, as a proxy of a namespace sees it.
    pub fn pattern_for(&self, name: &str, client: &str) -> Option<&Host<'a>> {
        let hosts = self.wildcards.iter().filter_map(|at| self.hosts.get(*at));
        hosts
            .filter(|host| host.visible_to(client) && super::istio::host_matches(&host.name, name))
            .max_by_key(|host| host.name.len())
    }

    /// The hosts that have a port of this number, in order.
    pub fn with_port(&self, port: u16) -> impl Iterator<Item = &Host<'a>> {
        let at = self.by_port.get(&port).map_or(&[][..], Vec::as_slice);
        at.iter().filter_map(|at| self.hosts.get(*at))
    }

    /// The hosts that have this address.
    pub fn at(&self, ip: IpAddr) -> Vec<&Host<'a>> {
        let exact = self
            .by_address
            .get(&ip)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter_map(|at| self.hosts.get(*at));
        let in_blocks = self.with_blocks.iter().filter_map(|at| self.hosts.get(*at));
        exact.chain(in_blocks.filter(|host| host.addresses.iter().any(|block| block.contains(ip)))).collect()
    }

    /// Whether some host was given this address by the mesh's own name server.
    pub fn is_allocated(&self, ip: IpAddr) -> bool {
        let at = self.by_address.get(&ip).map_or(&[][..], Vec::as_slice);
        at.iter().filter_map(|at| self.hosts.get(*at)).any(|host| host.allocated == Some(ip))
    }
}

/// The names of ExternalName Services by the host that each stands for in the end: an alias of an alias stands for what that one does. Those that
/// lead in a circle stand for nothing, as for the name server.
fn aliases(hosts: &[Host<'_>]) -> HashMap<String, Vec<String>> {
    let named = hosts.iter().filter_map(|host| match (host.resolution, host.origin) {
        (Resolution::Alias, Origin::Service(service)) => {
            Some((host, service.external_name.to_ascii_lowercase()))
        }
        _ => None,
    });
    let named: Vec<(&Host<'_>, String)> = named.collect();
    let next: HashMap<String, &str> =
        named.iter().map(|(host, name)| (host.name.to_ascii_lowercase(), name.as_str())).collect();
    let mut out: HashMap<String, Vec<String>> = HashMap::new();
    for (host, name) in &named {
        // As many steps as there are aliases pass each of them once; with more they go round.
        let steps = std::iter::successors(Some(name.as_str()), |name| next.get(*name).copied());
        let last = steps.take(next.len() + 1).find(|name| !next.contains_key(*name));
        if let Some(last) = last {
            out.entry(last.to_owned()).or_default().push(host.name.clone());
        }
    }
    out
}
