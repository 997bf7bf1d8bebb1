//! Objects made, edited, scaled and deleted, from what objects and events carry of it.

use crate::model::json::Value;
use jiff::Timestamp;
use regex::Regex;
use std::sync::LazyLock;

use super::{Change, ChangeKind, Difference, diff, path};
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::{Edit, Object, ObjectRef};
use crate::model::objects::Objects;
use crate::model::workload::Workload;

/// Managers that write on behalf of a control loop: their edits follow from other changes.
fn is_control_loop(manager: &str) -> bool {
    matches!(
        manager,
        "kube-controller-manager"
            | "kube-scheduler"
            | "kubelet"
            | "kube-apiserver"
            | "pilot-discovery"
            | "istio.io/gateway-controller"
            | "cluster-autoscaler"
            | "node-fetcher"
            | "meshscope"
    ) || manager.starts_with("k3s")
}

/// Kinds that change all the time, or that only mirror others.
const NOISE: &[&str] = &[
    "Pod",
    "Event",
    "EndpointSlice",
    "Endpoints",
    "Lease",
    "ReplicaSet",
    "ControllerRevision",
    "Job",
    "DebugSession",
];

/// Of these, agents write much that matters to nobody: only these fields of them count.
fn matters(object: &Object, edit: &Edit) -> bool {
    let wrote = |prefixes: &[&str]| {
        edit.fields.iter().any(|field| prefixes.iter().any(|prefix| field.starts_with(prefix)))
    };
    match object.reference.kind.as_str() {
        "Node" => wrote(&["spec.unschedulable", "spec.taints"]),
        "Namespace" => wrote(&["metadata.labels"]),
        _ => true,
    }
}

/// Creations, edits and deletions, with the previous values where `kubectl apply` left them.
pub(super) fn edits(objects: &Objects, events: &[Event]) -> Vec<Change> {
    let mut out = vec![];
    for object in objects {
        let kind = object.reference.kind.as_str();
        if NOISE.contains(&kind) || !object.owners.is_empty() {
            continue;
        }
        let change = |time, kind| Change::new(time, &object.reference, kind);
        if let Some(time) = object.created.filter(|_| !matches!(kind, "Node" | "Namespace")) {
            let by = object.edits.first().map(|edit| edit.manager.clone()).unwrap_or_default();
            out.push(Change { by, ..change(time, ChangeKind::Created) });
        }
        out.extend(object.deleted.map(|time| change(time, ChangeKind::Deleted)));
        for edit in object.edits.iter().filter(|edit| matters(object, edit)) {
            let Some(time) = edit.time else { continue };
            let at_birth = object.created.is_some_and(|born| time.as_second() - born.as_second() <= 1);
            if at_birth || edit.subresource == "status" || is_control_loop(&edit.manager) {
                continue;
            }
            let scaled = edit.subresource == "scale";
            let kind = if scaled { ChangeKind::Scaled } else { ChangeKind::Edited };
            let fields = if scaled { vec!["spec.replicas".to_owned()] } else { edit.fields.clone() };
            let differences = if scaled {
                scaled_at(events, &object.reference, time).into_iter().collect()
            } else {
                since_applied(object, edit)
            };
            out.push(Change { by: edit.manager.clone(), fields, differences, ..change(time, kind) });
        }
    }
    out
}

/// What `kubectl apply` last wrote. Collected objects have lost it, manifests and dumps keep it.
pub fn applied(object: &Object) -> Option<Value> {
    let annotations = object.body.at("metadata.annotations")?;
    let text = annotations.child("kubectl.kubernetes.io/last-applied-configuration")?.as_str()?;
    serde_json::from_str(text).ok()
}

