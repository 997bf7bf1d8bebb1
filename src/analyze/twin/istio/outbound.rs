//! What a sidecar listens on for what its pod sends: for each port the listeners of the hosts that have it, merged as the
//! control plane merges them, and the one for everything unknown.

use core::net::IpAddr;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::byte_chains::l4_chains;
use super::proxy::Proxy;
use super::scope::{Egress, Unknown};
use super::virtual_services::Effective;
use crate::analyze::twin::Twin;
use crate::analyze::twin::address::Block;
use crate::analyze::twin::http::table::{
    Action, Destination, Forward, Route, RouteTable, VirtualHost, Weighted,
};
use crate::analyze::twin::listener::{Chain, ChainMatch, Filter, Inspect, Listener, PLAIN_HTTP, Transport};
use crate::analyze::twin::registry::{Host, Origin, Resolution};
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;

/// The port to which all of a pod's connections are redirected.
const REDIRECT_PORT: u16 = 15001;

/// The listeners of one port.
#[derive(Debug)]
pub struct Port {
    by_address: HashMap<IpAddr, Arc<Listener>>,
    any: Option<Arc<Listener>>,
    unknown: Arc<Listener>,
}

impl Port {
    /// The listener of a connection to an address: the address's own, else that of all addresses, else the one for
    /// everything unknown.
    pub fn listener(&self, ip: Option<IpAddr>) -> Arc<Listener> {
        let own = ip.and_then(|ip| self.by_address.get(&ip));
        own.or(self.any.as_ref()).unwrap_or(&self.unknown).clone()
    }
}

/// How a listener reads what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    /// By the first bytes.
    Auto,
}

fn kind(protocol: Protocol) -> Option<Kind> {
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => Some(Kind::Http),
        Protocol::Tcp | Protocol::Tls | Protocol::OtherTcp => Some(Kind::Tcp),
        Protocol::Unknown => Some(Kind::Auto),
        Protocol::Udp => None,
    }
}

/// A listener in the making.
struct Entry {
    /// The address it is bound to; none for all.
    ip: Option<IpAddr>,
    /// As it stands in the listener's name.
    bind: String,
    kind: Kind,
    /// A protocol in which the server speaks first: nothing else may share its port.
    server_first: bool,
    chains: Vec<Chain>,
    locked: bool,
}

/// One host's claim on a port.
pub(super) struct Claim<'c, 'a> {
    pub(super) host: &'c Host<'a>,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) ip: Option<IpAddr>,
    bind: String,
    pub(super) blocks: Vec<Block>,
}

/// The listeners of a port.
pub(super) fn port<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, number: u16) -> Port {
    let mut entries: Vec<Entry> = vec![];
    for egress in &proxy.scope.egress {
        let services = proxy.scope.virtual_services(twin, egress);
        match egress.port {
            Some((own, protocol)) if own == number => {
                // Of hosts with several ports it is cut down to those that have this one.
                for host in proxy.scope.hosts(twin, egress, Some(number)) {
                    for claim in claims(twin, proxy, egress, host, number, protocol) {
                        add(twin, proxy, &services, claim, &mut entries);
                    }
                }
            }
            Some(_) => {}
            None => {
                // Ports that an earlier egress listener names are its own.
                entries.iter_mut().for_each(|entry| entry.locked = true);
                for host in proxy.scope.hosts(twin, egress, Some(number)) {
                    let Some(port) = host.port(number) else { continue };
                    for claim in claims(twin, proxy, egress, host, number, port.protocol) {
                        add(twin, proxy, &services, claim, &mut entries);
                    }
                }
            }
        }
    }
    let (mut by_address, mut any) = (HashMap::new(), None);
    for entry in entries {
        let ip = entry.ip;
        let listener = Arc::new(finish(proxy, entry, number));
        match ip {
            Some(ip) => {
                by_address.insert(ip, listener);
            }
            None => any = Some(listener),
        }
    }
    Port { by_address, any, unknown: Arc::new(catch_all(proxy)) }
}

