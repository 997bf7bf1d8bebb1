//! PLAT110.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::remedy::{Prevention, Remedy, pointer, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::pods::common;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Pods are refused because their template names a ServiceAccount, PriorityClass or RuntimeClass that does not exist.
    ///
    /// ## What it detects
    /// A workload that lacks pods because the API server looked up an object that the template names and did not find it.
    /// ## Why it matters
    /// There is no pod, no log and no crash to look at: the refusal stands only in an event of the ReplicaSet.
    /// ## Evidence
    /// The `FailedCreate` event with the missing name, and the names that exist.
    /// ## How to confirm
    /// `kubectl get serviceaccount,priorityclass,runtimeclass` lists those that exist.
    /// ## How to fix
    /// Correct the name in the template, or create the object.
    /// ## False positives
    /// An account that was made a moment after its workload: the pods exist by then and nothing is reported.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/>
    AdmissionReferenceMissing {
        code: "PLAT110", name: "admission-reference-missing", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-RBAC"],
    }
}

/// What a template names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    ServiceAccount,
    PriorityClass,
    RuntimeClass,
}

impl Named {
    fn kind(self) -> &'static str {
        match self {
            Named::ServiceAccount => "ServiceAccount",
            Named::PriorityClass => "PriorityClass",
            Named::RuntimeClass => "RuntimeClass",
        }
    }

    /// The field of the pod's spec.
    fn field(self) -> &'static str {
        match self {
            Named::ServiceAccount => "serviceAccountName",
            Named::PriorityClass => "priorityClassName",
            Named::RuntimeClass => "runtimeClassName",
        }
    }

    fn api_version(self) -> &'static str {
        match self {
            Named::ServiceAccount => "v1",
            Named::PriorityClass => "scheduling.k8s.io/v1",
            Named::RuntimeClass => "node.k8s.io/v1",
        }
    }
}

/// A workload whose template names something that is not there.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    named: Named,
    name: String,
}

impl Check for AdmissionReferenceMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some((named, name)) = parse(refused.message) else { continue };
            if !out.iter().any(|f| f.refused.owner.same_object(&refused.owner) && f.named == named) {
                out.push(Fact { refused, named, name });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (refused, named, name) = (&fact.refused, fact.named, &fact.name);
        let owner = &refused.owner;
        let path = refused.workload.map_or_else(
            || format!("spec.template.spec.{}", named.field()),
            |w| w.template_path(&format!("spec.{}", named.field())),
        );
        let subject = owner.field(&path);
        let namespace = if named == Named::ServiceAccount { owner.namespace.as_str() } else { "" };
        let missing = ObjectRef {
            api_version: named.api_version().to_owned(),
            ..ObjectRef::new(named.kind(), namespace, name)
        };
        let beside = snapshot.objects_of(named.kind()).filter(|o| o.namespace() == namespace);
        let known: Vec<&str> = beside.map(Object::name).collect();
        let meant = nearest(name, known.iter().copied());
        let (kind, field) = (named.kind(), named.field());
        refused
            .finding(Self::META, subject.clone(), &[name], snapshot)
            .title(format!("{owner}: pods refused, {kind} {name} does not exist"))
            .message(format!(
                "{}: their template names the {kind} {name} in {field}, and there is none of that name. {}",
                refused.lacks(),
                refused.serves()
            ))
            .mechanism(format!("the {kind} that {field} names does not exist"))
            .related(missing.clone())
            .evidence(Evidence::object(&subject, name.clone()))
            .maybe_remedy(refused.workload.zip(meant).and_then(|(workload, meant)| {
                let operation = json!([{"op": "replace", "path": pointer(&path), "value": meant}]);
                Remedy::patch(&workload.object, &operation, format!("Correct {field} to {meant}, which exists"))
            }))
            .maybe_remedy(common::undo_last_rollout(snapshot, owner, field))
            .remedy(create(&missing, named))
            .prevention(Prevention::alert(
                "Alert when a workload cannot make its pods",
                format!("kube_deployment_status_condition{{namespace=\"{}\",condition=\"ReplicaFailure\",status=\"true\"}} == 1", owner.namespace),
            ))
            .prevention(Prevention::of("Test", format!("In the pipeline: the {kind} that a template names is part of the release, or exists in the cluster")))
    }
}

/// What the API server did not find.
fn parse(message: &str) -> Option<(Named, String)> {
    static SENTENCES: LazyLock<Vec<(Named, Regex)>> = LazyLock::new(|| {
        [
            (Named::ServiceAccount, r#"serviceaccount "([^"]+)" not found"#),
            (Named::PriorityClass, r"no PriorityClass with name (\S+) was found"),
            (Named::RuntimeClass, r#"RuntimeClass "([^"]+)" not found"#),
        ]
        .into_iter()
        .filter_map(|(named, pattern)| Some((named, Regex::new(pattern).ok()?)))
        .collect()
    });
    SENTENCES.iter().find_map(|(named, sentence)| {
        let name = sentence.captures(message)?.get(1)?.as_str();
        Some((*named, name.trim_matches('"').to_owned()))
    })
}

/// Make it, and how to take that back.
fn create(missing: &ObjectRef, named: Named) -> Remedy {
    let (name, summary) = (quote(&missing.name), format!("Create {missing}, if the name is right"));
    match named {
        Named::ServiceAccount => {
            let ns = quote(&missing.namespace);
            Remedy::commands(
                summary,
                vec![format!("kubectl -n {ns} create serviceaccount {name}")],
                vec![format!("kubectl -n {ns} delete serviceaccount {name}")],
            )
        }
        Named::PriorityClass => Remedy::commands(
            format!("{summary}; its value decides whose pods give way to whose"),
            vec![format!("kubectl create priorityclass {name} --value=1000")],
            vec![format!("kubectl delete priorityclass {name}")],
        ),
        Named::RuntimeClass => Remedy::manual(format!(
            "{summary}: its handler must be configured in the container runtime of the nodes first"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_found() {
        let found = |text: &str| parse(text).map(|(named, name)| (named.kind(), name));
        assert_eq!(
            found(
                "pods \"a\" is forbidden: error looking up service account shop/checkout: serviceaccount \"checkout\" not found"
            ),
            Some(("ServiceAccount", "checkout".to_owned()))
        );
        assert_eq!(
            found("pods \"a\" is forbidden: no PriorityClass with name urgent was found"),
            Some(("PriorityClass", "urgent".to_owned()))
        );
        assert_eq!(
            found("pods \"a\" is forbidden: pod rejected: RuntimeClass \"sandbox\" not found"),
            Some(("RuntimeClass", "sandbox".to_owned()))
        );
        assert_eq!(found("exceeded quota: compute"), None);
    }
}
