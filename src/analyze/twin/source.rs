//! From where a request starts: a pod with or without a sidecar, an address, a gateway, or one proxy as such.

use core::net::IpAddr;

use super::Twin;
use super::answer::{Answer, Outcome, Step};
use super::ask::{self, Mode, Named, ProxyNode, ProxyType, Request};
use super::backend;
use super::deliver::{Leg, door};
use super::endpoints::Endpoint;
use super::http::table::Destination;
use super::istio::envoy_filter;
use super::istio::gateway::Declaration;
use super::istio::proxy::ProxyKey;
use super::istio::targets::named_port;
use super::listener::Connection;
use super::party::{Party, Peer};
use super::policy;
use super::registry::Host;
use super::registry::Origin::Entry;
use super::resolve::{Place, Resolved, Unresolved, resolve};
use super::simulate;
use super::waypoint::{self, Target};
use crate::model::fields::Fields;
use crate::model::mesh::istio::full_host;
use crate::model::network::TargetPort;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;

/// From a pod or an address.
pub(super) fn from_peer(twin: &Twin<'_>, from: &Peer<'_>, request: &Request, answer: &mut Answer) {
    let port = request.destination_port();
    let stream = request.protocol.is_http() || request.protocol == super::ask::Protocol::Tcp;
    let party = from.party();
    let proxied = party.filter(|party| party.proxy && stream && !bypasses(party, port));
    if party.is_some_and(|party| party.proxy && stream) && proxied.is_none() {
        answer.steps.push(Step::plain(format!("the sidecar of {from} leaves port {port} alone")));
    }
    let mesh_dns = proxied.is_some_and(|party| dns_capture(twin, Some(party)));
    let namespace = party.map_or("", |party| party.namespace());
    let resolved = match resolve(twin, request, namespace, mesh_dns) {
        Ok(resolved) => resolved,
        Err(Unresolved::NoSuchName(why)) => return answer.refuse("", why),
        Err(Unresolved::Unknown(why)) => return answer.give_up(why),
    };
    tell(request, &resolved, answer);
    let nobody = Labels::new();
    let leg = Leg {
        twin,
        from,
        namespace,
        labels: party.map_or(&nobody, |party| party.labels()),
        place: &resolved.place,
        ip: resolved.ip,
        port,
        request,
        routing: None,
        scope: None,
        door: false,
        h2: false,
        expects: &[],
    };
    let carried = party.filter(|party| proxied.is_none() && stream && policy::captured(twin.snapshot, party));
    if carried.is_some() && through_waypoint(&leg, answer) {
        return;
    }
    match proxied {
        Some(party) => through_sidecar(party, &leg, resolved.by_mesh, answer),
        None => match &resolved.place {
            Place::Service(service) => leg.directly(service, answer),
            Place::Pod(party) => {
                leg.to_pod(Endpoint { party: (**party).clone(), port }, answer);
            }
            Place::Address(ip) => leg.reach_outside(Some(*ip), &ip.to_string(), answer),
            Place::Outside(name) => leg.reach_outside(None, name, answer),
        },
    }
}

/// Through the waypoint before the destination of a pod whose connections ztunnel carries; `false` where none stands there.
fn through_waypoint(leg: &Leg<'_, '_, '_>, answer: &mut Answer) -> bool {
    let registry = &leg.twin.registry;
    let entry = |host: &&Host<'_>| matches!(host.origin, Entry(_));
    match leg.place {
        // The name of a headless Service leads to a pod's own address.
        Place::Service(service) if service.headless() => {
            let pods = leg.twin.snapshot.pods_behind(service).find(|pod| pod.ready() || !pod.has_status());
            let Some(pod) = pods else { return false };
            waypoint::carry(leg, Target::Pod(&Party::of_pod(leg.twin.snapshot, pod)), "ztunnel", answer)
        }
        Place::Service(service) => {
            let full = full_host(service.object.name(), service.object.namespace());
            let own = registry.named(&full).find(|host| !entry(host));
            own.is_some_and(|host| waypoint::carry(leg, Target::Host(host), "ztunnel", answer))
        }
        Place::Pod(party) => waypoint::carry(leg, Target::Pod(party), "ztunnel", answer),
        Place::Outside(name) => {
            let own = registry.find_with_port(name, leg.namespace, leg.port);
            let own = own.or_else(|| registry.pattern_for(name, leg.namespace)).filter(entry);
            own.is_some_and(|host| waypoint::carry(leg, Target::Host(host), "ztunnel", answer))
        }
        Place::Address(ip) => {
            let own = registry.at(*ip).into_iter().find(entry);
            own.is_some_and(|host| waypoint::carry(leg, Target::Host(host), "ztunnel", answer))
        }
    }
}

