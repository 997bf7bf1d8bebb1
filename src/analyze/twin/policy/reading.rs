//! What the destination's proxy reads of a passage, and which policies apply to it.

use crate::model::json::Value;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

use super::istio::facts::{Fact, Facts};
use super::istio::handshake::Handshake;
use super::istio::path::Normalization;
use super::{Arriving, ClientTls, Passage};
use crate::analyze::twin::ask::Tls;
use crate::analyze::twin::istio::scope;
use crate::analyze::twin::party::{Party, Peer};
use crate::analyze::twin::registry::declared;
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::mesh::istio::{self, Istio, Policy};
use crate::model::network::{Protocol, Service};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Where the policies of one namespace stand in the list of their kind.
#[derive(Debug, Default)]
struct Places {
    all: Vec<usize>,
    /// Those without a selector, or with targets.
    whole: Vec<usize>,
    /// The others by the first label of their selector.
    selecting: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
}

impl Places {
    /// Those that can select these labels, in order.
    fn with(&self, labels: &Labels) -> Vec<usize> {
        let selecting = labels.iter().filter_map(|(key, value)| self.selecting.get(key)?.get(value));
        let mut out: Vec<usize> = selecting.flatten().chain(&self.whole).copied().collect();
        out.sort_unstable();
        out
    }
}

/// Where policies of a kind stand in their list, by namespace.
#[derive(Debug, Default)]
struct ByNamespace(BTreeMap<String, Places>);

impl ByNamespace {
    fn new(policies: &[Policy]) -> Self {
        let mut out = ByNamespace::default();
        for (at, policy) in policies.iter().enumerate() {
            let own = out.0.entry(policy.object.namespace().to_owned()).or_default();
            own.all.push(at);
            // What is attached to a gateway as well reaches its pods whatever they carry.
            let selects = policy.selector.match_labels.iter().next().filter(|_| policy.targets.is_empty());
            let places = match selects {
                Some((key, value)) => {
                    let values = own.selecting.entry(key.to_owned()).or_default();
                    values.entry(value.to_owned()).or_default()
                }
                None => &mut own.whole,
            };
            places.push(at);
        }
        out
    }

    /// Of the policies of the root namespace, then of another, those that can select these labels.
    fn with<'a>(&self, all: &'a [Policy], root: &str, namespace: &str, labels: &Labels) -> Vec<&'a Policy> {
        let own = Some(namespace).filter(|own| *own != root);
        let places = [Some(root), own].into_iter().flatten().filter_map(|name| self.0.get(name));
        places.flat_map(|places| places.with(labels)).filter_map(|at| all.get(at)).collect()
    }

    /// The policies of the root namespace, then those of another.
    fn of<'a>(&self, all: &'a [Policy], root: &str, namespace: &str) -> Vec<&'a Policy> {
        let own = Some(namespace).filter(|own| *own != root);
        let places = [Some(root), own].into_iter().flatten().filter_map(|name| self.0.get(name));
        places.flat_map(|places| &places.all).filter_map(|at| all.get(*at)).collect()
    }

    /// The policies of some namespaces with a target that is meant.
    fn naming<'a>(
        &self,
        all: &'a [Policy],
        namespaces: &[&str],
        names: &dyn Fn(&str, &Value) -> bool,
    ) -> Vec<&'a Policy> {
        let once: BTreeSet<&str> = namespaces.iter().copied().collect();
        let beside = once.iter().filter_map(|namespace| self.0.get(*namespace)).flat_map(|own| &own.all);
        let own = beside.filter_map(|at| all.get(*at));
        own.filter(|policy| policy.targets.iter().any(|target| names(policy.object.namespace(), target)))
            .collect()
    }
}

/// Which policies may apply to pods of a namespace: a mesh has thousands, and each request asks.
#[derive(Debug)]
pub(super) struct Index {
    peers: ByNamespace,
    tokens: ByNamespace,
    authorization: ByNamespace,
    /// Whether any Sidecar has ingress listeners.
    ingress: bool,
}

