//! Rollouts, from the history that workloads keep: ReplicaSets of a Deployment, ControllerRevisions of a StatefulSet or
//! DaemonSet.

use crate::model::json::Value;
use jiff::Timestamp;
use std::collections::BTreeMap;

use super::{Change, ChangeKind, Difference, diff};
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::objects::Objects;
use crate::model::workload::Workload;

/// One revision of a workload.
struct Revision<'a> {
    number: i64,
    made: Option<Timestamp>,
    name: &'a str,
    template: &'a Value,
}

/// Each revision against the one before.
pub(super) fn rollouts(objects: &Objects, workloads: &[Workload], events: &[Event]) -> Vec<Change> {
    let mut revisions: BTreeMap<ObjectRef, Vec<Revision<'_>>> = BTreeMap::new();
    for set in workloads.iter().filter(|w| w.reference().kind == "ReplicaSet") {
        let number =
            set.object.annotations.get("deployment.kubernetes.io/revision").and_then(|r| r.parse().ok());
        note(&mut revisions, &set.object, number, "spec.template");
    }
    for object in objects.iter().filter(|o| o.reference.kind == "ControllerRevision") {
        note(&mut revisions, object, object.body.int("revision"), "data.spec.template");
    }
    let mut out = vec![];
    for (owner, mut all) in revisions {
        all.sort_by_key(|revision| revision.number);
        for (old, new) in all.iter().zip(all.iter().skip(1)) {
            let Some(time) = rolled_out(events, &owner, old, new) else { continue };
            let mut differences: Vec<Difference> = vec![];
            diff(old.template, new.template, "spec.template", &mut differences);
            differences.retain(|d| {
                !d.path.ends_with("labels.pod-template-hash")
                    && !d.path.ends_with("kubectl.kubernetes.io/restartedAt")
            });
            out.push(Change {
                by: author(objects, &owner, time),
                fields: differences.iter().map(|d| d.path.clone()).collect(),
                differences,
                ..Change::new(time, &owner, ChangeKind::Rollout)
            });
        }
    }
    out
}

fn note<'a>(
    revisions: &mut BTreeMap<ObjectRef, Vec<Revision<'a>>>,
    object: &'a Object,
    number: Option<i64>,
    template: &str,
) {
    let (Some(owner), Some(number)) = (object.owners.first(), number) else { return };
    let Some(template) = object.body.at(template) else { return };
    let revision = Revision { number, made: object.created, name: object.name(), template };
    revisions.entry(owner.clone()).or_default().push(revision);
}

/// When a revision was rolled out: when it was made, but for a rollback, which takes up an old one again. Then an event tells
/// when it was scaled up, if it still lives.
fn rolled_out(
    events: &[Event],
    owner: &ObjectRef,
    old: &Revision<'_>,
    new: &Revision<'_>,
) -> Option<Timestamp> {
    let (made, before) = (new.made?, old.made?);
    if made >= before {
        return Some(made);
    }
    let about = format!("Scaled up replica set {} ", new.name);
    let own = events.iter().filter(|e| {
        e.reason == "ScalingReplicaSet" && e.about.same_object(owner) && e.message.starts_with(&about)
    });
    own.filter_map(|e| if e.first >= Some(before) { e.first } else { e.last })
        .filter(|at| *at >= before)
        .min()
}

/// An edit and the revision that it gives lie so many seconds apart at most.
const NEAR: i64 = 5;

/// Who wrote the template at that time.
fn author(objects: &Objects, owner: &ObjectRef, at: Timestamp) -> String {
    let edits = objects
        .get(&owner.kind, &owner.namespace, &owner.name)
        .map(|object| object.edits.as_slice())
        .unwrap_or_default();
    let wrote = edits.iter().filter(|edit| {
        let near = edit.time.is_some_and(|t| (t.as_second() - at.as_second()).abs() <= NEAR);
        near && edit.subresource.is_empty() && edit.fields.iter().any(|f| f.starts_with("spec.template"))
    });
    let manager = wrote.map(|edit| edit.manager.as_str()).find(|m| *m != "kube-controller-manager");
    manager.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use std::sync::Arc;

    #[test]
    fn a_stateful_set_keeps_its_history_in_revisions() {
        let revision = |name: &str, number: i64, image: &str, made: &str| {
            Object::read(json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": number,
                "metadata": {"name": name, "namespace": "n", "creationTimestamp": made,
                    "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "controller": true}]},
                "data": {"spec": {"template": {"spec": {"containers": [{"name": "db", "image": image}]}}}}}))
            .unwrap()
        };
        let set = Object::read(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "n", "managedFields": [
            {"manager": "kubectl-set", "operation": "Update", "time": "2026-11-21T10:00:00Z",
             "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"db\"}": {"f:image": {}}}}}}}}]}})).unwrap();
        let all = [
            revision("db-1", 1, "db:1", "2026-11-20T10:00:00Z"),
            revision("db-2", 2, "db:2", "2026-11-21T10:00:01Z"),
            set,
        ];
        let objects = all.into_iter().map(Arc::new).collect();
        let found = rollouts(&objects, &[], &[]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].by.as_str(), found[0].differences[0].after.as_str()), ("kubectl-set", "db:2"));
    }

    #[test]
    fn a_rollback_happens_when_the_old_set_is_scaled_up_again() {
        let set = |name: &str, number: &str, made: &str| {
            Workload::read(Object::read(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "n", "creationTimestamp": made,
                "annotations": {"deployment.kubernetes.io/revision": number},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "a", "controller": true}]},
                "spec": {"template": {"spec": {"containers": [{"name": "app", "image": name}]}}}})).unwrap())
        };
        let sets = [set("a-2", "2", "2026-11-21T10:00:00Z"), set("a-1", "3", "2026-11-21T09:00:00Z")];
        let event = json!({"kind": "Event", "metadata": {"name": "e", "namespace": "n"}, "reason": "ScalingReplicaSet",
            "message": "Scaled up replica set a-1 to 1 from 0", "involvedObject": {"kind": "Deployment", "namespace": "n", "name": "a"},
            "firstTimestamp": "2026-11-21T11:00:00Z", "lastTimestamp": "2026-11-21T11:00:00Z"});
        let event = Event::read(&Object::read(event).unwrap());
        assert!(rollouts(&Objects::default(), &sets, &[]).is_empty());
        let found = rollouts(&Objects::default(), &sets, &[event]);
        assert_eq!(found[0].time.to_string(), "2026-11-21T11:00:00Z");
    }
}
