//! Whether a passage is admitted, in the order in which things look at it: network policies of both sides, the TLS
//! handshake, request authentication, authorization.

use core::net::IpAddr;

use super::istio::authorization::{Authorized, Authorizer, authorize, consult};
use super::istio::facts::Fact;
use super::istio::handshake::{Handshake, SOMEBODY_ELSE, Server, shake};
use super::istio::token::{self, Checked};
use super::network::{self, End, NetworkPolicies, PodEnd, Port, exposed};
use super::{Arriving, ClientTls, Passage, Ruling, Verdict, ambient, reading};
use crate::analyze::rules::gateway_api::attach::knows_namespace;
use crate::analyze::twin::Twin;
use crate::analyze::twin::answer::Step;
use crate::analyze::twin::ask::{self, Mode, Protocol, ProxyNode, ProxyType};
use crate::analyze::twin::endpoints::Behind;
use crate::analyze::twin::istio::envoy_filter;
use crate::analyze::twin::party::{Party, Peer};
use crate::analyze::twin::registry::Origin;
use crate::analyze::twin::waypoint::is_waypoint;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Policy, service_of_host};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Whether a passage is admitted.
pub fn admit(twin: &Twin<'_>, passage: &Passage<'_, '_>) -> Verdict {
    let mut steps = vec![];
    let ruling = networks(twin.snapshot, passage, &mut steps)
        .or_else(|| proxies(twin, passage, &mut steps))
        .unwrap_or(Ruling::Allowed);
    Verdict { ruling, steps }
}

/// What policies at a gateway's pod say to a client outside, of whom nothing but its request is known. No request: a bare
/// connection.
pub fn at_the_door(
    twin: &Twin<'_>,
    gateway: &Party<'_>,
    (asked, port): (&ask::Request, u16),
    request: Option<Arriving<'_>>,
) -> Verdict {
    let snapshot = twin.snapshot;
    if reading::authorization(snapshot, gateway).is_empty() && reading::tokens(snapshot, gateway).is_empty() {
        return Verdict::allowed(vec![]);
    }
    let (from, to) = (Peer::IngressController, Peer::Pod(gateway.clone()));
    let sni = asked.server_name();
    let http = request.is_some();
    let passage = Passage {
        accepts: &[],
        from: &from,
        to: &to,
        protocol: asked.protocol,
        port,
        tls: ClientTls::AsSent(asked.tls),
        sni: sni.as_deref(),
        request,
        // What a client claims about its address in a header is not what the gateway goes by.
        remote_ip: Some("unknown"),
    };
    // A client outside shows no identity of the mesh, unless the question says that it does.
    let handshake = match asked.tls {
        ask::Tls::Mtls => Handshake::Mutual,
        ask::Tls::Plaintext | ask::Tls::Tls => Handshake::Plaintext,
    };
    let mut steps = vec![];
    let guards = Guards::of_pod(snapshot, gateway);
    let ruling = authenticated(twin, &passage, &guards, &handshake, (http, false), &mut steps);
    Verdict { ruling: ruling.unwrap_or(Ruling::Allowed), steps }
}

/// What a waypoint says to a connection that comes to it in ztunnel's tunnel: the network policies on the way to it, then the
/// policies that are attached to it or to what stands behind it. `passage.port` is the port of that; the client's identity is
/// known, and what it sends is read as HTTP where `http`.
pub fn at_waypoint(
    twin: &Twin<'_>,
    passage: &Passage<'_, '_>,
    guards: &Guards<'_>,
    (http, garbled): (bool, bool),
) -> Verdict {
    let mut steps = vec![];
    let ruling = networks(twin.snapshot, passage, &mut steps)
        .or_else(|| authenticated(twin, passage, guards, &Handshake::Mutual, (http, garbled), &mut steps));
    Verdict { ruling: ruling.unwrap_or(Ruling::Allowed), steps }
}

/// What guards a destination.
#[derive(Debug, Clone)]
pub struct Guards<'a> {
    /// Who enforces it, in words.
    pub by: String,
    /// RequestAuthentications.
    pub tokens: Vec<&'a Policy>,
    /// AuthorizationPolicies.
    pub authorization: Vec<&'a Policy>,
    /// The address that the connection goes to, where it is not the enforcing proxy's own.
    pub destination: Option<Fact<IpAddr>>,
}

impl<'a> Guards<'a> {
    /// What the proxy of a pod enforces.
    fn of_pod(snapshot: &'a Snapshot, party: &Party<'_>) -> Self {
        Guards {
            by: party.reference.to_string(),
            tokens: reading::tokens(snapshot, party),
            authorization: reading::authorization(snapshot, party),
            destination: None,
        }
    }