/// The addresses on which a host claims a port: its own one, all of them, or those of its pods.
fn claims<'c, 'a>(
    twin: &Twin<'_>,
    proxy: &Proxy<'_>,
    egress: &Egress,
    host: &'c Host<'a>,
    port: u16,
    protocol: Protocol,
) -> Vec<Claim<'c, 'a>> {
    let Some(kind) = kind(protocol).filter(|_| host.resolution != Resolution::Alias) else { return vec![] };
    let claim = |ip: Option<IpAddr>, bind: String, blocks: Vec<Block>| Claim {
        host,
        port,
        protocol,
        ip,
        bind,
        blocks,
    };
    let all = || wildcard(proxy);
    if egress.own_port || !egress.bind.is_empty() {
        let bind = if egress.bind.is_empty() { "127.0.0.1" } else { egress.bind.as_str() };
        let ip = bind.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
        return vec![claim(ip, bind.to_owned(), vec![])];
    }
    if kind == Kind::Http {
        return vec![claim(None, all(), vec![])];
    }
    if let Some(ip) = host.placeholder {
        // A Service of plain manifests has an address that nobody knows yet.
        return vec![claim(Some(ip), host.name.clone(), vec![])];
    }
    if let Some(ip) = proxy.address_of(host) {
        return vec![claim(Some(ip), ip.to_string(), vec![])];
    }
    if !host.addresses.is_empty() {
        return vec![claim(None, all(), host.addresses.clone())];
    }
    // Without an address of its own a headless Service is reached at its pods'.
    if let Origin::Service(service) = host.origin
        && host.resolution == Resolution::Original
    {
        let pods = twin.snapshot.pods_behind(service).filter_map(|pod| pod.ips.first());
        let listed = twin.snapshot.slices_of(service).flat_map(|slice| &slice.endpoints);
        let addresses: BTreeSet<&String> = pods.chain(listed.filter_map(|e| e.addresses.first())).collect();
        return addresses
            .into_iter()
            .filter(|ip| proxy.key.node.ips.first() != Some(*ip))
            .filter_map(|ip| Some(claim(Some(ip.parse().ok()?), ip.clone(), vec![])))
            .collect();
    }
    vec![claim(None, all(), vec![])]
}

/// All addresses, as they stand in listeners' names.
pub(super) fn wildcard(proxy: &Proxy<'_>) -> String {
    wildcard_of(&proxy.key.node.ips).to_owned()
}

/// The same for a pod with these addresses.
pub(super) fn wildcard_of(ips: &[String]) -> &'static str {
    if !ips.is_empty() && ips.iter().all(|ip| ip.contains(':')) { "::" } else { "0.0.0.0" }
}

fn add<'a>(
    twin: &Twin<'a>,
    proxy: &Proxy<'a>,
    services: &[&Effective],
    claim: Claim<'_, '_>,
    entries: &mut Vec<Entry>,
) {
    let Some(mut kind) = kind(claim.protocol) else { return };
    let at = entries.iter().position(|entry| entry.ip == claim.ip && entry.bind == claim.bind);
    let current = at.and_then(|at| entries.get(at));
    if current.is_some_and(|entry| entry.locked) {
        return;
    }
    let server_first = claim.protocol == Protocol::OtherTcp;
    let current = current.map(|entry| (entry.kind, entry.server_first));
    let chains = match (kind, current) {
        // Hosts of HTTP share a listener: its route table tells them apart.
        (Kind::Http, Some((Kind::Http | Kind::Auto, _))) | (Kind::Auto, Some((Kind::Auto, _))) => return,
        (Kind::Http, _) => {
            let sniffed = claim.ip.is_none();
            let chain = http_chain(claim.port.to_string(), sniffed);
            if sniffed {
                // Bytes that are no HTTP fall through.
                kind = Kind::Auto;
            }
            vec![chain]
        }
        (Kind::Tcp, _) => l4_chains(twin, proxy, services, &claim),
        (Kind::Auto, _) => {
            let mut chains = l4_chains(twin, proxy, services, &claim);
            let table = match claim.ip {
                Some(_) => format!("{}:{}", claim.host.name, claim.port),
                None => claim.port.to_string(),
            };
            chains.push(http_chain(table, true));
            chains
        }
    };
    match (at.and_then(|at| entries.get_mut(at)), current) {
        (Some(_), Some((_, first))) if first != server_first => {}
        (Some(entry), Some((Kind::Http, _))) if kind == Kind::Auto => {
            entry.kind = kind;
            entry.chains = chains;
        }
        (Some(entry), _) => {
            if entry.kind != kind {
                entry.kind = Kind::Auto;
            }
            for chain in chains {
                if !entry.chains.iter().any(|known| alike(&known.matching, &chain.matching)) {
                    entry.chains.push(chain);
                }
            }
        }
        (None, _) => {
            entries.push(Entry { ip: claim.ip, bind: claim.bind, kind, server_first, chains, locked: false });
        }
    }
}

