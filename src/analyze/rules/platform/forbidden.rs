//! PLAT116.

use jiff::Timestamp;
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::config::source::core;
use crate::analyze::rules::pods::common;
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An application is not allowed to do in the Kubernetes API what it tries to do.
    ///
    /// ## What it detects
    /// Lines of an application's log with the API server's refusal: which account may not do what to which resource, and where.
    /// ## Why it matters
    /// What the application wants from the API does not happen: configuration is not read, peers are not found, a leader is not elected.
    /// ## Evidence
    /// The line of the log, and how often it came.
    /// ## How to confirm
    /// `kubectl auth can-i VERB RESOURCE -n NAMESPACE --as system:serviceaccount:NAMESPACE:NAME` says `no`.
    /// ## How to fix
    /// Grant exactly this verb on this resource with a Role and a RoleBinding.
    /// ## False positives
    /// Refusals of other APIs: only the sentence that names an account of this cluster counts. A refusal that stopped more than an hour
    /// ago is not reported.
    /// ## References
    /// <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>
    Forbidden {
        code: "PLAT116", name: "api-access-forbidden", family: Platform, severity: Warning,
        needs: [Logs], aliases: ["K8S-RBAC"],
    }
}

/// What an account was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    account_namespace: String,
    account: String,
    verb: String,
    /// `pods`, `pods/log`.
    resource: String,
    group: String,
    /// Empty where it holds for the cluster.
    namespace: String,
}

/// One refusal, with how it was seen.
#[derive(Debug)]
pub struct Fact<'a> {
    refusal: Refusal,
    owners: BTreeSet<ObjectRef>,
    count: usize,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    sample: (String, &'a str),
}

impl Check for Forbidden {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<Refusal, Fact<'a>> = BTreeMap::new();
        for log in snapshot.logs.iter().filter(|log| snapshot.in_scope(&log.namespace)) {
            for line in log.lines.iter().filter(|line| line.text.contains("system:serviceaccount:")) {
                let Some(refusal) = parse(&line.text) else { continue };
                let fact = found.entry(refusal.clone()).or_insert_with(|| Fact {
                    refusal,
                    owners: BTreeSet::new(),
                    count: 0,
                    first: line.time,
                    last: line.time,
                    sample: (
                        format!("Pod {}/{}, container {}", log.namespace, log.pod, log.container),
                        &line.text,
                    ),
                });
                fact.count += 1;
                fact.first = fact.first.into_iter().chain(line.time).min();
                fact.last = fact.last.max(line.time);
                fact.owners.insert(snapshot.owner_by_name(&log.namespace, &log.pod));
            }
        }
        found.into_values().filter(|fact| common::recent(snapshot, fact.last)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let refusal = &fact.refusal;
        let account = core("ServiceAccount", &refusal.account_namespace, &refusal.account);
        let what = if refusal.group.is_empty() {
            refusal.resource.clone()
        } else {
            format!("{}.{}", refusal.resource, refusal.group)
        };
        let place = if refusal.namespace.is_empty() {
            "of the cluster".to_owned()
        } else {
            format!("in namespace {}", refusal.namespace)
        };
        let owners: Vec<String> = fact.owners.iter().take(3).map(ToString::to_string).collect();
        let params = [refusal.verb.as_str(), what.as_str(), refusal.namespace.as_str()];
        let services: BTreeSet<_> = fact
            .owners
            .iter()
            .filter_map(|o| snapshot.workload(o))
            .flat_map(|w| snapshot.services_before(w))
            .map(|s| s.service_name())
            .collect();
        Finding::new(Self::META, account.clone(), &params)
            .title(format!("{account} is not allowed to {} {what} {place}", refusal.verb))
            .message(format!(
                "{} asked the API server {} to {} {what} {place} as {account}, and was refused: no Role grants it.",
                owners.join(", "),
                text::times(fact.count as u64),
                refusal.verb
            ))
            .mechanism("forbidden: RBAC does not allow the service account what it needs")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(services.iter().next().cloned())
            .evidence(Evidence::new("Log", fact.sample.0.clone(), format!("the API server's refusal, {}", text::times(fact.count as u64))).excerpt(fact.sample.1).at(fact.first))
            .onset(fact.first)
            .effects(fact.owners.iter().map(Effect::pods))
            .effects(services.iter().map(|s| Effect::requests(s, &["5xx"])))
            .remedy(grant(refusal, &what))
            .prevention(Prevention::alert(
                "Alert when the API server refuses requests",
                "sum by (resource) (rate(apiserver_request_total{code=\"403\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: kubectl auth can-i for everything that the application does, as its account"))
    }
}

/// `pods is forbidden: User "system:serviceaccount:shop:checkout" cannot list resource "pods" in API group "" in the namespace "shop"`.
fn parse(text: &str) -> Option<Refusal> {
    static SENTENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"User \\?"system:serviceaccount:([a-z0-9.-]+):([a-z0-9.-]+)\\?" cannot ([a-z]+) resource \\?"([a-z0-9./-]+)\\?" in API group \\?"([a-z0-9.-]*)\\?"(?: in the namespace \\?"([a-z0-9.-]+)\\?")?"#).ok()
    });
    let found = SENTENCE.as_ref()?.captures(text)?;
    let part = |at| found.get(at).map_or_else(String::new, |m: regex::Match<'_>| m.as_str().to_owned());
    Some(Refusal {
        account_namespace: part(1),
        account: part(2),
        verb: part(3),
        resource: part(4),
        group: part(5),
        namespace: part(6),
    })
}

/// Exactly what was refused, and how to take it back.
fn grant(refusal: &Refusal, what: &str) -> Remedy {
    let name = quote(&format!("{}-{}-{}", refusal.account, refusal.verb, refusal.resource.replace('/', "-")));
    let account = quote(&format!("{}:{}", refusal.account_namespace, refusal.account));
    let (role, binding, ns) = if refusal.namespace.is_empty() {
        ("clusterrole", "clusterrolebinding", String::new())
    } else {
        ("role", "rolebinding", format!("-n {} ", quote(&refusal.namespace)))
    };
    Remedy::commands(
        format!("Grant it: {} on {what}, and nothing else", refusal.verb),
        vec![
            format!("kubectl {ns}create {role} {name} --verb={} --resource={}", refusal.verb, quote(what)),
            format!("kubectl {ns}create {binding} {name} --{role}={name} --serviceaccount={account}"),
        ],
        vec![format!("kubectl {ns}delete {binding} {name}"), format!("kubectl {ns}delete {role} {name}")],
    )
    .risk(Risk::High)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_servers_refusal() {
        let text = r#"E1121 reflector.go:204: failed to list: pods is forbidden: User "system:serviceaccount:shop:checkout" cannot list resource "pods" in API group "" in the namespace "shop""#;
        let found = parse(text).unwrap();
        assert_eq!(
            (found.account.as_str(), found.verb.as_str(), found.resource.as_str(), found.namespace.as_str()),
            ("checkout", "list", "pods", "shop")
        );
        let cluster = r#"msg="nodes is forbidden: User \"system:serviceaccount:shop:agent\" cannot watch resource \"nodes\" in API group \"\" at the cluster scope""#;
        assert_eq!(parse(cluster).unwrap().namespace, "");
        assert!(parse("403 Forbidden for user alice").is_none());
    }
}