    /// What ztunnel enforces for a pod: it knows nothing of tokens, and of actions ALLOW and DENY alone.
    fn of_ztunnel(snapshot: &'a Snapshot, party: &Party<'_>, steps: &mut Vec<Step>) -> Self {
        let action = |policy: &Policy| policy.object.body.text("spec.action").unwrap_or("ALLOW").to_owned();
        let (own, others): (Vec<_>, Vec<_>) = reading::authorization(snapshot, party)
            .into_iter()
            .partition(|policy| matches!(action(policy).as_str(), "ALLOW" | "DENY"));
        steps.extend(others.iter().map(|policy| {
            let field = policy.object.reference.field("spec.action");
            Step::by(
                &field,
                format!("ztunnel knows no action {}: the policy changes nothing", action(policy)),
            )
        }));
        Guards { by: party.reference.to_string(), tokens: vec![], authorization: own, destination: None }
    }
}

fn no_answer(detail: impl Into<String>) -> Ruling {
    Ruling::Refused { status: None, flag: "", detail: detail.into() }
}

/// What network policies say; `None` where they let it through.
fn networks(snapshot: &Snapshot, passage: &Passage<'_, '_>, steps: &mut Vec<Step>) -> Option<Ruling> {
    let policies = snapshot.derived::<NetworkPolicies>();
    let (from_nodes, to_nodes) = (node_ips(passage.from), node_ips(passage.to));
    let (from, to) = match (end(passage.from, &from_nodes), end(passage.to, &to_nodes)) {
        (Some(from), Some(to)) => (from, to),
        (None, _) => return Some(Ruling::NotModelled(format!("{} is no address", passage.from))),
        (_, None) => return Some(Ruling::NotModelled(format!("{} is no address", passage.to))),
    };
    let transport = match passage.protocol {
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tcp => "TCP",
    };
    let tunnels = |peer: &Peer<'_>| peer.party().is_some_and(|party| ambient::tunnels(snapshot, party));
    // A proxy of the mesh speaks to ztunnel as another ztunnel does.
    let proxied = !matches!(passage.tls, ClientTls::AsSent(_) | ClientTls::Disable);
    let hbone = transport == "TCP" && (proxied || tunnels(passage.from)) && tunnels(passage.to);
    let port = Port { number: i64::from(if hbone { ambient::HBONE } else { passage.port }), transport };
    if let (End::Controller, End::Pod(pod)) = (&from, &to) {
        match exposed::leads_to(snapshot, pod, port) {
            Some(object) => {
                steps.push(Step::by(&object, format!("leads an ingress controller to port {}", port.number)))
            }
            None => {
                let said = format!(
                    "no Ingress or Route leads to {transport} port {} of {}",
                    port.number, passage.to
                );
                steps.push(Step::plain(said.clone()));
                return Some(no_answer(said));
            }
        }
    }
    if same_pod(passage.from, passage.to) || policies.is_empty() {
        return None;
    }
    let decision = policies.connection(&from, &to, port);
    for cause in &decision.causes {
        let side = match cause.direction {
            network::Direction::Egress => passage.from,
            network::Direction::Ingress => passage.to,
        };
        let node = match side.party() {
            Some(party) if party.template.host_network => {
                "; the pod is in its node's network, where many plug-ins enforce nothing"
            }
            _ => "",
        };
        let words = format!(
            "{} of {side}, {transport} port {}: {}{node}",
            cause.direction.field(),
            port.number,
            cause.said
        );
        steps.push(Step::by(&cause.object, words));
    }
    match decision.verdict {
        network::Verdict::Allowed => None,
        network::Verdict::Denied => {
            let by =
                decision.causes.iter().map(|cause| cause.object.field("").to_string()).collect::<Vec<_>>();
            let said = format!(
                "{} drops connections from {} to {transport} port {} of {}",
                by.join(" and "),
                passage.from,
                port.number,
                passage.to
            );
            let waits = !matches!(passage.tls, ClientTls::AsSent(_)) && passage.request.is_some();
            Some(Ruling::Refused { status: waits.then_some(503), flag: "UF", detail: said })
        }
        network::Verdict::Unknown(why) => Some(Ruling::NotModelled(why)),
    }
}

/// A pod reaches itself, whatever policies say.
fn same_pod(from: &Peer<'_>, to: &Peer<'_>) -> bool {
    match (from.party(), to.party()) {
        (Some(from), Some(to)) => from.reference.kind == "Pod" && from.reference.same_object(&to.reference),
        _ => false,
    }
}

