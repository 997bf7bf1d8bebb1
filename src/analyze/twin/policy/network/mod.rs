//! What network policies do with a connection: AdminNetworkPolicies first, then NetworkPolicies, then the
//! BaselineAdminNetworkPolicy, at both ends.
//!
//! ```text
//! egress of the source            ingress of the destination
//! Admin ──Pass or no match──> NetworkPolicy ──selects none──> Baseline ──no match──> allowed
//! ```
//!
//! The rules are those of `networking.k8s.io/v1` and of `policy.networking.k8s.io/v1alpha1`; both ends must allow. This is
//! the only place that evaluates them: rules about policies ask here too.

mod admin;
mod compiled;
pub mod exposed;
mod matching;
mod namespaced;
#[cfg(test)]
mod tests;

use core::net::IpAddr;

use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::workload::PodTemplate;

pub use compiled::NetworkPolicies;

/// Which way a policy looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// At connections to its pods.
    Ingress,
    /// At connections from its pods.
    Egress,
}

impl Direction {
    /// The field of its rules.
    pub fn field(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    /// The field of a rule's peers.
    pub fn peers(self) -> &'static str {
        match self {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }
}

/// A pod at one end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct PodEnd<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
    /// What it is made of: names of ports are its. `None` where that was not seen.
    pub template: Option<&'a PodTemplate>,
    /// Its addresses. `None` where they are not known and may be any; empty where no range of addresses is taken to
    /// hold it but the one that holds all.
    pub ips: Option<&'a [String]>,
    /// The addresses of its node, as far as they are known.
    pub node_ips: &'a [String],
}

impl PodEnd<'_> {
    /// Whether it shares its node's network.
    pub fn host_network(&self) -> bool {
        self.template.is_some_and(|template| template.host_network)
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub enum End<'a> {
    /// A pod.
    Pod(PodEnd<'a>),
    /// An address that is no pod's: outside the cluster, or a node's.
    Address(IpAddr),
    /// Some address outside the cluster.
    Outside,
    /// A pod of some ingress controller, in some namespace, with labels that nobody knows.
    Controller,
}

/// A port that is called.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// Its number, on the pod.
    pub number: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: &'a str,
}

/// A policy's say in a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The policy, and the field in it that decided.
    pub object: ObjectRef,
    /// Which way it looks.
    pub direction: Direction,
    /// What it decided, in one sentence.
    pub said: String,
    /// Whether it drops the connection.
    pub denies: bool,
}

/// What becomes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Allowed,
    /// Its packets are dropped.
    Denied,
    /// Cannot be known, and why.
    Unknown(String),
}

/// What policies decide, and which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the connection.
    pub verdict: Verdict,
    /// The policies that decided, in the order in which they were asked. Empty where no policy selects a pod.
    pub causes: Vec<Cause>,
}

impl Decision {
    /// Whether it is certain that the connection is dropped.
    pub fn denied(&self) -> bool {
        self.verdict == Verdict::Denied
    }
}

impl NetworkPolicies {
    /// What policies at one end decide: those of `own`, which calls (`Egress`) or is called (`Ingress`).
    pub fn decide(
        &self,
        direction: Direction,
        own: &PodEnd<'_>,
        other: &End<'_>,
        port: Port<'_>,
    ) -> Decision {
        if self.admin.is_empty() && self.baseline.is_empty() && self.namespaced.is_empty() {
            return Decision { verdict: Verdict::Allowed, causes: vec![] };
        }
        // Nothing keeps a node from its own pods, nor them from it.
        if let End::Address(ip) = other
            && own.node_ips.iter().any(|node| node.parse() == Ok(*ip))
        {
            return Decision { verdict: Verdict::Allowed, causes: vec![] };
        }
        let asked = Asked { direction, own, other, port };
        self.admin_first(&asked)
    }

    /// What policies at both ends decide.
    pub fn connection(&self, from: &End<'_>, to: &End<'_>, port: Port<'_>) -> Decision {
        let mut causes = vec![];
        let mut unknown = None;
        let ends = [(Direction::Egress, from, to), (Direction::Ingress, to, from)];
        for (direction, own, other) in ends {
            let End::Pod(own) = own else { continue };
            let decision = self.decide(direction, own, other, port);
            match decision.verdict {
                Verdict::Denied => {
                    return Decision { verdict: Verdict::Denied, causes: decision.causes };
                }
                Verdict::Unknown(why) => unknown = unknown.or(Some(why)),
                Verdict::Allowed => {}
            }
            causes.extend(decision.causes);
        }
        Decision { verdict: unknown.map_or(Verdict::Allowed, Verdict::Unknown), causes }
    }
}

/// One question to the policies of one end.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    direction: Direction,
    own: &'a PodEnd<'a>,
    other: &'a End<'a>,
    port: Port<'a>,
}

impl<'a> Asked<'a> {
    /// The pod that is called, whose names of ports count; `None` where it is no pod.
    fn called(&self) -> Option<&'a PodEnd<'a>> {
        match (self.direction, self.other) {
            (Direction::Ingress, _) => Some(self.own),
            (Direction::Egress, End::Pod(pod)) => Some(pod),
            (Direction::Egress, End::Address(_) | End::Outside | End::Controller) => None,
        }
    }

    fn cause(&self, object: &ObjectRef, field: String, said: String) -> Cause {
        Cause { object: object.field(field), direction: self.direction, said, denies: false }
    }
}
