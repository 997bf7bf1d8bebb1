//! AdminNetworkPolicies before NetworkPolicies, the BaselineAdminNetworkPolicy after them: in each the first rule that fits
//! decides.

use std::collections::BTreeSet;

use super::matching::{Block, Fit, Pods, PortMatch, ports_fit};
use super::{Asked, Cause, Decision, Direction, End, NetworkPolicies, Verdict};
use crate::model::object::ObjectRef;
use crate::model::selector::Selector;

/// An AdminNetworkPolicy, or the BaselineAdminNetworkPolicy.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) reference: ObjectRef,
    /// The lower the more important.
    pub(super) priority: i64,
    /// `None` where it is in no form that is known.
    pub(super) subject: Option<Pods>,
    pub(super) ingress: Vec<Rule>,
    pub(super) egress: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) action: String,
    pub(super) peers: Vec<Peer>,
    pub(super) ports: Vec<PortMatch>,
}

#[derive(Debug)]
pub(super) enum Peer {
    Pods(Pods),
    Nodes(Selector),
    Networks(Vec<Block>),
    /// Names, which whoever enforces the policy resolves himself.
    Domains,
    /// A kind of peer that this version does not have.
    Unread,
}

/// What a tier says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Say {
    Allow,
    Deny,
    Pass,
}

impl Say {
    fn of(action: &str) -> Option<Self> {
        match action {
            "Allow" => Some(Say::Allow),
            "Deny" => Some(Say::Deny),
            "Pass" => Some(Say::Pass),
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Say::Allow => "allows it",
            Say::Deny => "denies it: dropped",
            Say::Pass => "passes it on to NetworkPolicies",
        }
    }
}

/// What may come out of a tier.
#[derive(Debug, Default)]
struct Outcomes {
    says: BTreeSet<Say>,
    /// Whether perhaps, or surely, no rule fits.
    none: bool,
    causes: Vec<Cause>,
    /// Why there is more than one.
    doubt: Option<String>,
}

impl NetworkPolicies {
    /// All tiers, in order.
    pub(super) fn admin_first(&self, asked: &Asked<'_>) -> Decision {
        let first = self.tier(&self.admin, asked);
        let mut verdicts: Vec<Verdict> = vec![];
        let mut causes = first.causes;
        for say in &first.says {
            match say {
                Say::Allow => verdicts.push(Verdict::Allowed),
                Say::Deny => verdicts.push(Verdict::Denied),
                Say::Pass => {}
            }
        }
        if first.none || first.says.contains(&Say::Pass) {
            let lower = self.namespaced(asked).unwrap_or_else(|| self.baseline(asked));
            verdicts.push(lower.verdict);
            causes.extend(lower.causes);
        }
        let verdict = agreed(verdicts, first.doubt);
        Decision { verdict, causes }
    }

    fn baseline(&self, asked: &Asked<'_>) -> Decision {
        let last = self.tier(&self.baseline, asked);
        let mut verdicts: Vec<Verdict> = last
            .says
            .iter()
            .map(|say| if *say == Say::Deny { Verdict::Denied } else { Verdict::Allowed })
            .collect();
        if last.none {
            verdicts.push(Verdict::Allowed);
        }
        Decision { verdict: agreed(verdicts, last.doubt), causes: last.causes }
    }

    /// What the policies of one tier say. Those of one priority are asked together: which of them comes first is open.
    fn tier(&self, policies: &[Admin], asked: &Asked<'_>) -> Outcomes {
        let mut out = Outcomes::default();
        for same in policies.chunk_by(|a, b| a.priority == b.priority) {
            let mut sure = false;
            let before = out.says.len();
            for policy in same {
                sure |= self.policy(policy, asked, &mut out);
            }
            if out.says.len() > before + 1 && out.doubt.is_none() {
                out.doubt = Some(format!(
                    "policies of priority {} contradict each other, and the API does not say which of them counts",
                    same.first().map_or(0, |policy| policy.priority)
                ));
            }
            if sure {
                return out;
            }
        }
        out.none = true;
        out
    }

