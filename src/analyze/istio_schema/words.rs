//! Values that several kinds have: names, ports, durations, labels, visibility.

use crate::model::json::{Map, Value};
use regex::Regex;
use std::collections::BTreeSet;

use super::{Faults, Fix};
use crate::analyze::traffic::text::plain;
use crate::model::fields::Fields;
use crate::model::time;

pub(super) const DOMAIN: &str =
    "DNS labels joined by dots, of which the first can be or begin with a wildcard";
pub(super) const PORT: &str = "a number from 1 to 65535";
pub(super) const DURATION: &str = "1ms or more, in whole milliseconds";
pub(super) const LABEL: &str =
    "letters, digits and hyphens, at most 63, beginning and ending with a letter or a digit";
const NAMESPACES: &str = "one of `.` and `*`, or names of namespaces, each once";

/// Text, empty where there is none.
pub(super) fn word<'a>(value: &'a Value, path: &str) -> &'a str {
    value.text(path).unwrap_or_default()
}

/// Whether a message is there, be it empty.
pub(super) fn set(value: &Value, path: &str) -> bool {
    value.at(path).is_some_and(Value::is_object)
}

/// The items of a list with their paths.
pub(super) fn items<'a>(
    value: &'a Value,
    key: &'a str,
    base: &str,
) -> impl Iterator<Item = (String, &'a Value)> + use<'a> {
    let base = base.to_owned();
    value.list(key).iter().enumerate().map(move |(at, item)| (format!("{base}.{key}[{at}]"), item))
}

/// A word of the cluster for a sentence.
pub(super) fn shown(text: &str) -> String {
    plain(text, 80)
}

/// Whether it is a label of DNS as Istio reads it: capitals are fine.
pub(super) fn is_label(label: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    label.len() <= 63
        && edge(label.chars().next())
        && edge(label.chars().next_back())
        && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn is_wildcard_label(label: &str) -> bool {
    let rest = label.strip_prefix("*-").filter(|rest| is_label(rest));
    let rest = rest.or_else(|| label.strip_prefix('*')).unwrap_or(label);
    label.len() <= 63 && (label == "*" || is_label(rest))
}

fn length(name: &str) -> Option<String> {
    match name.len() {
        0 => Some("a host name is empty".to_owned()),
        256.. => Some(format!("host name {} is longer than 255 characters", shown(name))),
        _ => None,
    }
}

fn labels_of(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('.').collect();
    let last = parts.last().copied().unwrap_or_default();
    if last.parse::<i64>().is_ok() {
        return Some(format!("host name {} ends with a number", shown(name)));
    }
    let wrong = parts
        .iter()
        .enumerate()
        .find(|(at, part)| !(is_label(part) || part.is_empty() && at + 1 == parts.len()));
    wrong.map(|(_, part)| format!("host name {} has the label \"{}\"", shown(name), shown(part)))
}

/// What is wrong with a whole name without wildcards.
pub(super) fn full_name(name: &str) -> Option<String> {
    length(name).or_else(|| labels_of(name))
}

/// What is wrong with a name that can begin with a wildcard.
pub(super) fn domain(name: &str) -> Option<String> {
    if let Some(wrong) = length(name) {
        return Some(wrong);
    }
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    if !is_wildcard_label(first) {
        return Some(format!("host name {} has the label \"{}\"", shown(name), shown(first)));
    }
    rest.and_then(labels_of)
}

/// A port, 0 where there is none.
pub(super) fn port(out: &mut Faults, path: String, number: i64) {
    if !(1..=65535).contains(&number) {
        out.error(path, format!("port {number} is not in range"), PORT);
    }
}

/// Nanoseconds of a duration; none where it cannot be read.
pub(super) fn nanoseconds(value: &Value, key: &str) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "durations of Istio are far below 292 years")]
    time::duration_seconds(value.text(key)?).map(|seconds| (seconds * 1e9).round() as i64)
}

/// A duration that is there.
pub(super) fn duration(out: &mut Faults, value: &Value, key: &str, base: &str) {
    match nanoseconds(value, key) {
        Some(..1_000_000) => out.error(format!("{base}.{key}"), "a duration is below 1ms", DURATION),
        Some(long) if long % 1_000_000 != 0 => {
            out.error(format!("{base}.{key}"), "a duration is finer than milliseconds", DURATION)
        }
        _ => return,
    };
}

