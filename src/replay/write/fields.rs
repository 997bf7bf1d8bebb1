//! Who owns which fields: `metadata.managedFields`.
//!
//! A field is a path of elements as `fieldsV1` writes them: `f:NAME`, `k:{KEYS}` for an item of a map list, `v:VALUE` for
//! one of a set. Owners are sets of such paths.

use crate::model::json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

use crate::model::fields::Fields;
use crate::replay::store::set;

pub(super) type Path = Vec<String>;

/// How a manager came to own its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// Which entry of `managedFields` a write belongs to.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Entry {
    pub(super) fn is(&self, entry: &Value) -> bool {
        entry.string("manager") == self.manager
            && entry.string("operation") == self.operation.as_str()
            && entry.string("subresource") == self.subresource
    }
}

/// How a list of the schema is put together.
pub(super) enum ListType {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// The schema below a field.
pub(super) fn child<'a>(schema: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    let schema = schema?;
    let property = schema.get("properties").and_then(|properties| properties.get(key));
    property.or_else(|| schema.get("additionalProperties"))
}

/// The schema of a list's items.
pub(super) fn items(schema: Option<&Value>) -> Option<&Value> {
    schema?.get("items")
}

/// The list type at a path; those of `metadata` are no part of any schema.
pub(super) fn list_type(schema: Option<&Value>, path: &[String]) -> ListType {
    match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["f:metadata", "f:ownerReferences"] => return ListType::Map(vec!["uid".to_owned()]),
        ["f:metadata", "f:finalizers"] => return ListType::Set,
        _ => {}
    }
    let Some(schema) = schema else { return ListType::Atomic };
    match schema.text("x-kubernetes-list-type") {
        Some("map") => ListType::Map(schema.texts("x-kubernetes-list-map-keys")),
        Some("set") => ListType::Set,
        _ => ListType::Atomic,
    }
}

fn atomic(schema: Option<&Value>) -> bool {
    schema.and_then(|schema| schema.text("x-kubernetes-map-type")) == Some("atomic")
}

/// The path element of an item of a map list.
pub(super) fn item_key(item: &Value, keys: &[String]) -> String {
    let keys: Map = keys.iter().filter_map(|key| Some((key.clone(), item.get(key)?.clone()))).collect();
    format!("k:{}", Value::Object(keys))
}

/// Fields that nobody owns: they name the object or belong to the server.
fn unowned(path: &[String]) -> bool {
    match path.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["f:apiVersion" | "f:kind"] => true,
        ["f:metadata", field, ..] => !matches!(
            *field,
            "f:labels" | "f:annotations" | "f:ownerReferences" | "f:finalizers" | "f:generateName"
        ),
        _ => false,
    }
}

/// Every owned field of an object, and its value. An item of a map list stands for itself with `null`.
pub(super) fn values(object: &Value, schema: Option<&Value>) -> BTreeMap<Path, Value> {
    let mut out = BTreeMap::new();
    collect(object, schema, &mut vec![], &mut out);
    out.retain(|path, _| !unowned(path));
    out
}

/// Every owned field of an object.
pub(super) fn paths(object: &Value, schema: Option<&Value>) -> BTreeSet<Path> {
    values(object, schema).into_keys().collect()
}

fn collect(value: &Value, schema: Option<&Value>, path: &mut Path, out: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() && !atomic(schema) => {
            for (key, value) in map {
                path.push(format!("f:{key}"));
                collect(value, child(schema, key), path, out);
                path.pop();
            }
        }
        Value::Array(list) if !list.is_empty() => match list_type(schema, path) {
            ListType::Atomic => {
                out.insert(path.clone(), value.clone());
            }
            ListType::Set => {
                for item in list {
                    path.push(format!("v:{item}"));
                    out.insert(path.clone(), item.clone());
                    path.pop();
                }
            }
            ListType::Map(keys) => {
                for item in list {
                    path.push(item_key(item, &keys));
                    out.insert(path.clone(), Value::Null);
                    collect(item, items(schema), path, out);
                    path.pop();
                }
            }
        },
        other => {
            out.insert(path.clone(), other.clone());
        }
    }
}

/// `fieldsV1` as paths.
pub(super) fn read(tree: &Value) -> BTreeSet<Path> {
    fn walk(tree: &Value, path: &mut Path, out: &mut BTreeSet<Path>) {
        let Some(map) = tree.as_object() else { return };
        if map.is_empty() && !path.is_empty() {
            out.insert(path.clone());
        }
        for (key, below) in map {
            if key == "." {
                out.insert(path.clone());
                continue;
            }
            path.push(key.to_string());
            walk(below, path, out);
            path.pop();
        }
    }
    let mut out = BTreeSet::new();
    walk(tree, &mut vec![], &mut out);
    out
}

