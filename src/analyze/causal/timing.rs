//! When it began, and what was changed just before.

use jiff::Timestamp;

use crate::analyze::finding::{Finding, Role, Severity};
use crate::model::change::{Change, ChangeKind};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// Clocks of nodes and of the control plane differ, and a failure shows with the first request after it: a change up to
/// this many seconds after the first failure still counts as before it.
pub const CLOCK_ERROR: i64 = 5;

/// A change this long before the onset no longer speaks for itself, in seconds.
pub const RECENT: i64 = 600;

/// When the trouble began: given, or the earliest onset of a symptom at Error or above, or of any symptom.
pub fn onset(snapshot: &Snapshot, findings: &[Finding]) -> Option<Timestamp> {
    let earliest = |severity: Severity| {
        let felt = findings.iter().filter(|f| f.role == Role::Symptom && f.severity >= severity);
        felt.filter_map(|f| f.onset).min()
    };
    snapshot.onset.or_else(|| earliest(Severity::Error)).or_else(|| earliest(Severity::Warning))
}

/// How the history of an object stands to an onset.
#[derive(Debug, Clone, PartialEq)]
pub enum History<'a> {
    /// Changed this many seconds before it; negative within the clocks' error.
    Before(&'a Change, i64),
    /// Changed only after it, this many seconds.
    After(&'a Change, i64),
    /// Not changed in what is known of its history.
    Unchanged,
}

/// The history of a finding's subject and of what is related to it, against its own onset or that of the trouble.
pub fn history<'a>(snapshot: &'a Snapshot, finding: &Finding, onset: Timestamp) -> History<'a> {
    let objects: Vec<&ObjectRef> = std::iter::once(&finding.subject).chain(&finding.related).collect();
    let touches = |change: &&Change| objects.iter().any(|object| change.subject.same_object(object));
    let seconds = |change: &Change| onset.as_second() - change.time.as_second();
    // What a node went through is an effect itself, and asks for a cause.
    let born = |change: &&Change| match change.kind {
        ChangeKind::Created => is_late(snapshot, change),
        ChangeKind::NodeState => false,
        _ => true,
    };
    let mut known: Vec<&Change> = snapshot.changes.iter().filter(touches).filter(born).collect();
    // Of several at once, the one that says what differs before the edit that only says who did it: looked for from the end.
    known.sort_by_key(|change| (change.time, !change.differences.is_empty()));
    if let Some(change) = known.iter().rev().find(|change| seconds(change) >= -CLOCK_ERROR) {
        return History::Before(change, seconds(change));
    }
    match known.first() {
        Some(change) => History::After(change, -seconds(change)),
        None => History::Unchanged,
    }
}

/// Whether an object was made well after its namespace's other objects: being made is a change only then.
fn is_late(snapshot: &Snapshot, change: &Change) -> bool {
    let beside = snapshot.objects.iter().filter(|object| {
        object.namespace() == change.subject.namespace
            && matches!(object.reference.kind.as_str(), "Service" | "Deployment" | "StatefulSet")
    });
    let mut born: Vec<i64> = beside.filter_map(|object| object.created).map(Timestamp::as_second).collect();
    born.sort_unstable();
    born.get(born.len() / 2).is_some_and(|middle| change.time.as_second() > middle + 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::registry::RULES;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn snapshot(edited: &str) -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "namespace": "n",
            "creationTimestamp": "2026-11-21T09:00:00Z",
            "managedFields": [{"manager": "kubectl-edit", "operation": "Update", "time": edited, "fieldsV1": {"f:spec": {}}}]}}));
        builder.finish()
    }

    #[test]
    fn a_cause_precedes_its_effects() {
        let onset: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let finding = Finding::new(RULES[0].meta(), ObjectRef::new("VirtualService", "n", "a"), &[]);
        let before = snapshot("2026-11-21T09:59:50Z");
        assert!(matches!(history(&before, &finding, onset), History::Before(_, 10)));
        let after = snapshot("2026-11-21T10:01:00Z");
        assert!(matches!(history(&after, &finding, onset), History::After(_, 60)));
        let within_error = snapshot("2026-11-21T10:00:03Z");
        assert!(matches!(history(&within_error, &finding, onset), History::Before(_, -3)));
    }
}