/// Whether an address of IP version 4 or 6 is written down.
pub(super) fn is_address(text: &str) -> bool {
    text.split('%').next().is_some_and(|address| address.parse::<core::net::IpAddr>().is_ok())
}

/// An address, or a block of addresses.
pub(super) fn block(out: &mut Faults, path: String, text: &str) {
    let good = match text.split_once('/') {
        Some((address, bits)) => address.parse::<core::net::IpAddr>().is_ok_and(|address| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let plain =
                bits.bytes().all(|byte| byte.is_ascii_digit()) && (bits == "0" || !bits.starts_with('0'));
            plain && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
        }),
        None => is_address(text),
    };
    if !good {
        out.error(
            path,
            format!("{} is no block of addresses", shown(text)),
            "an address, or a block such as 10.0.0.0/8",
        );
    }
}

fn is_qualified(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The path of a socket, behind `unix://`.
pub(super) fn socket(out: &mut Faults, path: &str, place: &str) {
    let what = if place.is_empty() {
        "a path of a socket is empty".to_owned()
    } else if !place.starts_with('@') && (!place.starts_with('/') || place.ends_with('/')) {
        format!("{} is no whole path of a file", shown(place))
    } else {
        return;
    };
    out.error(path, what, "an absolute path, or a name behind @");
}

/// The name of a port.
pub(super) fn port_name(out: &mut Faults, path: String, name: &str) {
    if !is_label(name) {
        out.error(path, format!("\"{}\" is no name of a port", shown(name)), LABEL);
    }
}

/// The protocol of a port, which can be left to be found out.
pub(super) fn protocol_of_port(out: &mut Faults, path: String, name: &str) {
    if !name.is_empty() && protocol(name) == Protocol::Unknown {
        let what = format!("\"{}\" is no protocol", shown(name));
        out.error(path, what, "HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP, TLS or UDP");
    }
}

/// A `workloadSelector` by `labels`. Whether it can be used: Istio looks at nothing else of an object where it cannot.
pub(super) fn alpha_selector(out: &mut Faults, spec: &Value) -> bool {
    let before = out.0.len();
    if let Some(selector) = spec.at("workloadSelector") {
        pairs(out, selector.map("labels"), "spec.workloadSelector.labels");
    }
    out.0.len() == before
}

/// Warns of a `workloadSelector` without labels.
pub(super) fn warn_unlabelled(out: &mut Faults, spec: &Value) {
    let labels = spec.map("workloadSelector.labels");
    if set(spec, "workloadSelector") && labels.is_none_or(Map::is_empty) {
        out.warn("spec.workloadSelector", "a selector has no labels", "a selector with labels, or none");
    }
}

/// The name behind the namespace in a host of a Gateway or a Sidecar; `address` is whether it can be an address.
pub(super) fn host_name(out: &mut Faults, path: String, name: &str, address: bool) {
    if name != "*" && !name.contains('.') {
        out.error(path.clone(), "a host is a short name", "a whole name, or *");
    }
    if !(address && is_address(name)) {
        out.unless(path.clone(), domain(name), DOMAIN);
    }
    if name != "*"
        && let Some(what) = part_wildcard(name)
    {
        out.error(path, what, WHOLE_LABEL);
    }
}

pub(super) const WHOLE_LABEL: &str = "a wildcard for the whole first label";

/// What is wrong with a wildcard that is not the whole first label.
pub(super) fn part_wildcard(name: &str) -> Option<String> {
    let part = name.contains('*') && !name.starts_with("*.");
    part.then(|| format!("{} has a part of a label as a wildcard", shown(name)))
}

/// Labels of pods.
pub(super) fn labels(out: &mut Faults, value: &Value, key: &str, base: &str) {
    for (name, text) in value.map(key).into_iter().flatten() {
        let (prefix, own) =
            name.split_once('/').map_or((None, name.as_str()), |(prefix, own)| (Some(prefix), own));
        let prefix =
            prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(is_label_of_any_length));
        if !prefix || own.len() > 63 || !is_qualified(own) {
            out.error(
                format!("{base}.{key}"),
                format!("{} is no name of a label", shown(name)),
                "a label's name as Kubernetes has it",
            );
        }
        let text = text.as_str().unwrap_or_default();
        if !text.is_empty() && !is_qualified(text) {
            out.error(
                format!("{base}.{key}"),
                format!("{} is no value of a label", shown(text)),
                "a label's value as Kubernetes has it",
            );
        }
    }
}

