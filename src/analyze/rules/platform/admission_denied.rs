//! PLAT108.

use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, TRY_AS_POD, refused, without_pods};
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A policy of the cluster denies the pods of a workload.
    ///
    /// ## What it detects
    /// A workload that lacks pods because an admission webhook or a ValidatingAdmissionPolicy answered and denied them.
    /// ## Why it matters
    /// There is no pod, no log and no crash to look at: the denial stands only in an event of the ReplicaSet.
    /// ## Evidence
    /// The `FailedCreate` event with the policy's own sentence.
    /// ## How to confirm
    /// `kubectl describe replicaset NAME` shows the denial; applying the template as a Pod with `--dry-run=server` repeats it.
    /// ## How to fix
    /// Change the template as the policy's sentence asks, or have the policy's owner exempt the workload.
    /// ## False positives
    /// A webhook that could not be called (PLAT107), Pod Security (PLAT109) and quotas (PLAT101) have rules of their own. A denial
    /// that a later attempt made good is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>
    AdmissionDenied {
        code: "PLAT108", name: "admission-denied", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-WEBHOOK"],
    }
}

/// Who denied.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Policy {
    Webhook(String),
    /// A ValidatingAdmissionPolicy.
    Expression(String),
}

/// A workload whose pods a policy denies.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    policy: Policy,
}

impl Check for AdmissionDenied {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some(policy) = denied(refused.message) else { continue };
            if !out.iter().any(|f| f.refused.owner.same_object(&refused.owner) && f.policy == policy) {
                out.push(Fact { refused, policy });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let refused = &fact.refused;
        let owner = &refused.owner;
        let (what, name, reference) = match &fact.policy {
            Policy::Webhook(name) => ("admission webhook", name, None),
            Policy::Expression(name) => {
                let reference = ObjectRef {
                    api_version: "admissionregistration.k8s.io/v1".to_owned(),
                    ..ObjectRef::new("ValidatingAdmissionPolicy", "", name)
                };
                ("ValidatingAdmissionPolicy", name, Some(reference))
            }
        };
        let subject = owner
            .field(refused.workload.map_or_else(|| "spec.template".to_owned(), |w| w.template_path("spec")));
        let mut finding = refused
            .finding(Self::META, subject, &[name], snapshot)
            .title(format!("{owner}: pods denied by {what} {name}"))
            .message(format!(
                "{}: {what} {name} denies them, and its sentence in the evidence says what it asks of the template. {}",
                refused.lacks(),
                refused.serves()
            ))
            .mechanism("admission denied: a policy of the cluster denies the pods");
        if let Some(reference) = &reference {
            finding = finding.related(reference.clone());
        }
        finding
            .maybe_remedy(common::undo_last_rollout(snapshot, owner, ""))
            .remedy(Remedy::commands(
                "Change the template as the policy's sentence asks",
                vec![common::describe_command(owner)],
                vec![],
            ))
            .prevention(Prevention::alert("Alert when a workload cannot make its pods", without_pods(owner)))
            .prevention(Prevention::of("Test", TRY_AS_POD))
    }
}

/// Who denied a request, as the API server says it.
fn denied(message: &str) -> Option<Policy> {
    static WEBHOOK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"admission webhook "([^"]+)" denied the request"#).ok());
    static EXPRESSION: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"ValidatingAdmissionPolicy '([^']+)' .*denied request").ok());
    let name = |r: &Option<Regex>| Some(r.as_ref()?.captures(message)?.get(1)?.as_str().to_owned());
    name(&WEBHOOK).map(Policy::Webhook).or_else(|| name(&EXPRESSION).map(Policy::Expression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_denied() {
        assert_eq!(
            denied("admission webhook \"limits.policy.example\" denied the request: no limits"),
            Some(Policy::Webhook("limits.policy.example".to_owned()))
        );
        assert_eq!(
            denied(
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'replicas' with binding 'all' denied request: too many"
            ),
            Some(Policy::Expression("replicas".to_owned()))
        );
        assert_eq!(denied("failed calling webhook \"limits.policy.example\": no endpoints available"), None);
    }
}
