//! A request that a proxy logged, as authorization was told of it.

use crate::analyze::twin::policy::istio::facts::{Fact, Facts};

/// What a caller presents and asks for. An empty text is something that was not seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// `cluster.local/ns/shop/sa/checkout`; `None` where the caller shows no certificate, empty where that was not seen.
    pub principal: Option<String>,
    /// The namespace of the principal.
    pub namespace: String,
    /// The service account of the principal.
    pub service_account: String,
    /// The address of the client.
    pub ip: String,
    /// The method.
    pub method: String,
    /// The path without query.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// The port of the pod.
    pub port: Option<i64>,
}

impl Request {
    /// What authorization was told. Tokens, further headers and forwarded addresses are not in the evidence.
    pub fn facts(&self) -> Facts {
        let seen = |text: &str| Fact::or_unknown(Some(text.to_owned()).filter(|text| !text.is_empty()));
        let mut facts = Facts {
            http: true,
            source_ip: Fact::or_unknown(self.ip.parse().ok()),
            port: Fact::or_unknown(self.port),
            method: seen(&self.method),
            path: seen(&self.path),
            host: seen(&self.host),
            trust_domains: vec![],
            ..Facts::default()
        };
        match &self.principal {
            None => facts.anonymous(),
            Some(principal) => {
                facts.principal = seen(principal);
                facts.namespace = seen(&self.namespace);
                facts.service_account = seen(&self.service_account);
            }
        }
        facts
    }
}