fn is_label_of_any_length(label: &str) -> bool {
    let trimmed: String = label.chars().skip(label.len().saturating_sub(63)).collect();
    is_label(&trimmed) && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Labels that are to be selected.
fn pairs(out: &mut Faults, entries: Option<&Map>, path: &str) {
    for (key, value) in entries.into_iter().flatten() {
        let pair = format!("{key}={}", value.as_str().unwrap_or_default());
        let wrong = [(key.is_empty(), "no name"), (pair.contains('*'), "a wildcard")];
        for (_, what) in wrong.into_iter().filter(|(wrong, _)| *wrong) {
            let what = format!("a selector has {what} in {}", shown(&pair));
            out.error(path, what, "names and values of labels");
        }
    }
}

/// A selector by `matchLabels`.
pub(super) fn selector(out: &mut Faults, selector: Option<&Value>, path: &str) {
    let Some(selector) = selector.filter(|selector| selector.is_object()) else { return };
    let entries = selector.map("matchLabels");
    pairs(out, entries, &format!("{path}.matchLabels"));
    if entries.is_none_or(Map::is_empty) {
        out.warn(path, "a selector has no labels", "a selector with labels, or none");
    }
}

/// Where an object is seen. `selecting` is whether a DestinationRule is for some pods only.
pub(super) fn export_to(out: &mut Faults, namespace: &str, spec: &Value, selecting: bool) {
    exported(out, namespace, spec, selecting, false);
}

/// Where a ServiceEntry is seen, which can be nowhere: `~`.
pub(super) fn export_to_with_nobody(out: &mut Faults, namespace: &str, spec: &Value) {
    exported(out, namespace, spec, false, true);
}

fn exported(out: &mut Faults, namespace: &str, spec: &Value, selecting: bool, nobody: bool) {
    let all = spec.list("exportTo");
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (path, entry) in items(spec, "exportTo", "spec") {
        let entry = entry.as_str().unwrap_or_default();
        let key = if entry == "." { namespace } else { entry };
        if seen.contains(key) {
            let what = if key == entry {
                format!("exportTo names {} twice", shown(entry))
            } else {
                "exportTo names its own namespace twice".to_owned()
            };
            out.error(path, what, NAMESPACES).fix(Fix::Remove);
        } else if key == "~" && !nobody {
            out.error(path, "exportTo is ~", NAMESPACES);
        } else if !matches!(key, "." | "*" | "~") && !is_label(key) {
            out.error(path, "exportTo has what is no name of a namespace", NAMESPACES);
        } else {
            seen.insert(key);
        }
    }
    if selecting && !seen.is_empty() {
        if !seen.contains(namespace) {
            out.error(
                "spec.exportTo",
                "a rule for some pods is for other namespaces",
                "`.`, or the rule's own namespace",
            );
        } else if seen.len() > 1 {
            out.error(
                "spec.exportTo",
                "a rule for some pods is for several namespaces",
                "`.`, or the rule's own namespace",
            );
        }
    }
    if seen.contains("*") && all.len() > 1 {
        out.error("spec.exportTo", "exportTo has * beside others", NAMESPACES)
            .fix(Fix::Write(crate::model::json::json!(["*"])));
    }
    if seen.contains("~") && all.len() > 1 {
        out.error("spec.exportTo", "exportTo has ~ beside others", NAMESPACES);
    }
}

/// A regular expression; `place` is what istioctl calls it.
pub(super) fn expression(out: &mut Faults, path: String, text: &str, place: &str) {
    let what = if text.len() > 1024 {
        format!("the expression for {place} is longer than 1024 bytes")
    } else if Regex::new(text).is_err() {
        format!("the expression for {place} is none: {}", shown(text))
    } else {
        return;
    };
    out.error(path, what, "a regular expression of RE2, at most 1024 bytes");
}

/// A protocol as the port of a Gateway names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One of HTTP's versions, in plaintext.
    Http,
    /// TLS, with HTTP in it or not.
    Tls,
    /// Bytes.
    Other,
    /// None that Istio knows.
    Unknown,
}

/// Reads a protocol's name.
pub(super) fn protocol(name: &str) -> Protocol {
    match name.to_ascii_lowercase().as_str() {
        "http" | "http2" | "http_proxy" | "grpc" | "grpc-web" => Protocol::Http,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "udp" | "mongo" | "redis" | "mysql" => Protocol::Other,
        _ => Protocol::Unknown,
    }
}
