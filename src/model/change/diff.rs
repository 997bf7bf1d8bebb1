//! What differs between two versions of an object.

use crate::model::json::{List, Text, Value};

use super::Difference;
use crate::model::fields::Fields;

/// More differences than this are "something else altogether".
const MAX_DIFFERENCES: usize = 64;

/// The leaves at which two values differ. Items of lists are joined by their `name`, where they have one.
pub fn diff(old: &Value, new: &Value, path: &str, out: &mut Vec<Difference>) {
    if old == new || out.len() >= MAX_DIFFERENCES {
        return;
    }
    let (empty_map, empty_list) = (Value::Object(crate::model::json::Map::new()), Value::Array(List::new()));
    let same_shape = |a: &Value, b: &Value| {
        (a.is_object() && (b.is_object() || b.is_null())) || (a.is_array() && (b.is_array() || b.is_null()))
    };
    if same_shape(old, new) || same_shape(new, old) {
        let (old, new) = (
            if old.is_null() { if new.is_object() { &empty_map } else { &empty_list } } else { old },
            if new.is_null() { if old.is_object() { &empty_map } else { &empty_list } } else { new },
        );
        if let (Some(a), Some(b)) = (old.as_object(), new.as_object()) {
            let keys: std::collections::BTreeSet<&Text> = a.keys().chain(b.keys()).collect();
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
            // Routes have no names, and those of an edited list mostly keep their places.
            let same_places = a.len() == b.len() && a.iter().chain(b).all(Value::is_object);
            if same_places && a.iter().chain(b).any(|item| name(item).is_none()) {
                for (index, (a, b)) in a.iter().zip(b).enumerate() {
                    diff(a, b, &format!("{path}[{index}]"), out);
                }
                return;
            }
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
pub(super) fn short(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.to_string(),
        other => other.to_string(),
    };
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

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