fn node_ips(peer: &Peer<'_>) -> Vec<String> {
    let body = peer.party().and_then(|party| party.pod).map(|pod| &pod.object.body);
    let Some(body) = body else { return vec![] };
    let mut out: Vec<String> = body.list("status.hostIPs").iter().map(|ip| ip.string("ip")).collect();
    out.extend(body.text("status.hostIP").map(str::to_owned));
    out
}

fn end<'a>(peer: &'a Peer<'_>, node_ips: &'a [String]) -> Option<End<'a>> {
    Some(match peer {
        Peer::Pod(party) => End::Pod(PodEnd {
            namespace: party.namespace(),
            labels: party.labels(),
            template: Some(party.template),
            // A range in a policy means addresses outside: a pod whose address was not seen is taken to lie in none.
            ips: Some(party.ips()),
            node_ips,
        }),
        Peer::Address(ip) => End::Address(ip.parse().ok()?),
        Peer::IngressController => End::Controller,
    })
}

/// What the destination's proxy says; `None` where there is none, or where it lets the passage through.
fn proxies(twin: &Twin<'_>, passage: &Passage<'_, '_>, steps: &mut Vec<Step>) -> Option<Ruling> {
    let snapshot = twin.snapshot;
    if matches!(passage.protocol, Protocol::Udp | Protocol::Sctp) {
        return None;
    }
    let party = passage.to.party()?;
    let ambient = ambient::captured(snapshot, party);
    let from_waypoint = passage.from.party().is_some_and(|from| is_waypoint(from.labels()));
    if ambient
        && !from_waypoint
        && let Some(waypoint) = ambient::waypoint(snapshot, party)
    {
        steps.push(Step::plain(format!(
            "waypoint {waypoint} is not on the way of this connection to {}",
            passage.to
        )));
    }
    let proxied = party.proxy && !reading::bypasses_sidecar(party, passage.port);
    if party.proxy && !proxied {
        steps.push(Step::plain(format!(
            "the sidecar of {} leaves port {} to the application",
            passage.to, passage.port
        )));
    }
    if proxied && let Some(at) = inbound_filter(twin, party, passage.port) {
        let why = format!("{} of {at} changes what the proxy of {} does", at.field_path, passage.to);
        return Some(Ruling::NotModelled(why));
    }
    let handshake = if reading::is_router(party) {
        Handshake::Plaintext
    } else {
        let server = if proxied || ambient {
            peer_authentication(snapshot, party, passage.port, ambient, steps)
        } else {
            Server::Application
        };
        match greet(snapshot, passage, server, steps) {
            Ok(handshake) => handshake,
            Err(ruling) => return Some(ruling),
        }
    };
    if !proxied && !ambient {
        return None;
    }
    let declared = reading::port_protocol(snapshot, party, passage.port);
    let readable = !ambient && handshake != Handshake::Opaque;
    // Bytes that are not HTTP, on a port that is read as HTTP.
    let garbled = readable && passage.request.is_none() && declared.is_some_and(|own| own.is_http());
    // What comes in mutual TLS to a port that the proxy does not know by name it passes on as bytes, whatever they are.
    let http = readable
        && passage.request.is_some()
        && declared.map_or(handshake != Handshake::Mutual, reading::reads_http);
    let guards =
        if ambient { Guards::of_ztunnel(snapshot, party, steps) } else { Guards::of_pod(snapshot, party) };
    authenticated(twin, passage, &guards, &handshake, (http, garbled), steps)
}

/// An EnvoyFilter that changes what a sidecar does with what comes in.
fn inbound_filter(twin: &Twin<'_>, party: &Party<'_>, port: u16) -> Option<ObjectRef> {
    if twin.envoy_filters.is_empty() {
        return None;
    }
    let node = ProxyNode {
        namespace: party.namespace().to_owned(),
        kind: ProxyType::Sidecar,
        labels: party.labels().clone(),
        ips: vec![],
    };
    envoy_filter::changing(twin, &node, Mode::Inbound, port)
}

/// The effective mode of the PeerAuthentications.
fn peer_authentication(
    snapshot: &Snapshot,
    party: &Party<'_>,
    port: u16,
    ambient: bool,
    steps: &mut Vec<Step>,
) -> Server {
    let (mode, by) = reading::peer_mode(snapshot, party, port);
    let words = format!("mutual TLS for port {port} of {} is {mode}", party.reference);
    steps.push(match by {
        Some(by) => Step::by(&by, words),
        None => Step::plain(format!("{words}: no PeerAuthentication says otherwise")),
    });
    match Server::of_mode(&mode) {
        // Ztunnel has no such mode: it always takes both.
        Server::Disable if ambient => Server::Permissive,
        server => server,
    }
}

