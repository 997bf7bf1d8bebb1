//! The objects of a replay: those of the recording, and those that were written since.

use crate::model::json::{Value, json};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::events;
use super::kinds::{Kind, Kinds, group_version};
use super::status::Refusal;
use crate::model::fields::Fields;

/// Changes that a watch can still be told of. A watcher that is further behind must list again.
const MAX_HISTORY: usize = 4_096;

/// Bytes of objects that were written during the replay.
const MAX_WRITTEN_BYTES: usize = 256 << 20;

/// The namespace of recorded objects that name none although their kind has one.
const DEFAULT_NAMESPACE: &str = "default";

/// Group and plural.
pub(super) type ResourceKey = (String, String);

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) body: Arc<Value>,
    /// It is part of the recording and stays as it is.
    pub(super) recorded: bool,
    size: usize,
}

impl Stored {
    pub(super) fn of(body: Arc<Value>, recorded: bool) -> Self {
        Stored { body, recorded, size: 0 }
    }
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) resource: ResourceKey,
    pub(super) old: Option<Arc<Value>>,
    pub(super) new: Option<Arc<Value>>,
}

/// All objects.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: BTreeMap<ResourceKey, BTreeMap<(String, String), Stored>>,
    version: u64,
    history: VecDeque<Change>,
    /// The newest change that the history has lost.
    forgotten: u64,
    written_bytes: usize,
    uids: u64,
}

/// Where objects of a kind are kept: the two groups of events are one.
pub(super) fn resource_key(kind: &Kind) -> ResourceKey {
    if events::is_event(kind) {
        return (String::new(), "events".to_owned());
    }
    (kind.group.clone(), kind.plural.clone())
}

