//! Server-side apply: merging what a manager wants into what is there.

use crate::model::json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

use super::fields::{self, Entry, ListType, Path, child, item_key, items, list_type};
use crate::model::fields::Fields;

/// Applies `applied` for the manager of `entry`. Fields that it applied before and leaves out now go, unless somebody else
/// owns them too.
///
/// # Errors
/// Without `force`: the fields that others own with another value, each with its owner.
pub(super) fn apply(
    live: &Value,
    applied: &Value,
    entry: &Entry,
    schema: Option<&Value>,
    force: bool,
    now: &Value,
) -> Result<Value, Vec<(String, String)>> {
    let wanted = fields::values(applied, schema);
    let there = fields::values(live, schema);
    let wanted_paths: BTreeSet<Path> = wanted.keys().cloned().collect();
    let (mut mine, mut others) = (BTreeSet::new(), BTreeSet::new());
    let mut conflicts = vec![];
    for known in live.list("metadata.managedFields") {
        let owned = known.get("fieldsV1").map(fields::read).unwrap_or_default();
        if entry.is(known) {
            mine = owned;
            continue;
        }
        let contested = owned.iter().filter(|path| differs(path, &wanted, &there));
        let owner = known.string("manager");
        conflicts.extend(contested.map(|path| (owner.clone(), path.clone())));
        others.extend(owned);
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts.into_iter().map(|(owner, path)| (owner, fields::shown(&path))).collect());
    }
    let mut merged = live.clone();
    merge(&mut merged, applied, schema, &mut vec![]);
    let given_up = mine.difference(&wanted_paths).filter(|path| !others.contains(*path));
    // An item goes whole where nobody else owns any of it; else field by field, but for what identifies it.
    for path in given_up {
        let shared = others.iter().chain(&wanted_paths).any(|other| other.starts_with(path));
        if !shared && !identifies(path) {
            remove(&mut merged, path);
        }
    }
    let taken: BTreeSet<Path> = conflicts.into_iter().map(|(_, path)| path).collect();
    if !taken.is_empty() {
        fields::disown(&mut merged, &taken, entry);
    }
    fields::own(&mut merged, entry, wanted_paths, now);
    Ok(merged)
}

/// Whether the field is one of the keys of the list item that it is in.
fn identifies(path: &Path) -> bool {
    let [.., item, field] = path.as_slice() else { return false };
    let keys = item.strip_prefix("k:").and_then(|keys| serde_json::from_str::<Map>(keys).ok());
    keys.zip(field.strip_prefix("f:")).is_some_and(|(keys, field)| keys.contains_key(field))
}

fn differs(path: &Path, wanted: &BTreeMap<Path, Value>, there: &BTreeMap<Path, Value>) -> bool {
    match (wanted.get(path), there.get(path)) {
        (Some(wanted), Some(there)) => wanted != there,
        _ => false,
    }
}

fn merge(live: &mut Value, applied: &Value, schema: Option<&Value>, path: &mut Path) {
    let atomic = schema.and_then(|schema| schema.text("x-kubernetes-map-type")) == Some("atomic");
    match (&mut *live, applied) {
        (Value::Object(live), Value::Object(applied)) if !atomic => {
            for (key, value) in applied {
                path.push(format!("f:{key}"));
                match live.get_mut(key) {
                    Some(known) => merge(known, value, child(schema, key), path),
                    None => drop(live.insert(key.clone(), value.clone())),
                }
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(applied)) => match list_type(schema, path) {
            ListType::Atomic => live.clone_from(applied),
            ListType::Set => {
                for item in applied {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            ListType::Map(keys) => {
                for item in applied {
                    let element = item_key(item, &keys);
                    match live.iter_mut().find(|known| item_key(known, &keys) == element) {
                        Some(known) => {
                            path.push(element);
                            merge(known, item, items(schema), path);
                            path.pop();
                        }
                        None => live.push(item.clone()),
                    }
                }
            }
        },
        _ => *live = applied.clone(),
    }
}

/// Removes the value at a path, and the maps that become empty by it.
fn remove(value: &mut Value, path: &[String]) {
    let Some((element, rest)) = path.split_first() else { return };
    match (element.split_once(':'), value) {
        (Some(("f", key)), Value::Object(map)) => {
            if rest.is_empty() {
                map.remove(key);
            } else if let Some(below) = map.get_mut(key) {
                remove(below, rest);
                if below.as_object().is_some_and(Map::is_empty)
                    || below.as_array().is_some_and(|list| list.is_empty())
                {
                    map.remove(key);
                }
            }
        }
        (Some(("k", keys)), Value::Array(list)) => {
            let keys: Map = serde_json::from_str(keys).unwrap_or_default();
            let is = |item: &Value| keys.iter().all(|(key, value)| item.get(key) == Some(value));
            if rest.is_empty() {
                list.retain(|item| !is(item));
            } else if let Some(item) = list.iter_mut().find(|item| is(item)) {
                remove(item, rest);
            }
        }
        (Some(("v", text)), Value::Array(list)) => {
            let gone: Option<Value> = serde_json::from_str(text).ok();
            list.retain(|item| Some(item) != gone.as_ref());
        }
        _ => {}
    }
}
