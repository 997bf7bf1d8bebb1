//! Which of several objects was changed last before something began: where two objects do not fit each other, the one that
//! was changed is the one to look at.

use jiff::Timestamp;

use crate::analyze::causal::timing::CLOCK_ERROR;
use crate::model::change::ChangeKind;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// A change longer than this before the onset does not decide, in seconds.
const RECENT: i64 = 900;

/// The index of the object that was changed last, at most [`RECENT`] seconds before the onset. Being made
/// counts less than any edit: a namespace that was set up a moment ago was made all at once.
pub fn changed_last(snapshot: &Snapshot, objects: &[&ObjectRef], onset: Option<Timestamp>) -> Option<usize> {
    let onset = onset?.as_second();
    let near = |at: Timestamp| {
        let before = onset - at.as_second();
        (-CLOCK_ERROR..=RECENT).contains(&before)
    };
    let mut best: Option<(bool, Timestamp, usize)> = None;
    for change in snapshot.changes.iter().filter(|change| near(change.time)) {
        let Some(at) = objects.iter().position(|object| change.subject.same_object(object)) else { continue };
        let key = (change.kind != ChangeKind::Created, change.time, at);
        if best.is_none_or(|known| (known.0, known.1) < (key.0, key.1)) {
            best = Some(key);
        }
    }
    best.map(|(_, _, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    #[test]
    fn the_edit_shortly_before_decides() {
        let mut builder = Builder::new();
        for (name, edited) in [("a", "2026-11-21T10:00:00Z"), ("b", "2026-11-21T10:05:00Z")] {
            builder.object(json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": name, "namespace": "n",
                "creationTimestamp": "2026-11-21T08:00:00Z",
                "managedFields": [{"manager": "kubectl-edit", "operation": "Update", "time": edited, "fieldsV1": {"f:spec": {}}}]}}));
        }
        let snapshot = builder.finish();
        let objects = ["a", "b"].map(|name| ObjectRef::new("PeerAuthentication", "n", name));
        let of = |onset: &str| changed_last(&snapshot, &[&objects[0], &objects[1]], onset.parse().ok());
        assert_eq!(of("2026-11-21T10:05:10Z"), Some(1));
        assert_eq!(of("2026-11-21T10:00:10Z"), Some(0));
        assert_eq!(of("2026-11-21T12:00:00Z"), None);
    }
}