impl Derived for Index {
    fn derive(snapshot: &Snapshot) -> Self {
        Index {
            peers: ByNamespace::new(&snapshot.istio.peer_authentications),
            tokens: ByNamespace::new(&snapshot.istio.request_authentications),
            authorization: ByNamespace::new(&snapshot.istio.authorization_policies),
            ingress: snapshot
                .istio
                .sidecars
                .iter()
                .any(|own| !own.object.body.list("spec.ingress").is_empty()),
        }
    }
}

/// The effective mode of the PeerAuthentications for a port of a pod, and the object and field that say so.
pub(super) fn peer_mode(snapshot: &Snapshot, party: &Party<'_>, port: u16) -> (String, Option<ObjectRef>) {
    let (istio, root) = (&snapshot.istio, snapshot.istio.root_namespace.as_str());
    let own = snapshot.derived::<Index>().peers.of(&istio.peer_authentications, root, party.namespace());
    istio::peer_mode(own.into_iter(), root, party.namespace(), party.labels(), Some(i64::from(port)))
}

/// The mode of the PeerAuthentications for a whole namespace, or for the whole mesh.
pub(super) fn namespace_mode(snapshot: &Snapshot, namespace: &str) -> String {
    let (istio, root) = (&snapshot.istio, snapshot.istio.root_namespace.as_str());
    let own = snapshot.derived::<Index>().peers.of(&istio.peer_authentications, root, namespace);
    istio::peer_mode(own.into_iter(), root, namespace, &Labels::new(), None).0
}

/// The AuthorizationPolicies that apply to a pod.
pub(super) fn authorization<'a>(snapshot: &'a Snapshot, party: &Party<'_>) -> Vec<&'a Policy> {
    let (istio, root) = (&snapshot.istio, snapshot.istio.root_namespace.as_str());
    let index = snapshot.derived::<Index>();
    let (namespace, labels) = (party.namespace(), party.labels());
    applying(root, index.authorization.with(&istio.authorization_policies, root, namespace, labels), party)
}

/// The RequestAuthentications that apply to a pod.
pub(super) fn tokens<'a>(snapshot: &'a Snapshot, party: &Party<'_>) -> Vec<&'a Policy> {
    let (istio, root) = (&snapshot.istio, snapshot.istio.root_namespace.as_str());
    let index = snapshot.derived::<Index>();
    let (namespace, labels) = (party.namespace(), party.labels());
    applying(root, index.tokens.with(&istio.request_authentications, root, namespace, labels), party)
}

/// The AuthorizationPolicies of some namespaces one of whose targets is meant; `names` gets the policy's namespace and the target.
pub fn authorization_naming<'a>(
    snapshot: &'a Snapshot,
    namespaces: &[&str],
    names: &dyn Fn(&str, &Value) -> bool,
) -> Vec<&'a Policy> {
    let index = snapshot.derived::<Index>();
    index.authorization.naming(&snapshot.istio.authorization_policies, namespaces, names)
}

/// The same of RequestAuthentications.
pub fn tokens_naming<'a>(
    snapshot: &'a Snapshot,
    namespaces: &[&str],
    names: &dyn Fn(&str, &Value) -> bool,
) -> Vec<&'a Policy> {
    let index = snapshot.derived::<Index>();
    index.tokens.naming(&snapshot.istio.request_authentications, namespaces, names)
}

/// Services that select a pod.
pub(super) fn services<'a>(
    snapshot: &'a Snapshot,
    party: &'a Party<'_>,
) -> impl Iterator<Item = &'a Service> {
    snapshot.services_selecting(party.namespace(), party.labels())
}

/// Ports of the proxy itself, which it does not intercept: metrics, health, merged metrics.
const OWN_PORTS: [u16; 3] = [15020, 15021, 15090];

