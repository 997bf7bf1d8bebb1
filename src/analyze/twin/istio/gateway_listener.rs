//! What a gateway's proxy listens on.

use std::collections::BTreeSet;

use super::byte_chains::{l4_meant_for, weighted};
use super::gateway::{Group, Merged, Server};
use super::outbound::wildcard_of;
use super::proxy::Proxy;
use super::route::Audience;
use super::subset_of;
use super::virtual_services::Effective;
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::ProxyNode;
use crate::analyze::twin::http::table::Weighted;
use crate::analyze::twin::listener::{Chain, ChainMatch, Filter, Inspect, Listener, Termination};
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;

/// The listener of a port; `None` where no server of it has anything to do.
pub(super) fn listener<'a>(
    twin: &Twin<'a>,
    proxy: &Proxy<'a>,
    merged: &Merged,
    port: u16,
) -> Option<Listener> {
    let node = &proxy.key.node;
    let groups = merged.ports.get(&port)?;
    // Where several addresses share a port, the one that takes all of them is asked for.
    let group = groups.iter().find(|group| group.bind.is_empty()).or_else(|| groups.first())?;
    let bind = if group.bind.is_empty() { wildcard_of(&node.ips) } else { group.bind.as_str() };
    let chains = chains(twin, proxy, group);
    if chains.is_empty() {
        return None;
    }
    let reads_tls = chains.iter().any(|chain| !chain.matching.sni.is_empty() || chain.tls.is_some());
    Some(Listener {
        name: format!("{bind}_{port}"),
        chains,
        default: None,
        tls_inspector: Inspect::all(reads_tls),
        http_inspector: Inspect::all(false),
    })
}

fn chains<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, group: &Group) -> Vec<Chain> {
    let mut out = vec![];
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut plain = false;
    for server in &group.servers {
        let source = Some(server.declared.source.clone());
        if server.protocol().is_http() {
            // Servers of plaintext HTTP share one chain: their route table tells them apart.
            if !plain {
                out.push(chain(vec![], None, Filter::Http(server.table.clone(), None), source));
            }
            plain = true;
        } else if server.is_https() {
            let filter = Filter::Http(server.table.clone(), None);
            out.push(chain(server.server_names(), termination(server), filter, source));
        } else if server.passes_tls() {
            out.extend(passed(twin, proxy, server, &mut names));
        } else if let Some((to, source)) = tcp(twin, proxy, server) {
            let sni = if server.declared.tls.is_some() { server.server_names() } else { vec![] };
            out.push(chain(sni, termination(server), Filter::Tcp(to), Some(source)));
        }
    }
    out
}

fn chain(sni: Vec<String>, tls: Option<Termination>, filter: Filter, source: Option<ObjectRef>) -> Chain {
    let sni = if sni.iter().any(|name| name == "*") { vec![] } else { sni };
    Chain { name: String::new(), matching: ChainMatch { sni, ..ChainMatch::default() }, tls, filter, source }
}

fn termination(server: &Server) -> Option<Termination> {
    server.tls_mode().map(|mode| match mode {
        "MUTUAL" | "ISTIO_MUTUAL" => Termination::MUTUAL,
        "OPTIONAL_MUTUAL" => Termination::OPTIONAL,
        _ => Termination::SIMPLE,
    })
}

/// The VirtualServices that speak for one of a server's hosts.
fn bound<'t>(
    twin: &'t Twin<'_>,
    node: &'t ProxyNode,
    server: &'t Server,
) -> impl Iterator<Item = &'t Effective> {
    let all = twin.virtual_services.bound(&server.gateway, &node.namespace);
    all.into_iter().filter(move |vs| {
        vs.hosts.iter().any(|host| {
            server.declared.hosts.iter().any(|own| match own.split_once('/') {
                Some((namespace, own)) => namespace == vs.namespace() && meets(own, host),
                None => meets(own, host),
            })
        })
    })
}

fn meets(own: &str, host: &str) -> bool {
    subset_of(host, own) || subset_of(own, host)
}

fn audience<'t, 'a>(twin: &'t Twin<'a>, proxy: &'t Proxy<'a>, server: &'t Server) -> Audience<'t, 'a> {
    let node = &proxy.key.node;
    Audience {
        twin,
        scope: &proxy.scope,
        namespace: &node.namespace,
        labels: &node.labels,
        gateway: &server.gateway,
        port: server.declared.port,
        tls: server.declared.tls.is_some(),
    }
}

/// The destinations of a server's bytes: those of the first `tcp` rule that is meant for it.
fn tcp<'a>(twin: &Twin<'a>, proxy: &Proxy<'a>, server: &Server) -> Option<(Vec<Weighted>, ObjectRef)> {
    let audience = audience(twin, proxy, server);
    bound(twin, &proxy.key.node, server).find_map(|vs| {
        vs.tcp.iter().find_map(|(rule, source)| {
            let conditions = rule.list("match");
            let meant =
                conditions.is_empty() || conditions.iter().any(|entry| l4_meant_for(entry, &audience));
            meant.then(|| (weighted(rule, vs, source, &audience), source.clone()))
        })
    })
}

/// The filter chains of TLS that goes through a server unread, by server name. A name that an earlier rule took on the port
/// is left to that.
fn passed<'a>(
    twin: &Twin<'a>,
    proxy: &Proxy<'a>,
    server: &Server,
    names: &mut BTreeSet<String>,
) -> Vec<Chain> {
    let audience = audience(twin, proxy, server);
    let mut out = vec![];
    for vs in bound(twin, &proxy.key.node, server) {
        for (rule, source) in &vs.tls {
            for (at, condition) in rule.list("match").iter().enumerate() {
                let sni: Vec<String> =
                    condition.texts("sniHosts").iter().map(|name| name.to_ascii_lowercase()).collect();
                if !l4_meant_for(condition, &audience) || sni.iter().any(|name| names.contains(name)) {
                    continue;
                }
                names.extend(sni.iter().cloned());
                let source = source.field(format!("{}.match[{at}]", source.field_path));
                let to = weighted(rule, vs, &source, &audience);
                out.push(chain(sni, None, Filter::Tcp(to), Some(source)));
            }
        }
    }
    out
}
