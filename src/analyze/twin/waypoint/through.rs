//! The way through a waypoint: its policies, the routes of what stands behind it, and on to the pods.

use std::sync::Arc;

use super::enforce::{changed, guards};
use super::{Binding, GATEWAY_CLASS, GATEWAY_NAME, MANAGED, of_host, of_pod};
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::{Answer, Outcome, Step};
use crate::analyze::twin::ask::{ProxyNode, ProxyType, Request, Tls};
use crate::analyze::twin::deliver::Leg;
use crate::analyze::twin::endpoints::Endpoint;
use crate::analyze::twin::gateway_api::attached;
use crate::analyze::twin::http::table::{Destination, Weighted};
use crate::analyze::twin::istio::host_matches;
use crate::analyze::twin::istio::proxy::{Proxy, ProxyKey};
use crate::analyze::twin::listener::{Chain, ChainMatch, Connection, Filter, Inspect, Listener};
use crate::analyze::twin::party::{Party, Peer};
use crate::analyze::twin::policy::{self, Arriving, ClientTls, Normalization, Passage, Ruling};
use crate::analyze::twin::registry::Host;
use crate::analyze::twin::respond::Routing;
use crate::analyze::twin::simulate;
use crate::model::mesh::gateway_api::Gateway;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::workload::{Pod, PodTemplate};

/// What a connection goes to.
#[derive(Debug, Clone, Copy)]
pub enum Target<'t, 'a> {
    /// The address of a host.
    Host(&'t Host<'a>),
    /// A pod's own address.
    Pod(&'t Party<'a>),
}

impl Target<'_, '_> {
    fn reference(&self) -> &ObjectRef {
        match self {
            Target::Host(host) => host.reference(),
            Target::Pod(party) => &party.reference,
        }
    }
}

/// Carries a connection to the waypoint before its destination; `false` where none takes it, so that it goes to the pods.
/// `carrier` hands it over: `ztunnel`, or a gateway.
pub fn carry(leg: &Leg<'_, '_, '_>, target: Target<'_, '_>, carrier: &str, answer: &mut Answer) -> bool {
    let snapshot = leg.twin.snapshot;
    let binding = match target {
        Target::Host(host) => of_host(snapshot, host.object()),
        Target::Pod(party) => of_pod(snapshot, &party.reference, party.labels()),
    };
    let gateway = match binding {
        Binding::None => return false,
        Binding::Loose(by, why) => {
            answer.steps.push(Step::by(&by, format!("{why}: the connection goes to the pods without it")));
            return false;
        }
        Binding::Unknown(why) => {
            answer.give_up(why);
            return true;
        }
        Binding::By(gateway, by) => {
            // What is not there is told by whoever looks for it next.
            if let Target::Host(host) = target
                && host.port(leg.port).is_none()
            {
                return false;
            }
            let called = called(gateway);
            let said = format!(
                "{carrier} carries the connection to {called}, which stands before {}",
                target.reference()
            );
            answer.steps.push(Step::by(&by, said));
            gateway
        }
    };
    let standing_in = template(gateway);
    match serving(leg.twin, gateway) {
        Some(party) if party.pod.is_some_and(|pod| !pod.ready()) && snapshot.runs() => {
            let why = format!("no pod of {} is ready: the connection is closed", called(gateway));
            answer.steps.push(Step::by(&gateway.object.reference, why.clone()));
            answer.refuse("", why);
        }
        Some(party) => through(leg, target, (gateway, party), answer),
        None => {
            let reference = gateway.object.reference.clone();
            let party = Party { reference, template: &standing_in, pod: None, proxy: false };
            through(leg, target, (gateway, party), answer);
        }
    }
    true
}

fn called(gateway: &Gateway) -> String {
    format!("waypoint {}/{}", gateway.object.namespace(), gateway.object.name())
}

/// What the mesh's controller makes the pods of a waypoint of, as far as others look at it.
fn template(gateway: &Gateway) -> PodTemplate {
    let object = &gateway.object;
    let labels: Labels = [(GATEWAY_NAME, object.name()), (GATEWAY_CLASS, gateway.class.as_str()), MANAGED]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let account = object.annotations.get("gateway.istio.io/service-account").unwrap_or(object.name());
    PodTemplate { labels, service_account: account.to_owned(), ..PodTemplate::read(&Arc::default()) }
}

/// A pod of a waypoint, a ready one rather than another; none where none was seen.
fn serving<'a>(twin: &Twin<'a>, gateway: &Gateway) -> Option<Party<'a>> {
    let (namespace, name) = (gateway.object.namespace(), gateway.object.name());
    twin.served_by(&called(gateway), |twin| {
        let own = |pod: &&'a Pod| {
            pod.object.namespace() == namespace
                && !pod.ended()
                && pod.object.labels.get(GATEWAY_NAME).is_some_and(|own| own == name)
        };
        let pods: Vec<&Pod> = twin.snapshot.pods.iter().filter(own).collect();
        let pod = pods.iter().find(|pod| pod.ready()).or(pods.first())?;
        Some(Party { proxy: false, ..Party::of_pod(twin.snapshot, pod) })
    })
}