/// Whether a pod's sidecar leaves a port to the application.
pub(super) fn bypasses_sidecar(party: &Party<'_>, port: u16) -> bool {
    let annotations = &party.template.annotations;
    let listed = |key: &str| annotations.get(&format!("traffic.sidecar.istio.io/{key}"));
    let has = |list: &str| list.split(',').any(|own| own.trim().parse() == Ok(port));
    OWN_PORTS.contains(&port)
        || listed("excludeInboundPorts").is_some_and(has)
        || listed("includeInboundPorts").is_some_and(|list| list.trim() != "*" && !has(list))
}

/// Whether a pod's proxy is a gateway.
pub(super) fn is_router(party: &Party<'_>) -> bool {
    crate::analyze::twin::probe::runs_router(party.template)
}

/// How a sidecar reads a port of its pod: as the ingress listeners of its Sidecar say, where that has any, else as the Services in
/// front of it do, else by the first bytes. None where such listeners leave the port out.
pub(super) fn port_protocol(snapshot: &Snapshot, party: &Party<'_>, port: u16) -> Option<Protocol> {
    let sidecar = snapshot.derived::<Index>().ingress.then(|| applying_sidecar(snapshot, party)).flatten();
    let ingress = sidecar.map_or(&[][..], |sidecar| sidecar.object.body.list("spec.ingress"));
    if !ingress.is_empty() {
        let own = ingress.iter().find(|entry| entry.int("port.number") == Some(i64::from(port)));
        return own.map(|own| declared(&own.string("port.protocol")));
    }
    let ports = services(snapshot, party).flat_map(|service| &service.ports);
    let mut own = ports.filter(|known| known.on(party.template) == Some(i64::from(port)));
    Some(own.next().map_or(Protocol::Unknown, |port| port.protocol()))
}

fn applying_sidecar<'a>(snapshot: &'a Snapshot, party: &Party<'_>) -> Option<&'a Policy> {
    scope::applying(snapshot, party.namespace(), party.labels())
}

/// Whether a sidecar reads HTTP on a port that is declared so, or whose first bytes decide.
pub(super) fn reads_http(declared: Protocol) -> bool {
    declared.is_http() || declared == Protocol::Unknown
}

/// Those that apply to a pod: by selector, or at a gateway by reference.
fn applying<'a>(root: &str, mut policies: Vec<&'a Policy>, party: &Party<'_>) -> Vec<&'a Policy> {
    let label = |name: &str| party.labels().get(&format!("gateway.networking.k8s.io/{name}"));
    let attached = |policy: &Policy| {
        let (gateway, class) = (label("gateway-name"), label("gateway-class-name"));
        let same = |target: &Value, kind: &str, name: Option<&str>| {
            target.text("kind") == Some(kind) && name.is_some() && target.text("name") == name
        };
        policy.targets.iter().any(|target| {
            (same(target, "Gateway", gateway) && policy.object.namespace() == party.namespace())
                || (same(target, "GatewayClass", class) && policy.object.namespace() == root)
        })
    };
    policies.retain(|policy| policy.applies_to(party.namespace(), party.labels(), root) || attached(policy));
    policies
}

/// The trust domain of the mesh, then its aliases.
fn trust_domains(istio: &Istio) -> Vec<String> {
    let own = istio.mesh_config.text("trustDomain").filter(|domain| !domain.is_empty());
    let mut out = vec![own.unwrap_or("cluster.local").to_owned()];
    out.extend(istio.mesh_config.texts("trustDomainAliases"));
    out
}

/// The identity of a service account, as certificates of the mesh carry it: `spiffe://cluster.local/ns/shop/sa/payment`.
pub fn identity(istio: &Istio, namespace: &str, account: &str) -> String {
    let domain = trust_domains(istio).into_iter().next().unwrap_or_default();
    format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
}

