//! What the twin answers: the outcome, and the decisions that led there.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

use super::respond::Changes;
use crate::model::object::ObjectRef;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum Outcome {
    /// It reaches a backend, or a destination outside.
    Forwarded,
    /// A proxy answers it itself.
    Responded,
    /// There is no HTTP answer at all.
    Refused,
    /// The twin cannot say; `detail` says why.
    #[default]
    NotModelled,
}

/// What a proxy did not find, or found wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum ProxyError {
    /// Nothing listens there.
    NoListener,
    /// No filter chain takes the connection.
    NoFilterChain,
    /// Two filter chains have the same conditions: Envoy rejects the listener.
    MultipleFilterChains,
    /// No virtual host has the host.
    NoVirtualHost,
    /// No route of the virtual host fits.
    NoRoute,
    /// The virtual host wants TLS.
    TLSRequired,
    /// The bytes are not what the filter chain reads.
    ProtocolError,
    /// TLS that the filter chain does not terminate as the client speaks it.
    InvalidTLS,
    /// Mutual TLS where other TLS is spoken, or the reverse.
    InvalidMTLS,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The object that decided; none where the mesh's own behaviour did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// The field that decided.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
    /// What was decided, as a sentence without a full stop.
    pub decision: String,
}

impl Step {
    /// A decision that no object made.
    pub fn plain(decision: impl Into<String>) -> Self {
        Step { object: None, field_path: String::new(), decision: decision.into() }
    }

    /// A decision by an object; the reference's own field path says by which field.
    pub fn by(object: &ObjectRef, decision: impl Into<String>) -> Self {
        let field_path = object.field_path.clone();
        Step { object: Some(object.field("")), field_path, decision: decision.into() }
    }
}

/// A Service, or a host outside, that gets requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// Its namespace; empty for a host outside.
    pub namespace: String,
    /// Its name, or the host.
    pub service: String,
    /// Its port.
    #[serde(skip_serializing_if = "is_zero")]
    pub port: u16,
    /// The subset.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subset: String,
    /// Its share, relative to the others.
    pub weight: u32,
    /// The pods that may get the request, where any are known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<String>,
}

fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// What the backend receives; parts that are absent are as the client sent them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// The Host header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The path with its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// All headers of the client after changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Headers, in lower case, that it gets besides with a value that configuration does not decide.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub undecided_headers: BTreeSet<String>,
}

impl Sent {
    fn is_unchanged(&self) -> bool {
        *self == Sent::default()
    }
}

/// A share of the requests that fares otherwise than the answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Which: `20 of 100 requests`.
    pub share: String,
    /// The status that they get; none where there is no HTTP answer.
    pub status: Option<u16>,
    /// Envoy's response flag.
    pub flag: String,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The question's name.
    pub name: String,
    /// What becomes of the request.
    pub outcome: Outcome,
    /// The status that the caller sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Envoy's response flag.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub flag: String,
    /// A sentence: what decided, or why it is not modelled.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What a proxy did not find.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ProxyError>,
    /// Envoy's name of the listener, in the first proxy that decides; so are the names that follow.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// Of the filter chain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter_chain: String,
    /// Of the route configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route_config: String,
    /// Of the virtual host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub virtual_host: String,
    /// Of the route.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// Of the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Who may get the request, with relative weights; those with 0 are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Who gets a copy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Backend>,
    /// What the backend receives.
    #[serde(skip_serializing_if = "Sent::is_unchanged")]
    pub sent: Sent,
    /// Where a redirect leads.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub location: String,
    /// The headers that the caller sees, as far as configuration and the backend's answer decide them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub response_headers: BTreeMap<String, String>,
    /// Headers, in lower case, that the caller sees besides with a value that configuration does not decide.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub undecided_response_headers: BTreeSet<String>,
    /// The decisions in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// The longest that the request takes by the route that sends it on, in milliseconds; none where that limits nothing.
    #[serde(skip)]
    pub allowed: Option<u64>,
    /// How often the route sends a request in all that the application answers with a failure; 0 where no route does.
    #[serde(skip)]
    pub tries: u64,
    /// What the route that took the request does to the headers of answers.
    #[serde(skip)]
    pub changes: Changes,
    /// Shares of the requests that fail where the others do not; `steps` tell them.
    #[serde(skip)]
    pub lost: Vec<Lost>,
}

impl Answer {
    /// Whether some or all of such requests fail: no answer, an answer that a proxy gives itself with a status of 400 or
    /// above, or a backend's own failure.
    pub fn fails(&self) -> bool {
        let failure = self.status.is_some_and(|status| status >= 400);
        match self.outcome {
            Outcome::Refused => true,
            Outcome::Responded => failure,
            Outcome::Forwarded => failure || !self.lost.is_empty(),
            Outcome::NotModelled => false,
        }
    }

    /// What the caller sees, in a few words: `200`, `503 UH`, `200 (20 of 100 requests: 503 UH)`, `no answer`.
    pub fn label(&self) -> String {
        let seen = |status: Option<u16>, flag: &str| {
            let what = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            if flag.is_empty() { what } else { format!("{what} {flag}") }
        };
        let connected = self.outcome == Outcome::Forwarded && self.status.is_none();
        let whole = if connected { "connected".to_owned() } else { seen(self.status, &self.flag) };
        let lost: Vec<String> =
            self.lost.iter().map(|l| format!("{}: {}", l.share, seen(l.status, &l.flag))).collect();
        if lost.is_empty() || self.outcome != Outcome::Forwarded {
            whole
        } else {
            format!("{whole} ({})", lost.join(", "))
        }
    }

    /// An answer that says that the twin cannot say, and why.
    pub fn not_modelled(name: &str, reason: impl Into<String>) -> Self {
        Answer { name: name.to_owned(), detail: reason.into(), ..Answer::default() }
    }

    /// Ends with no HTTP answer.
    pub fn refuse(&mut self, flag: &str, detail: impl Into<String>) {
        self.outcome = Outcome::Refused;
        self.status = None;
        self.flag = flag.to_owned();
        self.detail = detail.into();
    }

    /// Ends with a proxy's own answer.
    pub fn respond(&mut self, status: u16, flag: &str, detail: impl Into<String>) {
        self.outcome = Outcome::Responded;
        self.status = Some(status);
        self.flag = flag.to_owned();
        self.detail = detail.into();
    }

    /// Ends with the twin not knowing.
    pub fn give_up(&mut self, reason: impl Into<String>) {
        self.outcome = Outcome::NotModelled;
        self.status = None;
        self.flag = String::new();
        self.detail = reason.into();
    }
}
