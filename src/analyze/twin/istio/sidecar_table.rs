//! The route tables of a sidecar's listeners: the hosts of a port, with the routes of their VirtualServices.

use std::collections::{BTreeMap, BTreeSet};

use super::outbound::any_host;
use super::proxy::Proxy;
use super::route::{Audience, routes};
use super::virtual_services::{Effective, MESH};
use super::{host_matches, subset_of};
use crate::analyze::twin::Twin;
use crate::analyze::twin::address::Block;
use crate::analyze::twin::backend;
use crate::analyze::twin::gateway_api::mesh;
use crate::analyze::twin::http::table::{
    Action, Destination, Forward, Route, RouteTable, VirtualHost, Weighted,
};
use crate::analyze::twin::registry::{Host, Origin, Resolution};
use crate::model::mesh::istio::CLUSTER_DOMAIN;
use crate::model::network::Protocol;
use crate::model::selector::Labels;

/// The table of a name: a port's (`80`), or one host's on a port whose protocol is looked up (`a.n.svc.cluster.local:80`).
pub(super) fn table<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, name: &str) -> RouteTable {
    let (only, port) = match name.rsplit_once(':') {
        Some((host, port)) => (Some(host), port.parse().unwrap_or(0)),
        None => (None, name.parse().unwrap_or(0)),
    };
    let mut table = RouteTable::new(name);
    let hosts = virtual_hosts(twin, proxy, port);
    match only {
        Some(only) => {
            // The listener is this host's alone: whatever the Host header says, it is meant.
            let own = hosts
                .into_iter()
                .find(|host| host.domains.iter().any(|domain| domain.eq_ignore_ascii_case(only)));
            if let Some(own) = own {
                table.push(VirtualHost { domains: vec!["*".to_owned()], ..own });
            }
        }
        None => {
            for host in hosts {
                table.push(host);
            }
            table.push(any_host(proxy));
        }
    }
    table
}

/// The table of a waypoint for one host (`a.n.svc.cluster.local:80`), whatever the Host header says: the routes that are attached
/// to the host in its own namespace, else those of a VirtualService beside the host or the waypoint.
pub(super) fn of_waypoint<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, name: &str) -> RouteTable {
    let mut table = RouteTable::new(name);
    let (host, port) = name.rsplit_once(':').unwrap_or((name, ""));
    let port = port.parse().unwrap_or(0);
    let own = proxy.key.node.namespace.as_str();
    let Some(host) = backend::find(twin, Some(&proxy.scope), (host, port), own) else { return table };
    let host = host.host;
    let audience = Audience {
        twin,
        scope: &proxy.scope,
        namespace: own,
        // Conditions on labels of the client are left out: there is none beside a waypoint.
        labels: &Labels::new(),
        gateway: MESH,
        port,
        tls: false,
    };
    let attached = || mesh::http_routes(twin.snapshot, host.object(), host.namespace, port);
    let by_service = || {
        let services = twin.virtual_services.bound(MESH, own);
        let mut services = services.into_iter().filter(|vs| [own, host.namespace].contains(&vs.namespace()));
        let fits = |pattern: &String| host_matches(pattern, &host.name.to_ascii_lowercase());
        let found = services.find(|vs| vs.hosts.iter().any(fits))?;
        Some(routes(found, &audience)).filter(|made| !made.is_empty())
    };
    let routes = attached().or_else(by_service).unwrap_or_else(|| vec![default_route(host, port)]);
    table.push(VirtualHost {
        name: format!("inbound|http|{port}"),
        domains: vec!["*".to_owned()],
        routes,
        require_tls: None,
    });
    table
}

