//! The scheduler's message, read clause by clause.

use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Why the scheduler leaves nodes out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clause {
    /// A claim that is not bound: another rule knows why.
    Volume,
    /// The volume lies where none of the other nodes is.
    VolumeZone,
    /// `nodeSelector` or `affinity.nodeAffinity`.
    NodeSelector,
    /// `affinity.podAffinity` or `podAntiAffinity`.
    PodAffinity,
    /// `topologySpreadConstraints`.
    Spread,
    /// The same, on nodes that lack the label of its topology.
    SpreadLabel,
    /// Host ports.
    Ports,
    /// A resource: `cpu`, `memory`, `nvidia.com/gpu`.
    Insufficient(String),
    /// The node's limit of pods.
    TooManyPods,
    /// The node's limit of attached volumes.
    TooManyVolumes,
    /// A taint without a toleration, in braces as the scheduler writes it.
    Taint(String),
    /// Cordoned.
    Cordoned,
    /// Something else.
    Other,
}

/// Reads `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint {a: b}. preemption: …` as clauses with
/// how many nodes each leaves out; a clause about the pod as a whole counts for all of them.
pub(crate) fn clauses(message: &str) -> Vec<(Clause, i64)> {
    static TOTAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"0/(\d+) nodes").ok());
    static PART: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^(\d+) (.+)$").ok());
    let total = TOTAL
        .as_ref()
        .and_then(|r| r.captures(message))
        .and_then(|c| c.get(1)?.as_str().parse().ok())
        .unwrap_or(1);
    let body = message.split_once("are available:").map_or(message, |(_, rest)| rest);
    let body = body.split(" preemption:").next().unwrap_or(body);
    let mut out: BTreeMap<Clause, i64> = BTreeMap::new();
    for part in split_clauses(body) {
        let counted = PART.as_ref().and_then(|r| r.captures(part));
        let (count, text) = match &counted {
            Some(found) => (
                found.get(1).and_then(|m| m.as_str().parse().ok()).unwrap_or(total),
                found.get(2).map_or("", |m| m.as_str()),
            ),
            None => (total, part),
        };
        if let Some(clause) = clause(text) {
            *out.entry(clause).or_default() += count;
        }
    }
    out.into_iter().collect()
}

/// At commas and at full stops before a blank, but not inside braces.
fn split_clauses(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (vec![], 0i32, 0);
    let bytes = text.as_bytes();
    for (at, c) in text.char_indices() {
        let next = bytes.get(at + 1).copied();
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' | '.' if depth <= 0 && next.is_none_or(|n| n == b' ') => {
                out.push(text.get(from..at).unwrap_or_default().trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    out.push(text.get(from..).unwrap_or_default().trim());
    out.retain(|part| !part.is_empty());
    out
}

/// One clause, without its count.
fn clause(text: &str) -> Option<Clause> {
    let lower = text.to_ascii_lowercase();
    let has = |word: &str| lower.contains(word);
    Some(match () {
        () if has("volume node affinity") => Clause::VolumeZone,
        () if has("max volume count") => Clause::TooManyVolumes,
        () if has("persistentvolumeclaim") || has("persistent volume") => Clause::Volume,
        () if has("topology spread") && has("missing required label") => Clause::SpreadLabel,
        () if has("topology spread") => Clause::Spread,
        () if has("pod affinity") || has("anti-affinity") || has("pod anti") => Clause::PodAffinity,
        () if has("node affinity") || has("node selector") || has("didn't match node") => {
            Clause::NodeSelector
        }
        () if has("free ports") => Clause::Ports,
        () if has("too many pods") => Clause::TooManyPods,
        () if has("insufficient ") => {
            Clause::Insufficient(lower.split("insufficient ").nth(1)?.split_whitespace().next()?.to_owned())
        }
        () if has("taint") => {
            let inside = text
                .split_once('{')
                .and_then(|(_, rest)| rest.split_once('}'))
                .map_or("", |(inside, _)| inside);
            Clause::Taint(inside.to_owned())
        }
        () if has("unschedulable") => Clause::Cordoned,
        // What the scheduler adds about claims of devices, and words that no reason is in.
        () if has("no new claims") || has("not found") || has("no nodes available") => return None,
        () => Clause::Other,
    })
}

/// The clause that decides: not the taints that every control plane has, nor cordons, as long as something of the pod's own
/// leaves out nodes too; of several the one that leaves out most, a wish of the pod before a lack of the cluster.
pub(crate) fn deciding(clauses: &[(Clause, i64)]) -> Option<&(Clause, i64)> {
    let natural = |clause: &Clause| match clause {
        Clause::Taint(taint) => {
            taint.contains("node-role.kubernetes.io/control-plane")
                || taint.contains("node-role.kubernetes.io/master")
        }
        Clause::Cordoned | Clause::Other => true,
        _ => false,
    };
    if let Some(volume) = clauses.iter().find(|(clause, _)| *clause == Clause::Volume) {
        return Some(volume);
    }
    let own = clauses.iter().filter(|(clause, _)| !natural(clause));
    // `Clause` is ordered from the pod's wishes to the cluster's lacks.
    own.max_by_key(|(clause, count)| (*count, std::cmp::Reverse(clause.clone())))
        .or_else(|| clauses.iter().max_by_key(|(_, count)| *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decides(message: &str) -> Clause {
        deciding(&clauses(message)).unwrap().0.clone()
    }

    #[test]
    fn the_deciding_clause_of_the_schedulers_message() {
        assert_eq!(
            decides(
                "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ),
            Clause::NodeSelector
        );
        assert_eq!(
            decides(
                "0/4 nodes are available: 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }, 3 Insufficient cpu. preemption: 0/4 nodes are available: 4 No preemption victims found for incoming pod."
            ),
            Clause::Insufficient("cpu".into())
        );
        assert_eq!(
            decides("0/3 nodes are available: 3 node(s) had untolerated taint {dedicated: gpu}."),
            Clause::Taint("dedicated: gpu".into())
        );
        assert_eq!(
            decides("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"),
            Clause::Volume
        );
        assert_eq!(
            decides("0/2 nodes are available: 1 Too many pods, 1 node(s) were unschedulable."),
            Clause::TooManyPods
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 Insufficient nvidia.com/gpu."),
            Clause::Insufficient("nvidia.com/gpu".into())
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) didn't match pod topology spread constraints."),
            Clause::Spread
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."),
            Clause::PodAffinity
        );
        assert_eq!(
            decides(
                "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints (missing required label)."
            ),
            Clause::SpreadLabel
        );
        assert_eq!(
            decides(
                "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had volume node affinity conflict."
            ),
            Clause::VolumeZone
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) exceed max volume count."),
            Clause::TooManyVolumes
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports."),
            Clause::Ports
        );
        assert_eq!(
            decides("0/2 nodes are available: 2 Insufficient ephemeral-storage."),
            Clause::Insufficient("ephemeral-storage".into())
        );
        assert_eq!(decides("0/2 nodes are available: 2 node(s) were unschedulable."), Clause::Cordoned);
        assert_eq!(deciding(&clauses("")), None);
    }

    #[test]
    fn of_two_the_one_that_leaves_out_more_nodes_decides() {
        assert_eq!(
            decides(
                "0/5 nodes are available: 1 Insufficient memory, 4 node(s) didn't match Pod's node affinity/selector."
            ),
            Clause::NodeSelector
        );
        assert_eq!(
            decides(
                "0/5 nodes are available: 4 Insufficient memory, 1 node(s) had untolerated taint {a: b}."
            ),
            Clause::Insufficient("memory".into())
        );
    }
}
