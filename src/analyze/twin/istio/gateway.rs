//! The Gateways of one proxy, merged into what it listens on.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::targets::{Target, targets};
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::ProxyNode;
use crate::analyze::twin::registry::declared;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Gateway;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Names the Services behind whose pods a Gateway is served, instead of a selector.
const SERVICES: &str = "internal.istio.io/gateway-service";

/// On a Service it says that the ports of Gateways chosen by selector are the pods' own.
const UNTRANSLATED: &str = "experimental.istio.io/disable-gateway-port-translation";

/// A server as it is written.
#[derive(Debug, Clone)]
pub struct Declared {
    /// Its port.
    pub port: u16,
    /// The port's name.
    pub port_name: String,
    /// The port's protocol as it is written.
    pub protocol: String,
    /// Its hosts: `*.example.com`, `namespace/a.example.com`.
    pub hosts: Vec<String>,
    /// Its TLS settings.
    pub tls: Option<Value>,
    /// The address that it binds to; empty for all.
    pub bind: String,
    /// Its name; empty where it has none.
    pub name: String,
    /// Where it stands.
    pub source: ObjectRef,
}

/// A Gateway, of Istio or what an Ingress stands for.
#[derive(Debug, Clone)]
pub struct Declaration {
    /// `namespace/name`.
    pub name: String,
    /// Labels of the pods that serve it.
    pub selector: Labels,
    /// The hosts of the Services that serve it, where it names any.
    pub services: Option<Vec<String>>,
    /// Its servers.
    pub servers: Vec<Declared>,
}

impl Declaration {
    fn namespace(&self) -> &str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// All Gateways of a snapshot and those that Ingresses stand for, oldest first. Those of Ingresses carry no time, and so come
/// before what does.
pub fn declarations(snapshot: &Snapshot, of_ingresses: Vec<Declaration>) -> Vec<Declaration> {
    let own = snapshot.istio.gateways.iter().map(|gateway| (gateway.object.created, read(gateway)));
    let mut all: Vec<_> = own.chain(of_ingresses.into_iter().map(|gateway| (None, gateway))).collect();
    all.sort_by_cached_key(|(created, gateway)| {
        let (namespace, name) = gateway.name.split_once('/').unwrap_or_default();
        (*created, format!("{name}.{namespace}"))
    });
    all.into_iter().map(|(_, gateway)| gateway).collect()
}

fn read(gateway: &Gateway) -> Declaration {
    let object = &gateway.object;
    let servers = gateway.servers.iter().filter_map(|server| {
        Some(Declared {
            port: u16::try_from(server.port).ok().filter(|port| *port != 0)?,
            port_name: server.body.string("port.name"),
            protocol: server.protocol.clone(),
            hosts: hosts(&server.hosts, object.namespace()),
            tls: server.body.at("tls").cloned(),
            bind: server.body.string("bind"),
            name: server.body.string("name"),
            source: object.reference.field(server.path.clone()),
        })
    });
    Declaration {
        name: format!("{}/{}", object.namespace(), object.name()),
        selector: gateway.selector.clone(),
        services: object
            .annotations
            .get(SERVICES)
            .map(|list| list.split(',').map(|host| host.trim().to_owned()).collect()),
        servers: servers.collect(),
    }
}

/// Hosts with the namespace before them resolved: `./a` is of the Gateway's own, `*/a` of any.
fn hosts(written: &[String], namespace: &str) -> Vec<String> {
    if written.iter().any(|host| host == "*/*") {
        return vec!["*".to_owned()];
    }
    let one = |host: &String| match host.split_once('/') {
        Some((".", host)) => format!("{namespace}/{host}"),
        Some(("*", host)) => host.to_owned(),
        _ => host.clone(),
    };
    written.iter().map(|host| one(host).to_ascii_lowercase()).collect()
}

/// A server on one of the proxy's ports.
#[derive(Debug, Clone)]
pub struct Server {
    /// `namespace/name` of its Gateway.
    pub gateway: String,
    /// As it is written.
    pub declared: Declared,
    /// The name of its route table; empty where it reads no HTTP.
    pub table: String,
}

impl Server {
    /// How its port is read.
    pub fn protocol(&self) -> Protocol {
        declared(&self.declared.protocol)
    }

    /// Its TLS mode; `PASSTHROUGH` where TLS settings name none, nothing without them.
    pub fn tls_mode(&self) -> Option<&str> {
        self.declared.tls.as_ref().map(|tls| tls.text("mode").unwrap_or("PASSTHROUGH"))
    }

    /// Whether TLS goes through it unread.
    pub fn passes_tls(&self) -> bool {
        matches!(self.tls_mode(), Some("PASSTHROUGH" | "AUTO_PASSTHROUGH"))
    }

    /// Whether it reads what is not wrapped in TLS.
    pub fn takes_plaintext(&self) -> bool {
        self.declared.tls.is_none() || self.protocol().is_http()
    }

    /// Whether it terminates TLS and reads HTTP in it.
    pub fn is_https(&self) -> bool {
        self.declared.protocol.eq_ignore_ascii_case("HTTPS")
            && self.declared.tls.is_some()
            && !self.passes_tls()
    }

    /// Whether plaintext is sent to HTTPS.
    pub fn redirects(&self) -> bool {
        self.declared.tls.as_ref().is_some_and(|tls| tls.flag("httpsRedirect"))
    }