/// The virtual hosts of a port: those of VirtualServices in their order, then those of hosts without one.
fn virtual_hosts<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, port: u16) -> Vec<VirtualHost> {
    let Some(egress) = proxy.scope.egress_for(port) else { return vec![] };
    let hosts = proxy.scope.hosts(twin, egress, Some(port));
    let mut by_name: BTreeMap<String, &Host<'_>> = BTreeMap::new();
    for host in &hosts {
        by_name.insert(host.name.to_ascii_lowercase(), host);
    }
    let services = proxy.scope.virtual_services(twin, egress);
    let chosen = most_specific(&services, &by_name);
    let audience = Audience {
        twin,
        scope: &proxy.scope,
        namespace: &proxy.key.node.namespace,
        labels: &proxy.key.node.labels,
        gateway: MESH,
        port,
        tls: false,
    };
    let full_names: BTreeSet<&str> = by_name.keys().map(String::as_str).collect();
    let mut maker = Maker { proxy, port, names: BTreeSet::new(), full_names: &full_names, out: vec![] };
    let mut routed: BTreeSet<String> = BTreeSet::new();
    // Routes of the Gateway API that are attached to a host are all that its requests find.
    for (name, host) in by_name.iter().filter(|(_, host)| speaks_http(host, port)) {
        let attached = mesh::http_routes(twin.snapshot, host.object(), audience.namespace, port);
        if let Some(attached) = attached {
            routed.insert(name.clone());
            maker.host(twin, host, attached);
        }
    }
    for vs in &services {
        let (known, others) = hosts_of(vs, &by_name, &chosen);
        let http: Vec<&&Host<'_>> = known.iter().filter(|host| speaks_http(host, port)).collect();
        // Hosts that no registry knows are taken on port 80, and beside hosts that are known.
        if http.is_empty() && (port != 80 || others.is_empty()) {
            continue;
        }
        let made = routes(vs, &audience);
        if made.is_empty() {
            continue;
        }
        for host in others {
            maker.push(format!("{host}:{port}"), vec![(host.to_owned(), false)], made.clone());
        }
        for host in http {
            routed.insert(host.name.to_ascii_lowercase());
            maker.host(twin, host, made.clone());
        }
    }
    for (name, host) in &by_name {
        if !routed.contains(name) && speaks_http(host, port) && host.resolution != Resolution::Alias {
            maker.host(twin, host, vec![default_route(host, port)]);
        }
    }
    maker.out
}

fn speaks_http(host: &Host<'_>, port: u16) -> bool {
    host.port(port).is_some_and(|port| port.protocol.is_http() || port.protocol == Protocol::Unknown)
}

/// Which VirtualService counts for each host: one that names it, else the one with the most specific pattern; of several the
/// first.
fn most_specific<'v>(
    services: &[&'v Effective],
    hosts: &BTreeMap<String, &Host<'_>>,
) -> BTreeMap<String, &'v Effective> {
    let (mut exact, mut patterns): (BTreeMap<&str, &'v Effective>, Vec<(&str, &'v Effective)>) =
        Default::default();
    for vs in services {
        for host in &vs.hosts {
            if host.starts_with('*') {
                patterns.push((host, vs));
            } else {
                exact.entry(host).or_insert(vs);
            }
        }
    }
    let mut out = BTreeMap::new();
    for name in hosts.keys() {
        let by_pattern = || {
            let mut best: Option<(&str, &'v Effective)> = None;
            for (pattern, vs) in &patterns {
                let fits = host_matches(pattern, name) || subset_of(name, pattern);
                if fits && best.is_none_or(|(known, _)| pattern.len() > known.len()) {
                    best = Some((pattern, vs));
                }
            }
            best.map(|(_, vs)| vs)
        };
        if let Some(vs) = exact.get(name.as_str()).copied().or_else(by_pattern) {
            out.insert(name.clone(), vs);
        }
    }
    out
}

