//! Redaction of Kubernetes objects and other documents: text that people or programs put into them.

use crate::model::json::Value;
use std::borrow::Cow;

use super::{Counts, redact_text};

/// Fields whose text is free: messages of events and conditions, values of environment variables, arguments, annotations,
/// the content of ConfigMaps. All else is configuration that a schema checks and an analysis needs literally.
fn is_free_text(field: &str) -> bool {
    matches!(field, "message" | "note" | "args" | "command" | "annotations" | "data")
}

/// Redacts the free text of an object, in place. Values of environment variables whose name says that they are secret
/// are masked whole.
pub fn redact_object(object: &mut Value, counts: &mut Counts) {
    walk(object, false, counts, 0);
}

/// Redacts every text of a document without a schema of ours, such as a trace, in place.
pub fn redact_all(document: &mut Value, counts: &mut Counts) {
    walk(document, true, counts, 0);
}

/// As deep as any parser here goes.
const MAX_DEPTH: usize = 128;

fn walk(value: &mut Value, free: bool, counts: &mut Counts, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::String(text) if free => {
            if let Cow::Owned(masked) = redact_text(text, counts) {
                *text = masked.into();
            }
        }
        Value::Array(items) => {
            for item in items {
                walk(item, free, counts, depth + 1);
            }
        }
        Value::Object(map) => {
            // Few objects have a value, and many a name.
            if let Some(Value::String(text)) = map.get("value")
                && let Some(Value::String(name)) = map.get("name")
            {
                let masked = environment(name, text, counts);
                if let Some(masked) = masked {
                    map.insert("value".to_owned(), Value::from(masked));
                }
            }
            for (key, item) in map {
                walk(item, free || is_free_text(key), counts, depth + 1);
            }
        }
        _ => {}
    }
}

/// `NAME=value` decides as it would in a log; the value alone may hold a credential too.
pub(super) fn environment(name: &str, text: &str, counts: &mut Counts) -> Option<String> {
    let line = format!("{name}={text}");
    let before = counts.clone();
    if let Cow::Owned(masked) = redact_text(&line, counts) {
        if let Some(value) = masked.strip_prefix(&format!("{name}=")) {
            return Some(value.to_owned());
        }
        *counts = before;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn environment_arguments_and_messages() {
        let mut pod = json!({
            "kind": "Pod", "metadata": {"name": "password=x", "annotations": {"a": "token=abc123def456"}},
            "spec": {"containers": [{"name": "app", "image": "r/app@sha256:0123456789abcdef",
                "args": ["--password=hunter2", "--port=80"],
                "env": [{"name": "DB_PASSWORD", "value": "hunter2"}, {"name": "GIT_AUTHOR_NAME", "value": "x"},
                        {"name": "DSN", "value": "postgres://app:hunter2@db:5432/x"}, {"name": "TOKENIZER_MODE", "value": "fast"},
                        {"name": "EMPTY_SECRET", "value": ""}]}]},
            "status": {"conditions": [{"message": "Authorization: Bearer abcdef0123456789"}]}});
        let mut counts = Counts::default();
        redact_object(&mut pod, &mut counts);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["--password=[redacted:password]", "--port=80"]));
        assert_eq!(container["env"][0]["value"], "[redacted:password]");
        assert_eq!(container["env"][1]["value"], "x");
        assert_eq!(container["env"][2]["value"], "postgres://app:[redacted:url-credentials]@db:5432/x");
        assert_eq!(container["env"][3]["value"], "fast");
        assert_eq!(container["env"][4]["value"], "");
        assert_eq!(container["image"], "r/app@sha256:0123456789abcdef");
        assert_eq!(pod["metadata"]["name"], "password=x");
        assert_eq!(pod["metadata"]["annotations"]["a"], "token=[redacted:secret]");
        assert_eq!(
            pod["status"]["conditions"][0]["message"],
            "Authorization: Bearer [redacted:authorization]"
        );
        assert_eq!(counts.total(), 5);
    }
}