    /// The server names that it takes.
    pub fn server_names(&self) -> Vec<String> {
        let mut out: Vec<String> = vec![];
        for host in &self.declared.hosts {
            let host = host.split_once('/').map_or(host.as_str(), |(_, host)| host);
            if !out.iter().any(|known| known == host) {
                out.push(host.to_owned());
            }
        }
        out
    }
}

/// The servers that share a port and an address.
#[derive(Debug, Clone)]
pub struct Group {
    /// The address; empty for all.
    pub bind: String,
    /// Whether one of its servers takes plaintext.
    plaintext: bool,
    /// They, in order.
    pub servers: Vec<Server>,
}

/// What a gateway's proxy listens on.
#[derive(Debug, Default)]
pub struct Merged {
    /// By port.
    pub ports: BTreeMap<u16, Vec<Group>>,
    /// The servers of a route table.
    pub tables: HashMap<String, Vec<Server>>,
    /// Servers that conflict with earlier ones, and why they do not count.
    pub dropped: Vec<(ObjectRef, String)>,
}

impl Merged {
    /// Merges the Gateways that a proxy serves, oldest first: an earlier one keeps its port's protocol and its TLS hosts.
    pub fn new(twin: &Twin<'_>, node: &ProxyNode) -> Self {
        let own = targets(twin, node);
        let mut merged = Merged::default();
        let mut tls_hosts: BTreeSet<(u16, String, String)> = BTreeSet::new();
        for gateway in &twin.gateways {
            if !serves(gateway, node, &own) {
                continue;
            }
            let mut names = BTreeSet::new();
            for server in &gateway.servers {
                if !server.name.is_empty() && !names.insert(server.name.as_str()) {
                    continue;
                }
                for port in ports(gateway, server.port, &own) {
                    merged.add(gateway, server, port, &mut tls_hosts);
                }
            }
        }
        merged
    }

    fn add(
        &mut self,
        gateway: &Declaration,
        declared: &Declared,
        port: u16,
        tls_hosts: &mut BTreeSet<(u16, String, String)>,
    ) {
        let mut server =
            Server { gateway: gateway.name.clone(), declared: declared.clone(), table: String::new() };
        server.table = table_name(&server, port);
        let drop = |merged: &mut Merged, why: String| merged.dropped.push((declared.source.clone(), why));
        if declared.tls.is_some() {
            let keys = || declared.hosts.iter().map(|host| (port, host.clone(), declared.bind.clone()));
            if let Some((_, host, _)) = keys().find(|key| tls_hosts.contains(key)) {
                return drop(self, format!("an earlier server has TLS host {host} on port {port}"));
            }
            tls_hosts.extend(keys());
        }
        let http = server.protocol().is_http();
        let plaintext = server.takes_plaintext();
        let groups = self.ports.entry(port).or_default();
        if groups.is_empty() {
            if !server.table.is_empty() {
                self.tables.entry(server.table.clone()).or_default().push(server.clone());
            }
            groups.push(Group { bind: declared.bind.clone(), plaintext, servers: vec![server] });
            return;
        }
        let group = groups.iter().position(|group| group.bind == declared.bind);
        if let Some(first) = groups.iter().find(|group| group.plaintext) {
            let first_protocol = first.servers.iter().find(|server| server.takes_plaintext());
            let first_protocol = first_protocol.map(Server::protocol);
            let merges = first_protocol.is_some_and(|p| (p.is_http() && http) || p == server.protocol());
            if group.is_some() && (!merges || server.table.is_empty()) {
                return drop(self, format!("an earlier server has port {port} with another protocol"));
            }
        } else if !plaintext && server.is_https() && self.tables.contains_key(&server.table) {
            return drop(self, format!("an earlier server has a port named {:?}", declared.port_name));
        }
        if !server.table.is_empty() {
            self.tables.entry(server.table.clone()).or_default().push(server.clone());
        }
        match group.and_then(|at| groups.get_mut(at)) {
            // Plaintext beside TLS that came before it: what no server name takes is read as plaintext.
            Some(group) => {
                group.plaintext |= plaintext;
                group.servers.push(server);
            }
            None => groups.push(Group { bind: declared.bind.clone(), plaintext, servers: vec![server] }),
        }
    }
}

/// The name of a server's route table.
fn table_name(server: &Server, port: u16) -> String {
    if server.protocol().is_http() {
        return format!("http.{port}");
    }
    if server.is_https() {
        let (namespace, name) = server.gateway.split_once('/').unwrap_or_default();
        return format!("https.{port}.{}.{name}.{namespace}", server.declared.port_name);
    }
    String::new()
}

/// Whether a proxy serves a Gateway: its pod carries the labels, or stands behind a Service that the Gateway names in its own
/// namespace.
fn serves(gateway: &Declaration, node: &ProxyNode, own: &[Target<'_, '_>]) -> bool {
    match &gateway.services {
        Some(services) => own.iter().any(|target| {
            target.host.namespace == gateway.namespace() && services.contains(&target.host.name)
        }),
        None => gateway.selector.iter().all(|(key, value)| node.labels.get(key) == Some(value)),
    }
}

/// The ports of the pod that stand for a server's: what its Services map it to. By selector the first one counts, and a port
/// that no Service has is opened as it is.
fn ports(gateway: &Declaration, port: u16, own: &[Target<'_, '_>]) -> BTreeSet<u16> {
    let mut mapped = own.iter().filter(|target| target.port.number == port);
    match &gateway.services {
        Some(services) => mapped
            .filter(|target| {
                target.host.namespace == gateway.namespace() && services.contains(&target.host.name)
            })
            .map(|target| target.number)
            .collect(),
        None => {
            let translates =
                |target: &&Target<'_, '_>| !target.host.object().labels.contains_key(UNTRANSLATED);
            [mapped.find(translates).map_or(port, |target| target.number)].into()
        }
    }
}
