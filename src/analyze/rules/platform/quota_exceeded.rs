//! PLAT101.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::refused::{Refused, refused};
use crate::analyze::finding::{Evidence, Finding};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::config::source::core;
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::quantity;

crate::rule! {
    /// A quota of the namespace is used up: pods of a workload are not made.
    ///
    /// ## What it detects
    /// A workload that lacks pods because the API server refuses to make them for a ResourceQuota, with the resource and the numbers:
    /// what a pod asks for, what is used, what is allowed. Also a quota that demands requests or limits which the template lacks.
    /// ## Why it matters
    /// There is no pod, no log and no crash to look at: the refusal stands only in an event of the ReplicaSet.
    /// ## Evidence
    /// `FailedCreate` events or the condition `ReplicaFailure` with the API server's sentence, and the quota.
    /// ## How to confirm
    /// `kubectl describe resourcequota` shows used against hard; `kubectl describe replicaset` shows the refusal.
    /// ## How to fix
    /// Raise the quota, lower what the pods request, or scale down something else in the namespace.
    /// ## False positives
    /// A refusal that a later attempt made good is not reported: the workload has its pods.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/policy/resource-quotas/>
    QuotaExceeded {
        code: "PLAT101", name: "quota-exceeded", family: Platform, severity: Error,
        needs: [Status], aliases: ["K8S-QUOTA"],
    }
}

/// One resource of a quota that is exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// The quota.
    quota: String,
    /// `requests.cpu`, `pods`, …; for a quota that demands more of the template, what it demands.
    resource: String,
    requested: String,
    used: String,
    limited: String,
}

/// A workload whose pods a quota refuses.
#[derive(Debug)]
pub struct Fact<'a> {
    refused: Refused<'a>,
    exceeded: Exceeded,
}

impl Check for QuotaExceeded {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        for refused in refused(snapshot) {
            let Some(exceeded) = parse(refused.message) else { continue };
            let known = |f: &Fact<'_>| {
                f.refused.owner.same_object(&refused.owner)
                    && f.exceeded.quota == exceeded.quota
                    && f.exceeded.resource == exceeded.resource
            };
            if !out.iter().any(known) {
                out.push(Fact { refused, exceeded });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (refused, exceeded) = (&fact.refused, &fact.exceeded);
        let owner = &refused.owner;
        let quota = core("ResourceQuota", &owner.namespace, &exceeded.quota);
        let demands = exceeded.limited.is_empty();
        let template = owner.field(
            refused.workload.map_or_else(String::new, |w| w.template_path("spec.containers[0].resources")),
        );
        let (subject, other, numbers) = if demands {
            (template, quota.clone(), format!("it demands {} of every container", exceeded.resource))
        } else {
            let numbers = format!(
                "{} {} asked for, {} used of {}",
                exceeded.requested, exceeded.resource, exceeded.used, exceeded.limited
            );
            (quota.field(format!("spec.hard.{}", exceeded.resource)), template, numbers)
        };
        refused
            .finding(Self::META, subject.clone(), &[&owner.kind, &owner.name], snapshot)
            .title(format!("{owner}: pods refused by {quota}: {numbers}"))
            .message(format!("{}: the API server refuses to make them because of {quota} ({numbers}). {}", refused.lacks(), refused.serves()))
            .mechanism(if demands { "quota exceeded: the quota demands requests or limits that the template lacks" } else { "quota exceeded: the ResourceQuota of the namespace is used up" })
            .related(other)
            .evidence(Evidence::object(&subject, numbers))
            .maybe_remedy(raise(fact, snapshot))
            .remedy(Remedy::commands(
                if demands { format!("Add {} to resources of every container of the template, or give the namespace a LimitRange with defaults", exceeded.resource) } else { format!("Lower {} in the template, or scale down what is not needed in the namespace", exceeded.resource) },
                vec![common::describe_command(&quota)],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert before a quota is used up",
                format!("kube_resourcequota{{namespace=\"{}\",type=\"used\"}} / ignoring(type) (kube_resourcequota{{namespace=\"{}\",type=\"hard\"}} > 0) > 0.9", owner.namespace, owner.namespace),
            ))
    }
}

/// Reads `exceeded quota: NAME, requested: R=1, used: R=4, limited: R=4` and `failed quota: NAME: must specify R for: …`.
fn parse(message: &str) -> Option<Exceeded> {
    static EXCEEDED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"exceeded quota: (?P<quota>[^,]+), requested: (?P<requested>.+?), used: (?P<used>.+?), limited: (?P<limited>.+)$").ok()
    });
    static DEMANDS: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"failed quota: ([^:\s]+):? must specify ([a-z0-9.,\-/]+)").ok());
    if let Some(found) = EXCEEDED.as_ref().and_then(|r| r.captures(message)) {
        let part = |name: &str| found.name(name).map_or("", |m| m.as_str()).trim();
        let value = |list: &str, key: &str| {
            list.split(',')
                .find_map(|pair| {
                    pair.trim().split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v.to_owned())
                })
                .unwrap_or_default()
        };
        let resource = part("requested").split('=').next()?.trim().to_owned();
        return Some(Exceeded {
            quota: part("quota").to_owned(),
            requested: value(part("requested"), &resource),
            used: value(part("used"), &resource),
            limited: value(part("limited"), &resource),
            resource,
        });
    }
    let found = DEMANDS.as_ref()?.captures(message)?;
    let text = |at| {
        found.get(at).map_or("", |m: regex::Match<'_>| m.as_str()).trim_end_matches([',', ';']).to_owned()
    };
    Some(Exceeded {
        quota: text(1),
        resource: text(2),
        requested: String::new(),
        used: String::new(),
        limited: String::new(),
    })
}

/// A quota that has room for the pods that are missing.
fn raise(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    let exceeded = &fact.exceeded;
    let quota = snapshot.object("ResourceQuota", &fact.refused.owner.namespace, &exceeded.quota)?;
    quota.body.at("spec.hard")?.child(&exceeded.resource)?;
    let (each, used) = (quantity(&exceeded.requested)?, quantity(&exceeded.used)?);
    let wanted = used + each * fact.refused.missing.max(1) as f64;
    let value = if exceeded.resource.contains("cpu") {
        common::cores(wanted)
    } else if exceeded.resource.contains("memory") || exceeded.resource.contains("storage") {
        common::bytes((wanted / 1_048_576.0).ceil() * 1_048_576.0)
    } else {
        format!("{:.0}", wanted.ceil())
    };
    let remedy = Remedy::patch(
        quota,
        &json!([{"op": "replace", "path": format!("/spec/hard/{}", pointer_segment(&exceeded.resource)), "value": value}]),
        format!(
            "Raise {} of ResourceQuota {} from {} to {value}: room for the pods that are missing",
            exceeded.resource, exceeded.quota, exceeded.limited
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_sentence() {
        let found = parse("pods \"a-1\" is forbidden: exceeded quota: compute, requested: limits.cpu=1,pods=1, used: limits.cpu=8,pods=4, limited: limits.cpu=8,pods=10").unwrap();
        assert_eq!(
            (found.quota.as_str(), found.resource.as_str(), found.used.as_str(), found.limited.as_str()),
            ("compute", "limits.cpu", "8", "8")
        );
        let found = parse("pods \"a\" is forbidden: failed quota: compute: must specify limits.cpu for: app; limits.memory for: app").unwrap();
        assert_eq!((found.quota.as_str(), found.resource.as_str()), ("compute", "limits.cpu"));
        assert_eq!(parse("pods \"a\" is forbidden: error looking up service account"), None);
    }
}