/// The handshake between both sides.
fn greet(
    snapshot: &Snapshot,
    passage: &Passage<'_, '_>,
    server: Server,
    steps: &mut Vec<Step>,
) -> Result<Handshake, Ruling> {
    let auto = snapshot.istio.mesh_config.at("enableAutoMtls").and_then(crate::model::json::Value::as_bool)
        != Some(false);
    // Ztunnel at the source speaks mutual TLS wherever it is understood.
    let carried = passage.from.party().is_some_and(|party| ambient::captured(snapshot, party));
    let client = if carried { &ClientTls::Auto } else { &passage.tls };
    // A proxy chooses mutual TLS for a Service, not for a pod: where the namespace, or the mesh, says DISABLE it speaks none,
    // whatever is said of the pods. Ztunnel is reached in its tunnel all the same.
    let plain = |party: &Party<'_>| {
        !ambient::captured(snapshot, party)
            && reading::namespace_mode(snapshot, party.namespace()) == "DISABLE"
    };
    let client = match client {
        ClientTls::Auto if !carried && passage.to.party().is_some_and(plain) => &ClientTls::Disable,
        other => other,
    };
    let handshake = shake(client, server, auto || carried);
    // TLS that somebody configured towards a port that is declared to serve it.
    let serves_tls = || {
        let party = passage.to.party();
        party.is_some_and(|party| {
            reading::port_protocol(snapshot, party, passage.port)
                == Some(crate::model::network::Protocol::Tls)
        })
    };
    // What the client has wrapped itself, and its proxy once more, the application unwraps once.
    if matches!(client, ClientTls::Originate)
        && passage.request.is_none()
        && passage.sni.is_some()
        && serves_tls()
    {
        let said =
            "the client's own TLS is wrapped in TLS once more, and the application takes off one of them";
        steps.push(Step::plain(said));
        return Err(no_answer(said));
    }
    let handshake = match handshake {
        Handshake::Unknown(_) if serves_tls() => Handshake::Opaque,
        other => other,
    };
    let proxy_at_source = !matches!(client, ClientTls::AsSent(_)) && !carried;
    let shown =
        passage.to.party().filter(|_| proxy_at_source && !passage.accepts.is_empty()).map(|party| {
            reading::identity(&snapshot.istio, party.namespace(), &party.template.service_account)
        });
    let handshake = match (handshake, shown) {
        (Handshake::Mutual, Some(shown)) if !reading::is_among(&snapshot.istio, passage.accepts, &shown) => {
            // Enough to see what is amiss; of a large Service there are many.
            let accepts = passage.accepts.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            steps.push(Step::plain(format!("{} shows {shown}; the proxy accepts {accepts}", passage.to)));
            SOMEBODY_ELSE
        }
        (handshake, _) => handshake,
    };
    match &handshake {
        Handshake::Mutual => steps.push(Step::plain("both sides speak mutual TLS")),
        Handshake::Plaintext if server != Server::Application => {
            steps.push(Step::plain("the connection is plaintext: the source shows no identity"));
        }
        Handshake::Plaintext => {}
        Handshake::Opaque => steps.push(Step::plain("the client's own TLS goes through to the application")),
        Handshake::Failed { flag, detail, said } => {
            steps.push(Step::plain(*said));
            let answered = proxy_at_source && passage.request.is_some();
            return Err(Ruling::Refused {
                status: answered.then_some(503),
                flag: if proxy_at_source { flag } else { "" },
                detail: if answered { format!("{said}; {detail}") } else { (*said).to_owned() },
            });
        }
        Handshake::Unknown(why) => return Err(Ruling::NotModelled((*why).to_owned())),
    }
    Ok(handshake)
}

