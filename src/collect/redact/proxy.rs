//! Redaction of what proxies say of themselves. A configuration dump may hold private keys, passwords and tokens in places
//! that filters of anybody's making choose, so data that stands in it literally is dropped as a whole: no rule needs it.

use crate::model::json::{Map, Value};

use super::object::environment;
use super::{Counts, redact_all, redact_bytes};
use crate::model::fields::Fields;

/// Fields that hold data literally: Envoy's `DataSource`, and what filters of several makers call theirs.
const INLINE: &[&str] = &[
    "inline_string",
    "inline_bytes",
    "inline_code",
    "source_code",
    "private_key",
    "private_key_provider",
    "certificate_chain",
    "trusted_ca",
    "generic_secret",
    "session_ticket_keys",
    "password",
    "ocsp_staple",
];

/// What stands in place of dropped data.
const DROPPED: &str = "[redacted:inline]";

/// Redacts one file of a proxy, told by its name. `None` where it should be JSON and is none: a text of unknown form may
/// hold anything.
pub fn redact_proxy_file(file: &str, bytes: &[u8], counts: &mut Counts) -> Option<Vec<u8>> {
    if !file.ends_with(".json") {
        return Some(redact_bytes(bytes, counts).into_owned());
    }
    let mut body: Value = serde_json::from_slice(bytes).ok()?;
    match file {
        "config_dump.json" => dump(&mut body),
        // A list of some hundred extensions that this build of Envoy has.
        "server_info.json" => drop_extensions(body.get_mut("node")),
        _ => {}
    }
    mask_pairs(&mut body, counts, 0);
    redact_all(&mut body, counts);
    serde_json::to_vec(&body).ok()
}

fn drop_extensions(node: Option<&mut Value>) {
    if let Some(node) = node.and_then(Value::as_object_mut) {
        node.remove("extensions");
    }
}

fn dump(body: &mut Value) {
    let Some(sections) = body.get_mut("configs").and_then(Value::as_array_mut) else { return };
    for section in sections {
        let kind = section.string("@type");
        if kind.ends_with("SecretsConfigDump") {
            drop_secrets(section);
        } else if kind.ends_with("BootstrapConfigDump") {
            drop_extensions(section.pointer_mut("/bootstrap/node"));
        }
        drop_inline(section, 0);
    }
}

/// Of secrets the name, the version and the state stay.
fn drop_secrets(section: &mut Value) {
    for list in section.as_object_mut().into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut)
    {
        for entry in list.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("secret");
        }
    }
}

/// As deep as the JSON parser goes.
const MAX_DEPTH: usize = 128;

fn drop_inline(value: &mut Value, depth: usize) {
    match value {
        _ if depth > MAX_DEPTH => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(|item| drop_inline(item, depth + 1)),
        Value::Object(fields) => {
            for (key, item) in fields {
                if INLINE.contains(&key.as_str()) {
                    *item = Value::from(DROPPED);
                } else {
                    drop_inline(item, depth + 1);
                }
            }
        }
        _ => {}
    }
}

/// Headers that are added or compared stand as a name beside a value: the name decides whether the value is a secret.
fn mask_pairs(value: &mut Value, counts: &mut Counts, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mask_pairs(item, counts, depth + 1)),
        Value::Object(fields) => {
            let name = ["key", "name", "header_name"]
                .iter()
                .find_map(|key| fields.get(key)?.as_str().map(str::to_owned));
            if let Some(name) = name {
                for key in ["value", "exact_match", "prefix_match", "contains_match", "raw_value"] {
                    mask_value(&name, fields.get_mut(key), counts);
                }
                for field in ["string_match", "value_match"] {
                    for test in fields
                        .get_mut(field)
                        .and_then(Value::as_object_mut)
                        .into_iter()
                        .flat_map(Map::values_mut)
                    {
                        mask_value(&name, Some(test), counts);
                    }
                }
            }
            fields.values_mut().for_each(|item| mask_pairs(item, counts, depth + 1));
        }
        _ => {}
    }
}

fn mask_value(name: &str, value: Option<&mut Value>, counts: &mut Counts) {
    if let Some(Value::String(text)) = value
        && let Some(masked) = environment(name, text, counts)
    {
        *text = masked.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn redacted(file: &str, body: &Value) -> String {
        let bytes = redact_proxy_file(file, body.to_string().as_bytes(), &mut Counts::default()).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn nothing_that_a_dump_holds_literally_passes() {
        let text = redacted(
            "config_dump.json",
            &json!({"configs": [
                {"@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump", "dynamic_active_secrets": [
                    {"name": "default", "version_info": "3", "secret": {"tls_certificate": {"private_key": {"inline_bytes": "S0VZ"}}}}]},
                {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [{"name": "l", "active_state":
                    {"listener": {"filters": [{"inline_code": "local k = 'hunter1'"},
                        {"users": {"inline_string": "bob:{SHA}hunter2"}}, {"tls": {"private_key": {"filename": "/etc/k"}}},
                        {"body": {"inline_string": "hunter3"}}]}}}]},
                {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "routes": [
                    {"headers": [{"name": "x-api-key", "string_match": {"exact": "hunter4abcdef"}}],
                     "request_headers_to_add": [{"header": {"key": "authorization", "value": "Bearer hunter5abcdefgh"}},
                        {"header": {"key": "x-version", "value": "v2"}}]}]}]}),
        );
        assert!(!text.contains("hunter") && !text.contains("S0VZ") && !text.contains("/etc/k"), "{text}");
        assert!(
            text.contains("\"name\":\"default\"")
                && text.contains("\"version_info\":\"3\"")
                && text.contains("\"v2\""),
            "{text}"
        );
    }

    #[test]
    fn what_is_no_json_does_not_pass_and_statistics_do() {
        let counts = &mut Counts::default();
        assert_eq!(redact_proxy_file("config_dump.json", b"-----BEGIN", counts), None);
        assert_eq!(redact_proxy_file("stats.txt", b"a.b: 1\n", counts).unwrap(), b"a.b: 1\n");
        let info = json!({"version": "1", "node": {"id": "a", "extensions": [{"name": "x"}]}});
        assert_eq!(redacted("server_info.json", &info), r#"{"node":{"id":"a"},"version":"1"}"#);
    }
}
