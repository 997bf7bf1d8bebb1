//! What somebody did: edits, rollouts, scalings, creations.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;

use super::event::Event;
use super::fields::Fields;
use super::object::{Object, ObjectRef};
use super::workload::Workload;

/// What sort of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// The object was made.
    Created,
    /// Fields of it were written.
    Edited,
    /// A new template of pods was rolled out.
    Rollout,
    /// The number of replicas was changed.
    Scaled,
}

impl ChangeKind {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            ChangeKind::Created => "Created",
            ChangeKind::Edited => "Edited",
            ChangeKind::Rollout => "Rollout",
            ChangeKind::Scaled => "Scaled",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// When.
    pub time: Timestamp,
    /// To what.
    pub subject: ObjectRef,
    /// What sort.
    pub kind: ChangeKind,
    /// The field manager that did it; empty where unknown.
    pub by: String,
    /// The fields that it wrote or that differ. For an edit these are all that the manager owns, the changed among them.
    pub fields: Vec<String>,
    /// Old and new values, where both are known: path, before, after.
    pub differences: Vec<Difference>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `spec.template.spec.containers[name=app].image`.
    pub path: String,
    /// Before; empty where it was absent.
    pub before: String,
    /// After; empty where it is absent.
    pub after: String,
}

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
    "Node",
    "ReplicaSet",
    "ControllerRevision",
    "Job",
    "Namespace",
    "DebugSession",
];

/// The changes that objects carry in themselves, in order of time.
pub fn changes(
    objects: &BTreeMap<(String, String, String), Object>,
    workloads: &[Workload],
    events: &[Event],
) -> Vec<Change> {
    let mut out = vec![];
    for object in objects.values() {
        if NOISE.contains(&object.reference.kind.as_str()) || !object.owners.is_empty() {
            continue;
        }
        if let Some(time) = object.created {
            out.push(Change {
                time,
                subject: object.reference.clone(),
                kind: ChangeKind::Created,
                by: object.edits.first().map(|edit| edit.manager.clone()).unwrap_or_default(),
                fields: vec![],
                differences: vec![],
            });
        }
        for edit in &object.edits {
            let Some(time) = edit.time else { continue };
            let at_birth = object.created.is_some_and(|born| time.as_second() - born.as_second() <= 1);
            if at_birth || edit.subresource == "status" || is_control_loop(&edit.manager) {
                continue;
            }
            let scaled = edit.subresource == "scale";
            out.push(Change {
                time,
                subject: object.reference.clone(),
                kind: if scaled { ChangeKind::Scaled } else { ChangeKind::Edited },
                by: edit.manager.clone(),
                fields: if scaled { vec!["spec.replicas".to_owned()] } else { edit.fields.clone() },
                differences: vec![],
            });
        }
    }
    out.extend(rollouts(workloads));
    out.extend(scalings(events));
    out.sort_by(|a, b| (a.time, &a.subject, a.kind).cmp(&(b.time, &b.subject, b.kind)));
    out.dedup_by(|a, b| a == b);
    out
}

/// The rollouts of Deployments, from their ReplicaSets: each revision against the one before.
fn rollouts(workloads: &[Workload]) -> Vec<Change> {
    let mut revisions: BTreeMap<ObjectRef, Vec<(i64, &Workload)>> = BTreeMap::new();
    for set in workloads.iter().filter(|w| w.reference().kind == "ReplicaSet") {
        let revision =
            set.object.annotations.get("deployment.kubernetes.io/revision").and_then(|r| r.parse().ok());
        if let (Some(owner), Some(revision)) = (set.object.owners.first(), revision) {
            revisions.entry(owner.clone()).or_default().push((revision, set));
        }
    }
    let mut out = vec![];
    for (owner, mut sets) in revisions {
        sets.sort_by_key(|(revision, _)| *revision);
        for (old, new) in sets.iter().zip(sets.iter().skip(1)) {
            // A rollback reuses an old ReplicaSet: when it was made is not when it was rolled out.
            let (Some(time), Some(before)) = (new.1.object.created, old.1.object.created) else { continue };
            if time < before {
                continue;
            }
            let differences = template_differences(&old.1.object.body, &new.1.object.body);
            out.push(Change {
                time,
                subject: owner.clone(),
                kind: ChangeKind::Rollout,
                by: String::new(),
                fields: differences.iter().map(|d| d.path.clone()).collect(),
                differences,
            });
        }
    }
    out
}

