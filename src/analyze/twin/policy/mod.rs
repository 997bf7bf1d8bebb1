//! Whether the destination takes a connection, and the request on it: NetworkPolicies, mutual TLS, authorization.

mod admit;
mod ambient;
pub mod istio;
pub mod network;
mod reading;
#[cfg(test)]
mod tests;

use super::answer::Step;
use super::ask;
use super::party::Peer;

pub use admit::{Guards, admit, at_the_door, at_waypoint};
pub use ambient::captured;
pub use istio::facts::Fact;
pub use istio::path::Normalization;
pub use reading::{authorization_naming, identity, is_among, tokens_naming};

/// What the client's side wraps the connection in, as its proxy's configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTls {
    /// The bytes go out as the application wrote them: there is no proxy at the source, or it passes them on.
    AsSent(ask::Tls),
    /// A proxy that speaks mutual TLS where the destination has a proxy that takes it.
    Auto,
    /// A proxy that was told to speak plaintext.
    Disable,
    /// A proxy that was told to speak Istio's mutual TLS.
    IstioMutual,
    /// A proxy that was told to originate TLS of another kind (`SIMPLE`, `MUTUAL`).
    Originate,
}

/// The request as it arrives at the destination, after all changes on the way.
#[derive(Debug, Clone, Default)]
pub struct Arriving<'r> {
    /// The method.
    pub method: &'r str,
    /// The Host header.
    pub host: &'r str,
    /// The path with its query.
    pub path: &'r str,
    /// Headers by name, as they are written.
    pub headers: Option<&'r std::collections::BTreeMap<String, String>>,
    /// Names, in lower case, of headers that are there besides with a value that nobody can tell.
    pub undecided: Option<&'r std::collections::BTreeSet<String>>,
}

/// One connection on its last hop, and the request on it.
#[derive(Debug, Clone)]
pub struct Passage<'p, 'a> {
    /// Who opens the connection: the pod itself, or the gateway's pod.
    pub from: &'p Peer<'a>,
    /// Who is to take it.
    pub to: &'p Peer<'a>,
    /// `http`, `tcp`, `udp`, … as asked.
    pub protocol: ask::Protocol,
    /// The destination's own port: the pod's, not the Service's.
    pub port: u16,
    /// What the connection is wrapped in.
    pub tls: ClientTls,
    /// The identities that the client's proxy accepts of the other side; empty where it accepts all of the mesh's.
    pub accepts: &'p [String],
    /// The server name that the client's own TLS carries.
    pub sni: Option<&'p str>,
    /// The HTTP request; none on a bare connection.
    pub request: Option<Arriving<'p>>,
    /// The first client's address, where a gateway passed it on.
    pub remote_ip: Option<&'p str>,
}

/// What policies say to a passage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// It may pass.
    Allowed,
    /// It may not.
    Refused {
        /// The status where the destination's proxy answers (403, 401); none where there is no answer at all.
        status: Option<u16>,
        /// Envoy's response flag at the caller, where there is one.
        flag: &'static str,
        /// A sentence: who refuses and why.
        detail: String,
    },
    /// The twin cannot say, and why.
    NotModelled(String),
}

/// A ruling and the decisions that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What they say.
    pub ruling: Ruling,
    /// The decisions in order.
    pub steps: Vec<Step>,
}

impl Verdict {
    /// Nothing stands against it.
    pub fn allowed(steps: Vec<Step>) -> Self {
        Verdict { ruling: Ruling::Allowed, steps }
    }
}