/// What an edit that is younger than the last `kubectl apply` changed of it. Values of ConfigMaps are settings of
/// applications, which rules of their own read with the care that these need.
fn since_applied(object: &Object, edit: &Edit) -> Vec<Difference> {
    if edit.manager == "kubectl-client-side-apply" || object.reference.kind == "ConfigMap" {
        return vec![];
    }
    let Some(before) = applied(object) else { return vec![] };
    let mut out = vec![];
    for field in edit.fields.iter().filter(|field| field.starts_with("spec.")) {
        let old = path::locate(&before, field).map_or(&Value::Null, |(_, value)| value);
        let new = path::locate(&object.body, field).map_or(&Value::Null, |(_, value)| value);
        diff(old, new, field, &mut out);
    }
    out
}

/// `Scaled down replica set checkout-5d to 1 from 3`, in new versions `from 3 to 1`: the ReplicaSet, and the numbers after and
/// before.
fn scaling(message: &str) -> Option<(&str, &str, &str)> {
    static SENTENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"^Scaled (?:up|down) replica set (\S+) (to|from) (\d+) (?:to|from) (\d+)$").ok()
    });
    let found = SENTENCE.as_ref()?.captures(message)?;
    let (first, second) = (found.get(3)?.as_str(), found.get(4)?.as_str());
    let (after, before) = if found.get(2)?.as_str() == "to" { (first, second) } else { (second, first) };
    Some((found.get(1)?.as_str(), after, before))
}

/// Clocks and the way from an edit to its event differ by so many seconds.
const NEAR: i64 = 2;

/// The numbers of a scaling at an instant, by the event that tells of it.
fn scaled_at(events: &[Event], subject: &ObjectRef, at: Timestamp) -> Option<Difference> {
    let near = |time: Option<Timestamp>| time.is_some_and(|t| (t.as_second() - at.as_second()).abs() <= NEAR);
    let own = events.iter().filter(|e| e.reason == "ScalingReplicaSet" && e.about.same_object(subject));
    let (_, after, before) = own.filter(|e| near(e.last)).find_map(|e| scaling(&e.message))?;
    Some(replicas(before, after))
}

fn replicas(before: &str, after: &str) -> Difference {
    Difference { path: "spec.replicas".to_owned(), before: before.to_owned(), after: after.to_owned() }
}

/// A rollout scales one ReplicaSet up and another down within this time, in seconds.
const ROLLOUT: i64 = 60;

