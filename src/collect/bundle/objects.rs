//! The text of a YAML or JSON file, and the Kubernetes objects in it.

use crate::model::json::{Map, Value};
use serde::de::Error as _;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

use super::{MAX_ENTRY_BYTES, MAX_NESTING, MAX_OBJECTS, plain};

/// One document that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// The line of the file, from 1.
    pub(super) line: usize,
    /// What is wrong, on one line.
    pub(super) message: String,
}

/// What a file held.
#[derive(Debug, Default)]
pub(super) struct Documents<'t> {
    /// The documents that could be read, comments left out.
    pub(super) values: Vec<Value>,
    /// Of each of them, where it is YAML, the line that it begins at, from 1, and its text.
    pub(super) texts: Vec<Option<(usize, &'t str)>>,
    /// The others.
    pub(super) faults: Vec<Fault>,
}

/// Reads all documents of a file. A broken one does not cost its neighbours.
pub(super) fn parse(bytes: &[u8]) -> Documents<'_> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + memchr::memchr_iter(b'\n', before).count();
            let fault = Fault { line, message: "not UTF-8 text".to_owned() };
            return Documents { faults: vec![fault], ..Documents::default() };
        }
    };
    if text.trim_start().starts_with(['{', '[']) {
        let json = parse_json(text);
        if json.faults.is_empty() {
            return json;
        }
        // YAML may begin with a brace too; where it is neither, the message about JSON is the useful one.
        let yaml = parse_yaml(text);
        return if yaml.faults.is_empty() { yaml } else { json };
    }
    parse_yaml(text)
}

fn parse_json(text: &str) -> Documents<'_> {
    let mut out = Documents::default();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value {
            Ok(value) => {
                out.values.push(value);
                out.texts.push(None);
            }
            Err(error) => {
                let message = error.to_string();
                let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
                out.faults.push(Fault { line: error.line(), message: message.to_owned() });
            }
        }
    }
    out
}

fn parse_yaml(text: &str) -> Documents<'_> {
    let mut out = Documents::default();
    for (line, document) in split(text) {
        match parse_document(document) {
            Ok(Value::Null) => {}
            Ok(value) => {
                out.values.push(value);
                out.texts.push(Some((line, document)));
            }
            Err(error) => {
                let inside = error.location().map_or(1, |at| at.line().max(1) as usize);
                let message = error.without_snippet().to_string();
                // The parser counts lines from where the document begins.
                let message = message.lines().next().unwrap_or_default();
                let message = message.rsplit_once(" at line ").map_or(message, |(what, _)| what);
                out.faults.push(Fault { line: line + inside - 1, message: message.to_owned() });
            }
        }
    }
    out
}

/// Nodes that aliases of one document may stand for in all. Hand-written anchors stand for a few hundred.
const MAX_ALIAS_EVENTS: usize = 100_000;

/// One YAML document as the API server would understand it: unquoted `yes`, `no`, `on` and `off` are truth values, `0644`
/// is octal, and of two equal keys the later one counts.
pub(super) fn parse_document(text: &str) -> Result<Value, serde_saphyr::Error> {
    match plain::read(text) {
        Some(value) => Ok(value),
        None => parse_fully(text),
    }
}

/// The same with all of the language.
pub(super) fn parse_fully(text: &str) -> Result<Value, serde_saphyr::Error> {
    let budget = serde_saphyr::budget! {
        max_depth: MAX_NESTING,
        flow_nesting_limit: MAX_NESTING,
        max_documents: 1,
        max_total_scalar_bytes: MAX_ENTRY_BYTES as usize,
        max_events: 4 * MAX_OBJECTS,
        max_nodes: 4 * MAX_OBJECTS,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_ALIAS_EVENTS },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let value: Value = serde_saphyr::from_str_with_options(text, options)?;
    match value {
        Value::Null | Value::Object(_) | Value::Array(_) => Ok(value),
        _ => Err(serde_saphyr::Error::custom("a single value where an object was expected")),
    }
}

/// The documents of a YAML stream, each with the line it begins at. Blank ones are left out.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut out = vec![];
    let (mut start, mut start_line, mut blank, mut opened) = (0, 1, true, false);
    let (mut offset, mut line_number) = (0, 1);
    let mut rest = text;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest.as_bytes()).map_or(rest.len(), |at| at + 1);
        let (line, behind) = rest.split_at(end);
        rest = behind;
        // Hardly any line is a marker, and where the document has begun nothing else matters of it.
        if !blank && !line.starts_with(['-', '.']) {
            offset += end;
            line_number += 1;
            continue;
        }
        let (ends, begins) = (marker(line, "..."), marker(line, "---"));
        if (ends || begins) && !blank {
            out.push((start_line, text.get(start..offset).unwrap_or_default()));
        }
        // What stands before the first marker are comments and directives of the document that it begins.
        if begins && (opened || !blank) {
            (start, start_line, blank) = (offset, line_number, true);
        }
        opened |= begins;
        offset += line.len();
        line_number += 1;
        if ends {
            (start, start_line, blank, opened) = (offset, line_number, true, false);
            continue;
        }
        let content = line.strip_prefix("---").filter(|_| begins).unwrap_or(line).trim();
        // A directive stays with the document that follows it.
        blank &= content.is_empty() || content.starts_with('#') || line.starts_with('%');
    }
    if !blank {
        out.push((start_line, text.get(start..).unwrap_or_default()));
    }
    out
}