    /// Asks one policy; whether it surely decided.
    fn policy(&self, policy: &Admin, asked: &Asked<'_>, out: &mut Outcomes) -> bool {
        let Some(subject) = &policy.subject else { return false };
        if subject.fit(&End::Pod(*asked.own), "", &self.namespaces) != Fit::Yes {
            return false;
        }
        let (rules, field) = match asked.direction {
            Direction::Ingress => (&policy.ingress, "spec.ingress"),
            Direction::Egress => (&policy.egress, "spec.egress"),
        };
        for (index, rule) in rules.iter().enumerate() {
            let peers = Fit::any(rule.peers.iter().map(|peer| self.admin_peer(peer, asked))).0;
            let fit = ports_fit(&rule.ports, asked).and(peers);
            if fit == Fit::No {
                continue;
            }
            let place = format!("{field}[{index}]");
            let name = if rule.name.is_empty() { String::new() } else { format!(" \"{}\"", rule.name) };
            let Some(say) = Say::of(&rule.action) else {
                let why = format!("{} has an action that is not known", policy.reference.field(&place));
                out.doubt.get_or_insert(why);
                out.says.extend([Say::Allow, Say::Deny]);
                return true;
            };
            out.says.insert(say);
            let said = match fit {
                Fit::Unknown(why) => format!("rule{name} perhaps {}: {why}", say.words()),
                _ => format!("rule{name} {}", say.words()),
            };
            let cause = asked.cause(&policy.reference, place.clone(), said);
            out.causes.push(Cause { denies: say == Say::Deny, ..cause });
            match fit {
                Fit::Unknown(why) => {
                    out.doubt.get_or_insert(format!("{} decides and {why}", policy.reference.field(&place)));
                }
                _ => return true,
            }
        }
        false
    }

    fn admin_peer(&self, peer: &Peer, asked: &Asked<'_>) -> Fit {
        match peer {
            Peer::Pods(pods) => pods.fit(asked.other, "", &self.namespaces),
            Peer::Networks(blocks) => Fit::any(blocks.iter().map(|block| block.fit(asked.other))).0,
            Peer::Nodes(selector) => match asked.other {
                End::Address(ip) => {
                    Fit::of(self.nodes.get(ip).is_some_and(|labels| selector.matches(labels)))
                }
                // A pod in its node's network is its node.
                End::Pod(pod) if pod.host_network() => {
                    let known = pod.node_ips.iter().filter_map(|ip| self.nodes.get(&ip.parse().ok()?));
                    let mut known = known.map(|labels| selector.matches(labels));
                    known
                        .next()
                        .map_or(Fit::Unknown("the node of a pod in its network was not seen"), Fit::of)
                }
                End::Outside => Fit::Unknown("whether an address outside is a node's is not known"),
                End::Pod(_) | End::Controller => Fit::No,
            },
            Peer::Domains => match asked.other {
                End::Address(_) | End::Outside => Fit::Unknown("what its names resolve to is not known"),
                End::Pod(_) | End::Controller => Fit::No,
            },
            Peer::Unread => Fit::Unknown("a rule selects peers in a way that is not read"),
        }
    }
}

/// The one verdict that all of them are, else that it cannot be known.
fn agreed(verdicts: Vec<Verdict>, doubt: Option<String>) -> Verdict {
    let mut all = verdicts.into_iter();
    let Some(first) = all.next() else { return Verdict::Allowed };
    for other in all {
        if other != first {
            let unknown = |verdict: &Verdict| match verdict {
                Verdict::Unknown(why) => Some(why.clone()),
                Verdict::Allowed | Verdict::Denied => None,
            };
            let why = doubt.or_else(|| unknown(&first)).or_else(|| unknown(&other));
            return Verdict::Unknown(why.unwrap_or_default());
        }
    }
    first
}
