//! Workloads that are no more, as far as events still tell of them.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// A workload of which events tell and which is not there any more.
#[derive(Debug, Clone)]
pub struct Gone {
    /// What it was.
    pub workload: ObjectRef,
    /// When the last of its pods was ended, else the last that is known of it.
    pub until: Option<Timestamp>,
    /// A pod of it, where one is known.
    pub pod: Option<ObjectRef>,
}

/// Kinds that keep pods running and that every cluster has.
const KEEPERS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];

/// The workload that stood behind a Service and is gone: by a value of the selector or by the Service's name. Events live for an
/// hour as a rule, and a deletion itself makes none: the kubelet's `Killing` of its pods is what stays. A workload that resembles it
/// and is younger took its place.
pub fn gone(snapshot: &Snapshot, service: &Service, resembles: Option<&Workload>) -> Option<Gone> {
    if !KEEPERS.iter().any(|kind| snapshot.knows_kind(kind)) {
        return None;
    }
    let namespace = service.object.namespace();
    let mut found: BTreeMap<String, Gone> = BTreeMap::new();
    for event in snapshot.events.iter().filter(|event| event.about.namespace == namespace) {
        let about = &event.about;
        let (workload, pod) = match about.kind.as_str() {
            kind if KEEPERS.contains(&kind) => (about.clone(), None),
            "Pod" if snapshot.pod(namespace, &about.name).is_none() => {
                let Some((kind, name)) = kept_by(&about.name) else { continue };
                (
                    ObjectRef { api_version: "apps/v1".to_owned(), ..ObjectRef::new(kind, namespace, name) },
                    Some(about),
                )
            }
            _ => continue,
        };
        let there = KEEPERS.iter().any(|kind| snapshot.object(kind, namespace, &workload.name).is_some());
        if there || !fits(service, &workload.name) {
            continue;
        }
        let known = found.entry(workload.name.clone()).or_insert(Gone { workload, until: None, pod: None });
        if event.reason == "Killing" || known.pod.is_none() {
            known.until = known.until.max(event.last);
            known.pod = pod.cloned().or(known.pod.take());
        }
    }
    let last = found.into_values().max_by_key(|gone| (gone.pod.is_some(), gone.until))?;
    let successor =
        resembles.and_then(|workload| workload.object.created).is_some_and(|at| last.until < Some(at));
    (!successor).then_some(last)
}

/// The kind and the name of what keeps a pod, by how its controller names pods: `NAME-HASH-RANDOM`, `NAME-0`, `NAME-RANDOM`.
fn kept_by(pod: &str) -> Option<(&'static str, &str)> {
    let (rest, last) = pod.rsplit_once('-')?;
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) && last.len() < 4 {
        return Some(("StatefulSet", rest));
    }
    if last.len() != 5 || !random(last) {
        return None;
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if (6..=10).contains(&hash.len()) && random(hash) => Some(("Deployment", name)),
        _ => Some(("DaemonSet", rest)),
    }
}

/// Whether a word has only the letters that Kubernetes makes names of: no vowels and nothing that looks like one
/// (`k8s.io/apimachinery/pkg/util/rand`).
fn random(word: &str) -> bool {
    word.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
}

/// Whether a workload of this name would be the one behind a Service.
fn fits(service: &Service, name: &str) -> bool {
    let begins = |long: &str, short: &str| {
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let own = service.object.name();
    begins(name, own) || begins(own, name) || service.selector.values().any(|value| value == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pods_tell_what_keeps_them() {
        for (pod, expected) in [
            ("payment-v1-7cc578c69f-5g9rh", Some(("Deployment", "payment-v1"))),
            ("store-0", Some(("StatefulSet", "store"))),
            ("agent-x7k2p", Some(("DaemonSet", "agent"))),
            ("by-hand", None),
            ("migrate-2026", None),
        ] {
            assert_eq!(kept_by(pod), expected, "{pod}");
        }
    }
}
