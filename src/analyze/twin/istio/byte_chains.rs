//! The filter chains of bytes: hosts' own, and those of `tls` and `tcp` rules.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::outbound::Claim;
use super::proxy::Proxy;
use super::route::{Audience, destination};
use super::virtual_services::{Effective, MESH};
use crate::analyze::twin::Twin;
use crate::analyze::twin::address::Block;
use crate::analyze::twin::http::table::{Destination, Weighted};
use crate::analyze::twin::listener::{Chain, ChainMatch, Filter};
use crate::model::fields::Fields;
use crate::model::mesh::istio::hosts_overlap;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;

/// The filter chains of a host's bytes, by its VirtualServices' `tls` or `tcp` rules.
pub(super) fn l4_chains<'a>(
    twin: &Twin<'a>,
    proxy: &Proxy<'a>,
    services: &[&Effective],
    claim: &Claim<'_, '_>,
) -> Vec<Chain> {
    let audience = Audience {
        twin,
        scope: &proxy.scope,
        namespace: &proxy.key.node.namespace,
        labels: &proxy.key.node.labels,
        gateway: MESH,
        port: claim.port,
        tls: false,
    };
    let own = services.iter().filter(|vs| vs.hosts.iter().any(|host| hosts_overlap(host, &claim.host.name)));
    if claim.protocol == Protocol::Tls {
        tls_chains(own, claim, &audience)
    } else {
        tcp_chains(own, claim, &audience)
    }
}

fn tls_chains<'v>(
    services: impl Iterator<Item = &'v &'v Effective>,
    claim: &Claim<'_, '_>,
    audience: &Audience<'_, '_>,
) -> Vec<Chain> {
    let mut out: Vec<Chain> = vec![];
    let mut seen = BTreeSet::new();
    for vs in services {
        for (rule, source) in &vs.tls {
            for (at, condition) in rule.list("match").iter().enumerate() {
                let (names, subnets) = (condition.texts("sniHosts"), condition.texts("destinationSubnets"));
                if !l4_meant_for(condition, audience) || !seen.insert((names.clone(), subnets.clone())) {
                    continue;
                }
                let blocks = if subnets.is_empty() { claim.blocks.clone() } else { parse_blocks(&subnets) };
                let source = source.field(format!("{}.match[{at}]", source.field_path));
                out.push(l4_chain(names, blocks, weighted(rule, vs, &source, audience), Some(source)));
            }
        }
    }
    if out.is_empty() {
        // Where hosts share an address only the server name tells them apart.
        let shared = claim.ip.is_none();
        let names = if shared { vec![claim.host.name.clone()] } else { vec![] };
        out.push(l4_chain(names, claim.blocks.clone(), vec![whole(claim)], None));
    }
    out
}

fn tcp_chains<'v>(
    services: impl Iterator<Item = &'v &'v Effective>,
    claim: &Claim<'_, '_>,
    audience: &Audience<'_, '_>,
) -> Vec<Chain> {
    let mut out = vec![];
    for vs in services {
        for (rule, source) in &vs.tcp {
            let conditions = rule.list("match");
            let mut subnets = vec![];
            let mut everything = conditions.is_empty();
            for condition in conditions.iter().filter(|condition| l4_meant_for(condition, audience)) {
                let own = condition.texts("destinationSubnets");
                everything |= own.is_empty();
                subnets.extend(own);
            }
            let to = || weighted(rule, vs, source, audience);
            if everything {
                out.push(l4_chain(vec![], claim.blocks.clone(), to(), Some(source.clone())));
                return out;
            }
            if !subnets.is_empty() {
                out.push(l4_chain(vec![], parse_blocks(&subnets), to(), Some(source.clone())));
            }
        }
    }
    if !out.iter().any(|chain: &Chain| !claim.blocks.is_empty() && chain.matching.blocks == claim.blocks) {
        out.push(l4_chain(vec![], claim.blocks.clone(), vec![whole(claim)], None));
    }
    out
}

fn parse_blocks(texts: &[String]) -> Vec<Block> {
    texts.iter().filter_map(|text| Block::parse(text)).collect()
}

fn l4_chain(sni: Vec<String>, blocks: Vec<Block>, to: Vec<Weighted>, source: Option<ObjectRef>) -> Chain {
    let sni = if sni.iter().any(|name| name == "*") { vec![] } else { sni };
    Chain {
        name: String::new(),
        matching: ChainMatch { sni, blocks, ..ChainMatch::default() },
        tls: None,
        filter: Filter::Tcp(to),
        source,
    }
}

/// The host itself; where the listener's port is none of its ports and it has only one, that one.
fn whole(claim: &Claim<'_, '_>) -> Weighted {
    let port = claim.host.only_port().unwrap_or(claim.port);
    let to = Destination::Host { host: claim.host.name.clone(), subset: String::new(), port };
    Weighted::whole(to, claim.host.reference().clone())
}

/// The destinations of a `tls` or `tcp` rule.
pub(super) fn weighted(
    rule: &Value,
    vs: &Effective,
    source: &ObjectRef,
    audience: &Audience<'_, '_>,
) -> Vec<Weighted> {
    let entries = rule.list("route");
    let rule_path = source.field_path.split(".match[").next().unwrap_or_default().to_owned();
    let mut out = vec![];
    for (at, entry) in entries.iter().enumerate() {
        let weight = entry.int("weight").and_then(|weight| u32::try_from(weight).ok()).unwrap_or(0);
        if entries.len() > 1 && weight == 0 {
            continue;
        }
        let to = destination(entry.at("destination").unwrap_or(&Value::Null), vs.namespace(), audience);
        let field = format!("{rule_path}.route[{at}].destination");
        out.push(Weighted { weight: weight.max(1), ..Weighted::whole(to, source.field(field)) });
    }
    out
}

/// Whether the parts of a `tls` or `tcp` condition that concern the proxy hold; unlike those of `http`, labels count beside
/// gateways.
pub(super) fn l4_meant_for(condition: &Value, audience: &Audience<'_, '_>) -> bool {
    let gateways = condition.texts("gateways");
    let labels = condition.text_map("sourceLabels");
    let namespace = condition.text("sourceNamespace").unwrap_or_default();
    let port = condition.int("port").filter(|port| *port != 0);
    (gateways.is_empty() || gateways.iter().any(|gateway| gateway == audience.gateway))
        && labels.iter().all(|(key, value)| audience.labels.get(key) == Some(value))
        && (namespace.is_empty() || namespace == audience.namespace)
        && port.is_none_or(|port| port == i64::from(audience.port))
}