/// Whether an identity is among names that a proxy accepts. Where nobody knows the mesh's trust domain, that of a name may be it.
pub fn is_among(istio: &Istio, names: &[String], identity: &str) -> bool {
    let behind_domain =
        |text: &str| text.strip_prefix("spiffe://")?.split_once('/').map(|(_, rest)| rest.to_owned());
    let known = istio.mesh_config.text("trustDomain").is_some();
    let alike = |name: &String| behind_domain(name).is_some_and(|own| behind_domain(identity) == Some(own));
    names.iter().any(|name| name == identity || (!known && alike(name)))
}

fn address(peer: &Peer<'_>) -> Fact<IpAddr> {
    let text = match peer {
        Peer::Address(ip) => Some(ip.as_str()),
        // Of several addresses nobody knows which one the connection uses.
        Peer::Pod(party) => match party.ips() {
            [only] => Some(only.as_str()),
            _ => None,
        },
        Peer::IngressController => None,
    };
    Fact::or_unknown(text.and_then(|ip| ip.parse().ok()))
}

/// What authorization is told. `http`: whether the proxy reads the passage as HTTP.
pub(super) fn facts(
    snapshot: &Snapshot,
    passage: &Passage<'_, '_>,
    handshake: &Handshake,
    http: bool,
) -> Facts {
    let domains = trust_domains(&snapshot.istio);
    let mut facts = Facts {
        http,
        source_ip: address(passage.from),
        destination_ip: address(passage.to),
        port: Fact::Is(i64::from(passage.port)),
        token: Fact::Absent,
        ..Facts::default()
    };
    match (handshake, &passage.tls, passage.from) {
        // Who shows a certificate of the mesh without a proxy of it is not known.
        (Handshake::Mutual, ClientTls::AsSent(Tls::Mtls), _) => {}
        (Handshake::Mutual, _, Peer::Pod(party)) => {
            let domain = domains.first().map(String::as_str).unwrap_or_default();
            facts.identity(domain, party.namespace(), &party.template.service_account);
        }
        (Handshake::Mutual, _, Peer::Address(_) | Peer::IngressController) => {}
        _ => facts.anonymous(),
    }
    facts.sni = match (passage.sni, handshake) {
        (Some(name), Handshake::Opaque) => Fact::Is(name.to_owned()),
        (_, Handshake::Plaintext) => Fact::Absent,
        _ => Fact::Unknown,
    };
    if let Some(request) = passage.request.as_ref().filter(|_| http) {
        read_request(&mut facts, &snapshot.istio, request);
    }
    facts.remote_ip = match (passage.remote_ip, &facts.headers) {
        (Some(ip), _) => Fact::or_unknown(ip.parse().ok()),
        (None, Fact::Is(headers)) => match headers.get("x-forwarded-for") {
            // The last one was added by whoever is nearest.
            Some(list) => Fact::or_unknown(list.rsplit(',').next().and_then(|ip| ip.trim().parse().ok())),
            None => facts.source_ip.clone(),
        },
        (None, Fact::Absent) => facts.source_ip.clone(),
        (None, Fact::Unknown) if !http => facts.source_ip.clone(),
        (None, Fact::Unknown) => Fact::Unknown,
    };
    facts.trust_domains = domains;
    facts
}

fn read_request(facts: &mut Facts, istio: &Istio, request: &Arriving<'_>) {
    let normalization = Normalization::read(istio.mesh_config.text("pathNormalization.normalization"));
    let known = |text: &str| if text.is_empty() { Fact::Unknown } else { Fact::Is(text.to_owned()) };
    facts.method = known(request.method);
    facts.host = known(request.host);
    facts.path = match request.path {
        "" => Fact::Unknown,
        path => Fact::Is(normalization.apply(path)),
    };
    facts.headers = Fact::or_unknown(request.headers.map(lower));
    facts.undecided = request.undecided.cloned().unwrap_or_default();
}

/// Headers by name in lower case.
pub(super) fn lower(headers: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
}