/// What differs between the templates of two ReplicaSets.
fn template_differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut out = vec![];
    let (old, new) = (old.at("spec.template"), new.at("spec.template"));
    diff(old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null), "spec.template", &mut out);
    out.retain(|d| {
        !d.path.ends_with("labels.pod-template-hash")
            && !d.path.ends_with("kubectl.kubernetes.io/restartedAt")
    });
    out
}

/// More differences than this are "something else altogether".
const MAX_DIFFERENCES: usize = 64;

/// The leaves at which two values differ. Items of lists are joined by their `name`, where they have one.
pub fn diff(old: &Value, new: &Value, path: &str, out: &mut Vec<Difference>) {
    if old == new || out.len() >= MAX_DIFFERENCES {
        return;
    }
    let (empty_map, empty_list) = (Value::Object(serde_json::Map::new()), Value::Array(vec![]));
    let same_shape = |a: &Value, b: &Value| {
        (a.is_object() && (b.is_object() || b.is_null())) || (a.is_array() && (b.is_array() || b.is_null()))
    };
    if same_shape(old, new) || same_shape(new, old) {
        let (old, new) = (
            if old.is_null() { if new.is_object() { &empty_map } else { &empty_list } } else { old },
            if new.is_null() { if old.is_object() { &empty_map } else { &empty_list } } else { new },
        );
        if let (Some(a), Some(b)) = (old.as_object(), new.as_object()) {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                diff(
                    a.get(key).unwrap_or(&Value::Null),
                    b.get(key).unwrap_or(&Value::Null),
                    &format!("{path}.{key}"),
                    out,
                );
            }
            return;
        }
        if let (Some(a), Some(b)) = (old.as_array(), new.as_array()) {
            let name = |item: &Value| item.text("name").map(str::to_owned);
            if a.iter().chain(b).all(|item| name(item).is_some()) {
                let names: std::collections::BTreeSet<String> = a.iter().chain(b).filter_map(name).collect();
                for key in names {
                    let find = |list: &[Value]| {
                        list.iter()
                            .find(|item| item.text("name") == Some(&key))
                            .cloned()
                            .unwrap_or(Value::Null)
                    };
                    diff(&find(a), &find(b), &format!("{path}[name={key}]"), out);
                }
                return;
            }
        }
    }
    out.push(Difference { path: path.to_owned(), before: short(old), after: short(new) });
}

/// A value in one short line.
fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// `Scaled up replica set checkout-5d to 3 from 2`: events of Deployments that were scaled by hand or by an autoscaler
/// look the same as those of a rollout, so only StatefulSets and plain scalings to zero are taken from them.
fn scalings(events: &[Event]) -> Vec<Change> {
    let mut out = vec![];
    for event in events.iter().filter(|e| e.reason == "SuccessfulRescale") {
        if let Some(time) = event.last {
            out.push(Change {
                time,
                subject: event.about.clone(),
                kind: ChangeKind::Scaled,
                by: event.reporter.clone(),
                fields: vec!["spec.replicas".to_owned()],
                differences: vec![],
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_items_are_compared_by_name() {
        let mut out = vec![];
        let old = json!({"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]});
        let new = json!({"containers": [{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}]}]});
        diff(&old, &new, "spec", &mut out);
        let paths: Vec<_> =
            out.iter().map(|d| (d.path.as_str(), d.before.as_str(), d.after.as_str())).collect();
        assert!(paths.contains(&("spec.containers[name=a].image", "a:1", "a:2")));
        assert!(paths.iter().any(|(path, _, after)| *path == "spec.containers[name=a].env[name=X].value" && *after == "1"), "{paths:?}");
    }
}
