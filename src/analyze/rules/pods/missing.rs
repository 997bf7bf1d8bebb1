//! What the kubelet says is missing: a ConfigMap, a Secret, or a key of one.

use jiff::Timestamp;
use regex::Regex;
use std::sync::LazyLock;

use super::common;
use crate::analyze::finding::Evidence;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerState, Pod};

/// A ConfigMap or Secret that a pod waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// Its name; empty where the kubelet names only the key.
    pub name: String,
    /// The key that it lacks; empty where all of it is missing.
    pub key: String,
}

/// The same with where it was said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// What is missing.
    pub missing: Missing,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Status and event that say so.
    pub evidence: Vec<Evidence>,
}

/// Reads the kubelet's words; `None` where they say something else.
pub(crate) fn parse(message: &str) -> Option<Missing> {
    static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
        [
            r"couldn't find key (?P<key>\S+) in (?P<kind>ConfigMap|Secret) (?:[^/\s]+/)?(?P<name>[^\s,]+)",
            r#"(?P<kind>configmap|secret)s? "(?P<name>[^"]+)" not found"#,
            r"(?:references )?non-?existent (?P<kind>config|secret) key: (?P<key>\S+)",
        ]
        .iter()
        .filter_map(|pattern| Regex::new(pattern).ok())
        .collect()
    });
    let found = PATTERNS.iter().find_map(|pattern| pattern.captures(message))?;
    let part = |name: &str| found.name(name).map(|m| m.as_str().to_owned()).unwrap_or_default();
    let kind = if part("kind").eq_ignore_ascii_case("secret") { "Secret" } else { "ConfigMap" };
    Some(Missing { kind, name: part("name"), key: part("key") })
}

/// Everything that a pod's containers and volumes wait for, from waiting containers and from events that still hold.
pub(crate) fn said(snapshot: &Snapshot, pod: &Pod) -> Vec<Said> {
    let mut out: Vec<Said> = vec![];
    if pod.ended() || pod.object.deleted.is_some() {
        return out;
    }
    let mut add = |missing: Missing, since: Option<Timestamp>, evidence: Evidence| {
        if let Some(known) = out.iter_mut().find(|known| known.missing == missing) {
            known.since = known.since.into_iter().chain(since).min();
            known.evidence.push(evidence);
        } else {
            out.push(Said { missing, since, evidence: vec![evidence] });
        }
    };
    let mut waits = false;
    for (_, status) in common::statuses(pod) {
        let ContainerState::Waiting { reason, message } = &status.state else { continue };
        waits = true;
        if reason == "CreateContainerConfigError"
            && let Some(missing) = parse(message)
        {
            add(missing, None, common::container_evidence(pod, status));
        }
    }
    // An event about a pod whose containers all run is about the past.
    if waits {
        for event in common::kubelet_words(snapshot, pod, &["Failed", "FailedMount"]) {
            if let Some(missing) = parse(&event.message) {
                add(missing, event.first, common::event_evidence(event));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_words() {
        let of = |kind, name: &str, key: &str| Some(Missing { kind, name: name.into(), key: key.into() });
        assert_eq!(
            parse("Error: couldn't find key MODE in ConfigMap shop/settings"),
            of("ConfigMap", "settings", "MODE")
        );
        assert_eq!(parse("secret \"db\" not found"), of("Secret", "db", ""));
        assert_eq!(
            parse("MountVolume.SetUp failed for volume \"v\" : configmap \"files\" not found"),
            of("ConfigMap", "files", "")
        );
        assert_eq!(
            parse(
                "MountVolume.SetUp failed for volume \"v\" : configmap references non-existent config key: a.yaml"
            ),
            of("ConfigMap", "", "a.yaml")
        );
        assert_eq!(parse("image not found"), None);
    }
}
