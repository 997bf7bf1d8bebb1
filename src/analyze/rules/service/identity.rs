//! Whose pods a Service is meant for, where its selector does not say so.

use crate::analyze::rules::near::applied;
use crate::model::network::Service;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// Labels by which pods of one application are known, by convention.
const NAMES: [&str; 4] = ["app.kubernetes.io/name", "app", "k8s-app", "name"];

/// The workloads that a Service is meant for.
#[derive(Debug)]
pub struct Meant<'a> {
    /// The labels that pick their pods.
    pub labels: Labels,
    /// The workloads, at least one.
    pub workloads: Vec<&'a Workload>,
    /// How that is known.
    pub why: &'static str,
}

/// Labels that many unrelated workloads share, or that tell versions of one apart: they say nothing of whose pods are meant.
pub fn is_common(key: &str) -> bool {
    let word = key.rsplit('/').next().unwrap_or(key);
    matches!(
        word,
        "part-of"
            | "managed-by"
            | "instance"
            | "release"
            | "heritage"
            | "chart"
            | "environment"
            | "env"
            | "tier"
            | "team"
    )
}

fn of_a_version(key: &str) -> bool {
    matches!(
        key.rsplit('/').next().unwrap_or(key),
        "version" | "track" | "slot" | "color" | "colour" | "stage"
    )
}

/// Finds them: by the selector that was applied before, by the labels that the Service itself carries, by its name.
pub fn meant<'a>(snapshot: &'a Snapshot, service: &Service) -> Option<Meant<'a>> {
    let beside: Vec<&Workload> = snapshot
        .workloads
        .iter()
        .filter(|w| {
            w.object.owners.is_empty()
                && w.object.namespace() == service.object.namespace()
                && !matches!(w.reference().kind.as_str(), "Job" | "CronJob")
        })
        .collect();
    let with = |labels: Labels, why: &'static str| {
        let carries = |w: &&Workload| labels.iter().all(|(k, v)| w.template.labels.get(k) == Some(v));
        let workloads: Vec<&Workload> = beside.iter().copied().filter(carries).collect();
        (!labels.is_empty() && !workloads.is_empty()).then_some(Meant { labels, workloads, why })
    };
    let before = applied(&service.object, "spec.selector").and_then(|old| old.read().ok());
    if let Some(meant) = before
        .filter(|old: &Labels| *old != service.selector)
        .and_then(|old| with(old, "it was applied with that selector"))
    {
        return Some(meant);
    }
    let shared = service.object.labels.iter().filter(|(key, value)| {
        !is_common(key)
            && !of_a_version(key)
            && beside.iter().any(|w| w.template.labels.get(key) == Some(*value))
    });
    let shared: Labels = shared.collect();
    with(shared, "the Service itself carries the same labels").or_else(|| {
        let name = service.object.name();
        let one = |key: &&str| Labels::from([((*key).to_owned(), name.to_owned())]);
        NAMES.iter().find_map(|key| with(one(key), "they carry the Service's name"))
    })
}

/// `app=checkout,tier=web`.
pub fn words(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}
