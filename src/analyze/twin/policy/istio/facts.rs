//! What is known of a request when authorization looks at it.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};

/// One thing about a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is this.
    Is(T),
    /// It is not there: no certificate, no token.
    Absent,
    /// Nobody saw.
    #[default]
    Unknown,
}

impl<T> Fact<T> {
    /// What is known, of something that a request always has.
    pub fn or_unknown(value: Option<T>) -> Self {
        value.map_or(Fact::Unknown, Fact::Is)
    }

    /// What is known, of something that it may lack.
    pub fn or_absent(value: Option<T>) -> Self {
        value.map_or(Fact::Absent, Fact::Is)
    }

    /// Whether it satisfies a condition: nothing that is absent does, and of what is unknown nobody can say.
    pub fn is(&self, condition: impl FnOnce(&T) -> bool) -> Option<bool> {
        match self {
            Fact::Is(value) => Some(condition(value)),
            Fact::Absent => Some(false),
            Fact::Unknown => None,
        }
    }
}

/// A request, or a bare connection, as the destination's proxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the proxy reads HTTP; on a bare connection it has none of the request's parts.
    pub http: bool,
    /// `cluster.local/ns/shop/sa/checkout`; absent without mutual TLS.
    pub principal: Fact<String>,
    /// The namespace of the principal.
    pub namespace: Fact<String>,
    /// The service account of the principal.
    pub service_account: Fact<String>,
    /// The address of whoever opened the connection.
    pub source_ip: Fact<IpAddr>,
    /// The address of the first client, as `x-forwarded-for` or the proxy protocol name it.
    pub remote_ip: Fact<IpAddr>,
    /// The address of the destination.
    pub destination_ip: Fact<IpAddr>,
    /// The port of the destination's pod.
    pub port: Fact<i64>,
    /// The server name in the TLS handshake.
    pub sni: Fact<String>,
    /// The method.
    pub method: Fact<String>,
    /// The path without query, normalised as the proxy does.
    pub path: Fact<String>,
    /// The Host header, with its port where it has one.
    pub host: Fact<String>,
    /// Headers by name in lower case.
    pub headers: Fact<BTreeMap<String, String>>,
    /// Names, in lower case, of headers that are there besides with a value that nobody can tell.
    pub undecided: BTreeSet<String>,
    /// A token that request authentication accepted.
    pub token: Fact<()>,
    /// The mesh's trust domain, then its aliases.
    pub trust_domains: Vec<String>,
}

impl Facts {
    /// Fills in an identity: `cluster.local/ns/shop/sa/checkout`.
    pub fn identity(&mut self, trust_domain: &str, namespace: &str, service_account: &str) {
        self.principal = Fact::Is(format!("{trust_domain}/ns/{namespace}/sa/{service_account}"));
        self.namespace = Fact::Is(namespace.to_owned());
        self.service_account = Fact::Is(service_account.to_owned());
    }

    /// Fills in that there is none.
    pub fn anonymous(&mut self) {
        self.principal = Fact::Absent;
        self.namespace = Fact::Absent;
        self.service_account = Fact::Absent;
    }
}
