//! What NetworkPolicies allow, as the API defines it: a pod that no policy isolates takes everything; one that is isolated
//! takes what any of its policies allows.

use core::net::IpAddr;
use serde_json::Value;

use crate::model::fields::Fields;
use crate::model::network::NetworkPolicy;
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerPort, PodTemplate};

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its pod's labels.
    pub labels: &'a Labels,
    /// Its pod's addresses, as far as they are known.
    pub ips: &'a [String],
}

/// A port that is called.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    /// Its number.
    pub number: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: &'a str,
    /// The pod that is called: names of ports are its.
    pub callee: Option<&'a PodTemplate>,
}

/// Which way a policy looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    fn peers(self) -> &'static str {
        match self {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }
}

/// The policies that isolate `own` in a direction, where none of them lets `other` through; empty where the connection is
/// allowed.
pub fn blocking<'a>(
    snapshot: &'a Snapshot,
    direction: Direction,
    own: End<'_>,
    other: End<'_>,
    port: Port<'_>,
) -> Vec<&'a NetworkPolicy> {
    let isolating: Vec<&NetworkPolicy> = snapshot
        .network_policies
        .iter()
        .filter(|policy| policy.object.namespace() == own.namespace && policy.selector.matches(own.labels))
        .filter(|policy| match direction {
            Direction::Ingress => policy.ingress,
            Direction::Egress => policy.egress,
        })
        .collect();
    let allowed = isolating.iter().any(|policy| {
        let rules = policy.object.body.list(&format!("spec.{}", direction.field()));
        rules.iter().any(|rule| {
            let peers = rule.list(direction.peers());
            let peer = peers.is_empty() || peers.iter().any(|p| is_peer(snapshot, policy, p, other));
            let ports = rule.list("ports");
            peer && (ports.is_empty() || ports.iter().any(|p| is_port(p, port)))
        })
    });
    if allowed { vec![] } else { isolating }
}

fn is_peer(snapshot: &Snapshot, policy: &NetworkPolicy, peer: &Value, other: End<'_>) -> bool {
    if let Some(block) = peer.at("ipBlock") {
        let inside = |cidr: &str| other.ips.iter().any(|ip| contains(cidr, ip));
        // An unknown address is given the benefit of the doubt.
        return other.ips.is_empty()
            || (block.text("cidr").is_some_and(inside)
                && !block.texts("except").iter().any(|cidr| inside(cidr)));
    }
    let namespace = match peer.at("namespaceSelector") {
        None => other.namespace == policy.object.namespace(),
        Some(selector) => {
            let selector = Selector::read(selector);
            let mut labels = snapshot
                .object("Namespace", "", other.namespace)
                .map(|n| n.labels.clone())
                .unwrap_or_default();
            labels.insert("kubernetes.io/metadata.name".to_owned(), other.namespace.to_owned());
            selector.matches(&labels)
        }
    };
    namespace && peer.at("podSelector").is_none_or(|selector| Selector::read(selector).matches(other.labels))
}

fn is_port(rule: &Value, port: Port<'_>) -> bool {
    if rule.text("protocol").unwrap_or("TCP") != port.transport {
        return false;
    }
    match rule.at("port") {
        None => true,
        Some(Value::String(name)) if name.parse::<i64>().is_err() => {
            let declared = port.callee.into_iter().flat_map(|t| &t.containers).flat_map(|c| &c.ports);
            let same = |p: &ContainerPort| &p.name == name && p.number == port.number;
            // Without the pod nobody can say which number the name stands for.
            port.callee.is_none() || declared.into_iter().any(same)
        }
        Some(_) => match (rule.int("port"), rule.int("endPort")) {
            (Some(from), Some(to)) => (from..=to).contains(&port.number),
            (Some(only), None) => only == port.number,
            (None, _) => true,
        },
    }
}

/// Whether an address lies in `10.0.0.0/8` or `fd00::/8`.
fn contains(cidr: &str, ip: &str) -> bool {
    let Some((network, length)) = cidr.split_once('/') else { return cidr == ip };
    let (Ok(network), Ok(ip), Ok(length)) =
        (network.parse::<IpAddr>(), ip.parse::<IpAddr>(), length.parse::<u32>())
    else {
        return false;
    };
    match (network, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32u32.saturating_sub(length);
            u32::from(a).checked_shr(shift).unwrap_or(0) == u32::from(b).checked_shr(shift).unwrap_or(0)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128u32.saturating_sub(length);
            u128::from(a).checked_shr(shift).unwrap_or(0) == u128::from(b).checked_shr(shift).unwrap_or(0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_blocks() {
        assert!(contains("10.0.0.0/8", "10.1.2.3"));
        assert!(!contains("10.0.0.0/16", "10.1.2.3"));
        assert!(contains("0.0.0.0/0", "192.0.2.1"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(!contains("0.0.0.0/0", "fd12::1"));
    }
}