/// Tokens and authorization.
fn authenticated(
    twin: &Twin<'_>,
    passage: &Passage<'_, '_>,
    guards: &Guards<'_>,
    handshake: &Handshake,
    (http, garbled): (bool, bool),
    steps: &mut Vec<Step>,
) -> Option<Ruling> {
    let snapshot = twin.snapshot;
    let istio = &snapshot.istio;
    let policies = &guards.authorization;
    if garbled && !policies.is_empty() {
        let why = format!("port {} is read as HTTP, and what is sent to it is not known", passage.port);
        return Some(Ruling::NotModelled(why));
    }
    let mut facts = reading::facts(snapshot, passage, handshake, http);
    if let Some(destination) = &guards.destination {
        facts.destination_ip = destination.clone();
    }
    let ruled = |authorized| ruling(authorized, passage, guards, http);
    let asked = consult(istio, policies, &facts, &|host, port| authorizer(twin, host, port), steps);
    let unsure = match asked {
        Authorized::Yes => None,
        // An authorizer that denies answers as it likes, so that even a sure denial behind it does not settle what is seen.
        Authorized::Unknown(why) => Some(Ruling::NotModelled(why)),
        refused => return ruled(refused),
    };
    if http && let Err(ruling) = tokens(passage, &guards.tokens, steps) {
        return unsure.or(Some(ruling));
    }
    unsure.or(ruled(authorize(policies, &facts, steps)))
}

/// What comes of what policies say; none where the request may pass.
fn ruling(
    authorized: Authorized,
    passage: &Passage<'_, '_>,
    guards: &Guards<'_>,
    http: bool,
) -> Option<Ruling> {
    // A proxy that waits for an answer tells its caller that the connection was closed.
    let waits = passage.request.is_some() && !matches!(passage.tls, ClientTls::AsSent(_));
    match authorized {
        Authorized::Yes => None,
        Authorized::No(detail) if http => Some(Ruling::Refused {
            status: Some(403),
            flag: "",
            detail: format!("RBAC: access denied by {}; {detail}", guards.by),
        }),
        Authorized::No(detail) => Some(Ruling::Refused {
            status: waits.then_some(503),
            flag: if waits { "UC" } else { "" },
            detail: format!("the proxy of {} closes the connection; {detail}", guards.by),
        }),
        Authorized::Unasked(status, why) if http => {
            Some(Ruling::Refused { status: Some(status), flag: "UAEX", detail: why })
        }
        Authorized::Unasked(_, why) => {
            Some(no_answer(format!("the proxy of {} closes the connection; {why}", guards.by)))
        }
        Authorized::Unknown(why) => Some(Ruling::NotModelled(why)),
    }
}

/// Who is there to be asked at an external authorizer's host, `[namespace/]name` as the MeshConfig has it: names in full.
fn authorizer(twin: &Twin<'_>, host: &str, port: u16) -> Authorizer {
    let (namespace, name) = match host.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, host),
    };
    let mut named =
        twin.registry.named(name).filter(|host| namespace.is_none_or(|own| own == host.namespace));
    let Some(found) = named.next() else {
        // Of a namespace that was not read nobody knows what is in it.
        let own =
            namespace.map(str::to_owned).or_else(|| service_of_host(name).map(|(namespace, _)| namespace));
        let read = own.is_none_or(|own| knows_namespace(twin.snapshot, &own));
        return if read { Authorizer::NoSuchHost } else { Authorizer::There };
    };
    let Origin::Service(service) = found.origin else { return Authorizer::There };
    let Some(port) = service.port(i64::from(port)) else { return Authorizer::There };
    match &*twin.behind(service, port, &Labels::new()) {
        Behind::Nobody(why) => Authorizer::Nobody(why.clone()),
        Behind::Pods(_) | Behind::Unknown => Authorizer::There,
    }
}

fn tokens(passage: &Passage<'_, '_>, policies: &[&Policy], steps: &mut Vec<Step>) -> Result<(), Ruling> {
    let Some(request) = passage.request.as_ref().filter(|_| !policies.is_empty()) else { return Ok(()) };
    let headers = request.headers.map(reading::lower).unwrap_or_default();
    let query = request.path.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let undecided = request.undecided.into_iter().flatten().find(|name| token::reads(policies, name));
    if let Some(name) = undecided {
        let why = format!("tokens are looked for in header {name}, whose value on the way is not modelled");
        return Err(Ruling::NotModelled(why));
    }
    match token::check(policies, token::Carrier { method: request.method, query, headers: &headers }) {
        Checked::NoToken => {
            if let Some(first) = policies.first() {
                let field = first.object.reference.field("spec.jwtRules");
                steps.push(Step::by(
                    &field,
                    "looks for a token and finds none: the request passes without one",
                ));
            }
            Ok(())
        }
        Checked::Unknown(why) => Err(Ruling::NotModelled(why)),
        Checked::Refused { status, detail, policy, field } => {
            if let Some(policy) = policies.get(policy) {
                steps.push(Step::by(&policy.object.reference.field(field), "refuses the token"));
            }
            Err(Ruling::Refused {
                status: Some(status),
                flag: "",
                detail: format!("the token is refused; {detail}"),
            })
        }
    }
}
