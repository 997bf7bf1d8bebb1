//! POD110.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::common::{self, Group};
use super::missing;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A pod waits for a volume that cannot be bound, attached or mounted.
    ///
    /// ## What it detects
    /// A pod that does not start because of one of its volumes: a PersistentVolumeClaim that does not exist, that asks for a storage
    /// class which is not there, that no volume fits, or whose volume is still attached to another node; or a mount that fails.
    /// ## Why it matters
    /// None of the pod's containers starts before all of its volumes are mounted.
    /// ## Evidence
    /// The claim's phase and class, the events of the claim (`ProvisioningFailed`, `FailedBinding`) and of the pod (`FailedMount`,
    /// `FailedAttachVolume`, `FailedScheduling`), and the storage classes of the cluster.
    /// ## How to confirm
    /// `kubectl describe pvc CLAIM` shows why it is pending; `kubectl get storageclass` lists the classes.
    /// ## How to fix
    /// Name a storage class that exists (a claim's class cannot be changed: make it anew), create the claim or its volume, or detach
    /// the volume from the node that still holds it.
    /// ## False positives
    /// A claim of a class that binds when the first pod is placed is pending until then; that alone is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>
    VolumeNotMounted {
        code: "POD110", name: "volume-not-mounted", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-PVC"],
    }
}

/// Why a volume is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The claim does not exist.
    NoClaim,
    /// Its storage class does not exist.
    NoClass(String),
    /// It names no class, there is no default one, and no volume fits.
    NoVolume,
    /// Its class's provisioner failed.
    Provisioning,
    /// Its volume is gone.
    Lost,
    /// Its volume is attached to another node.
    Attached,
    /// A ConfigMap or Secret is missing: CONFIG101 to CONFIG103 say which.
    Configuration,
    /// The mount itself failed.
    Mount,
}

/// A volume that a pod waits for.
#[derive(Debug)]
pub struct Case<'a> {
    why: Why,
    claim: Option<&'a Object>,
    events: Vec<&'a Event>,
}