/// Paths as `fieldsV1`.
fn tree(paths: &BTreeSet<Path>) -> Value {
    fn insert(map: &mut Map, path: &[String], itself: bool) {
        let Some((element, rest)) = path.split_first() else {
            if itself {
                map.insert(".".to_owned(), json!({}));
            }
            return;
        };
        let below = map.entry(element.clone()).or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(below) = below {
            insert(below, rest, itself);
        }
    }
    let mut root = Map::new();
    for path in paths {
        // A path that others go on from says by a dot that it is owned itself.
        let goes_on = paths.range(path.clone()..).nth(1).is_some_and(|next| next.starts_with(path));
        insert(&mut root, path, goes_on);
    }
    Value::Object(root)
}

/// Replaces the fields of one entry; an entry without fields disappears. Its time moves only with its fields.
pub(super) fn own(object: &mut Value, entry: &Entry, paths: BTreeSet<Path>, now: &Value) {
    let mut entries = object.list("metadata.managedFields").to_vec();
    let known = entries.iter().position(|known| entry.is(known));
    let fields = tree(&paths);
    let same =
        known.and_then(|at| entries.get(at)).is_some_and(|known| known.get("fieldsV1") == Some(&fields));
    if same {
        return;
    }
    let mut new = json!({
        "manager": entry.manager, "operation": entry.operation.as_str(), "apiVersion": entry.api_version,
        "time": now, "fieldsType": "FieldsV1", "fieldsV1": fields,
    });
    if let Some(new) = new.as_object_mut().filter(|_| !entry.subresource.is_empty()) {
        new.insert("subresource".to_owned(), json!(entry.subresource));
    }
    match (known, paths.is_empty()) {
        (Some(at), true) => drop(entries.remove(at)),
        (Some(at), false) => {
            if let Some(slot) = entries.get_mut(at) {
                *slot = new;
            }
        }
        (None, true) => {}
        (None, false) => entries.push(new),
    }
    set(object, "managedFields", Value::from(entries));
}

/// Takes fields away from all entries but `keep`.
pub(super) fn disown(object: &mut Value, gone: &BTreeSet<Path>, keep: &Entry) {
    let entries = object.list("metadata.managedFields").iter().filter_map(|entry| {
        if keep.is(entry) {
            return Some(entry.clone());
        }
        let before = read(entry.get("fieldsV1")?);
        let after: BTreeSet<Path> = before.difference(gone).cloned().collect();
        if after.is_empty() {
            return None;
        }
        let mut entry = entry.clone();
        if after.len() != before.len()
            && let Some(entry) = entry.as_object_mut()
        {
            entry.insert("fieldsV1".to_owned(), tree(&after));
        }
        Some(entry)
    });
    let entries = entries.collect();
    set(object, "managedFields", Value::Array(entries));
}

/// After an update: who wrote a field owns it, and what is gone nobody owns.
pub(super) fn changed(
    object: &mut Value,
    entry: &Entry,
    before: &BTreeMap<Path, Value>,
    after: &BTreeMap<Path, Value>,
    now: &Value,
) {
    let written: BTreeSet<Path> = after
        .iter()
        .filter(|(path, value)| before.get(*path) != Some(*value))
        .map(|(path, _)| path.clone())
        .collect();
    let gone: BTreeSet<Path> = before.keys().filter(|path| !after.contains_key(*path)).cloned().collect();
    if written.is_empty() && gone.is_empty() {
        return;
    }
    let taken: BTreeSet<Path> = written.union(&gone).cloned().collect();
    disown(object, &taken, entry);
    let entries = object.list("metadata.managedFields");
    let mine = entries.iter().find(|known| entry.is(known)).and_then(|known| known.get("fieldsV1")).map(read);
    let mut mine: BTreeSet<Path> = mine.unwrap_or_default().difference(&gone).cloned().collect();
    mine.extend(written);
    own(object, entry, mine, now);
}

/// A path as messages show it: `.spec.window.since`, `.status.conditions[type="Ready"].status`.
pub(super) fn shown(path: &Path) -> String {
    let mut out = String::new();
    for element in path {
        match element.split_once(':') {
            Some(("k", keys)) => {
                let keys: Map = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                out.push_str(&format!("[{}]", keys.join(",")));
            }
            Some(("v", value)) => out.push_str(&format!("[={value}]")),
            Some((_, name)) => out.push_str(&format!(".{name}")),
            None => {}
        }
    }
    out
}
