//! The way of a request from its source to whoever takes it.

use super::Twin;
use super::answer::{Answer, Outcome, Step};
use core::net::IpAddr;

use super::ask::{Ask, Mode, Origin, ProxyNode, Request, Target};
use super::backend;
use super::http::table::Destination;
use super::istio::proxy::ProxyKey;
use super::listener::Connection;
use super::party::{Party, Peer};
use super::policy::{self, Arriving, ClientTls, Passage, Ruling};
use super::simulate;

/// Walks a request through the mesh.
pub(super) fn answer(twin: &Twin<'_>, ask: &Ask) -> Answer {
    let mut answer = Answer { name: ask.name.clone(), ..Answer::default() };
    match &ask.from {
        Origin::Proxy(node, mode) => through_proxy(twin, node, *mode, &ask.request, &mut answer),
        Origin::Gateway(_) => answer.give_up("a gateway is not modelled as a source"),
        Origin::Workload(named) => match Party::find(twin.snapshot, named) {
            Some(party) => from_peer(twin, &Peer::Pod(party), &ask.request, &mut answer),
            None => answer.give_up(format!("the source {} is not among what was read", named.reference())),
        },
        Origin::Ip(ip) => from_peer(twin, &Peer::at(twin.snapshot, ip), &ask.request, &mut answer),
        Origin::IngressController => from_peer(twin, &Peer::IngressController, &ask.request, &mut answer),
    }
    answer
}

/// From a pod or an address.
fn from_peer(twin: &Twin<'_>, from: &Peer<'_>, request: &Request, answer: &mut Answer) {
    if from.has_proxy() {
        return answer.give_up(format!("{from} has a sidecar, which is not modelled as a source"));
    }
    let to = match &request.to {
        Some(Target::Ip { ip }) => Peer::at(twin.snapshot, ip),
        Some(Target::Object(named)) => match Party::find(twin.snapshot, named) {
            Some(party) => Peer::Pod(party),
            None => {
                return answer
                    .give_up(format!("the destination {} is not among what was read", named.reference()));
            }
        },
        None => return answer.give_up("the resolution of host names is not modelled"),
    };
    deliver(twin, from, &to, request, answer);
}

/// The last hop without a proxy at the source.
fn deliver(twin: &Twin<'_>, from: &Peer<'_>, to: &Peer<'_>, request: &Request, answer: &mut Answer) {
    let port = request.destination_port();
    let sni = request.server_name();
    answer.steps.push(Step::plain(format!("{from} connects to {to} on port {port}")));
    let arriving = request.protocol.is_http().then_some(Arriving {
        method: &request.method,
        host: &request.host,
        path: &request.path,
        headers: Some(&request.headers),
    });
    let verdict = policy::admit(
        twin,
        &Passage {
            from,
            to,
            protocol: request.protocol,
            port,
            tls: ClientTls::AsSent(request.tls),
            sni: sni.as_deref(),
            request: arriving,
            remote_ip: None,
        },
    );
    answer.steps.extend(verdict.steps);
    match verdict.ruling {
        Ruling::Allowed => {
            answer.outcome = Outcome::Forwarded;
            answer.detail = format!("{to} takes it on port {port}");
        }
        Ruling::Refused { status: Some(status), flag, detail } => answer.respond(status, flag, detail),
        Ruling::Refused { status: None, flag, detail } => answer.refuse(flag, detail),
        Ruling::NotModelled(reason) => answer.give_up(reason),
    }
}

/// Through one proxy as such, up to the cluster that it chooses.
fn through_proxy(twin: &Twin<'_>, node: &ProxyNode, mode: Mode, request: &Request, answer: &mut Answer) {
    let ip: Option<IpAddr> = match &request.to {
        Some(Target::Ip { ip }) => ip.parse().ok(),
        Some(Target::Object(named)) => {
            return answer
                .give_up(format!("{} has no address here: name one with `to: {{ip}}`", named.reference()));
        }
        None => None,
    };
    // Addresses that the mesh's own name server gives out are known to its clients alone.
    let dns = ip.is_some_and(|ip| twin.registry.is_allocated(ip)) || dns_capture(twin);
    let proxy = twin.proxy(ProxyKey { node: node.clone(), dns });
    let connection = Connection::of(request, ip, request.destination_port());
    let Some(onward) = simulate::enter(twin, &proxy, mode, &connection, request, answer) else { return };
    if let Some(http) = onward.http {
        answer.sent = http.sent;
        answer.mirrors =
            http.mirrors.iter().filter_map(|to| backend::of(twin, to, &node.namespace)).collect();
    }
    answer.backends = backend::backends(twin, &onward.to, &node.namespace);
    let first = onward.to.first().map(|to| &to.to);
    answer.cluster = first.map(Destination::cluster).unwrap_or_default();
    match first {
        Some(Destination::BlackHole) => answer.refuse("UH", "nothing that the mesh knows is there"),
        Some(Destination::Broken(status, why)) => answer.respond(*status, "", why.clone()),
        _ => {
            answer.outcome = Outcome::Forwarded;
            answer.detail = format!("the proxy sends it to {}", answer.cluster);
        }
    }
}

/// Whether proxies answer for the name server, by the mesh's defaults.
fn dns_capture(twin: &Twin<'_>) -> bool {
    use crate::model::fields::Fields;
    let config = &twin.snapshot.istio.mesh_config;
    config.text("defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE") == Some("true")
}
