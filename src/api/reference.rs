//! The reference of the custom resources, in Markdown, out of their schema: so it never says anything else than the API server.

use serde_json::Value;
use std::fmt::Write;

use super::manifest::{ManifestError, crd};

/// The page of `DebugSession`: every field of its spec and status, with its type, its bounds and what it means; then the
/// validations with their messages.
///
/// # Errors
/// As [`crd`].
pub fn debug_session() -> Result<String, ManifestError> {
    let crd = serde_json::to_value(crd()?)?;
    let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap_or(&Value::Null);
    let mut out = String::from(
        "# DebugSession\n\nMade from the schema of `meshscope.dev/v1alpha1`; `kubectl explain dbg.spec --recursive` says the same. A session asks one \
         question once, as a Job runs once. Short name `dbg`.\n\nA changed spec is a new run; so is a new value of the annotation \
         `meshscope.dev/requestedAt`. Changing `ttlSecondsAfterFinished`, `suspend`, `cancel` or `failOn` runs nothing again.\n",
    );
    for (part, text) in
        [("spec", "What is asked."), ("status", "What was found. Only the controller writes it.")]
    {
        let _ = write!(out, "\n## {part}\n\n{text}\n\n| field | type | meaning |\n| --- | --- | --- |\n");
        if let Some(node) = schema.pointer(&format!("/properties/{part}")) {
            rows(node, "", &mut out);
        }
    }
    out.push_str("\n## Validations\n\nWhat the API server refuses, and what it says then.\n\n");
    validations(schema, "", &mut out);
    Ok(out)
}

fn rows(node: &Value, path: &str, out: &mut String) {
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    for (name, field) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let meaning = field
            .get("description")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .replace('|', "\\|")
            .replace('\n', " ");
        let _ = writeln!(out, "| `{path}` | {} | {meaning} |", kind(field));
        rows(field, &path, out);
        if let Some(items) = field.get("items") {
            rows(items, &format!("{path}[]"), out);
        }
    }
}

/// The type with its bounds: `string, ≤ 512`, `list of object, ≤ 20`, `one of Errors, Latency`.
fn kind(field: &Value) -> String {
    let number = |key: &str| field.get(key).and_then(Value::as_i64);
    let kind = field.get("type").and_then(Value::as_str).unwrap_or("any");
    let mut text = match (kind, field.get("enum").and_then(Value::as_array)) {
        (_, Some(values)) => {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            format!("one of {}", values.join(", "))
        }
        ("array", None) => {
            let items = field.pointer("/items/type").and_then(Value::as_str).unwrap_or("any");
            format!("list of {items}")
        }
        (kind, None) => kind.to_owned(),
    };
    for (key, sign) in
        [("minimum", "≥"), ("maximum", "≤"), ("maxLength", "≤"), ("maxItems", "≤"), ("maxProperties", "≤")]
    {
        if let Some(bound) = number(key) {
            let _ = write!(text, ", {sign} {bound}");
        }
    }
    text
}

fn validations(node: &Value, path: &str, out: &mut String) {
    for rule in node.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        if let Some(message) = rule.get("message").and_then(Value::as_str) {
            let place = if path.is_empty() { "the object" } else { path };
            let _ = writeln!(out, "- `{place}`: {message}");
        }
    }
    for (name, field) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        validations(field, &path, out);
        if let Some(items) = field.get("items") {
            validations(items, &format!("{path}[]"), out);
        }
    }
}
