//! PLAT109.

use crate::model::json::{Value, json};
use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::config::source::core;
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Container;

crate::rule! {
    /// Pod Security Admission refuses the pods of a workload.
    ///
    /// ## What it detects
    /// A workload that lacks pods because its template violates the Pod Security Standard that the namespace enforces, and which of the
    /// standard's demands it violates.
    /// ## Why it matters
    /// There is no pod, no log and no crash to look at: the refusal stands only in an event of the ReplicaSet. Pods that were made
    /// before the namespace enforced the standard run on, and cannot be replaced.
    /// ## Evidence
    /// The `FailedCreate` event that lists the violations, and the namespace's label `pod-security.kubernetes.io/enforce`.
    /// ## How to confirm
    /// `kubectl label --dry-run=server --overwrite ns NAMESPACE pod-security.kubernetes.io/enforce=restricted` warns of every pod that
    /// violates it.
    /// ## How to fix
    /// Set the fields of `securityContext` that the standard demands; or enforce a weaker standard in this namespace.
    /// ## False positives
    /// The modes `audit` and `warn` refuse nothing and are not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/security/pod-security-admission/>
    PodSecurityRefuses {
        code: "PLAT109", name: "pod-security-refuses", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-RBAC"],
    }
}

/// A workload whose pods violate the standard of their namespace.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    /// `restricted:latest`.
    level: String,
    /// The names of the demands that are violated.
    violated: Vec<String>,
}

impl Check for PodSecurityRefuses {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some((level, violated)) = parse(refused.message) else { continue };
            if !out.iter().any(|f| f.refused.owner.same_object(&refused.owner)) {
                out.push(Fact { refused, level, violated });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let refused = &fact.refused;
        let (owner, level) = (&refused.owner, &fact.level);
        let namespace = core("Namespace", "", &owner.namespace);
        let label = namespace.field("metadata.labels.pod-security.kubernetes.io/enforce");
        let list = fact.violated.join(", ");
        let path = |rest: &str| {
            refused.workload.map_or_else(
                || format!("spec.template.spec.{rest}"),
                |w| w.template_path(&format!("spec.{rest}")),
            )
        };
        let subject = owner.field(path("containers[0].securityContext"));
        refused
            .finding(Self::META, subject, &[], snapshot)
            .title(format!("{owner}: pods refused by Pod Security {level}: {list}"))
            .message(format!(
                "{}: the namespace enforces the Pod Security Standard {level}, and the template violates its demands {list}. {}",
                refused.lacks(),
                refused.serves()
            ))
            .mechanism("pod security refuses the pods: securityContext violates the Pod Security Standard of the namespace")
            .related(label.clone())
            .evidences(snapshot.object("Namespace", "", &owner.namespace).and_then(|ns| {
                let enforced = ns.labels.get("pod-security.kubernetes.io/enforce")?;
                Some(Evidence::object(&label, enforced))
            }))
            .maybe_remedy(comply(fact))
            .maybe_remedy(weaken(fact, snapshot))
            .remedy(Remedy::commands("Read the list of violations and set the fields that it names", vec![common::describe_command(owner)], vec![]))
            .prevention(Prevention::alert(
                "Alert when Pod Security refuses pods",
                "sum by (resource, policy_level) (rate(pod_security_evaluations_total{decision=\"deny\",mode=\"enforce\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Policy", "Set pod-security.kubernetes.io/warn to the standard for a while before it is enforced, and read the warnings"))
    }
}

/// The standard and the demands that are violated. Each is followed by its details in brackets.
fn parse(message: &str) -> Option<(String, Vec<String>)> {
    static LEVEL: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"violates PodSecurity "([a-z]+:[a-z0-9.]+)": (.*)"#).ok());
    let found = LEVEL.as_ref()?.captures(message)?;
    let level = found.get(1)?.as_str().to_owned();
    let (mut depth, mut plain) = (0_usize, String::new());
    for c in found.get(2)?.as_str().chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let names = plain.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    Some((level, names.take(8).collect()))
}

/// What a demand asks of every container, where a value alone satisfies it and programs rarely mind.
fn demanded(name: &str) -> Option<(&'static str, Value)> {
    Some(match name {
        "allowPrivilegeEscalation != false" => ("allowPrivilegeEscalation", json!(false)),
        "unrestricted capabilities" => ("capabilities", json!({"drop": ["ALL"]})),
        "runAsNonRoot != true" => ("runAsNonRoot", json!(true)),
        "seccompProfile" => ("seccompProfile", json!({"type": "RuntimeDefault"})),
        "privileged" => ("privileged", json!(false)),
        _ => return None,
    })
}

/// Sets what is demanded in every container; `None` where one of the demands needs more than that.
fn comply(fact: &Fact<'_>) -> Option<Remedy> {
    let workload = fact.refused.workload?;
    let wanted: Vec<_> = fact.violated.iter().map(|name| demanded(name)).collect::<Option<_>>()?;
    let own = |container: &Container| {
        let mut context = container.body.at("securityContext").cloned().unwrap_or_else(|| json!({}));
        let fields = context.as_object_mut()?;
        fields.extend(wanted.iter().map(|(name, value)| ((*name).into(), value.clone())));
        let path = workload.template_path(&format!("spec.{}.securityContext", container.path()));
        Some(json!({"op": "add", "path": pointer(&path), "value": context}))
    };
    let operations: Vec<Value> = workload.template.containers.iter().map(own).collect::<Option<_>>()?;
    let names = wanted.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let mut summary = format!("Set {names} in securityContext of every container, as the standard demands");
    if names.contains("runAsNonRoot") {
        summary += "; the image must work as a user other than root";
    }
    Some(Remedy::patch(&workload.object, &Value::from(operations), summary)?.risk(Risk::Medium))
}

/// Enforces a weaker standard in the namespace.
fn weaken(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let namespace = snapshot.object("Namespace", "", &fact.refused.owner.namespace)?;
    let enforced = namespace.labels.get("pod-security.kubernetes.io/enforce")?;
    let weaker = if enforced == "restricted" { "baseline" } else { "privileged" };
    let operation = json!([{"op": "replace", "path": "/metadata/labels/pod-security.kubernetes.io~1enforce", "value": weaker}]);
    let summary =
        format!("Or enforce the standard {weaker} instead of {enforced} in namespace {}", namespace.name());
    Some(Remedy::patch(namespace, &operation, summary)?.risk(Risk::High))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_violations_of_a_refusal() {
        let (level, violated) = parse(r#"pods "a" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "app" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "app" must set securityContext.capabilities.drop=["ALL"]), seccompProfile (pod or container "app" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#).unwrap();
        assert_eq!(level, "restricted:latest");
        assert_eq!(
            violated,
            ["allowPrivilegeEscalation != false", "unrestricted capabilities", "seccompProfile"]
        );
        assert!(violated.iter().all(|name| demanded(name).is_some()));
        assert!(parse("pods \"a\" is forbidden: exceeded quota: x").is_none());
    }
}