/// A volume of a workload's pods that is not there. The group's container is the claim's or the volume's name.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for VolumeNotMounted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| waits(snapshot, pod)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let name = &group.container;
        let Some((pod, case)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[name]);
        };
        let claim = ObjectRef {
            api_version: "v1".to_owned(),
            ..ObjectRef::new("PersistentVolumeClaim", &group.owner.namespace, name)
        };
        let (what, mechanism) = words(&case.why, &claim, name);
        let volumes = group.owner.field(group.pod_field("volumes"));
        let subject = match &case.why {
            Why::NoClass(_) | Why::NoVolume | Why::Provisioning => claim.field("spec.storageClassName"),
            Why::Lost => claim.field("spec.volumeName"),
            _ => volumes.clone(),
        };
        let classes: Vec<&str> = snapshot.objects_of("StorageClass").map(Object::name).collect();
        let mut message = format!("{} of {} cannot start: {what}", group.share(), group.owner);
        if !classes.is_empty() && matches!(case.why, Why::NoClass(_) | Why::NoVolume) {
            message += &format!(". The cluster has the storage classes {}", classes.join(", "));
        }
        if let Some(rollout) =
            group.rollout(snapshot).filter(|c| c.differences.iter().any(|d| d.path.contains("volumes")))
        {
            message += &format!(". The rollout of {} brought the volume in", common::clock(rollout.time));
        }
        message +=
            if group.all_down() { ". No pod of the workload serves." } else { ". Other pods of it serve." };
        let role = if case.why == Why::Configuration { Role::Symptom } else { Role::Cause };
        let created = group.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        let onset = group
            .cases
            .iter()
            .flat_map(|(_, case)| &case.events)
            .filter_map(|e| e.first)
            .chain(created)
            .min();
        let mut finding = Finding::new(Self::META, subject.clone(), &[&group.owner.kind, &group.owner.name])
            .title(format!("{}: {what}", group.owner))
            .message(message)
            .mechanism(format!("volume not mounted: {mechanism}"))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(role, Confidence::Observed)
            .evidences(case.claim.map(|claim| {
                let class = claim.body.text("spec.storageClassName").unwrap_or("not set");
                let phase = claim.body.text("status.phase").unwrap_or("unknown");
                Evidence::object(
                    &claim.reference.field("spec.storageClassName"),
                    format!("{class}; phase {phase}"),
                )
            }))
            .evidences(case.events.iter().take(3).map(|e| common::event_evidence(e)))
            .evidence(Evidence::object(&volumes, format!("{} mounts {name}", pod.object.reference)))
            .onset(onset);
        finding = if subject.same_object(&volumes) {
            finding.related(claim.clone())
        } else {
            finding.related(volumes)
        };
        let finding = finding
            .maybe_remedy(group.undo_rollout(snapshot, "volumes"))
            .maybe_remedy(other_class(case, &classes, snapshot))
            .remedy(by_reason(&case.why, &claim, pod))
            .prevention(Prevention::alert(
                "Alert when a claim stays pending",
                format!("kube_persistentvolumeclaim_status_phase{{namespace=\"{}\",phase=~\"Pending|Lost\"}} == 1", group.owner.namespace),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: every storageClassName of a release exists in the cluster that it goes to"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// What it is, in a sentence and in the field's words.
fn words(why: &Why, claim: &ObjectRef, name: &str) -> (String, String) {
    let said = |sentence: String, mechanism: &str| (sentence, mechanism.to_owned());
    match why {
        Why::NoClaim => said(format!("{claim} does not exist"), "the PersistentVolumeClaim does not exist"),
        Why::NoClass(class) => said(
            format!("claim {name} is unbound, storage class {class} does not exist"),
            "unbound PersistentVolumeClaim, missing storage class",
        ),
        Why::NoVolume => said(
            format!("claim {name} is unbound, it names no storage class, and no PersistentVolume fits"),
            "unbound PersistentVolumeClaim, no PersistentVolume fits and no default storage class",
        ),
        Why::Provisioning => said(
            format!("claim {name} is unbound, its storage class cannot provision a volume"),
            "unbound PersistentVolumeClaim, provisioning failed",
        ),
        Why::Lost => {
            said(format!("claim {name} has lost its PersistentVolume"), "the PersistentVolume is lost")
        }
        Why::Attached => said(
            format!("the volume of {name} is still attached to another node"),
            "the volume is attached to another node (Multi-Attach)",
        ),
        Why::Configuration => said(
            format!("volume {name} takes in a ConfigMap or Secret that is missing"),
            "a ConfigMap or Secret of a volume is missing",
        ),
        Why::Mount => said(format!("volume {name} cannot be mounted"), "the mount fails"),
    }
}

/// The volumes that a pod waits for.
fn waits<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out: Vec<(String, Case<'a>)> = vec![];
    if pod.ended() || pod.phase != "Pending" {
        return out;
    }
    let events: Vec<&Event> = snapshot
        .events_about(&pod.object.reference)
        .filter(|e| {
            matches!(
                e.reason.as_str(),
                "FailedMount" | "FailedAttachVolume" | "FailedMapVolume" | "FailedScheduling"
            )
        })
        .collect();
    let unplaced =
        pod.condition("PodScheduled").filter(|c| c.status == "False").map_or("", |c| c.message.as_str());
    for volume in pod.template.spec.list("volumes") {
        let name = volume.string("name");
        // A generic ephemeral volume has a claim named after its pod.
        let claim = match volume.text("persistentVolumeClaim.claimName") {
            Some(claim) => claim.to_owned(),
            None if volume.at("ephemeral").is_some() => format!("{}-{name}", pod.object.name()),
            None => continue,
        };
        if let Some(case) = claim_case(snapshot, pod, &claim, unplaced, &events) {
            out.push((claim, case));
        }
    }
    if out.is_empty() && !pod.node.is_empty() {
        out.extend(failed_mount(&events));
    }
    out
}

/// Why a claim is not bound or not attached, where it is neither.
fn claim_case<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    name: &str,
    unplaced: &str,
    events: &[&'a Event],
) -> Option<Case<'a>> {
    let namespace = pod.object.namespace();
    let Some(claim) = snapshot.object("PersistentVolumeClaim", namespace, name) else {
        let said = |text: &str| text.contains(&format!("persistentvolumeclaim \"{name}\" not found"));
        let events: Vec<&Event> = events.iter().copied().filter(|e| said(&e.message)).collect();
        return (said(unplaced) || !events.is_empty()).then_some(Case {
            why: Why::NoClaim,
            claim: None,
            events,
        });
    };
    let own: Vec<&Event> = snapshot
        .events_about(&claim.reference)
        .filter(|e| e.kind != "Normal" || e.reason == "FailedBinding")
        .collect();
    match claim.body.text("status.phase").unwrap_or_default() {
        "Pending" => {
            let why = pending(snapshot, claim, &own)?;
            Some(Case { why, claim: Some(claim), events: own })
        }
        "Lost" => Some(Case { why: Why::Lost, claim: Some(claim), events: own }),
        _ => {
            let attached: Vec<&Event> = events
                .iter()
                .copied()
                .filter(|e| {
                    e.reason == "FailedAttachVolume"
                        && (e.message.contains("Multi-Attach")
                            || e.message.contains("already exclusively attached"))
                })
                .collect();
            (!attached.is_empty()).then_some(Case {
                why: Why::Attached,
                claim: Some(claim),
                events: attached,
            })
        }
    }
}

/// Why a claim is pending; `None` where it only waits for its first pod to be placed.
fn pending(snapshot: &Snapshot, claim: &Object, events: &[&Event]) -> Option<Why> {
    static NO_CLASS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"storageclass(?:\.storage\.k8s\.io)? "([^"]+)" not found"#).ok());
    let named = events
        .iter()
        .find_map(|e| Some(NO_CLASS.as_ref()?.captures(&e.message)?.get(1)?.as_str().to_owned()));
    if let Some(class) = named {
        return Some(Why::NoClass(class));
    }
    let class = claim.body.text("spec.storageClassName").unwrap_or_default();
    let known = snapshot.object("StorageClass", "", class);
    if !class.is_empty() && known.is_none() && snapshot.knows_kind("StorageClass") {
        return Some(Why::NoClass(class.to_owned()));
    }
    if events.iter().any(|e| e.reason == "ProvisioningFailed") {
        return Some(Why::Provisioning);
    }
    let waits = known.is_some_and(|c| c.body.text("volumeBindingMode") == Some("WaitForFirstConsumer"))
        || events.iter().any(|e| e.reason == "WaitForFirstConsumer");
    let no_volume = events
        .iter()
        .any(|e| e.reason == "FailedBinding" || e.message.contains("no persistent volumes available"));
    if no_volume || (class.is_empty() && !waits) {
        return Some(Why::NoVolume);
    }
    None
}

/// A mount that fails for another reason, by the events of the pod.
fn failed_mount<'a>(events: &[&'a Event]) -> Option<(String, Case<'a>)> {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"for volume "([^"]+)"|volumes=\[([^\]\s]+)"#).ok());
    let mounts: Vec<&Event> = events
        .iter()
        .copied()
        .filter(|e| e.reason == "FailedMount" || e.reason == "FailedMapVolume")
        .collect();
    // What is not yet registered is only not yet seen by the kubelet: it goes by itself.
    let telling: Vec<&Event> = mounts.into_iter().filter(|e| !e.message.contains("not registered")).collect();
    let last = *telling.last()?;
    if last.count < 2 {
        return None;
    }
    let name = telling.iter().find_map(|e| {
        let found = NAME.as_ref()?.captures(&e.message)?;
        Some(found.get(1).or_else(|| found.get(2))?.as_str().to_owned())
    });
    let configuration = telling.iter().any(|e| missing::parse(&e.message).is_some());
    let why = if configuration { Why::Configuration } else { Why::Mount };
    Some((name.unwrap_or_else(|| "of the pod".to_owned()), Case { why, claim: None, events: telling }))
}

/// Make the claim anew with a class that exists: the class of a claim cannot be changed.
fn other_class(case: &Case<'_>, classes: &[&str], snapshot: &Snapshot) -> Option<Remedy> {
    let claim = case.claim.filter(|_| matches!(case.why, Why::NoClass(_) | Why::NoVolume))?;
    let default = snapshot
        .objects_of("StorageClass")
        .find(|c| {
            c.annotations.get("storageclass.kubernetes.io/is-default-class").is_some_and(|v| v == "true")
        })
        .map(Object::name);
    let wanted = claim.body.text("spec.storageClassName").unwrap_or_default();
    let class = nearest(wanted, classes.iter().copied())
        .or(default)
        .or_else(|| classes.first().copied())
        .unwrap_or("CLASS");
    let manifest = |class: &str| {
        let mut spec = claim.body.at("spec").cloned().unwrap_or_else(|| json!({}));
        if let Some(map) = spec.as_object_mut() {
            map.insert("storageClassName".to_owned(), json!(class));
            map.remove("volumeName");
        }
        let body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim.name(), "namespace": claim.namespace()}, "spec": spec});
        format!("kubectl apply -f - <<'EOF'\n{body}\nEOF")
    };
    let delete =
        format!("kubectl {}delete pvc {} --wait=false", scope(&claim.reference), quote(claim.name()));
    let remedy = Remedy::commands(
        format!(
            "Make the claim anew with storageClassName {class}{}: it is unbound, so it holds no data; its pods must be deleted for the old one to go",
            if class == "CLASS" { " (kubectl get storageclass lists them)" } else { "" }
        ),
        vec![delete.clone(), manifest(class)],
        vec![delete, manifest(wanted)],
    );
    Some(remedy.risk(Risk::Medium))
}

