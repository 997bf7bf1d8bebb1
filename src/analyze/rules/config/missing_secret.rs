//! CONFIG103.

use super::source::{self, User, Wait, Waiting};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::ConfigReference;

crate::rule! {
    /// A pod waits for a Secret, or for a key of one, that does not exist.
    ///
    /// ## What it detects
    /// Containers and volumes of which the kubelet says that a Secret or a key of one is not found, with the place in the template
    /// that names it.
    /// ## Why it matters
    /// The pod does not start and tries again without end.
    /// ## Evidence
    /// The kubelet's own words in the container's status and in events. Secrets themselves are never read, so that none was seen
    /// proves nothing, and no finding rests on it.
    /// ## How to confirm
    /// `kubectl get secret NAME` in the pod's namespace, or `kubectl describe secret NAME` for its keys.
    /// ## How to fix
    /// Create the Secret or the key, make whatever creates it work again (an external-secrets or certificate controller), or correct
    /// the name in the template.
    /// ## False positives
    /// A Secret that a controller makes a moment after the pod: the kubelet finds it at its next attempt and the pod waits no more.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/secret/>
    MissingSecret {
        code: "CONFIG103", name: "missing-secret", family: Config, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// A Secret, or a key of one, that pods wait for.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    user: Option<User<'a>>,
    reference: Option<ConfigReference>,
    wait: Wait,
}

impl Check for MissingSecret {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let waiting = Waiting::read(snapshot);
        let mut out = vec![];
        for (owner, wait) in waiting.owners().filter(|(_, w)| w.missing.kind == "Secret") {
            let user = snapshot.workload(&owner).map(User::Workload);
            let user = user.or_else(|| {
                snapshot.pod(&owner.namespace, &owner.name).filter(|_| owner.kind == "Pod").map(User::Pod)
            });
            let owner = user.map_or(owner, |u| u.reference().clone());
            let names = |r: &ConfigReference| {
                r.kind == "Secret"
                    && r.name == wait.missing.name
                    && (wait.missing.key.is_empty() || r.keys.contains(&wait.missing.key))
            };
            let reference = user.and_then(|u| u.template().config_references().into_iter().find(names));
            // Mounted by other means (an ingress certificate, a CSI driver): still the Secret's absence.
            out.push(Fact { owner, user, reference, wait: wait.clone() });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let missing = &fact.wait.missing;
        let secret = source::core("Secret", &fact.owner.namespace, &missing.name);
        let place = match (fact.user, &fact.reference) {
            (Some(user), Some(reference)) => user.reference().field(user.path(&reference.path)),
            _ => fact.owner.clone(),
        };
        let (subject, what) = if missing.key.is_empty() {
            (secret.clone(), format!("{secret} does not exist"))
        } else {
            (secret.field(format!("data.{}", missing.key)), format!("{secret} has no key {}", missing.key))
        };
        let services = fact.user.map(|user| user.services(snapshot)).unwrap_or_default();
        let keys = fact
            .user
            .map(|user| source::wanted_keys(user.template(), "Secret", &missing.name))
            .unwrap_or_default();
        let pods = common::plural(fact.wait.pods, "pod");
        Finding::new(Self::META, subject, &[&fact.owner.kind, &fact.owner.name])
            .title(format!("{what}, and {pods} of {} cannot start without it", fact.owner))
            .message(format!(
                "The kubelet cannot start {pods} of {}: {what}. It tries again by itself; nothing has to be restarted once the Secret is there.",
                fact.owner
            ))
            .mechanism(if missing.key.is_empty() { "missing Secret: the pod waits for a Secret that does not exist" } else { "missing Secret key: the pod waits for a key that the Secret lacks" })
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .related(place.clone())
            .evidences(fact.wait.evidence.clone())
            .evidence(Evidence::object(&place, format!("needs {}", secret)))
            .onset(fact.wait.since)
            .effect(Effect::pods(&fact.owner))
            .effects(services.iter().map(|s| Effect::requests(s, common::DOWN)))
            .maybe_remedy(source::undo(snapshot, &fact.owner, &missing.name))
            .remedy(create(&secret, &missing.key, &keys))
            .remedy(Remedy::manual("Where a controller makes this Secret (external-secrets, cert-manager, sealed-secrets), look at the status of the object that it is made from"))
            .prevention(Prevention::alert(
                "Alert when a container cannot be made from its configuration",
                format!("max_over_time(kube_pod_container_status_waiting_reason{{{},reason=\"CreateContainerConfigError\"}}[5m]) >= 1", common::pod_matcher(&fact.owner)),
            ))
    }
}

/// Create the Secret, or add the key to it.
fn create(secret: &ObjectRef, key: &str, keys: &[String]) -> Remedy {
    if key.is_empty() {
        return source::create("Secret", secret, keys);
    }
    let body = |value: crate::model::json::Value| {
        crate::model::json::json!({"stringData": {key: value}}).to_string()
    };
    let patch = |body: String| {
        format!(
            "kubectl {}patch secret {} --type=merge -p {}",
            crate::analyze::remedy::scope(secret),
            crate::analyze::remedy::quote(&secret.name),
            crate::analyze::remedy::quote(&body)
        )
    };
    let remove = crate::model::json::json!({"data": {key: null}}).to_string();
    Remedy::commands(
        format!("Add key {key} to {secret}: replace VALUE"),
        vec![patch(body(crate::model::json::json!("VALUE")))],
        vec![patch(remove)],
    )
}
