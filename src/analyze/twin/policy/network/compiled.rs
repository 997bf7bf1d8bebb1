//! All network policies of a snapshot, read once.

use crate::model::json::Value;
use core::net::IpAddr;
use std::collections::BTreeMap;

use super::admin::{Admin, Peer as AdminPeer, Rule as AdminRule};
use super::matching::{Block, Namespaces, Pods, PortMatch};
use super::namespaced::{Namespaced, Peer, Rule};
use super::{Direction, matching};
use crate::model::cidr::Cidr;
use crate::model::fields::Fields;
use crate::model::memo::Derived;
use crate::model::network::NetworkPolicy;
use crate::model::object::Object;
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;

/// All network policies of a snapshot.
#[derive(Debug, Default)]
pub struct NetworkPolicies {
    pub(super) namespaces: Namespaces,
    /// Labels of nodes by their addresses.
    pub(super) nodes: BTreeMap<IpAddr, Labels>,
    /// By namespace.
    pub(super) namespaced: BTreeMap<String, Vec<Namespaced>>,
    /// Most important first.
    pub(super) admin: Vec<Admin>,
    pub(super) baseline: Vec<Admin>,
}

impl Derived for NetworkPolicies {
    fn derive(snapshot: &Snapshot) -> Self {
        let mut out = NetworkPolicies::default();
        for namespace in snapshot.objects_of("Namespace") {
            out.namespaces.add(namespace.name(), namespace.labels.clone());
        }
        for node in snapshot.objects_of("Node") {
            for address in node.body.list("status.addresses") {
                if let Some(Ok(ip)) = address.text("address").map(str::parse) {
                    out.nodes.insert(ip, node.labels.clone());
                }
            }
        }
        for policy in &snapshot.network_policies {
            let own = out.namespaced.entry(policy.object.namespace().to_owned()).or_default();
            own.push(namespaced(policy));
        }
        out.admin = snapshot.objects_of("AdminNetworkPolicy").filter(|o| is_admin(o)).map(admin).collect();
        out.admin.sort_by_key(|policy| policy.priority);
        // The API takes one of this name and no other.
        let baseline = snapshot.object("BaselineAdminNetworkPolicy", "", "default");
        out.baseline = baseline.into_iter().filter(|o| is_admin(o)).map(admin).collect();
        out
    }
}

impl NetworkPolicies {
    /// Whether there is no policy of any kind.
    pub fn is_empty(&self) -> bool {
        self.namespaced.is_empty() && self.admin.is_empty() && self.baseline.is_empty()
    }
}

fn is_admin(object: &Object) -> bool {
    object.reference.group() == "policy.networking.k8s.io"
}

fn selector(value: Option<&Value>) -> Selector {
    value.map(Selector::read).unwrap_or_default()
}

fn namespaced(policy: &NetworkPolicy) -> Namespaced {
    let rules = |direction: Direction| {
        let rules = policy.object.body.list(&format!("spec.{}", direction.field()));
        rules.iter().map(move |rule| Rule {
            peers: rule.list(direction.peers()).iter().map(peer).collect(),
            ports: rule.list("ports").iter().map(port).collect(),
        })
    };
    Namespaced {
        reference: policy.object.reference.clone(),
        selector: policy.selector.clone(),
        ingress: policy.ingress.then(|| rules(Direction::Ingress).collect()),
        egress: policy.egress.then(|| rules(Direction::Egress).collect()),
    }
}

fn peer(value: &Value) -> Peer {
    if let Some(block) = value.at("ipBlock") {
        let range = block.text("cidr").and_then(Cidr::parse);
        let except = block.list("except").iter().filter_map(|part| Cidr::parse(part.as_str()?)).collect();
        return range.map_or(Peer::Nothing, |range| Peer::Block(Block { range, except }));
    }
    let (namespaces, pods) = (value.at("namespaceSelector"), value.at("podSelector"));
    if namespaces.is_none() && pods.is_none() {
        return Peer::Nothing;
    }
    let namespaces = namespaces.map(Selector::read);
    Peer::Pods(Pods { namespaces, pods: selector(pods), host_network: true })
}

fn port(value: &Value) -> PortMatch {
    let transport = value.text("protocol").unwrap_or("TCP").to_owned();
    match value.at("port") {
        None => PortMatch::Transport(transport),
        Some(Value::String(name)) if name.parse::<i64>().is_err() => {
            PortMatch::Name { transport: Some(transport), name: name.to_string() }
        }
        Some(_) => match value.int("port") {
            Some(from) => PortMatch::Range { transport, from, to: value.int("endPort").unwrap_or(from) },
            None => PortMatch::Unread,
        },
    }
}

fn admin(object: &Object) -> Admin {
    let body = &object.body;
    let rules = |direction: Direction| {
        let rules = body.list(&format!("spec.{}", direction.field()));
        rules.iter().map(move |rule| AdminRule {
            name: rule.string("name"),
            action: rule.string("action"),
            peers: rule.list(direction.peers()).iter().map(admin_peer).collect(),
            ports: rule.list("ports").iter().map(admin_port).collect(),
        })
    };
    Admin {
        reference: object.reference.clone(),
        priority: body.int("spec.priority").unwrap_or(i64::MAX),
        subject: pods(body.at("spec.subject").unwrap_or(&Value::Null)),
        ingress: rules(Direction::Ingress).collect(),
        egress: rules(Direction::Egress).collect(),
    }
}

/// `{namespaces: …}` or `{pods: {namespaceSelector, podSelector}}`; `None` where it is neither.
fn pods(value: &Value) -> Option<Pods> {
    let (namespaces, pods) = match (value.at("namespaces"), value.at("pods")) {
        (Some(namespaces), None) => (Some(namespaces), None),
        (None, Some(both)) => (both.at("namespaceSelector"), both.at("podSelector")),
        _ => return None,
    };
    Some(Pods { namespaces: Some(selector(namespaces)), pods: selector(pods), host_network: false })
}

fn admin_peer(value: &Value) -> AdminPeer {
    if let Some(pods) = pods(value) {
        return AdminPeer::Pods(pods);
    }
    if let Some(nodes) = value.at("nodes") {
        return AdminPeer::Nodes(Selector::read(nodes));
    }
    if value.at("networks").is_some() {
        let ranges = value.texts("networks").iter().filter_map(|text| Cidr::parse(text)).collect::<Vec<_>>();
        let block = |range| Block { range, except: vec![] };
        return AdminPeer::Networks(ranges.into_iter().map(block).collect());
    }
    if value.at("domainNames").is_some() {
        return AdminPeer::Domains;
    }
    AdminPeer::Unread
}

fn admin_port(value: &Value) -> PortMatch {
    let transport = |at: &Value| at.text("protocol").unwrap_or("TCP").to_owned();
    if let Some(name) = value.text("namedPort") {
        return PortMatch::Name { transport: None, name: name.to_owned() };
    }
    if let Some(number) = value.at("portNumber") {
        return match number.int("port") {
            Some(port) => PortMatch::Range { transport: transport(number), from: port, to: port },
            None => PortMatch::Unread,
        };
    }
    if let Some(range) = value.at("portRange") {
        return match (range.int("start"), range.int("end")) {
            (Some(from), Some(to)) => PortMatch::Range { transport: transport(range), from, to },
            _ => PortMatch::Unread,
        };
    }
    matching::PortMatch::Unread
}
