//! CONFIG102.

use super::source::{self, User, Wait, Waiting};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::ConfigReference;

crate::rule! {
    /// A pod template takes a key from a ConfigMap that has no such key.
    ///
    /// ## What it detects
    /// `env[].valueFrom.configMapKeyRef` and `volumes[].configMap.items` that name a key which the ConfigMap lacks and that are not
    /// optional, and whether pods wait for it.
    /// ## Why it matters
    /// A pod that is started now does not come up (`CreateContainerConfigError`, or a volume that is not mounted); pods that run
    /// already notice at their next start, often long after the edit.
    /// ## Evidence
    /// The reference in the template, the keys of the ConfigMap, and the kubelet's `couldn't find key … in ConfigMap …`.
    /// ## How to confirm
    /// `kubectl get configmap NAME -o jsonpath='{.data}'` does not show the key.
    /// ## How to fix
    /// Put the key back (with the value of the last applied configuration, or by renaming the key that took its place), correct the
    /// key's name in the template, or mark the reference optional.
    /// ## False positives
    /// Optional references and keys under `binaryData` are fine. Where a ConfigMap was seen without its data, nothing is said.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-pod-configmap/>
    MissingConfigMapKey {
        code: "CONFIG102", name: "missing-config-map-key", family: Config, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A key that a template names and that its ConfigMap lacks.
#[derive(Debug)]
pub struct Fact<'a> {
    user: User<'a>,
    map: &'a Object,
    reference: ConfigReference,
    key: String,
    wait: Option<Wait>,
}

impl Check for MissingConfigMapKey {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let waiting = Waiting::read(snapshot);
        let mut out: Vec<Fact<'a>> = vec![];
        for user in source::users(snapshot) {
            for reference in user.template().config_references() {
                if reference.kind != "ConfigMap" || reference.optional {
                    continue;
                }
                let Some(map) = snapshot.object("ConfigMap", &user.reference().namespace, &reference.name)
                else {
                    continue;
                };
                for key in reference.keys.iter().filter(|key| !key.is_empty()) {
                    let twice = out.iter().any(|f| {
                        f.user.reference() == user.reference()
                            && f.map.reference == map.reference
                            && &f.key == key
                    });
                    if twice || source::keys(map).any(|have| have == key) {
                        continue;
                    }
                    let wait = waiting
                        .of(user.reference())
                        .iter()
                        .find(|w| w.missing.kind == "ConfigMap" && &w.missing.key == key);
                    out.push(Fact {
                        user,
                        map,
                        reference: reference.clone(),
                        key: key.clone(),
                        wait: wait.cloned(),
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (key, map, owner) = (&fact.key, &fact.map.reference, fact.user.reference());
        let near = source::near_key(fact.map, key, fact.user);
        let (severity, confidence) = match fact.wait {
            Some(_) => (Severity::Error, Confidence::Observed),
            None => (Severity::Warning, Confidence::Configured),
        };
        let hurts = match &fact.wait {
            Some(wait) => format!("{} of it cannot start", common::plural(wait.pods, "pod")),
            None if snapshot.runs() => "its next pod will not start".to_owned(),
            None => "its pods will not start".to_owned(),
        };
        let place = owner.field(fact.user.path(&fact.reference.path));
        let subject = map.field(format!("data.{key}"));
        let edited = snapshot.last_change_before(map, snapshot.now).map(|change| change.time);
        let mut message = format!(
            "{owner} ({}) takes key {key} from {map}, and that ConfigMap has {} without it: {hurts}.",
            place.field_path,
            common::plural(source::keys(fact.map).count(), "key")
        );
        if let Some(near) = near {
            message += &format!(" It has a key {near} of nearly that name, which the template does not use.");
        }
        if let Some(at) = edited {
            message += &format!(" It was last edited at {}.", common::clock(at));
        }
        let services = fact.user.services(snapshot);
        let list: Vec<&str> = source::keys(fact.map).take(12).collect();
        Finding::new(Self::META, subject.clone(), &[&owner.kind, &owner.name])
            .title(format!("{owner} takes key {key} from ConfigMap {}, which lacks it: {hurts}", map.name))
            .message(message)
            .mechanism("missing ConfigMap key: the pod template takes a key that the ConfigMap lacks")
            .severity(severity)
            .role(Role::Cause, confidence)
            .service(services.first().cloned())
            .related(place.clone())
            .evidence(Evidence::object(&subject, format!("absent; its keys are {}", list.join(", "))))
            .evidence(Evidence::object(&place, format!("takes key {key}, not optional")))
            .evidences(fact.wait.iter().flat_map(|w| w.evidence.clone()))
            .onset(fact.wait.as_ref().and_then(|w| w.since))
            .effect(Effect::pods(owner))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
            .maybe_remedy(source::undo(snapshot, owner, key).filter(|_| edited.is_none()))
            .remedies(source::restore_key(fact.map, key, fact.user))
            .maybe_remedy(optional(fact))
            .prevention(Prevention::of("Test", "In the pipeline: every key that a template takes is in the ConfigMap of the same release"))
            .prevention(Prevention::alert(
                "Alert when a container cannot be made from its configuration",
                format!("max_over_time(kube_pod_container_status_waiting_reason{{{},reason=\"CreateContainerConfigError\"}}[5m]) >= 1", common::pod_matcher(owner)),
            ))
    }
}

/// Let the pod start without the key.
fn optional(fact: &Fact<'_>) -> Option<Remedy> {
    let path = fact.user.path(&format!("{}.optional", fact.reference.path));
    let operations =
        crate::model::json::json!([common::operation("add", &path, &crate::model::json::json!(true))]);
    Remedy::patch(
        fact.user.object(),
        &operations,
        format!("Mark the reference to {} optional, if the application has a default for it", fact.key),
    )
}