impl Store {
    /// The objects of a recording. What every API server would have given them is filled in: a uid, a version, a
    /// namespace, and the Namespace objects themselves.
    pub(super) fn of(objects: Vec<Value>, kinds: &Kinds, captured_at: Timestamp) -> Self {
        let mut store = Store::default();
        let mut namespaces = BTreeSet::from([DEFAULT_NAMESPACE.to_owned()]);
        for mut object in objects {
            let (group, _) = group_version(&object);
            let Some(kind) = kinds.by_kind(group, object.text("kind").unwrap_or_default()) else { continue };
            if events::is_event(kind) {
                events::to_core(&mut object);
            }
            let namespace = complete(&mut object, kind);
            store.version = store.version.max(version_of(&object));
            if kind.namespaced {
                namespaces.insert(namespace);
            }
            store.put_recorded(kind, object);
        }
        if let Some(kind) = kinds.get("", "namespaces") {
            for name in namespaces {
                if store.get(kind, "", &name).is_none() {
                    let mut object = json!({
                        "apiVersion": "v1", "kind": "Namespace",
                        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name},
                                     "creationTimestamp": captured_at.to_string()},
                        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
                    });
                    complete(&mut object, kind);
                    store.put_recorded(kind, object);
                }
            }
        }
        store.version += 1;
        store
    }

    fn put_recorded(&mut self, kind: &Kind, object: Value) {
        let key = (object.string("metadata.namespace"), object.string("metadata.name"));
        let stored = Stored::of(Arc::new(object), true);
        self.objects.entry(resource_key(kind)).or_default().insert(key, stored);
    }

    /// The version of the newest change.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Stored> {
        self.objects.get(&resource_key(kind))?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Objects of a kind in one namespace, or in all where it is empty, ordered by namespace and name.
    pub(super) fn list<'a>(
        &'a self,
        kind: &Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Stored> + 'a {
        let all = self.objects.get(&resource_key(kind)).into_iter().flatten();
        all.filter(move |((of, _), _)| namespace.is_empty() || of == namespace).map(|(_, stored)| stored)
    }

    /// A uid that nothing else has.
    pub(super) fn new_uid(&mut self) -> String {
        self.uids += 1;
        uid(&format!("written {} {}", self.version, self.uids))
    }

    /// Writes an object; its `metadata.resourceVersion` becomes the change's. Returns it as it is now.
    pub(super) fn put(&mut self, kind: &Kind, mut object: Value) -> Result<Arc<Value>, Refusal> {
        let key = (object.string("metadata.namespace"), object.string("metadata.name"));
        let old = self.get(kind, &key.0, &key.1).cloned();
        if old.as_ref().is_some_and(|old| old.recorded) {
            return Err(Refusal::read_only(kind, &key.1));
        }
        let size = object.to_string().len();
        let before = old.as_ref().map_or(0, |old| old.size);
        let total = self.written_bytes.saturating_sub(before) + size;
        if total > MAX_WRITTEN_BYTES {
            let limit = MAX_WRITTEN_BYTES >> 20;
            return Err(Refusal::too_many(format!(
                "the replay holds {limit} MiB of written objects: delete some"
            )));
        }
        self.written_bytes = total;
        self.version += 1;
        set(&mut object, "resourceVersion", json!(self.version.to_string()));
        let body = Arc::new(object);
        let stored = Stored { body: body.clone(), recorded: false, size };
        self.objects.entry(resource_key(kind)).or_default().insert(key, stored);
        self.remember(kind, old.map(|old| old.body), Some(body.clone()));
        Ok(body)
    }

    /// Deletes an object, and then what it owned.
    pub(super) fn delete(
        &mut self,
        kinds: &Kinds,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Value>> {
        let gone = self.remove(kind, namespace, name)?;
        let mut owners = vec![gone.string("metadata.uid")];
        while let Some(owner) = owners.pop() {
            for (kind, namespace, name) in self.owned_by(kinds, &owner) {
                if let Some(gone) = self.remove(&kind, &namespace, &name) {
                    owners.push(gone.string("metadata.uid"));
                }
            }
        }
        Some(gone)
    }

    fn remove(&mut self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let objects = self.objects.get_mut(&resource_key(kind))?;
        let stored = objects.remove(&(namespace.to_owned(), name.to_owned()))?;
        self.written_bytes = self.written_bytes.saturating_sub(stored.size);
        self.version += 1;
        let mut last = Value::clone(&stored.body);
        set(&mut last, "resourceVersion", json!(self.version.to_string()));
        let last = Arc::new(last);
        self.remember(kind, Some(last.clone()), None);
        Some(last)
    }

    /// Written objects whose owners are all gone once `uid` is: a garbage collector's view.
    fn owned_by(&self, kinds: &Kinds, uid: &str) -> Vec<(Kind, String, String)> {
        let mut out = vec![];
        for kind in kinds.groups().into_values().flatten().filter(|kind| kind.writable) {
            for stored in self.list(kind, "").filter(|stored| !stored.recorded) {
                let owners = stored.body.list("metadata.ownerReferences");
                let owned = owners.iter().any(|owner| owner.text("uid") == Some(uid));
                if owned && owners.len() == 1 {
                    let (namespace, name) =
                        (stored.body.string("metadata.namespace"), stored.body.string("metadata.name"));
                    out.push((kind.clone(), namespace, name));
                }
            }
        }
        out
    }

    fn remember(&mut self, kind: &Kind, old: Option<Arc<Value>>, new: Option<Arc<Value>>) {
        if self.history.len() >= MAX_HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        self.history.push_back(Change { version: self.version, resource: resource_key(kind), old, new });
    }

    /// What happened to objects of a kind after `version`.
    ///
    /// # Errors
    /// Where that is too long ago.
    pub(super) fn since(&self, resource: &ResourceKey, version: u64) -> Result<Vec<Change>, Refusal> {
        if version < self.forgotten {
            return Err(Refusal::expired());
        }
        let newer = self.history.iter().rev().take_while(|change| change.version > version);
        let mut out: Vec<Change> = newer.filter(|change| change.resource == *resource).cloned().collect();
        out.reverse();
        Ok(out)
    }
}

/// Sets a field of `metadata`.
pub(super) fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(field.to_owned(), value);
        }
    }
}

/// Removes a field of `metadata`.
pub(super) fn unset(object: &mut Value, field: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(field);
    }
}

pub(super) fn version_of(object: &Value) -> u64 {
    object.text("metadata.resourceVersion").and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Fills in what a file may leave out. Returns the namespace.
fn complete(object: &mut Value, kind: &Kind) -> String {
    let mut namespace = object.string("metadata.namespace");
    if kind.namespaced && namespace.is_empty() {
        namespace = DEFAULT_NAMESPACE.to_owned();
        set(object, "namespace", json!(namespace));
    }
    if !kind.namespaced && !namespace.is_empty() {
        unset(object, "namespace");
        namespace.clear();
    }
    if object.text("metadata.uid").is_none_or(str::is_empty) {
        let name = object.string("metadata.name");
        set(object, "uid", json!(uid(&format!("{} {namespace}/{name}", kind.resource()))));
    }
    if version_of(object) == 0 {
        set(object, "resourceVersion", json!("1"));
    }
    namespace
}

/// A UUID that is the same for the same words.
fn uid(words: &str) -> String {
    let digest = Sha256::digest(words.as_bytes());
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    // Version 8: a form of one's own.
    format!("{}-{}-8{}-8{}-{}", part(0, 8), part(8, 12), part(13, 16), part(17, 20), part(20, 32))
}
