//! Listeners and filter chains as Envoy has them, and which one takes a connection.

mod choose;

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::address::Block;
use super::ask::{Protocol, Request, Tls};
use super::http::table::{RouteTable, Weighted};
use crate::model::object::ObjectRef;

pub use choose::{Chosen, choose};

/// The application protocols with which proxies of the mesh announce HTTP in their own TLS.
pub const MESH_HTTP: &[&str] = &["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// Those of bytes that no proxy understood.
pub const MESH_TCP: &[&str] = &["istio-peer-exchange", "istio"];
/// Both.
pub const MESH_ANY: &[&str] =
    &["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// What the look at the first bytes finds in plaintext HTTP.
pub const PLAIN_HTTP: &[&str] = &["http/1.1", "h2c"];

/// What a connection is wrapped in, as a listener tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    Tls,
    /// Anything else.
    Raw,
}

/// A connection as it arrives.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Where the client wanted to go; unknown where nobody knows the address.
    pub ip: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// What the client speaks in it.
    pub protocol: Protocol,
    /// What the client wraps it in.
    pub tls: Tls,
    /// The server name of the TLS.
    pub sni: Option<String>,
    /// The application protocols of the TLS.
    pub alpn: Vec<String>,
}

impl Connection {
    /// The connection of a request. What a client of its kind offers in TLS is filled in where nothing is written.
    pub fn of(request: &Request, ip: Option<IpAddr>, port: u16) -> Self {
        let alpn: &[&str] = match (request.tls, request.protocol) {
            (Tls::Plaintext, _) => &[],
            (Tls::Tls, Protocol::Http) => &["http/1.1"],
            (Tls::Tls, Protocol::Http2 | Protocol::Grpc) => &["h2"],
            (Tls::Tls, _) => &[],
            (Tls::Mtls, Protocol::Http) => &["istio-http/1.1"],
            (Tls::Mtls, Protocol::Http2 | Protocol::Grpc) => &["istio-h2"],
            (Tls::Mtls, _) => &["istio"],
        };
        let alpn = match request.alpn.as_slice() {
            [] => alpn.iter().map(|text| (*text).to_owned()).collect(),
            given => given.to_vec(),
        };
        Connection {
            ip,
            port,
            protocol: request.protocol,
            tls: request.tls,
            sni: request.server_name(),
            alpn,
        }
    }
}

/// What a filter chain terminates TLS with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    /// Whether the client has to show a certificate.
    pub client_certificate: Option<bool>,
}

impl Termination {
    /// Istio's own mutual TLS, or any other that demands a certificate of the client.
    pub const MUTUAL: Termination = Termination { client_certificate: Some(true) };
    /// TLS with a certificate of the server's alone.
    pub const SIMPLE: Termination = Termination { client_certificate: Some(false) };
    /// TLS where the client may show one.
    pub const OPTIONAL: Termination = Termination { client_certificate: None };
}

/// What a connection has to be to be taken by a filter chain. Empty parts take anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainMatch {
    /// The port.
    pub port: Option<u16>,
    /// The address.
    pub blocks: Vec<Block>,
    /// The server name: names, and `*.suffix`.
    pub sni: Vec<String>,
    /// The wrapping.
    pub transport: Option<Transport>,
    /// The application protocol.
    pub alpn: Vec<&'static str>,
}

impl ChainMatch {
    /// Whether it takes everything.
    pub fn is_any(&self) -> bool {
        *self == ChainMatch::default()
    }
}

/// What a filter chain does.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Reads HTTP and looks up a route table by this name; the table itself where it belongs to this chain alone.
    Http(String, Option<Arc<RouteTable>>),
    /// Passes bytes on.
    Tcp(Vec<Weighted>),
}

/// A filter chain.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Envoy's name of it; empty where Istio gives it none.
    pub name: String,
    /// What it takes.
    pub matching: ChainMatch,
    /// How it terminates TLS, where it does.
    pub tls: Option<Termination>,
    /// What it does.
    pub filter: Filter,
    /// What made it, where an object did.
    pub source: Option<ObjectRef>,
}

/// Whether a listener looks into the first bytes of connections to a port.
#[derive(Debug, Clone, Default)]
pub struct Inspect {
    /// By port.
    pub ports: BTreeMap<u16, bool>,
    /// For all others.
    pub others: bool,
}

impl Inspect {
    /// The same for all ports.
    pub fn all(others: bool) -> Self {
        Inspect { ports: BTreeMap::new(), others }
    }

    /// Whether it does for this port.
    pub fn at(&self, port: u16) -> bool {
        self.ports.get(&port).copied().unwrap_or(self.others)
    }
}

/// A listener.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Envoy's name of it: `0.0.0.0_80`, `virtualInbound`.
    pub name: String,
    /// Its filter chains.
    pub chains: Vec<Chain>,
    /// The one for what no other takes.
    pub default: Option<Chain>,
    /// Whether it reads the server name and the application protocols of TLS.
    pub tls_inspector: Inspect,
    /// Whether it tells HTTP from other plaintext.
    pub http_inspector: Inspect,
}
