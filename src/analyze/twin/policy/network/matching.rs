//! Whether a peer or a port of a rule fits a connection: yes, no, or nobody can say.

use core::net::IpAddr;
use std::borrow::Cow;
use std::collections::BTreeMap;

use super::{Asked, End, PodEnd};
use crate::model::cidr::Cidr;
use crate::model::selector::{Labels, Selector};
use crate::model::workload::ContainerRole;

/// Whether something fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    No,
    /// What it hangs on is not known; the text says what that is.
    Unknown(&'static str),
}

impl Fit {
    pub(super) fn of(fits: bool) -> Self {
        if fits { Fit::Yes } else { Fit::No }
    }

    /// Both must fit.
    pub(super) fn and(self, other: Fit) -> Fit {
        match (self, other) {
            (Fit::No, _) | (_, Fit::No) => Fit::No,
            (Fit::Unknown(why), _) | (_, Fit::Unknown(why)) => Fit::Unknown(why),
            (Fit::Yes, Fit::Yes) => Fit::Yes,
        }
    }

    /// One of them must fit. With the place of the first that does.
    pub(super) fn any(fits: impl Iterator<Item = Fit>) -> (Fit, usize) {
        let mut out = (Fit::No, 0);
        for (at, fit) in fits.enumerate() {
            match fit {
                Fit::Yes => return (Fit::Yes, at),
                Fit::Unknown(_) if out.0 == Fit::No => out = (fit, at),
                Fit::Unknown(_) | Fit::No => {}
            }
        }
        out
    }
}

/// The label that the API server gives every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Labels of namespaces. One that no object declares has its name alone.
#[derive(Debug, Default)]
pub(super) struct Namespaces(pub(super) BTreeMap<String, Labels>);

impl Namespaces {
    pub(super) fn add(&mut self, name: &str, mut labels: Labels) {
        labels.insert(NAMESPACE_NAME.to_owned(), name.to_owned());
        self.0.insert(name.to_owned(), labels);
    }

    pub(super) fn labels(&self, name: &str) -> Cow<'_, Labels> {
        match self.0.get(name) {
            Some(labels) => Cow::Borrowed(labels),
            None => Cow::Owned([(NAMESPACE_NAME.to_owned(), name.to_owned())].into()),
        }
    }
}

/// Whether a selector picks something whose labels nobody knows.
fn picks_unknown(selector: &Selector) -> Fit {
    if selector.is_empty() {
        Fit::Yes
    } else {
        Fit::Unknown("the labels of the ingress controller are not known")
    }
}

/// A peer that selects pods.
#[derive(Debug)]
pub(super) struct Pods {
    /// `None`: the policy's own namespace.
    pub(super) namespaces: Option<Selector>,
    pub(super) pods: Selector,
    /// Whether pods in their node's network count: in a NetworkPolicy they do, in an AdminNetworkPolicy never.
    pub(super) host_network: bool,
}

impl Pods {
    pub(super) fn fit(&self, end: &End<'_>, own_namespace: &str, namespaces: &Namespaces) -> Fit {
        match end {
            End::Address(_) | End::Outside => Fit::No,
            End::Pod(pod) => Fit::of(
                (self.host_network || !pod.host_network())
                    && match &self.namespaces {
                        None => pod.namespace == own_namespace,
                        Some(selector) => selector.matches(&namespaces.labels(pod.namespace)),
                    }
                    && self.pods.matches(pod.labels),
            ),
            End::Controller => match &self.namespaces {
                None => Fit::Unknown("the namespace of the ingress controller is not known"),
                Some(selector) => picks_unknown(selector).and(picks_unknown(&self.pods)),
            },
        }
    }
}

/// A range of addresses without some of its parts.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) range: Cidr,
    pub(super) except: Vec<Cidr>,
}

impl Block {
    fn holds(&self, ip: IpAddr) -> bool {
        self.range.contains(ip) && !self.except.iter().any(|part| part.contains(ip))
    }

    pub(super) fn fit(&self, end: &End<'_>) -> Fit {
        match end {
            End::Address(ip) => Fit::of(self.holds(*ip)),
            End::Pod(pod) => self.fit_pod(pod),
            End::Controller | End::Outside if self.range.is_all() && self.except.is_empty() => Fit::Yes,
            End::Controller => Fit::Unknown("the address of the ingress controller is not known"),
            End::Outside => Fit::Unknown("an address outside is not known"),
        }
    }

    fn fit_pod(&self, pod: &PodEnd<'_>) -> Fit {
        if self.range.is_all() && self.except.is_empty() && pod.ips.is_none_or(<[_]>::is_empty) {
            return Fit::Yes;
        }
        let Some(ips) = pod.ips else { return Fit::Unknown("the address of a pod was not seen") };
        let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
        // A connection uses addresses of one family: those of the other say nothing.
        let held = ips.iter().filter(|ip| self.holds(**ip)).count();
        let family = ips.iter().filter(|ip| self.range.same_family(**ip)).count();
        match held {
            0 => Fit::No,
            n if n == family => Fit::Yes,
            _ => Fit::Unknown("pods of one workload lie on both sides of a range of addresses"),
        }
    }
}

/// A port of a rule.
#[derive(Debug)]
pub(super) enum PortMatch {
    /// Numbers from the first to the last, of a protocol.
    Range { transport: String, from: i64, to: i64 },
    /// All ports of a protocol.
    Transport(String),
    /// The name of a port of the pod that is called; a protocol where the rule names one.
    Name { transport: Option<String>, name: String },
    /// Something that this version of the API does not have.
    Unread,
}

impl PortMatch {
    pub(super) fn fit(&self, asked: &Asked<'_>) -> Fit {
        let port = asked.port;
        match self {
            PortMatch::Range { transport, from, to } => {
                Fit::of(transport == port.transport && (*from..=*to).contains(&port.number))
            }
            PortMatch::Transport(transport) => Fit::of(transport == port.transport),
            PortMatch::Name { transport, name } => {
                if transport.as_deref().is_some_and(|own| own != port.transport) {
                    return Fit::No;
                }
                // Nothing but a pod has ports with names.
                let Some(called) = asked.called() else { return Fit::No };
                let Some(template) = called.template else {
                    return Fit::Unknown("the names of the ports of the called pod were not seen");
                };
                let running = template.containers.iter().filter(|c| c.role != ContainerRole::Init);
                Fit::of(running.flat_map(|c| &c.ports).any(|own| {
                    own.name == *name && own.number == port.number && own.protocol == port.transport
                }))
            }
            PortMatch::Unread => Fit::Unknown("a rule selects ports in a way that is not read"),
        }
    }
}

/// Whether one of a rule's ports fits; a rule without ports fits all.
pub(super) fn ports_fit(ports: &[PortMatch], asked: &Asked<'_>) -> Fit {
    if ports.is_empty() { Fit::Yes } else { Fit::any(ports.iter().map(|port| port.fit(asked))).0 }
}
