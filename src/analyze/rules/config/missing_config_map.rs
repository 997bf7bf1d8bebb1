//! CONFIG101.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::source::{self, User, Wait, Waiting};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::ConfigReference;

crate::rule! {
    /// A pod template names a ConfigMap that does not exist.
    ///
    /// ## What it detects
    /// A ConfigMap in `envFrom`, `env` or a volume that is not optional and that the namespace lacks, and whether pods wait for it.
    /// ## Why it matters
    /// A pod that is started without it does not come up; one that runs already notices at its next start.
    /// ## Evidence
    /// The reference in the template, the ConfigMaps of the namespace, and the kubelet's `configmap "…" not found`.
    /// ## How to confirm
    /// `kubectl get configmap NAME` in the pod's namespace says NotFound.
    /// ## How to fix
    /// Create it, correct the name in the template where one of nearly that name exists, or mark the reference optional.
    /// ## False positives
    /// In manifests alone, a ConfigMap that something else creates (a generator, an operator): that is said as a warning only, and
    /// only where other ConfigMaps of the namespace are there.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/configmap/>
    MissingConfigMap {
        code: "CONFIG101", name: "missing-config-map", family: Config, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A ConfigMap that a template names and that is not there.
#[derive(Debug)]
pub struct Fact<'a> {
    /// Who names it, as far as it was seen.
    user: Option<User<'a>>,
    owner: ObjectRef,
    name: String,
    reference: Option<ConfigReference>,
    wait: Option<Wait>,
    /// A ConfigMap of nearly this name.
    near: Option<&'a str>,
}

/// Names compared with one that is missing. A template that lacks many has not mistyped them all, so each further one is
/// compared with fewer: the work for one template grows with the number of its references, and not with its square.
const MAX_COMPARED: usize = 4096;

/// What names an owner, whatever the version and the field.
fn plain(owner: &ObjectRef) -> ObjectRef {
    ObjectRef::new(&owner.kind, &owner.namespace, &owner.name)
}

impl Check for MissingConfigMap {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let waiting = Waiting::read(snapshot);
        let mut beside: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for map in snapshot.objects_of("ConfigMap") {
            beside.entry(map.namespace()).or_default().push(map.name());
        }
        let mut out: Vec<Fact<'a>> = vec![];
        let mut found: BTreeSet<(ObjectRef, String)> = BTreeSet::new();
        for user in source::users(snapshot) {
            let namespace = &user.reference().namespace;
            let there = beside.get(namespace.as_str()).map(Vec::as_slice).unwrap_or_default();
            let waits: BTreeMap<&str, &Wait> = waiting
                .of(user.reference())
                .iter()
                .filter(|w| w.missing.kind == "ConfigMap" && w.missing.key.is_empty())
                .map(|w| (w.missing.name.as_str(), w))
                .collect();
            let mut seen = BTreeSet::new();
            for reference in user.template().config_references() {
                let wanted = reference.kind == "ConfigMap"
                    && !reference.optional
                    && seen.insert(reference.name.clone());
                if !wanted || snapshot.object("ConfigMap", namespace, &reference.name).is_some() {
                    continue;
                }
                let wait = waits.get(reference.name.as_str()).copied();
                if wait.is_none() && there.is_empty() {
                    continue;
                }
                found.insert((plain(user.reference()), reference.name.clone()));
                out.push(Fact {
                    user: Some(user),
                    owner: user.reference().clone(),
                    near: nearest(&reference.name, there.iter().copied().take(MAX_COMPARED / seen.len())),
                    name: reference.name.clone(),
                    reference: Some(reference),
                    wait: wait.cloned(),
                });
            }
        }
        for (owner, wait) in waiting.owners() {
            let known = found.contains(&(plain(&owner), wait.missing.name.clone()));
            if wait.missing.kind == "ConfigMap"
                && wait.missing.key.is_empty()
                && !known
                && snapshot.workload(&owner).is_none()
            {
                out.push(Fact {
                    user: None,
                    name: wait.missing.name.clone(),
                    reference: None,
                    wait: Some(wait.clone()),
                    near: None,
                    owner,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let map = source::core("ConfigMap", &fact.owner.namespace, &fact.name);
        let place = match (fact.user, &fact.reference) {
            (Some(user), Some(reference)) => {
                user.reference().field(user.path(&format!("{}.name", reference.path)))
            }
            _ => fact.owner.clone(),
        };
        let place_field = match (fact.user, &fact.reference) {
            // Volumes and env alike call it `name`.
            (Some(_), Some(_)) => place.field_path.clone(),
            _ => String::new(),
        };
        let (severity, confidence) = match (&fact.wait, snapshot.runs()) {
            (Some(_), _) => (Severity::Error, Confidence::Observed),
            (None, true) => (Severity::Warning, Confidence::Configured),
            (None, false) => (Severity::Warning, Confidence::Possible),
        };
        let hurts = match &fact.wait {
            Some(wait) => format!("{} of it cannot start", common::plural(wait.pods, "pod")),
            None if snapshot.runs() => "its next pod will not start".to_owned(),
            None => "its pods will not start unless something else creates it".to_owned(),
        };
        let near = fact
            .near
            .map(|near| format!(" There is a ConfigMap {near} of nearly that name."))
            .unwrap_or_default();
        // A name that was mistyped is corrected where it stands; otherwise the object is what is missing.
        let (subject, other) =
            if fact.near.is_some() { (place.clone(), map.clone()) } else { (map.clone(), place.clone()) };
        let services = fact.user.map(|user| user.services(snapshot)).unwrap_or_default();
        let keys = fact
            .user
            .map(|user| source::wanted_keys(user.template(), "ConfigMap", &fact.name))
            .unwrap_or_default();
        let mut finding =
            Finding::new(Self::META, subject, &[&fact.owner.kind, &fact.owner.name, &fact.name])
                .title(format!("{} needs {map}, which does not exist: {hurts}", fact.owner))
                .message(format!(
                    "{}{} names {map} and the namespace has none of that name: {hurts}.{near}",
                    fact.owner,
                    if place_field.is_empty() { String::new() } else { format!(" ({place_field})") }
                ))
                .mechanism("missing ConfigMap: the pod template names a ConfigMap that does not exist")
                .severity(severity)
                .role(Role::Cause, confidence)
                .service(services.first().cloned())
                .related(other)
                .evidence(Evidence::object(&place, format!("names {map}, not optional")))
                .evidences(fact.wait.iter().flat_map(|w| w.evidence.clone()))
                .onset(fact.wait.as_ref().and_then(|w| w.since))
                .effect(Effect::pods(&fact.owner))
                .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
                .maybe_remedy(fact.near.and_then(|near| {
                    let user = fact.user?;
                    Remedy::patch(
                        user.object(),
                        &json!([{"op": "replace", "path": pointer(&place_field), "value": near}]),
                        format!("Correct the name in the template of {} to {near}", fact.owner),
                    )
                }))
                .maybe_remedy(source::undo(snapshot, &fact.owner, &fact.name))
                .remedy(source::create("ConfigMap", &map, &keys));
        finding = finding.prevention(Prevention::of("Test", "In the pipeline: every ConfigMap that a template names is in the same release or in the namespace"));
        finding.prevention(Prevention::alert(
            "Alert when a container cannot be made from its configuration",
            format!("max_over_time(kube_pod_container_status_waiting_reason{{{},reason=\"CreateContainerConfigError\"}}[5m]) >= 1", common::pod_matcher(&fact.owner)),
        ))
    }
}