/// Scalings that only events tell of: those of autoscalers, and those of a Deployment's only ReplicaSet at that time, which
/// are no part of a rollout. `known` are those that an edit tells of already.
pub(super) fn scalings(
    objects: &Objects,
    workloads: &[Workload],
    events: &[Event],
    known: &[Change],
) -> Vec<Change> {
    let mut out = vec![];
    for event in events {
        let Some(time) = event.last else { continue };
        let change = Change {
            by: event.reporter.clone(),
            fields: vec!["spec.replicas".to_owned()],
            ..Change::new(time, &event.about, ChangeKind::Scaled)
        };
        if event.reason == "SuccessfulRescale" {
            let size = event.message.strip_prefix("New size: ").and_then(|rest| rest.split(';').next());
            let differences = size.map(|size| replicas("", size.trim())).into_iter().collect();
            out.push(Change { differences, ..change });
            continue;
        }
        if event.reason != "ScalingReplicaSet" || event.count != 1 {
            continue;
        }
        let Some((set, after, before)) = scaling(&event.message) else { continue };
        let told = |c: &Change| {
            c.kind == ChangeKind::Scaled
                && c.subject.same_object(&event.about)
                && (c.time.as_second() - time.as_second()).abs() <= NEAR
        };
        let others =
            events.iter().filter(|e| e.reason == "ScalingReplicaSet" && e.about.same_object(&event.about));
        let mut others = others.filter(|e| {
            let near =
                |t: Option<Timestamp>| t.is_some_and(|t| (t.as_second() - time.as_second()).abs() <= ROLLOUT);
            near(e.first) || near(e.last)
        });
        let rolling = others.any(|e| scaling(&e.message).is_none_or(|(other, _, _)| other != set));
        // A ReplicaSet that was just made is scaled up from nothing by its own rollout.
        let made = objects.get("ReplicaSet", &event.about.namespace, set).and_then(|object| object.created);
        let fresh = made.is_none_or(|at| time.as_second() - at.as_second() <= ROLLOUT);
        let exists = workloads.iter().any(|w| w.reference().same_object(&event.about));
        if exists && !rolling && !fresh && !known.iter().any(told) {
            out.push(Change { by: String::new(), differences: vec![replicas(before, after)], ..change });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use std::sync::Arc;

    fn objects(all: Vec<Value>) -> Objects {
        all.into_iter().filter_map(Object::read).map(Arc::new).collect()
    }

    fn event(message: &str, at: &str) -> Event {
        let body = json!({"kind": "Event", "metadata": {"name": "e", "namespace": "n"}, "reason": "ScalingReplicaSet", "message": message,
            "involvedObject": {"kind": "Deployment", "namespace": "n", "name": "a"}, "firstTimestamp": at, "lastTimestamp": at, "count": 1});
        Event::read(&Object::read(body).unwrap())
    }

    #[test]
    fn an_edit_after_an_apply_knows_what_it_changed() {
        let applied =
            json!({"spec": {"http": [{"timeout": "5s", "route": [{"destination": {"host": "a"}}]}]}})
                .to_string();
        let all = objects(vec![
            json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "a", "namespace": "n",
            "creationTimestamp": "2026-11-21T09:00:00Z", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied},
            "managedFields": [{"manager": "kubectl-edit", "operation": "Update", "time": "2026-11-21T10:00:00Z", "fieldsV1": {"f:spec": {"f:http": {}}}}]},
            "spec": {"http": [{"timeout": "1ms", "route": [{"destination": {"host": "a"}}]}]}}),
        ]);
        let found = edits(&all, &[]);
        let edited = found.iter().find(|c| c.kind == ChangeKind::Edited).unwrap();
        assert_eq!(edited.by, "kubectl-edit");
        let difference =
            Difference { path: "spec.http[0].timeout".into(), before: "5s".into(), after: "1ms".into() };
        assert_eq!(edited.differences, [difference]);
    }

    #[test]
    fn a_scaling_is_told_from_a_rollout() {
        let set = |name: &str, made: &str| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "n", "creationTimestamp": made}});
        let all = objects(vec![set("a-1", "2026-11-21T09:00:00Z"), set("a-2", "2026-11-21T10:00:00Z")]);
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}});
        let workloads = [Workload::read(Object::read(deployment).unwrap())];
        let found = |events: &[Event]| scalings(&all, &workloads, events, &[]);
        let alone = found(&[event("Scaled down replica set a-1 to 0 from 3", "2026-11-21T10:30:00Z")]);
        assert_eq!(alone[0].differences, [replicas("3", "0")]);
        let new = found(&[event("Scaled down replica set a-1 from 3 to 0", "2026-11-21T10:30:00Z")]);
        assert_eq!(new[0].differences, [replicas("3", "0")]);
        let rollout = [
            event("Scaled up replica set a-2 to 1 from 0", "2026-11-21T10:00:00Z"),
            event("Scaled down replica set a-1 to 2 from 3", "2026-11-21T10:00:05Z"),
        ];
        assert!(found(&rollout).is_empty());
    }

    #[test]
    fn what_agents_write_to_nodes_is_no_change_and_a_cordon_is() {
        let node = |field: &str| {
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a", "creationTimestamp": "2026-11-21T09:00:00Z",
                "managedFields": [{"manager": "agent", "operation": "Update", "time": "2026-11-21T10:00:00Z", "fieldsV1": {"f:spec": {field: {}}}}]}})
        };
        assert!(edits(&objects(vec![node("f:podCIDR")]), &[]).is_empty());
        assert_eq!(edits(&objects(vec![node("f:unschedulable")]), &[]).len(), 1);
    }
}
