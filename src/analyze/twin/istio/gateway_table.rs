//! The route tables of a gateway's proxy.

use std::collections::BTreeMap;

use super::gateway::Merged;
use super::proxy::Proxy;
use super::route::{Audience, routes, takes_everything};
use super::subset_of;
use crate::analyze::twin::Twin;
use crate::analyze::twin::http::table::{RouteTable, VirtualHost};

/// The table of a name: the hosts of all its servers, with the routes of the VirtualServices bound to their Gateways. Those of
/// several VirtualServices for one host add up; a route that takes everything goes behind the others.
pub(super) fn table<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, merged: &Merged, name: &str) -> RouteTable {
    let node = &proxy.key.node;
    let mut table = RouteTable::new(name);
    let servers = merged.tables.get(name).map_or(&[][..], Vec::as_slice);
    let mut hosts: BTreeMap<String, VirtualHost> = BTreeMap::new();
    let mut done: BTreeMap<(String, String), Vec<_>> = BTreeMap::new();
    for server in servers {
        let port = server.declared.port;
        let audience = Audience {
            twin,
            scope: &proxy.scope,
            namespace: &node.namespace,
            labels: &node.labels,
            gateway: &server.gateway,
            port,
            tls: server.declared.tls.is_some(),
        };
        for vs in twin.virtual_services.bound(&server.gateway, &node.namespace) {
            let shared = intersection(&server.declared.hosts, vs.namespace(), &vs.hosts);
            if shared.is_empty() {
                continue;
            }
            let key = (server.gateway.clone(), vs.reference.to_string());
            let made = done.entry(key).or_insert_with(|| routes(vs, &audience)).clone();
            if made.is_empty() {
                continue;
            }
            for host in shared {
                let entry = hosts.entry(host.clone()).or_insert_with(|| virtual_host(&host, port));
                entry.routes.extend(made.iter().cloned());
                if server.redirects() {
                    entry.require_tls = Some(redirect_field(server));
                }
            }
        }
        if server.redirects() {
            // A host for one namespace is no name that a request has; it redirects where a VirtualService shares it.
            for host in server.declared.hosts.iter().filter(|host| !host.contains('/')) {
                let entry = hosts.entry(host.clone()).or_insert_with(|| virtual_host(host, port));
                entry.require_tls = Some(redirect_field(server));
            }
        }
    }
    if hosts.is_empty() {
        let port = servers.first().map_or(0, |server| server.declared.port);
        table.push(VirtualHost { domains: vec!["*".to_owned()], ..virtual_host("blackhole", port) });
    }
    for (_, mut host) in hosts {
        host.routes.sort_by_key(|route| takes_everything(&route.matching));
        table.push(host);
    }
    table
}

fn virtual_host(host: &str, port: u16) -> VirtualHost {
    VirtualHost {
        name: format!("{host}:{port}"),
        domains: vec![host.to_owned()],
        routes: vec![],
        require_tls: None,
    }
}

fn redirect_field(server: &super::gateway::Server) -> crate::model::object::ObjectRef {
    let source = &server.declared.source;
    source.field(format!("{}.tls.httpsRedirect", source.field_path))
}

/// The hosts that a server and a VirtualService share: of each pair that meets, the narrower one.
fn intersection(server: &[String], namespace: &str, hosts: &[String]) -> Vec<String> {
    let mut out: Vec<String> = vec![];
    for written in server {
        let own = match written.split_once('/') {
            Some((wanted, _)) if wanted != namespace => continue,
            Some((_, own)) => own,
            None => written.as_str(),
        };
        for host in hosts {
            let narrower = if subset_of(host, own) {
                host.as_str()
            } else if subset_of(own, host) {
                own
            } else {
                continue;
            };
            if !out.iter().any(|known| known == narrower) {
                out.push(narrower.to_owned());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_host_of_each_pair_counts() {
        let own = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            intersection(&own(&["*.a.com", "b/x.com"]), "b", &own(&["1.a.com", "*.com"])),
            ["1.a.com", "*.a.com", "x.com"]
        );
        assert_eq!(intersection(&own(&["b/x.com"]), "c", &own(&["*"])), Vec::<String>::new());
        assert_eq!(intersection(&own(&["*"]), "c", &own(&["*"])), ["*"]);
    }
}
