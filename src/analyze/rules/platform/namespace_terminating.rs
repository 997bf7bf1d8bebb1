//! PLAT111.

use std::collections::BTreeSet;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen::wanted;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, conditions};

crate::rule! {
    /// A namespace is being deleted and does not go: nothing new can be made in it.
    ///
    /// ## What it detects
    /// A Namespace that has been `Terminating` for more than two minutes, and what its conditions say holds it: finalizers of objects
    /// in it, an API group whose server does not answer, objects that cannot be deleted. Also pods that are refused because of it.
    /// ## Why it matters
    /// In a namespace that is being deleted no object can be created: pods that end are not replaced, and a release into it fails.
    /// ## Evidence
    /// The namespace's `deletionTimestamp`, phase and conditions; refused pods.
    /// ## How to confirm
    /// `kubectl get namespace NAME -o yaml` shows the conditions.
    /// ## How to fix
    /// Bring back what should remove the finalizer or answer for the API group; a deletion cannot be taken back, so what is needed
    /// further is applied to a new namespace.
    /// ## False positives
    /// A namespace that is deleted within two minutes, as most are.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>
    NamespaceTerminating {
        code: "PLAT111", name: "namespace-terminating", family: Platform, severity: Warning,
        needs: [Objects], aliases: ["K8S-FINALIZER"],
    }
}

/// A namespace that does not go.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a Object,
    /// What holds it.
    held: Option<Condition>,
    refused: Vec<Refused<'a>>,
}

/// Most namespaces are gone by then.
const PATIENCE_SECONDS: f64 = 120.0;

/// What a namespace says of its end, the telling ones first.
const CONDITIONS: &[&str] = &[
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
    "NamespaceFinalizersRemaining",
    "NamespaceContentRemaining",
];

impl Check for NamespaceTerminating {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let going = |object: &&'a Object| {
            let long =
                object.deleted.is_some_and(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS);
            long && wanted(snapshot, object.name())
        };
        let held = |namespace: &Object| {
            let all = conditions(namespace.body.list("status.conditions"));
            CONDITIONS
                .iter()
                .find_map(|kind| all.iter().find(|c| c.kind == *kind && c.status == "True").cloned())
        };
        let namespaces: Vec<&Object> = snapshot.objects_of("Namespace").filter(going).collect();
        if namespaces.is_empty() {
            return vec![];
        }
        let mut refusals: Vec<Refused<'a>> = refused(snapshot);
        refusals.retain(|r| r.message.contains("because it is being terminated"));
        namespaces
            .into_iter()
            .map(|namespace| {
                let own;
                (own, refusals) = std::mem::take(&mut refusals)
                    .into_iter()
                    .partition(|r| r.owner.namespace == namespace.name());
                Fact { held: held(namespace), namespace, refused: own }
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let r = &fact.namespace.reference;
        let since = fact.namespace.deleted;
        let minutes = since.map_or(0.0, |at| common::seconds_between(at, snapshot.now));
        let why = match fact.held.as_ref().map(|c| c.kind.as_str()) {
            Some("NamespaceDeletionDiscoveryFailure" | "NamespaceDeletionGroupVersionParsingFailure") => {
                "an API group does not answer, so nobody knows what is left in it"
            }
            Some("NamespaceDeletionContentFailure") => "an object in it cannot be deleted",
            Some("NamespaceFinalizersRemaining") => "objects in it have finalizers that nobody removes",
            Some(_) => "objects are left in it",
            None => "it does not say what holds it",
        };
        let owners: BTreeSet<String> = fact.refused.iter().map(|f| f.owner.to_string()).collect();
        let mut message = format!(
            "Namespace {} has been going for {}: {why}. Nothing can be created in it meanwhile",
            r.name,
            common::seconds(minutes)
        );
        if !owners.is_empty() {
            message += &format!(
                "; pods of {} are refused",
                owners.into_iter().take(3).collect::<Vec<_>>().join(", ")
            );
        }
        message += ".";
        let base = match fact.refused.first() {
            Some(refused) => {
                refused.finding(Self::META, r.field("metadata.deletionTimestamp"), &[], snapshot)
            }
            None => Finding::new(Self::META, r.field("metadata.deletionTimestamp"), &[])
                .severity(Severity::Warning)
                .role(Role::Cause, Confidence::Configured),
        };
        let look = format!("kubectl get namespace {} -o yaml", quote(&r.name));
        base.title(format!("Namespace {} is being deleted and does not go: {why}", r.name))
            .message(message)
            .mechanism("namespace stuck terminating")
            .evidence(
                Evidence::object(&r.field("status"), fact.held.as_ref().map_or_else(|| "Terminating".to_owned(), |c| format!("{}: {}", c.kind, c.reason)))
                    .excerpt(fact.held.as_ref().map_or("", |c| &c.message))
                    .at(since),
            )
            .onset(since)
            .remedy(Remedy::commands(
                match fact.held.as_ref().map(|c| c.kind.as_str()) {
                    Some("NamespaceDeletionDiscoveryFailure") => "Bring back the API server that does not answer, or delete its APIService if what it belonged to is gone",
                    _ => "Bring back the controller that removes the finalizers which the condition lists; take a finalizer off by hand only when what it guards is gone",
                },
                vec![look, "kubectl get apiservices".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a namespace does not go",
                format!("kube_namespace_status_phase{{namespace=\"{}\",phase=\"Terminating\"}} == 1", r.name),
            ))
            .prevention(Prevention::of("Policy", "Delete the custom resources of an operator before the operator itself"))
    }
}
