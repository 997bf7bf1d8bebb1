//! Where pods take their configuration from, who waits for it, and how a key that is gone comes back.

use crate::model::json::{Value, json};
use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::Evidence;
use crate::analyze::remedy::{Remedy, patch_command, pointer_segment, quote, scope};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common;
use crate::analyze::rules::pods::missing::{self, Missing};
use crate::model::fields::Fields;
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ConfigReference, Pod, PodTemplate, Workload};

/// Who takes something in: a workload at the top, or a pod that nobody owns.
#[derive(Debug, Clone, Copy)]
pub(crate) enum User<'a> {
    /// A workload.
    Workload(&'a Workload),
    /// A pod of its own.
    Pod(&'a Pod),
}

impl<'a> User<'a> {
    /// What names it.
    pub(crate) fn reference(self) -> &'a ObjectRef {
        match self {
            User::Workload(workload) => workload.reference(),
            User::Pod(pod) => &pod.object.reference,
        }
    }

    /// The object.
    pub(crate) fn object(self) -> &'a Object {
        match self {
            User::Workload(workload) => &workload.object,
            User::Pod(pod) => &pod.object,
        }
    }

    /// What its pods are made of.
    pub(crate) fn template(self) -> &'a PodTemplate {
        match self {
            User::Workload(workload) => &workload.template,
            User::Pod(pod) => &pod.template,
        }
    }

    /// A path that begins at the pod (`spec.volumes[0]`) from the object's own root.
    pub(crate) fn path(self, pod_path: &str) -> String {
        match self {
            User::Workload(workload) => workload.template_path(pod_path),
            User::Pod(_) => pod_path.to_owned(),
        }
    }

    /// The Service in front of it, the one with its name first.
    pub(crate) fn services(self, snapshot: &Snapshot) -> Vec<ServiceName> {
        let mut out: Vec<_> = match self {
            User::Workload(workload) => {
                snapshot.services_before(workload).map(|s| s.service_name()).collect()
            }
            User::Pod(pod) => snapshot.services_before_pod(pod).map(|s| s.service_name()).collect(),
        };
        out.sort_by_key(|service| (service.name != self.reference().name, service.clone()));
        out
    }
}

/// Everyone who takes something in, in wanted namespaces: workloads at the top and pods without an owner.
pub(crate) fn users(snapshot: &Snapshot) -> impl Iterator<Item = User<'_>> {
    let workloads = snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()).map(User::Workload);
    let pods = snapshot.pods.iter().filter(|p| p.object.owners.is_empty() && !p.ended()).map(User::Pod);
    workloads.chain(pods).filter(|user| snapshot.in_scope(&user.reference().namespace))
}

/// What the pods of each owner say that they wait for.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    by_owner: BTreeMap<(String, String, String), Vec<Wait>>,
}

/// One thing that pods wait for.
#[derive(Debug, Clone)]
pub(crate) struct Wait {
    /// What is missing, with its name even where the kubelet only named the key.
    pub missing: Missing,
    /// The pods that wait.
    pub pods: usize,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What says so.
    pub evidence: Vec<Evidence>,
}

/// This much evidence of waiting pods is kept for one thing that is missing.
const MAX_EVIDENCE: usize = 4;

impl Waiting {
    /// Reads it off all pods.
    pub(crate) fn read(snapshot: &Snapshot) -> Self {
        let mut out = Waiting::default();
        for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
            let all = missing::said(snapshot, pod);
            if all.is_empty() {
                continue;
            }
            let owner = snapshot.owner(pod);
            let waits = out.by_owner.entry((owner.kind, owner.namespace, owner.name)).or_default();
            for mut said in all {
                if said.missing.name.is_empty() {
                    said.missing.name = holder_of(pod, &said.missing);
                }
                let since = said.since.or(pod.object.created);
                match waits.iter_mut().find(|w| w.missing == said.missing) {
                    Some(known) => {
                        known.pods += 1;
                        known.since = known.since.into_iter().chain(since).min();
                        known.evidence.extend(said.evidence);
                        known.evidence.truncate(MAX_EVIDENCE);
                    }
                    None => {
                        waits.push(Wait { missing: said.missing, pods: 1, since, evidence: said.evidence })
                    }
                }
            }
        }
        out
    }

    /// What the pods of this owner wait for.
    pub(crate) fn of(&self, owner: &ObjectRef) -> &[Wait] {
        let key = (owner.kind.clone(), owner.namespace.clone(), owner.name.clone());
        self.by_owner.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Owners that were not seen themselves, with what they wait for: a bundle may hold pods alone.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (ObjectRef, &Wait)> {
        self.by_owner.iter().flat_map(|((kind, namespace, name), waits)| {
            waits.iter().map(move |wait| (ObjectRef::new(kind, namespace, name), wait))
        })
    }
}