fn through(
    leg: &Leg<'_, '_, '_>,
    target: Target<'_, '_>,
    (gateway, party): (&Gateway, Party<'_>),
    answer: &mut Answer,
) {
    let (twin, request) = (leg.twin, leg.request);
    let declared = match target {
        Target::Host(host) => host.port(leg.port).map_or(Protocol::Unknown, |port| port.protocol),
        Target::Pod(_) => Protocol::Unknown,
    };
    // TLS of the application's own goes through as bytes.
    let plain = request.protocol.is_http() && request.tls == Tls::Plaintext;
    let http = plain && (declared.is_http() || declared == Protocol::Unknown);
    let (namespace, labels) = (gateway.object.namespace().to_owned(), party.labels().clone());
    let waypoint = Peer::Pod(party);
    let host = match target {
        Target::Host(host) => Some(host.object()),
        Target::Pod(_) => None,
    };
    let passage = Passage {
        accepts: &[],
        from: leg.from,
        to: &waypoint,
        protocol: request.protocol,
        port: leg.port,
        tls: ClientTls::AsSent(request.tls),
        sni: None,
        request: http.then(|| Arriving {
            method: &request.method,
            host: &request.host,
            path: &request.path,
            headers: Some(&request.headers),
            undecided: None,
        }),
        remote_ip: None,
    };
    if let Some(at) = changed(twin, gateway, host) {
        return answer.give_up(format!("{} of {at} changes the waypoint's configuration", at.field_path));
    }
    let guards = guards(twin.snapshot, gateway, host, leg.ip);
    let verdict = policy::at_waypoint(twin, &passage, &guards, (http, !http && declared.is_http()));
    answer.steps.extend(verdict.steps);
    match verdict.ruling {
        Ruling::Allowed => {}
        Ruling::NotModelled(why) => return answer.give_up(why),
        Ruling::Refused { status: Some(status), flag, detail } => {
            return answer.respond(status, flag, detail);
        }
        Ruling::Refused { status: None, flag, detail } => return answer.refuse(flag, detail),
    }
    let routing = Routing::default();
    let onward_leg = Leg {
        twin,
        from: &waypoint,
        namespace: &namespace,
        labels: &labels,
        place: leg.place,
        ip: leg.ip,
        port: leg.port,
        request,
        routing: None,
        scope: None,
        door: false,
        h2: false,
        expects: &[],
    };
    match target {
        Target::Pod(pod) => {
            let leg = Leg { routing: http.then_some(&routing), ..onward_leg };
            leg.to_pod(Endpoint { party: pod.clone(), port: leg.port }, answer);
        }
        Target::Host(host) => {
            let node = ProxyNode {
                namespace: namespace.clone(),
                kind: ProxyType::Waypoint,
                labels: Labels::new(),
                ips: vec![],
            };
            let proxy = twin.proxy(ProxyKey { node, dns: false });
            route(&onward_leg, host, (&proxy, http || declared.is_http()), request, answer);
        }
    }
}

/// What the waypoint does with what it has admitted.
fn route<'a>(
    leg: &Leg<'_, 'a, '_>,
    host: &Host<'_>,
    (proxy, http): (&Proxy<'a>, bool),
    request: &Request,
    answer: &mut Answer,
) {
    let twin = leg.twin;
    if !http && let Some(by) = byte_rules(twin, host) {
        let by = by.field("");
        return answer
            .give_up(format!("{by} routes bytes to {} at a waypoint, which is not modelled", host.name));
    }
    let (host_name, port) = (host.name.as_str(), leg.port);
    let own = Destination::Host { host: host_name.to_owned(), subset: String::new(), port };
    let kind = if http { "http" } else { "tcp" };
    let name = format!("inbound-vip|{port}|{kind}|{host_name}");
    let filter = if http {
        Filter::Http(name.clone(), Some(proxy.table(twin, &format!("{host_name}:{port}"))))
    } else {
        Filter::Tcp(vec![Weighted::whole(own, host.reference().clone())])
    };
    let chain =
        Chain { name: name.clone(), matching: ChainMatch::default(), tls: None, filter, source: None };
    let listener = Listener {
        name: "main_internal".to_owned(),
        chains: vec![chain],
        default: None,
        tls_inspector: Inspect::all(false),
        http_inspector: Inspect::all(false),
    };
    let connection = Connection::of(request, leg.ip, port);
    // The chain carries its table with it: none is looked up by name.
    let none = |name: &str| Arc::new(crate::analyze::twin::http::table::RouteTable::new(name));
    let paths = Normalization::of(twin.snapshot);
    let Some(onward) = simulate::pass(&listener, (&connection, paths), request, answer, &none) else {
        return;
    };
    Leg { scope: Some(&proxy.scope), ..*leg }.deliver(&onward, answer);
    if let Some(Destination::Host { host, subset, port: to }) = onward.to.first().map(|first| &first.to)
        && host == host_name
        && answer.outcome != Outcome::NotModelled
    {
        let subset = if subset.is_empty() { String::new() } else { format!("/{subset}") };
        answer.cluster = format!("inbound-vip|{to}|{kind}{subset}|{host}");
    }
}

/// What says how bytes to a host are routed, where anything does.
fn byte_rules(twin: &Twin<'_>, host: &Host<'_>) -> Option<ObjectRef> {
    let routes = attached::to(twin.snapshot, host.reference(), &["TCPRoute", "TLSRoute"]);
    if let Some(route) = routes.first() {
        return Some(route.reference().clone());
    }
    let services = twin.snapshot.istio.virtual_services.iter().find(|vs| {
        vs.routes.iter().any(|route| route.protocol != "http")
            && vs.hosts.iter().any(|own| {
                let own = crate::model::mesh::istio::full_host(own, vs.object.namespace());
                host_matches(&own.to_ascii_lowercase(), &host.name)
            })
    });
    services.map(|vs| vs.reference().clone())
}
