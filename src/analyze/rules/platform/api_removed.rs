//! PLAT123.

use jiff::Timestamp;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::conditions;

crate::rule! {
    /// Something asks for an API version that this cluster does not serve any more, or soon will not.
    ///
    /// ## What it detects
    /// The words `no matches for kind "X" in version "Y"` in logs, events and the conditions of what deploys (Helm releases,
    /// Argo CD applications, Flux kustomizations): a version that was removed, or a kind whose definition is not installed. And
    /// objects that were last applied in a version of Kubernetes' own that the cluster's release has removed.
    /// ## Why it matters
    /// The next release fails, or a controller stops in the middle of its work and what it looks after stays as it is.
    /// ## Evidence
    /// The refusal in its own words, who said it, the versions of the nodes, and the release in which Kubernetes removed the version.
    /// ## How to confirm
    /// `kubectl api-resources --api-group=GROUP`, and `apiserver_requested_deprecated_apis` of the API server.
    /// ## How to fix
    /// Change `apiVersion` in the manifest or chart (`kubectl convert` does it), update the controller; install the definition where
    /// it belongs to an extension that is missing.
    /// ## False positives
    /// Objects whose manifest is out of date go on working until somebody applies it again: they are information.
    /// ## References
    /// <https://kubernetes.io/docs/reference/using-api/deprecation-guide/>
    ApiRemoved {
        code: "PLAT123", name: "api-version-not-served", family: Platform, severity: Warning,
        needs: [], aliases: ["K8S-DEPRECATED"],
    }
}