/// The ConfigMap or Secret that a volume takes this key from.
fn holder_of(pod: &Pod, missing: &Missing) -> String {
    let holds = |r: &&ConfigReference| r.kind == missing.kind && r.keys.contains(&missing.key);
    pod.template.config_references().iter().find(holds).map(|r| r.name.clone()).unwrap_or_default()
}

/// The keys of a ConfigMap.
pub(crate) fn keys(map: &Object) -> impl Iterator<Item = &str> {
    ["data", "binaryData"]
        .into_iter()
        .filter_map(|part| map.body.map(part))
        .flatten()
        .map(|(key, _)| key.as_str())
}

/// The value that a key had when the ConfigMap was last applied, where it has been lost since.
pub(crate) fn applied_value(map: &Object, key: &str) -> Option<String> {
    let annotations = map.body.at("metadata.annotations")?;
    let text = annotations.child("kubectl.kubernetes.io/last-applied-configuration")?.as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    applied.at("data")?.child(key)?.as_str().map(str::to_owned)
}

/// A key of the same ConfigMap that looks like this one and that nothing of the template names itself.
pub(crate) fn near_key<'a>(map: &'a Object, key: &str, user: User<'_>) -> Option<&'a str> {
    let used: Vec<String> = user
        .template()
        .config_references()
        .into_iter()
        .filter(|r| r.kind == "ConfigMap" && r.name == map.name())
        .flat_map(|r| r.keys)
        .collect();
    nearest(key, keys(map).filter(|have| *have != key && !used.iter().any(|u| u == have)))
}

/// Ways to bring a key of a ConfigMap back, the best first.
pub(crate) fn restore_key(map: &Object, key: &str, user: User<'_>) -> Vec<Remedy> {
    let mut out = vec![];
    let path = format!("/data/{}", pointer_segment(key));
    let applied = applied_value(map, key);
    if let Some(near) = near_key(map, key, user)
        && map.body.at("data").and_then(|data| data.child(near)).is_some()
    {
        let from = format!("/data/{}", pointer_segment(near));
        let step = |from: &str, to: &str| {
            patch_command(&map.reference, &json!([{"op": "move", "from": from, "path": to}]))
        };
        out.push(Remedy::commands(
            format!("Rename key {near} of {} back to {key}: the value stays", map.reference),
            vec![step(&from, &path)],
            vec![step(&path, &from)],
        ));
    }
    let mut add = |value: &str, summary: String| {
        let mut operations = vec![json!({"op": "add", "path": path, "value": value})];
        if map.body.at("data").is_none() {
            operations.insert(0, json!({"op": "add", "path": "/data", "value": {}}));
        }
        out.extend(Remedy::patch(map, &Value::from(operations), summary));
    };
    match applied {
        Some(value) => add(
            &value,
            format!("Put key {key} back into {} with the value that was last applied", map.reference),
        ),
        None => add(
            "VALUE",
            format!("Put key {key} into {}: replace VALUE by what the application expects", map.reference),
        ),
    }
    out
}

/// Makes a ConfigMap with the keys that a template asks for.
pub(crate) fn create(kind: &str, reference: &ObjectRef, keys: &[String]) -> Remedy {
    let word = if kind == "Secret" { "secret generic" } else { "configmap" };
    let literals: String =
        keys.iter().map(|key| format!(" --from-literal={}", quote(&format!("{key}=VALUE")))).collect();
    let keys =
        if keys.is_empty() { String::new() } else { format!(" with {}: replace VALUE", keys.join(", ")) };
    let name = quote(&reference.name);
    Remedy::commands(
        format!("Create {reference}{keys}, or apply the manifest that holds it"),
        vec![format!("kubectl {}create {word} {name}{literals}", scope(reference))],
        vec![format!("kubectl {}delete {} {name}", scope(reference), kind.to_ascii_lowercase())],
    )
}

/// Every key that a template must find in a ConfigMap or Secret of this name.
pub(crate) fn wanted_keys(template: &PodTemplate, kind: &str, name: &str) -> Vec<String> {
    let mut keys: Vec<String> = template
        .config_references()
        .into_iter()
        .filter(|r| r.kind == kind && r.name == name && !r.optional)
        .flat_map(|r| r.keys)
        .filter(|key| !key.is_empty())
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The reference of a core object.
pub(crate) fn core(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new(kind, namespace, name) }
}

/// Takes the last rollout of a user back, where it brought in this reference.
pub(crate) fn undo(snapshot: &Snapshot, user: &ObjectRef, word: &str) -> Option<Remedy> {
    use crate::model::change::ChangeKind;
    let rollout = snapshot
        .changes
        .iter()
        .rev()
        .find(|c| c.kind == ChangeKind::Rollout && c.subject.same_object(user))?;
    let brought = rollout
        .differences
        .iter()
        .any(|d| d.after.contains(word) || d.before.contains(word) || d.path.contains(word));
    brought.then(|| {
        Remedy::undo_rollout(
            user,
            format!("Go back to the revision before {}, which did without it", common::clock(rollout.time)),
        )
    })
}