/// What the name server answered.
fn tell(request: &Request, resolved: &Resolved<'_>, answer: &mut Answer) {
    let (host, _) = request.authority();
    let host = if request.to.is_some() || host.is_empty() { "the destination".to_owned() } else { host };
    answer.steps.push(match &resolved.place {
        Place::Service(service) => {
            Step::by(service.reference(), format!("{host} is {}", service.reference()))
        }
        Place::Pod(party) => Step::plain(format!("{host} is a pod of {}", party.reference)),
        Place::Address(ip) => Step::plain(format!("{host} is {ip}, an address of nothing that was seen")),
        Place::Outside(name) => Step::plain(format!(
            "{host} is a host outside of the cluster{}",
            if *name == host { String::new() } else { format!(": {name}") }
        )),
    });
}

fn through_sidecar(party: &Party<'_>, leg: &Leg<'_, '_, '_>, by_mesh: bool, answer: &mut Answer) {
    let twin = leg.twin;
    let node = ProxyNode {
        namespace: party.namespace().to_owned(),
        kind: ProxyType::Sidecar,
        labels: party.labels().clone(),
        ips: party.ips().to_vec(),
    };
    if let Some(at) = envoy_filter::changing(twin, &node, Mode::Outbound, leg.port) {
        return answer.give_up(format!("{} of {at} changes the proxy's configuration", at.field_path));
    }
    let dns = by_mesh || dns_capture(twin, Some(party));
    let proxy = twin.proxy(ProxyKey { node: shared(twin, node), dns });
    if let Some(sidecar) = proxy.scope.sidecar {
        let reference = &sidecar.object.reference;
        answer
            .steps
            .push(Step::by(reference, format!("{reference} says what the proxy of {} sees", leg.from)));
    }
    let connection = Connection::of(leg.request, leg.ip, leg.port);
    let onward = simulate::enter(twin, &proxy, Mode::Outbound, &connection, leg.request, answer);
    if let Some(onward) = onward {
        Leg { scope: Some(&proxy.scope), ..*leg }.deliver(&onward, answer);
    }
}

/// What of a pod decides on what its sidecar sends where no object tells clients apart by their labels: the namespace alone.
/// All its sidecars then share one configuration.
fn shared(twin: &Twin<'_>, node: ProxyNode) -> ProxyNode {
    let picked = twin
        .snapshot
        .istio
        .sidecars
        .iter()
        .any(|sidecar| sidecar.object.namespace() == node.namespace && !sidecar.selector.is_empty());
    if picked || twin.virtual_services.tell_clients_apart() || node.ips.iter().any(|ip| ip.contains(':')) {
        return node;
    }
    ProxyNode { labels: Labels::new(), ips: vec![], ..node }
}

/// Whether a pod's sidecar leaves what it sends to a port to itself.
fn bypasses(party: &Party<'_>, port: u16) -> bool {
    let listed = |key: &str| party.template.annotations.get(&format!("traffic.sidecar.istio.io/{key}"));
    let has = |list: &str| list.split(',').any(|own| own.trim().parse() == Ok(port));
    listed("excludeOutboundPorts").is_some_and(has)
}

/// Whether a pod's proxy answers for the name server: by its own word, else by the mesh's defaults.
fn dns_capture(twin: &Twin<'_>, party: Option<&Party<'_>>) -> bool {
    const KEY: &str = "ISTIO_META_DNS_CAPTURE";
    let own = party.and_then(|party| party.template.annotations.get("proxy.istio.io/config"));
    let own = own
        .and_then(|text| text.split_once(KEY))
        .map(|(_, rest)| rest.trim_start_matches(['"', '\'', ':', ' ']));
    if let Some(word) = own {
        return word.starts_with("true");
    }
    let config = &twin.snapshot.istio.mesh_config;
    config.text(&format!("defaultConfig.proxyMetadata.{KEY}")) == Some("true")
}