/// Versions that Kubernetes removed: kinds, version, the minor release of 1 without it, and what took its place. From the
/// deprecation guide of Kubernetes.
const REMOVED: &[(&[&str], &str, i64, &str)] = &[
    (&["Deployment", "DaemonSet", "ReplicaSet"], "extensions/v1beta1", 16, "apps/v1"),
    (&["Deployment", "StatefulSet"], "apps/v1beta1", 16, "apps/v1"),
    (&["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"], "apps/v1beta2", 16, "apps/v1"),
    (&["NetworkPolicy"], "extensions/v1beta1", 16, "networking.k8s.io/v1"),
    (&["Ingress"], "extensions/v1beta1", 22, "networking.k8s.io/v1"),
    (&["Ingress", "IngressClass"], "networking.k8s.io/v1beta1", 22, "networking.k8s.io/v1"),
    (&["CustomResourceDefinition"], "apiextensions.k8s.io/v1beta1", 22, "apiextensions.k8s.io/v1"),
    (&["APIService"], "apiregistration.k8s.io/v1beta1", 22, "apiregistration.k8s.io/v1"),
    (
        &["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"],
        "admissionregistration.k8s.io/v1beta1",
        22,
        "admissionregistration.k8s.io/v1",
    ),
    (
        &["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
        "rbac.authorization.k8s.io/v1beta1",
        22,
        "rbac.authorization.k8s.io/v1",
    ),
    (&["PriorityClass"], "scheduling.k8s.io/v1beta1", 22, "scheduling.k8s.io/v1"),
    (&["StorageClass", "VolumeAttachment"], "storage.k8s.io/v1beta1", 22, "storage.k8s.io/v1"),
    (&["Lease"], "coordination.k8s.io/v1beta1", 22, "coordination.k8s.io/v1"),
    (&["CronJob"], "batch/v1beta1", 25, "batch/v1"),
    (&["EndpointSlice"], "discovery.k8s.io/v1beta1", 25, "discovery.k8s.io/v1"),
    (&["Event"], "events.k8s.io/v1beta1", 25, "events.k8s.io/v1"),
    (&["HorizontalPodAutoscaler"], "autoscaling/v2beta1", 25, "autoscaling/v2"),
    (&["PodDisruptionBudget", "PodSecurityPolicy"], "policy/v1beta1", 25, "policy/v1"),
    (&["RuntimeClass"], "node.k8s.io/v1beta1", 25, "node.k8s.io/v1"),
    (&["HorizontalPodAutoscaler"], "autoscaling/v2beta2", 26, "autoscaling/v2"),
    (
        &["FlowSchema", "PriorityLevelConfiguration"],
        "flowcontrol.apiserver.k8s.io/v1beta1",
        26,
        "flowcontrol.apiserver.k8s.io/v1",
    ),
    (&["CSIStorageCapacity"], "storage.k8s.io/v1beta1", 27, "storage.k8s.io/v1"),
    (
        &["FlowSchema", "PriorityLevelConfiguration"],
        "flowcontrol.apiserver.k8s.io/v1beta2",
        29,
        "flowcontrol.apiserver.k8s.io/v1",
    ),
    (
        &["FlowSchema", "PriorityLevelConfiguration"],
        "flowcontrol.apiserver.k8s.io/v1beta3",
        32,
        "flowcontrol.apiserver.k8s.io/v1",
    ),
];

/// The release without a version of a kind, and what took its place.
fn removed(kind: &str, version: &str) -> Option<(i64, &'static str)> {
    REMOVED
        .iter()
        .find(|(kinds, v, _, _)| *v == version && kinds.contains(&kind))
        .map(|(_, _, minor, next)| (*minor, *next))
}

/// Lines of one log that are read, the newest: who repeats it says it there.
const MAX_LINES: usize = 2000;

/// A kind that is not served.
#[derive(Debug)]
pub struct Fact {
    /// Who asks for it.
    subject: ObjectRef,
    kind: String,
    version: String,
    /// How often it was refused; none where only a manifest says so.
    refused: u64,
    evidence: Evidence,
    first: Option<Timestamp>,
    /// Where it belongs to an object that was applied in a removed version.
    minor: Option<i64>,
}

impl Check for ApiRemoved {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: BTreeMap<(ObjectRef, String, String), Fact> = BTreeMap::new();
        let mut add =
            |subject: ObjectRef, text: &str, count: u64, at: Option<Timestamp>, evidence: Evidence| {
                let Some((kind, version)) = named(text) else { return };
                let fact = out.entry((subject.clone(), kind.clone(), version.clone())).or_insert_with(|| {
                    Fact { subject, kind, version, refused: 0, evidence, first: None, minor: None }
                });
                fact.refused += count;
                fact.first = fact.first.into_iter().chain(at).min();
            };
        for stream in snapshot.logs.iter().filter(|s| snapshot.in_scope(&s.namespace)) {
            let from = stream.lines.len().saturating_sub(MAX_LINES);
            for line in
                stream.lines.iter().skip(from).filter(|line| line.text.contains("no matches for kind"))
            {
                let owner = snapshot.owner_by_name(&stream.namespace, &stream.pod);
                let place =
                    format!("Pod {}/{}, container {}", stream.namespace, stream.pod, stream.container);
                let evidence = Evidence::new("Log", place, "an API version that is not served")
                    .at(line.time)
                    .excerpt(&line.text);
                add(owner, &line.text, 1, line.time, evidence);
            }
        }
        for event in snapshot.events.iter().filter(|e| snapshot.in_scope(&e.about.namespace)) {
            add(
                event.about.clone(),
                &event.message,
                event.count.unsigned_abs(),
                event.first,
                common::event_evidence(event),
            );
        }
        for kind in ["HelmRelease", "Kustomization", "Application"] {
            for object in snapshot.objects_of(kind).filter(|o| snapshot.in_scope(o.namespace())) {
                let told = conditions(object.body.list("status.conditions"))
                    .into_iter()
                    .map(|c| (c.message, c.since));
                let operation =
                    object.body.text("status.operationState.message").map(|text| (text.to_owned(), None));
                for (text, since) in told.chain(operation) {
                    let evidence =
                        Evidence::object(&object.reference.field("status"), "the release is refused")
                            .at(since)
                            .excerpt(&text);
                    add(object.reference.clone(), &text, 1, since, evidence);
                }
            }
        }
        let mut facts: Vec<Fact> = out.into_values().collect();
        facts.extend(applied_in_old_versions(snapshot));
        facts
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let Fact { subject, kind, version, .. } = fact;
        let known = removed(kind, version);
        let next = known.map(|(_, next)| next);
        let seen = fact.refused > 0;
        let release = known
            .map(|(minor, next)| format!("Kubernetes 1.{minor} removed it; {next} is what takes its place"));
        let why = release.clone().unwrap_or_else(|| {
            format!(
                "no definition of it is installed, or not in this version: group {}",
                version.split('/').next().unwrap_or(version)
            )
        });
        let title = if seen {
            format!("{subject} asks for {kind} in {version}, which this cluster does not serve")
        } else {
            format!(
                "{subject} was last applied as {version}, which Kubernetes 1.{} removed",
                fact.minor.unwrap_or_default()
            )
        };
        let message = if seen {
            format!(
                "{subject} was refused {} with kind {kind} in version {version}: {why}. What it does with this kind does not happen.",
                common::plural(fact.refused as usize, "time")
            )
        } else {
            format!(
                "The manifest by which {subject} was last applied has apiVersion {version}: {why}. The object works; the next apply of that manifest is refused."
            )
        };
        let running = fact.first.is_some_and(|at| common::recent(snapshot, Some(at)));
        let workload = snapshot.workload(subject);
        let finding = Finding::new(Self::META, subject.field("apiVersion"), &[kind, version])
            .title(title)
            .message(message)
            .mechanism("removed or missing API version (no matches for kind)")
            .severity(match (seen, fact.refused) {
                (false, _) => Severity::Info,
                (true, n) if n >= 3 && running => Severity::Error,
                (true, _) => Severity::Warning,
            })
            .role(
                if seen { Role::Cause } else { Role::Context },
                if seen { Confidence::Observed } else { Confidence::Configured },
            )
            .evidence(fact.evidence.clone())
            .onset(fact.first)
            .effects(workload.map(|w| Effect::calls(w.reference())));
        let group = version.split_once('/').map_or("", |(group, _)| group);
        finding
            .remedy(match next {
                Some(next) => Remedy::manual(format!(
                    "Set apiVersion to {next} in the manifest or chart of {kind} (kubectl convert does it), or update what makes it to a release that does"
                )),
                None => Remedy::commands(
                    format!("Install the definition of {kind} ({group}), or the version of its operator that serves {version}; this shows what is served"),
                    vec![format!("kubectl api-resources --api-group={}", crate::analyze::remedy::quote(group))],
                    vec![],
                ),
            })
            .prevention(Prevention::alert("Alert before the next upgrade", "apiserver_requested_deprecated_apis > 0"))
            .prevention(Prevention::of("Test", "In the pipeline: kubectl apply --dry-run=server of all manifests against the next release"))
    }
}

