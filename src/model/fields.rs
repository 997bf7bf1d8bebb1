//! Reading fields out of objects that may be malformed: a field of the wrong type is absent, never an error.

use crate::model::json::{Map, Value};
use jiff::Timestamp;

use super::labels::Labels;
use super::time;

static EMPTY: &[Value] = &[];

/// Lenient access to the fields of a JSON value. `path` is a list of keys joined by dots (`spec.http`);
/// keys that hold a dot themselves are read with [`Fields::child`].
pub trait Fields {
    /// The value behind one key.
    fn child(&self, key: &str) -> Option<&Value>;

    /// The value at a dotted path.
    fn at(&self, path: &str) -> Option<&Value>;

    /// Text at a path.
    fn text(&self, path: &str) -> Option<&str> {
        self.at(path).and_then(Value::as_str)
    }

    /// Text at a path, as an owned string that is empty where there is none.
    fn string(&self, path: &str) -> String {
        self.text(path).unwrap_or_default().to_owned()
    }

    /// A whole number at a path; a number in quotes is read too.
    fn int(&self, path: &str) -> Option<i64> {
        let value = self.at(path)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    /// A number at a path; a number in quotes is read too.
    fn number(&self, path: &str) -> Option<f64> {
        let value = self.at(path)?;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    }

    /// A truth value at a path; absent is `false`.
    fn flag(&self, path: &str) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The items of a list at a path; absent is empty.
    fn list(&self, path: &str) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(EMPTY, |list| list.as_slice())
    }

    /// The entries of an object at a path.
    fn map(&self, path: &str) -> Option<&Map> {
        self.at(path).and_then(Value::as_object)
    }

    /// The texts of a list at a path; items of another type are left out.
    fn texts(&self, path: &str) -> Vec<String> {
        self.list(path).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// A map of texts at a path (labels, annotations, a selector); values of another type are left out.
    fn text_map(&self, path: &str) -> Labels {
        let entries = self.map(path).into_iter().flatten();
        let texts = entries.filter_map(|(key, value)| match value {
            Value::String(text) => Some((key.clone(), text.clone())),
            _ => None,
        });
        texts.collect()
    }

    /// An RFC 3339 time at a path.
    fn time(&self, path: &str) -> Option<Timestamp> {
        self.text(path).and_then(time::parse)
    }

    /// A Go duration at a path, in seconds.
    fn seconds(&self, path: &str) -> Option<f64> {
        self.text(path).and_then(time::duration_seconds)
    }
}

impl Fields for Value {
    fn child(&self, key: &str) -> Option<&Value> {
        self.get(key).filter(|value| !value.is_null())
    }

    // Asked more often than anything else, and paths are short: a plain walk over the bytes is the fastest.
    fn at(&self, path: &str) -> Option<&Value> {
        let (mut value, mut rest) = (self, path);
        while let Some(dot) = rest.bytes().position(|byte| byte == b'.') {
            value = value.child(rest.get(..dot)?)?;
            rest = rest.get(dot + 1..)?;
        }
        value.child(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_field_of_the_wrong_type_is_absent() {
        let value = json!({"spec": {"replicas": "3", "hosts": ["a", 7], "paused": "yes", "none": null}});
        assert_eq!(value.int("spec.replicas"), Some(3));
        assert_eq!(value.texts("spec.hosts"), ["a"]);
        assert!(!value.flag("spec.paused"));
        assert_eq!(value.at("spec.none"), None);
        assert!(value.list("spec.replicas").is_empty());
    }
}