/// Whether the line is a document marker: the three characters, alone or followed by white space.
fn marker(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Takes the Kubernetes objects out of a document: unrolls lists and fills in what their items leave out.
/// Documents that are no objects are dropped. Returns the field of the document that each object stands at.
pub(super) fn unroll(value: Value, out: &mut Vec<Value>) -> Vec<String> {
    let mut places = vec![];
    unroll_into(value, out, &mut places, (String::new(), 0));
    places
}

/// Lists within lists: one level happens when lists are put together by hand.
const MAX_LIST_DEPTH: usize = 4;

fn unroll_into(
    value: Value,
    out: &mut Vec<Value>,
    places: &mut Vec<String>,
    (place, depth): (String, usize),
) {
    if depth > MAX_LIST_DEPTH || out.len() >= MAX_OBJECTS {
        return;
    }
    let mut object = match value {
        Value::Array(items) => {
            for (at, item) in items.into_iter().enumerate() {
                unroll_into(item, out, places, (format!("{place}[{at}]"), depth + 1));
            }
            return;
        }
        Value::Object(object) => object,
        _ => return,
    };
    let named = object.get("metadata").and_then(|m| m.get("name")).is_some_and(Value::is_string);
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !named && kind.ends_with("List") {
        let item_kind = kind.strip_suffix("List").filter(|kind| !kind.is_empty()).map(str::to_owned);
        let item_version = object.get("apiVersion").cloned();
        if let Some(Value::Array(items)) = object.remove("items") {
            for (at, mut item) in items.into_iter().enumerate() {
                if let (Value::Object(item), Some(kind)) = (&mut item, &item_kind) {
                    fill(item, "kind", Some(Value::from(kind.clone())));
                    fill(item, "apiVersion", item_version.clone());
                }
                let list = if place.is_empty() { "items".to_owned() } else { format!("{place}.items") };
                unroll_into(item, out, places, (format!("{list}[{at}]"), depth + 1));
            }
        }
        return;
    }
    if named && !kind.is_empty() {
        let mut value = Value::Object(object);
        strip_secret(&mut value);
        out.push(value);
        places.push(place);
    }
}

fn fill(item: &mut Map, key: &str, value: Option<Value>) {
    let present = item.get(key).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    if let (false, Some(value)) = (present, value) {
        item.insert(key.to_owned(), value);
    }
}

/// Keys of a Secret whose values are certificates, which are public: the rules about certificates need them.
const CERTIFICATE_KEYS: &[&str] = &["tls.crt", "ca.crt", "cert", "cacert"];

/// Types of Secrets in which those keys mean a certificate.
const CERTIFICATE_TYPES: &[&str] = &["", "Opaque", "kubernetes.io/tls", "istio.io/cert-and-key"];

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Empties the values of a Secret, but for public certificates. The names of its keys stay.
pub(crate) fn strip_secret(object: &mut Value) {
    if object.get("kind").and_then(Value::as_str) != Some("Secret") {
        return;
    }
    let secret_type = object.get("type").and_then(Value::as_str).unwrap_or_default();
    let certificates = CERTIFICATE_TYPES.contains(&secret_type);
    for (field, encoded) in [("data", true), ("stringData", false)] {
        let Some(entries) = object.get_mut(field).and_then(Value::as_object_mut) else { continue };
        for (key, value) in entries {
            let public =
                certificates && CERTIFICATE_KEYS.contains(&key.as_str()) && is_public(value, encoded);
            if !public {
                *value = Value::from(String::new());
            }
        }
    }
    if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}

/// Whether the value holds no private key. What cannot be decoded is kept: that it is broken is what a rule looks for.
fn is_public(value: &Value, encoded: bool) -> bool {
    let Some(text) = value.as_str() else { return false };
    if !encoded {
        return !text.contains("PRIVATE KEY");
    }
    match value.clone().read::<k8s_openapi::ByteString>() {
        Ok(bytes) => memchr::memmem::find(&bytes.0, b"PRIVATE KEY").is_none(),
        Err(_) => !text.contains("PRIVATE KEY"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn objects(text: &str) -> Vec<Value> {
        let mut out = vec![];
        for value in parse(text.as_bytes()).values {
            let before = out.len();
            assert_eq!(unroll(value, &mut out).len(), out.len() - before);
        }
        out
    }

    #[test]
    fn a_broken_document_does_not_cost_its_neighbours() {
        let text = "# head\n---\nkind: A\nmetadata: {name: a}\n---\nkind: [\n---\nkind: B\nmetadata:\n  name: b\n...\n";
        let documents = parse(text.as_bytes());
        assert_eq!(documents.values.len(), 2);
        assert_eq!(documents.faults.len(), 1);
        assert!((6..=7).contains(&documents.faults[0].line), "{:?}", documents.faults);
    }

    #[test]
    fn comments_and_markers_are_no_documents() {
        assert!(parse(b"# only a comment\n---\n# and another\n--- # third\n...\n").values.is_empty());
        assert_eq!(parse(b"%YAML 1.2\n---\na: 1\n").values, [json!({"a": 1})]);
        assert_eq!(parse(b"a: 1\n---\n---\nb: 2\n---\n# c\n---\n").values.len(), 2);
        assert_eq!(parse(b"--- {a: 1}\n---\nb: |\n  ---\n  x\n").values.len(), 2);
        assert_eq!(parse(b"\xef\xbb\xbfa: 1\r\n---\r\nb: 2\r\n").values.len(), 2);
    }

    #[test]
    fn scalars_are_read_as_the_api_server_reads_them() {
        let text = "a: yes\nb: Off\nc: 'on'\nd: 0644\ne: 9007199254740993\nf: 1e3\ng: ~\nh: 12:30\ni: 0x1F\nj: 1.20\na2: 1\na2: 2\n";
        assert_eq!(
            parse(text.as_bytes()).values,
            [
                json!({"a": true, "b": false, "c": "on", "d": 420, "e": 9007199254740993_u64, "f": 1000.0, "g": null,
                    "h": "12:30", "i": 31, "j": 1.2, "a2": 2})
            ]
        );
    }

    #[test]
    fn anchors_and_merge_keys_work_and_bombs_do_not() {
        let text = "base: &b {x: 1}\nuse:\n  <<: *b\n  y: 2\n";
        assert_eq!(parse(text.as_bytes()).values[0]["use"], json!({"x": 1, "y": 2}));
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let below = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push_str(&format!("a{n}: &a{n} [{below}]\n"));
        }
        let documents = parse(bomb.as_bytes());
        assert_eq!((documents.values.len(), documents.faults.len()), (0, 1));
    }

    #[test]
    fn deep_nesting_is_a_fault() {
        assert_eq!(parse("[".repeat(100_000).as_bytes()).faults.len(), 1);
        assert_eq!(parse(format!("a: {}", "[".repeat(100_000)).as_bytes()).faults.len(), 1);
        assert_eq!(parse("- ".repeat(100_000).as_bytes()).faults.len(), 1);
    }

    #[test]
    fn lists_are_unrolled_and_their_items_completed() {
        let out = objects(
            r#"{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}, {"metadata": {}}]}
               {"kind": "List", "items": [{"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "b"}}]}"#,
        );
        assert_eq!(out.len(), 2);
        assert_eq!(out[0], json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}));
        assert_eq!(out[1]["kind"], "Job");
        assert!(objects("just: text\n---\nkind: Kustomization\n").is_empty());
        assert_eq!(objects("kind: AllowList\nmetadata: {name: x}\nitems: []\n").len(), 1);
    }

    #[test]
    fn values_of_secrets_are_dropped_and_certificates_kept() {
        let certificate = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t";
        // "-----BEGIN PRIVATE KEY-----", pasted behind the certificate as some tools do.
        let key = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t";
        let mut secret = json!({"kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "s", "annotations": {LAST_APPLIED: "{}", "a": "b"}},
            "data": {"tls.crt": certificate, "tls.key": "c2VjcmV0", "ca.crt": key, "number": 7},
            "stringData": {"password": "hunter2"}});
        strip_secret(&mut secret);
        assert_eq!(
            secret["data"],
            json!({"tls.crt": certificate, "tls.key": "", "ca.crt": "", "number": ""})
        );
        assert_eq!(secret["stringData"], json!({"password": ""}));
        assert_eq!(secret["metadata"]["annotations"], json!({"a": "b"}));
        let mut token = json!({"kind": "Secret", "type": "kubernetes.io/service-account-token", "data": {"ca.crt": certificate}});
        strip_secret(&mut token);
        assert_eq!(token["data"]["ca.crt"], "");
    }
}