/// The kind and version that a refusal names.
fn named(text: &str) -> Option<(String, String)> {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r#"no matches for kind \\?"([A-Za-z0-9]{1,80})\\?" in version \\?"([a-z0-9./\-]{1,120})\\?""#,
        )
        .ok()
    });
    let found = WORDS.as_ref()?.captures(text)?;
    Some((found.get(1)?.as_str().to_owned(), found.get(2)?.as_str().to_owned()))
}

/// Objects whose manifest has a version that the release of the cluster's nodes has removed.
fn applied_in_old_versions(snapshot: &Snapshot) -> Vec<Fact> {
    let minors = snapshot
        .objects_of("Node")
        .filter_map(|node| minor(node.body.text("status.nodeInfo.kubeletVersion")?));
    let Some(newest) = minors.max() else { return vec![] };
    let mut out = vec![];
    for object in
        snapshot.objects.iter().filter(|o| snapshot.in_scope(o.namespace()) || o.namespace().is_empty())
    {
        if !REMOVED.iter().any(|(kinds, ..)| kinds.contains(&object.reference.kind.as_str())) {
            continue;
        }
        let annotations = object.body.at("metadata.annotations");
        let Some(text) =
            annotations.and_then(|a| a.child("kubectl.kubernetes.io/last-applied-configuration")?.as_str())
        else {
            continue;
        };
        let Ok(applied) = serde_json::from_str::<crate::model::json::Value>(text) else { continue };
        let Some(version) = applied.text("apiVersion") else { continue };
        if let Some((minor, _)) =
            removed(&object.reference.kind, version).filter(|(minor, _)| *minor <= newest)
        {
            out.push(Fact {
                subject: object.reference.clone(),
                kind: object.reference.kind.clone(),
                version: version.to_owned(),
                refused: 0,
                evidence: Evidence::object(
                    &object.reference.field("metadata.annotations"),
                    format!("last applied as {version}; the newest node runs 1.{newest}"),
                ),
                first: None,
                minor: Some(minor),
            });
        }
    }
    out
}

/// `36` of `v1.36.2`.
fn minor(version: &str) -> Option<i64> {
    version.trim_start_matches('v').split('.').nth(1)?.trim_end_matches('+').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_kind_and_version() {
        let text = r#"resource mapping not found for name: "web" from "x.yaml": no matches for kind "Ingress" in version "extensions/v1beta1""#;
        assert_eq!(named(text), Some(("Ingress".to_owned(), "extensions/v1beta1".to_owned())));
        let escaped = r#"{"error":"no matches for kind \"Database\" in version \"db.example.com/v1\""}"#;
        assert_eq!(named(escaped).map(|(kind, _)| kind), Some("Database".to_owned()));
        assert_eq!(named("no matches for kind of trouble"), None);
    }

    #[test]
    fn releases_are_told_by_kind_and_version() {
        assert_eq!(removed("Ingress", "extensions/v1beta1"), Some((22, "networking.k8s.io/v1")));
        assert_eq!(removed("Ingress", "networking.k8s.io/v1"), None);
        assert_eq!((minor("v1.36.2"), minor("v1.29+"), minor("x")), (Some(36), Some(29), None));
    }
}