/// Whether two filter chains take the same: the order of names and blocks does not matter, nor does `*`.
fn alike(a: &ChainMatch, b: &ChainMatch) -> bool {
    let names = |m: &ChainMatch| m.sni.iter().filter(|name| *name != "*").cloned().collect::<BTreeSet<_>>();
    let blocks = |m: &ChainMatch| m.blocks.iter().copied().collect::<BTreeSet<_>>();
    a.transport == b.transport && a.alpn == b.alpn && names(a) == names(b) && blocks(a) == blocks(b)
}

fn http_chain(table: String, sniffed: bool) -> Chain {
    let matching = if sniffed {
        ChainMatch { transport: Some(Transport::Raw), alpn: PLAIN_HTTP.to_vec(), ..ChainMatch::default() }
    } else {
        ChainMatch::default()
    };
    Chain { name: String::new(), matching, tls: None, filter: Filter::Http(table, None), source: None }
}

/// A listener from its entry: the chain that takes everything becomes the default one.
fn finish(proxy: &Proxy<'_>, entry: Entry, port: u16) -> Listener {
    let (any, mut chains): (Vec<Chain>, Vec<Chain>) =
        entry.chains.into_iter().partition(|chain| chain.matching.is_any());
    let mut default = any.into_iter().next_back();
    if chains.is_empty() {
        chains.extend(default.take());
    } else if default.is_none() {
        default = Some(Chain {
            name: "PassthroughFilterChain".to_owned(),
            matching: ChainMatch::default(),
            tls: None,
            filter: Filter::Tcp(vec![unknown_destination(proxy)]),
            source: proxy.scope.unknown.1.clone(),
        });
    }
    Listener {
        name: format!("{}_{port}", entry.bind),
        tls_inspector: Inspect::all(chains.iter().any(|chain| !chain.matching.sni.is_empty())),
        http_inspector: Inspect::all(chains.iter().any(|chain| !chain.matching.alpn.is_empty())),
        chains,
        default,
    }
}

fn unknown_destination(proxy: &Proxy<'_>) -> Weighted {
    Weighted::whole(proxy.scope.fallback(), proxy.scope.unknown.1.clone().unwrap_or_default())
}

/// The listener for what the mesh does not know.
fn catch_all(proxy: &Proxy<'_>) -> Listener {
    let chain = |name: &str, matching: ChainMatch, filter: Filter| Chain {
        name: name.to_owned(),
        matching,
        tls: None,
        filter,
        source: proxy.scope.unknown.1.clone(),
    };
    let own_port = ChainMatch { port: Some(REDIRECT_PORT), ..ChainMatch::default() };
    let nowhere = Weighted::whole(Destination::BlackHole, ObjectRef::default());
    let mut chains = vec![chain("virtualOutbound-blackhole", own_port, Filter::Tcp(vec![nowhere]))];
    let bytes = Filter::Tcp(vec![unknown_destination(proxy)]);
    let sniffs = proxy.scope.unknown.0 == Unknown::DynamicDns;
    if sniffs {
        let mut table = RouteTable::new("allow_any");
        table.push(any_host(proxy));
        let http = ChainMatch {
            transport: Some(Transport::Raw),
            alpn: PLAIN_HTTP.to_vec(),
            ..ChainMatch::default()
        };
        let filter = Filter::Http(table.name.clone(), Some(Arc::new(table)));
        chains.push(chain("virtualOutbound-catchall-http", http, filter));
    }
    Listener {
        name: "virtualOutbound".to_owned(),
        chains,
        default: Some(chain("virtualOutbound-catchall-tcp", ChainMatch::default(), bytes)),
        tls_inspector: Inspect::all(false),
        http_inspector: Inspect::all(sniffs),
    }
}

/// The virtual host for requests to hosts that the mesh does not know.
pub(super) fn any_host(proxy: &Proxy<'_>) -> VirtualHost {
    let source = proxy.scope.unknown.1.clone().unwrap_or_default();
    let (name, action) = match proxy.scope.unknown.0 {
        Unknown::RegistryOnly => {
            let reason = "the mesh knows no such host, and outboundTrafficPolicy is REGISTRY_ONLY";
            ("block_all", Action::Respond { status: 502, reason: reason.to_owned() })
        }
        unknown => {
            let to = match unknown {
                Unknown::DynamicDns => Destination::Original("AllowAnyDynamicDNSCluster"),
                _ => proxy.scope.fallback(),
            };
            let to = vec![Weighted::whole(to, source.clone())];
            ("allow_any", Action::Forward(Box::new(Forward { to, ..Forward::default() })))
        }
    };
    let route = Route { name: name.to_owned(), ..Route::any(source, action) };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        require_tls: None,
    }
}