/// From a client outside, at a Gateway of Istio's.
pub(super) fn at_gateway(twin: &Twin<'_>, named: &Named, request: &Request, answer: &mut Answer) {
    let name = format!("{}/{}", named.namespace, named.name);
    let Some(gateway) = twin.gateways.iter().find(|gateway| gateway.name == name) else {
        return answer.give_up(format!("Gateway {name} is not among what was read"));
    };
    let serving = twin.serving(gateway);
    if twin.snapshot.runs() && serving.as_ref().is_none_or(|party| party.pod.is_none_or(|pod| !pod.ready())) {
        return answer.refuse("", format!("no ready pod serves Gateway {name}"));
    }
    let node = match &serving {
        Some(party) => ProxyNode {
            namespace: party.namespace().to_owned(),
            kind: ProxyType::Router,
            labels: party.labels().clone(),
            ips: party.ips().to_vec(),
        },
        None => ProxyNode {
            namespace: named.namespace.clone(),
            kind: ProxyType::Router,
            labels: gateway.selector.clone(),
            ips: vec![],
        },
    };
    let outside = request.destination_port();
    let port = pods_port(twin, serving.as_ref(), outside);
    if let Some(at) = envoy_filter::changing(twin, &node, Mode::Gateway, port) {
        return answer.give_up(format!("{} of {at} changes the proxy's configuration", at.field_path));
    }
    if port != outside {
        answer
            .steps
            .push(Step::plain(format!("the Service of Gateway {name} maps port {outside} to {port}")));
    }
    let proxy = twin.proxy(ProxyKey { node: node.clone(), dns: false });
    let connection = Connection::of(request, None, port);
    let onward = simulate::enter(twin, &proxy, Mode::Gateway, &connection, request, answer);
    let party = match serving {
        Some(party) => party,
        None if door::decided(twin.snapshot) => {
            let why =
                format!("nothing that serves Gateway {name} was read, and policies decide by who calls");
            if onward.is_some() {
                answer.give_up(why);
            }
            return;
        }
        None => Party {
            reference: ObjectRef::new("Pod", &node.namespace, "the gateway"),
            template: &twin.blank,
            pod: None,
            proxy: false,
        },
    };
    if !door::admits(twin, &party, (request, port), answer) {
        return;
    }
    if let Some(onward) = onward {
        let own = (node.namespace.as_str(), &node.labels, Some(&proxy.scope));
        door::send_on(twin, party, own, (request, port), &onward, answer);
    }
}

/// What serves a Gateway: a pod that its selector picks, a ready one rather than another, or what would make one.
pub(super) fn serving<'a>(twin: &Twin<'a>, gateway: &Declaration) -> Option<Party<'a>> {
    let snapshot = twin.snapshot;
    let picks = |labels: &Labels| {
        !gateway.selector.is_empty()
            && gateway.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let pods: Vec<_> =
        snapshot.pods.iter().filter(|pod| !pod.ended() && picks(&pod.template.labels)).collect();
    if let Some(pod) = pods.iter().find(|pod| pod.ready()).or(pods.first()) {
        return Some(Party { proxy: false, ..Party::of_pod(snapshot, pod) });
    }
    let workload =
        snapshot.workloads.iter().find(|w| w.object.owners.is_empty() && picks(&w.template.labels))?;
    Some(Party {
        reference: workload.reference().clone(),
        template: &workload.template,
        pod: None,
        proxy: false,
    })
}

/// The port of a gateway's pod to which its Service maps a port; the port itself where no Service has it.
pub(super) fn pods_port(twin: &Twin<'_>, party: Option<&Party<'_>>, port: u16) -> u16 {
    let Some(party) = party else { return port };
    let services =
        twin.snapshot.services.iter().filter(|s| s.selects_labels(party.namespace(), party.labels()));
    let mapped = services.filter_map(|service| service.port(i64::from(port))).next().map(|own| &own.target);
    let number = match mapped {
        Some(TargetPort::Number(number)) => u16::try_from(*number).ok(),
        Some(TargetPort::Name(name)) => named_port(party.template, name),
        None => None,
    };
    number.unwrap_or(port)
}

/// Through one proxy as such, up to the cluster that it chooses.
pub(super) fn through_proxy(
    twin: &Twin<'_>,
    node: &ProxyNode,
    mode: Mode,
    request: &Request,
    answer: &mut Answer,
) {
    let ip: Option<IpAddr> = match &request.to {
        Some(ask::Target::Ip { ip }) => ip.parse().ok(),
        Some(ask::Target::Object(_)) => match resolve(twin, request, &node.namespace, false) {
            Ok(resolved) => resolved.ip,
            Err(Unresolved::NoSuchName(why) | Unresolved::Unknown(why)) => return answer.give_up(why),
        },
        None if mode == Mode::Outbound => {
            resolve(twin, request, &node.namespace, false).ok().and_then(|r| r.ip)
        }
        None => None,
    };
    if let Some(at) = envoy_filter::changing(twin, node, mode, request.destination_port()) {
        return answer.give_up(format!("{} of {at} changes the proxy's configuration", at.field_path));
    }
    // Addresses that the mesh's own name server gives out are known to its clients alone.
    let dns = ip.is_some_and(|ip| twin.registry.is_allocated(ip)) || dns_capture(twin, None);
    let proxy = twin.proxy(ProxyKey { node: node.clone(), dns });
    let connection = Connection::of(request, ip, request.destination_port());
    let Some(onward) = simulate::enter(twin, &proxy, mode, &connection, request, answer) else { return };
    let scope = Some(&proxy.scope);
    if let Some(http) = onward.http {
        answer.sent = http.sent;
        answer.mirrors =
            http.mirrors.iter().filter_map(|to| backend::of(twin, scope, to, &node.namespace)).collect();
    }
    answer.backends = backend::backends(twin, scope, &onward.to, &node.namespace);
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