/// The hosts of a VirtualService that the registry knows on this port, and those that it does not know at all.
fn hosts_of<'h, 'a, 'v>(
    vs: &'v Effective,
    hosts: &BTreeMap<String, &'h Host<'a>>,
    chosen: &BTreeMap<String, &Effective>,
) -> (Vec<&'h Host<'a>>, Vec<&'v str>) {
    let (mut known, mut others) = (vec![], vec![]);
    for name in &vs.hosts {
        if !name.starts_with('*') {
            match hosts.get(name) {
                Some(host) => known.push(*host),
                None => others.push(name.as_str()),
            }
            continue;
        }
        let mut found = false;
        for (full, host) in hosts {
            if host_matches(name, full) || subset_of(full, name) {
                found = true;
                if chosen.get(full).is_some_and(|best| best.reference == vs.reference) {
                    known.push(host);
                }
            }
        }
        if !found {
            others.push(name);
        }
    }
    (known, others)
}

/// The route of a host without VirtualService.
fn default_route(host: &Host<'_>, port: u16) -> Route {
    let source = host.reference().clone();
    let to = Destination::Host { host: host.name.clone(), subset: String::new(), port };
    let forward = Forward { to: vec![Weighted::whole(to, source.clone())], retries: 2, ..Forward::default() };
    Route { name: "default".to_owned(), ..Route::any(source, Action::Forward(Box::new(forward))) }
}

/// Makes virtual hosts, each name and each domain once.
struct Maker<'m, 'a> {
    proxy: &'m Proxy<'a>,
    port: u16,
    names: BTreeSet<String>,
    full_names: &'m BTreeSet<&'m str>,
    out: Vec<VirtualHost>,
}

impl Maker<'_, '_> {
    /// The virtual host of a host that the registry knows.
    fn host(&mut self, twin: &Twin<'_>, host: &Host<'_>, routes: Vec<Route>) {
        let mut domains: Vec<(String, bool)> = vec![];
        for name in std::iter::once(host.name.as_str()).chain(twin.registry.aliases_of(&host.name)) {
            domains.push((name.to_owned(), false));
            domains.extend(
                short_names(name, &self.proxy.key.node.namespace).into_iter().map(|name| (name, true)),
            );
        }
        if host.resolution == Resolution::Original && matches!(host.origin, Origin::Service(_)) {
            // Pods of a headless Service are called by names of their own.
            let below: Vec<_> = domains.iter().map(|(domain, _)| (format!("*.{domain}"), false)).collect();
            domains.extend(below);
        }
        let addresses = host.addresses.iter().filter_map(Block::single);
        let addresses = addresses.chain(host.allocated.filter(|_| self.proxy.key.dns));
        domains.extend(addresses.map(|ip| (ip.to_string(), false)));
        self.push(format!("{}:{}", host.name, self.port), domains, routes);
    }

    /// A virtual host; a short name that is some host's full one is left to that.
    fn push(&mut self, name: String, domains: Vec<(String, bool)>, routes: Vec<Route>) {
        if !self.names.insert(name.clone()) {
            return;
        }
        let keeps = |(domain, short): &(String, bool)| !(*short && self.full_names.contains(domain.as_str()));
        let domains = domains.into_iter().filter(keeps).map(|(domain, _)| domain).collect();
        self.out.push(VirtualHost { name, domains, routes, require_tls: None });
    }
}

/// The shorter names by which a pod of a namespace can call a host of the cluster.
fn short_names(host: &str, namespace: &str) -> Vec<String> {
    let Some(bare) = host.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}")) else { return vec![] };
    let Some((name, own)) = bare.split_once('.') else { return vec![] };
    let mut out = vec![];
    if own == namespace {
        out.push(name.to_owned());
    }
    out.extend([format!("{bare}.svc"), bare.to_owned()]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_the_cluster_has_short_names() {
        assert_eq!(short_names("a.n.svc.cluster.local", "n"), ["a", "a.n.svc", "a.n"]);
        assert_eq!(short_names("a.n.svc.cluster.local", "m"), ["a.n.svc", "a.n"]);
        assert!(short_names("a.example.com", "n").is_empty());
    }
}
