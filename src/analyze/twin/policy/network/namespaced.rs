//! NetworkPolicies: a pod that none selects in a direction takes everything; one that some select takes what any of them
//! allows.

use super::matching::{Block, Fit, Pods, PortMatch, ports_fit};
use super::{Asked, Cause, Decision, Direction, End, NetworkPolicies, Verdict};
use crate::model::object::ObjectRef;
use crate::model::selector::Selector;

/// A NetworkPolicy. A direction that is `None` it does not isolate.
#[derive(Debug)]
pub(super) struct Namespaced {
    pub(super) reference: ObjectRef,
    pub(super) selector: Selector,
    pub(super) ingress: Option<Vec<Rule>>,
    pub(super) egress: Option<Vec<Rule>>,
}

/// What it lets through. Without peers from or to anybody, without ports on all of them.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) peers: Vec<Peer>,
    pub(super) ports: Vec<PortMatch>,
}

#[derive(Debug)]
pub(super) enum Peer {
    Block(Block),
    Pods(Pods),
    /// One that selects nothing: without any selector, or with a range that is none.
    Nothing,
}

impl Namespaced {
    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl NetworkPolicies {
    /// What NetworkPolicies decide; `None` where none selects the pod in this direction.
    pub(super) fn namespaced(&self, asked: &Asked<'_>) -> Option<Decision> {
        let own = self.namespaced.get(asked.own.namespace).map(Vec::as_slice).unwrap_or_default();
        let isolating: Vec<(&Namespaced, &[Rule])> = own
            .iter()
            .filter(|policy| policy.selector.matches(asked.own.labels))
            .filter_map(|policy| Some((policy, policy.rules(asked.direction)?)))
            .collect();
        if isolating.is_empty() {
            return None;
        }
        let field = format!("spec.{}", asked.direction.field());
        let mut unknown = None;
        for (policy, rules) in &isolating {
            for (index, rule) in rules.iter().enumerate() {
                let fit = ports_fit(&rule.ports, asked);
                let (peer, at) = match rule.peers.is_empty() {
                    true => (Fit::Yes, None),
                    false => {
                        let (fit, at) = Fit::any(rule.peers.iter().map(|peer| self.peer(peer, asked)));
                        (fit, Some(at))
                    }
                };
                let place = match at {
                    Some(at) => format!("{field}[{index}].{}[{at}]", asked.direction.peers()),
                    None => format!("{field}[{index}]"),
                };
                match fit.and(peer) {
                    Fit::Yes => {
                        let said = "let through".to_owned();
                        return Some(Decision {
                            verdict: Verdict::Allowed,
                            causes: vec![asked.cause(&policy.reference, place, said)],
                        });
                    }
                    Fit::Unknown(why) if unknown.is_none() => {
                        let said = format!("cannot be judged: {why}");
                        unknown = Some((why, asked.cause(&policy.reference, place, said)));
                    }
                    Fit::Unknown(_) | Fit::No => {}
                }
            }
        }
        if let Some((why, cause)) = unknown {
            let why = format!("{} decides and {why}", cause.object);
            return Some(Decision { verdict: Verdict::Unknown(why), causes: vec![cause] });
        }
        let causes = isolating.iter().map(|(policy, rules)| self.none_fits(policy, rules, &field, asked));
        Some(Decision { verdict: Verdict::Denied, causes: causes.collect() })
    }

    fn none_fits(&self, policy: &Namespaced, rules: &[Rule], field: &str, asked: &Asked<'_>) -> Cause {
        let peers = rules.iter().any(|rule| {
            rule.peers.is_empty()
                || Fit::any(rule.peers.iter().map(|peer| self.peer(peer, asked))).0 == Fit::Yes
        });
        let ranges = || rules.iter().flat_map(|rule| &rule.peers).any(|peer| matches!(peer, Peer::Block(_)));
        let unseen = matches!(asked.other, End::Pod(pod) if pod.ips.is_some_and(<[_]>::is_empty));
        let why = match (rules.len(), peers) {
            (0, _) => "there is no rule",
            (_, true) => "no rule is for this port",
            (_, false) if unseen && ranges() => {
                "no rule is for this peer (its address was not seen: it is taken to lie in no ipBlock)"
            }
            (_, false) => "no rule is for this peer",
        };
        let said = format!("isolated, and {why}: dropped");
        Cause { denies: true, ..asked.cause(&policy.reference, field.to_owned(), said) }
    }

    fn peer(&self, peer: &Peer, asked: &Asked<'_>) -> Fit {
        match peer {
            Peer::Block(block) => block.fit(asked.other),
            Peer::Pods(pods) => pods.fit(asked.other, asked.own.namespace, &self.namespaces),
            Peer::Nothing => Fit::No,
        }
    }
}