/// What else to do for each reason.
fn by_reason(why: &Why, claim: &ObjectRef, pod: &Pod) -> Remedy {
    let look = vec![common::describe_command(claim)];
    match why {
        Why::NoClaim => Remedy::commands(
            format!("Create {claim}, or correct claimName in the template's volumes"),
            vec![format!(
                "kubectl apply -f - <<'EOF'\n{}\nEOF",
                json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim.name, "namespace": claim.namespace},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
            )],
            vec![format!("kubectl {}delete pvc {}", scope(claim), quote(&claim.name))],
        ),
        Why::NoClass(class) => Remedy::manual(format!(
            "Or create the storage class {class} that spec.storageClassName names, if the cluster is meant to have it"
        )),
        Why::NoVolume => Remedy::commands(
            "Create a PersistentVolume that fits its size and access mode, or make a storage class the default one",
            look,
            vec![],
        ),
        Why::Provisioning => Remedy::commands(
            "Read the provisioner's message: quota, zone or credentials of the storage",
            look,
            vec![],
        ),
        Why::Lost => Remedy::commands(
            "Restore the PersistentVolume that spec.volumeName names, from its backup if its data is needed",
            look,
            vec![],
        ),
        Why::Attached => Remedy::commands(
            "End the pod that still holds the volume (one replica of a ReadWriteOnce volume at a time: strategy Recreate), or detach it from a node that is gone",
            vec![
                format!("kubectl {}get pods -o wide", scope(claim)),
                "kubectl get volumeattachments".to_owned(),
            ],
            vec![],
        ),
        Why::Configuration | Why::Mount => Remedy::commands(
            "Read the mount's message in the events of the pod",
            vec![common::describe_command(&pod.object.reference)],
            vec![],
        ),
    }
}
