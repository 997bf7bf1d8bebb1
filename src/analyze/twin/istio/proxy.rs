//! One proxy of the mesh, as the control plane configures it: what it listens on and its route tables, each made when it is
//! first asked for.

use core::net::IpAddr;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::gateway::Merged;
use super::inbound;
use super::outbound::{self, Port};
use super::scope::Scope;
use super::{gateway_listener, gateway_table, sidecar_table};
use crate::analyze::twin::Twin;
use crate::analyze::twin::ask::{Mode, ProxyNode, ProxyType};
use crate::analyze::twin::http::table::RouteTable;
use crate::analyze::twin::listener::{Connection, Listener};

/// What the control plane's configuration of a proxy depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyKey {
    /// The pod: its namespace, labels and addresses.
    pub node: ProxyNode,
    /// Whether the proxy answers for the application's name server, so that hosts without address get one.
    pub dns: bool,
}

/// A proxy.
#[derive(Debug)]
pub struct Proxy<'a> {
    /// What it is.
    pub key: ProxyKey,
    /// What it sees of the mesh.
    pub scope: Scope<'a>,
    merged: Option<Merged>,
    inbound: Option<Arc<Listener>>,
    ports: Mutex<HashMap<u16, Arc<Port>>>,
    tables: Mutex<HashMap<String, Arc<RouteTable>>>,
    gateway_listeners: Mutex<HashMap<u16, Option<Arc<Listener>>>>,
}

impl<'a> Proxy<'a> {
    /// The configuration of a proxy.
    pub fn new(twin: &Twin<'a>, key: ProxyKey) -> Self {
        let scope = Scope::new(twin, &key.node);
        let router = key.node.kind == ProxyType::Router;
        Proxy {
            merged: router.then(|| Merged::new(twin, &key.node)),
            inbound: (key.node.kind == ProxyType::Sidecar)
                .then(|| Arc::new(inbound::listener(twin, &key.node, &scope))),
            scope,
            key,
            ports: Mutex::default(),
            tables: Mutex::default(),
            gateway_listeners: Mutex::default(),
        }
    }

    /// The listener that takes a connection, entered in this way; `None` where nothing listens.
    pub fn listener(&self, twin: &Twin<'a>, mode: Mode, connection: &Connection) -> Option<Arc<Listener>> {
        match mode {
            Mode::Inbound => self.inbound.clone(),
            Mode::Gateway => match &self.merged {
                Some(merged) => self.gateway_listener(twin, merged, connection.port),
                // Without interception a sidecar has nothing at that address.
                None => None,
            },
            Mode::Outbound if self.merged.is_some() => None,
            // A connection to the port that takes what comes in is handed to what listens there.
            Mode::Outbound if connection.port == inbound::REDIRECT_PORT => self.inbound.clone(),
            Mode::Outbound => {
                let port = self.port(twin, connection.port);
                Some(port.listener(connection.ip))
            }
        }
    }

    /// Why nobody here can say what the proxy does with connections to a port.
    pub fn unmodelled(&self, mode: Mode, port: u16) -> Option<String> {
        let merged = self.merged.as_ref().filter(|_| mode == Mode::Gateway)?;
        let servers = merged.ports.get(&port)?.iter().flat_map(|group| &group.servers);
        let through = servers.into_iter().find(|server| server.tls_mode() == Some("AUTO_PASSTHROUGH"))?;
        Some(format!(
            "{} of {} takes its destinations from the server names of other clusters (AUTO_PASSTHROUGH)",
            through.declared.source.field_path, through.declared.source
        ))
    }

    /// The route table of a name.
    pub fn table(&self, twin: &Twin<'a>, name: &str) -> Arc<RouteTable> {
        let known = self.tables.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(table) = known {
            return table;
        }
        let table = Arc::new(match &self.merged {
            Some(merged) => gateway_table::table(twin, self, merged, name),
            None if self.key.node.kind == ProxyType::Waypoint => sidecar_table::of_waypoint(twin, self, name),
            None => sidecar_table::table(twin, self, name),
        });
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.entry(name.to_owned()).or_insert(table).clone()
    }

    /// What it is to hosts: the address that its pod's connections to a host without address of its own go to.
    pub fn address_of(&self, host: &crate::analyze::twin::registry::Host<'_>) -> Option<IpAddr> {
        let own = host.addresses.first().and_then(crate::analyze::twin::address::Block::single);
        own.or_else(|| host.allocated.filter(|_| self.key.dns))
    }

    fn port(&self, twin: &Twin<'a>, number: u16) -> Arc<Port> {
        let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(port) = known {
            return port;
        }
        let port = Arc::new(outbound::port(twin, self, number));
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.entry(number).or_insert(port).clone()
    }

    fn gateway_listener(&self, twin: &Twin<'a>, merged: &Merged, number: u16) -> Option<Arc<Listener>> {
        let known =
            self.gateway_listeners.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(listener) = known {
            return listener;
        }
        let listener = gateway_listener::listener(twin, self, merged, number).map(Arc::new);
        let mut all = self.gateway_listeners.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(number).or_insert(listener).clone()
    }
}
