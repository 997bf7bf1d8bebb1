//! Events are one set of objects with two faces: `v1` and `events.k8s.io/v1`. They are kept as the former.

use crate::model::json::{Value, json};

use super::kinds::Kind;

/// The names of one field in both faces, as the API server converts them: core first.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Whether the kind is one of the two.
pub(super) fn is_event(kind: &Kind) -> bool {
    kind.plural == "events" && matches!(kind.group.as_str(), "" | "events.k8s.io")
}

/// Turns either face into the core one.
pub(super) fn to_core(event: &mut Value) {
    rename(event, "v1", |(core, new)| (new, core));
}

/// Turns the core face into that of `events.k8s.io`.
pub(super) fn to_new(event: &mut Value) {
    rename(event, "events.k8s.io/v1", |(core, new)| (core, new));
}

fn rename<'a>(
    event: &mut Value,
    api_version: &str,
    direction: impl Fn((&'a str, &'a str)) -> (&'a str, &'a str),
) {
    let Some(map) = event.as_object_mut() else { return };
    for names in NAMES {
        let (from, to) = direction(*names);
        if let Some(value) = map.remove(from)
            && !map.contains_key(to)
        {
            map.insert(to.to_owned(), value);
        }
    }
    map.insert("apiVersion".to_owned(), json!(api_version));
    map.insert("kind".to_owned(), json!("Event"));
}

/// The field under which a selector names something, in the core face.
pub(super) fn selector_field(field: &str) -> String {
    let renamed = NAMES.iter().find_map(|(core, new)| {
        let rest = field.strip_prefix(new)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{core}{rest}"))
    });
    match renamed.as_deref().unwrap_or(field) {
        // The API's name for the component that reported it.
        "source" => "source.component".to_owned(),
        field => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_the_same() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}, "message": "m", "count": 3,
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet"}, "reason": "Killing",
            "firstTimestamp": "2026-01-01T00:00:00Z", "reportingComponent": "kubelet"});
        let mut event = core.clone();
        to_new(&mut event);
        assert_eq!(event["note"], "m");
        assert_eq!(event["regarding"]["name"], "p");
        assert_eq!(event["deprecatedCount"], 3);
        to_core(&mut event);
        assert_eq!(event, core);
        assert_eq!(selector_field("regarding.name"), "involvedObject.name");
        assert_eq!(selector_field("source"), "source.component");
    }
}
