//! What a CRD's schema does to an object: unknown fields go, defaults come, and the rest is checked.
//!
//! CEL rules (`x-kubernetes-validations`) are not evaluated in a replay; the real API server does.

use crate::model::json::{Map, Value};
use regex::Regex;

use crate::model::fields::Fields;

/// Removes fields that the schema lacks. Returns their paths.
pub(super) fn prune(object: &mut Value, schema: &Value) -> Vec<String> {
    let mut unknown = vec![];
    let Some(map) = object.as_object_mut() else { return unknown };
    for (key, value) in map.iter_mut() {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata")
            && let Some(below) = property(schema, key)
        {
            prune_below(value, below, key, &mut unknown);
        }
    }
    map.retain(|key, _| {
        let known = matches!(key, "apiVersion" | "kind" | "metadata") || property(schema, key).is_some();
        if !known {
            unknown.push(key.to_owned());
        }
        known
    });
    unknown
}

fn property<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let own = schema.get("properties").and_then(|properties| properties.get(key));
    own.or_else(|| schema.get("additionalProperties").filter(|additional| additional.is_object()))
}

fn prune_below(value: &mut Value, schema: &Value, path: &str, unknown: &mut Vec<String>) {
    if schema.flag("x-kubernetes-preserve-unknown-fields") {
        return;
    }
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                let known = property(schema, key).is_some();
                if !known {
                    unknown.push(format!("{path}.{key}"));
                }
                known
            });
            for (key, value) in map {
                if let Some(below) = property(schema, key) {
                    prune_below(value, below, &format!("{path}.{key}"), unknown);
                }
            }
        }
        Value::Array(list) => {
            let Some(below) = schema.get("items") else { return };
            for (index, value) in list.iter_mut().enumerate() {
                prune_below(value, below, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Fills in defaults; an explicit null where none is allowed is as good as absent.
pub(super) fn default(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(map) => {
            for (key, below) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let null = map.get(key).is_some_and(Value::is_null) && !below.flag("nullable");
                if null {
                    map.remove(key);
                }
                if let (None, Some(default)) = (map.get(key), below.get("default")) {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, value) in map {
                if let Some(below) = property(schema, key) {
                    default(value, below);
                }
            }
        }
        Value::Array(list) => {
            if let Some(below) = schema.get("items") {
                list.iter_mut().for_each(|value| default(value, below));
            }
        }
        _ => {}
    }
}

/// Field paths and what is wrong with them, in the API server's words.
pub(super) fn validate(object: &Value, schema: &Value) -> Vec<(String, String)> {
    let mut errors = vec![];
    check(object, schema, "", &mut errors);
    errors.truncate(MAX_ERRORS);
    errors
}

/// More errors of one object help nobody.
const MAX_ERRORS: usize = 20;

fn check(value: &Value, schema: &Value, path: &str, errors: &mut Vec<(String, String)>) {
    if path == "metadata" || errors.len() >= MAX_ERRORS {
        return;
    }
    let mut wrong = |message: String| errors.push((path.to_owned(), message));
    if value.is_null() && schema.flag("nullable") {
        return;
    }
    let int_or_string = schema.flag("x-kubernetes-int-or-string");
    if let Some(expected) = schema.text("type").filter(|_| !int_or_string) {
        let fits = match expected {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
            "number" => value.is_number(),
            _ => true,
        };
        if !fits {
            let found = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Object(_) => "object",
            };
            return wrong(format!(
                "Invalid value: \"{found}\": {path} in body must be of type {expected}: \"{found}\""
            ));
        }
    }
    let choices = schema.list("enum");
    if !choices.is_empty() && !choices.contains(value) {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        wrong(format!("Unsupported value: {value}: supported values: {}", choices.join(", ")));
    }
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    match value {
        Value::String(text) => {
            let length = text.chars().count() as f64;
            if let Some(max) = limit("maxLength").filter(|max| length > *max) {
                wrong(format!("Too long: may not be more than {max} bytes"));
            }
            if limit("minLength").is_some_and(|min| length < min) {
                let min = limit("minLength").unwrap_or_default();
                wrong(format!("Invalid value: {value}: {path} in body should be at least {min} chars long"));
            }
            if let Some(pattern) = schema.text("pattern")
                && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
            {
                wrong(format!("Invalid value: {value}: {path} in body should match '{pattern}'"));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(min) = limit("minimum").filter(|min| number < *min) {
                wrong(format!(
                    "Invalid value: {value}: {path} in body should be greater than or equal to {min}"
                ));
            }
            if let Some(max) = limit("maximum").filter(|max| number > *max) {
                wrong(format!(
                    "Invalid value: {value}: {path} in body should be less than or equal to {max}"
                ));
            }
        }
        Value::Array(list) => check_list(list, schema, path, errors),
        Value::Object(map) => check_map(map, schema, path, errors),
        _ => {}
    }
}

fn check_list(list: &[Value], schema: &Value, path: &str, errors: &mut Vec<(String, String)>) {
    let limit = |name: &str| schema.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    if let Some(max) = limit("maxItems").filter(|max| list.len() > *max) {
        errors.push((path.to_owned(), format!("Too many: {}: must have at most {max} items", list.len())));
    }
    if let Some(min) = limit("minItems").filter(|min| list.len() < *min) {
        let found = list.len();
        errors.push((
            path.to_owned(),
            format!("Invalid value: {found}: {path} in body should have at least {min} items"),
        ));
    }
    let keys = schema.texts("x-kubernetes-list-map-keys");
    let identity = |item: &Value| match keys.is_empty() {
        true => item.clone(),
        false => keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect(),
    };
    if matches!(schema.text("x-kubernetes-list-type"), Some("map" | "set")) {
        for (index, item) in list.iter().enumerate() {
            if list.iter().take(index).any(|earlier| identity(earlier) == identity(item)) {
                errors.push((format!("{path}[{index}]"), format!("Duplicate value: {}", identity(item))));
            }
        }
    }
    if let Some(below) = schema.get("items") {
        for (index, item) in list.iter().enumerate() {
            check(item, below, &format!("{path}[{index}]"), errors);
        }
    }
}

fn check_map(map: &Map, schema: &Value, path: &str, errors: &mut Vec<(String, String)>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for required in schema.texts("required") {
        if !map.contains_key(&required) {
            errors.push((join(&required), "Required value".to_owned()));
        }
    }
    let max = schema.get("maxProperties").and_then(Value::as_u64);
    if let Some(max) = max.filter(|max| map.len() as u64 > *max) {
        errors.push((path.to_owned(), format!("Too many: {}: must have at most {max} items", map.len())));
    }
    for (key, value) in map {
        if let Some(below) = property(schema, key) {
            check(value, below, &join(key), errors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn schema() -> Value {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "required": ["mode"], "properties": {
            "mode": {"type": "string", "enum": ["A", "B"]},
            "size": {"type": "integer", "minimum": 1, "maximum": 3, "default": 2},
            "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]+$"},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "maxItems": 2, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                     "items": {"type": "object", "properties": {"k": {"type": "string"}}}}}}}})
    }

    #[test]
    fn unknown_fields_go_and_defaults_come() {
        let mut object = json!({"kind": "X", "metadata": {"name": "a", "any": 1}, "extra": 1,
            "spec": {"mode": "A", "sise": 3, "size": null, "labels": {"x": "y"}, "any": {"z": 1}, "list": [{"k": "a", "q": 1}]}});
        assert_eq!(prune(&mut object, &schema()), ["spec.sise", "spec.list[0].q", "extra"]);
        default(&mut object, &schema());
        assert_eq!(
            object["spec"],
            json!({"mode": "A", "size": 2, "labels": {"x": "y"}, "any": {"z": 1}, "list": [{"k": "a"}]})
        );
        assert!(validate(&object, &schema()).is_empty());
    }

    #[test]
    fn every_limit_is_said_with_its_field() {
        let object = json!({"spec": {"mode": "C", "size": 9, "name": "ABCD", "labels": {"x": 1}, "list": [{"k": "a"}, {"k": "a"}, {}]}});
        let errors = validate(&object, &schema());
        let text: Vec<String> = errors.iter().map(|(field, message)| format!("{field}: {message}")).collect();
        for expected in [
            "spec.mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
            "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 3",
            "spec.name: Too long: may not be more than 3 bytes",
            "spec.labels.x: Invalid value: \"number\": spec.labels.x in body must be of type string: \"number\"",
            "spec.list: Too many: 3: must have at most 2 items",
            "spec.list[1]: Duplicate value: [\"a\"]",
        ] {
            assert!(text.iter().any(|line| line == expected), "{expected} not in {text:#?}");
        }
        assert_eq!(validate(&json!({}), &schema()), [("spec".to_owned(), "Required value".to_owned())]);
        assert_eq!(validate(&json!({"spec": {}}), &schema())[0].0, "spec.mode");
    }
}
