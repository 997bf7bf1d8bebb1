//! AMBIENT102.

use super::enrolment;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// In ambient mode, a policy for requests picks pods by a selector, and no waypoint reads it.
    ///
    /// ## What it detects
    /// An AuthorizationPolicy with clauses on requests (paths, methods, hosts, request principals, `request.*`), or a
    /// RequestAuthentication, that applies by selector or to its whole namespace, to workloads that ztunnel serves.
    /// ## Why it matters
    /// Waypoints take policies by `targetRefs` alone; ztunnel takes those with selectors and sees no request. A rule that
    /// allows by path or method allows nobody there: connections are refused. A rule that denies by path denies every
    /// connection that its other clauses fit. Tokens are not looked at.
    /// ## Evidence
    /// The clauses, and the workloads that the selector picks.
    /// ## How to confirm
    /// The policy's status says `ZtunnelAccepted` with `PartiallyInvalid` or `UnsupportedValue`; ztunnel logs
    /// `connection closed due to policy rejection`.
    /// ## How to fix
    /// Attach the policy to the Service or to the waypoint with `targetRefs`, and keep a selector for connections alone.
    /// ## False positives
    /// Workloads with a sidecar read such policies themselves and are left out.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/l4-policy/>
    SelectorNotForWaypoint {
        code: "AMBIENT102", name: "selector-not-for-waypoint", family: Mesh, severity: Warning, needs: [Objects],
        aliases: ["IST0171", "KIA0110", "KIA1115", "KIA1116"],
    }
}

/// A policy that ztunnel reads otherwise than it is meant.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    /// A workload in ambient mode to which it applies, and how many more.
    workload: &'a Workload,
    more: usize,
    /// What ztunnel makes of it.
    result: &'static str,
    refuses: bool,
}

impl Check for SelectorNotForWaypoint {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let ambient: Vec<&Workload> = snapshot
            .workloads
            .iter()
            .filter(|w| {
                w.object.owners.is_empty()
                    && enrolment::is_ambient(snapshot, w.object.namespace(), &w.template)
            })
            .filter(|w| enrolment::is_labelled(snapshot, w.object.namespace(), &w.template.labels))
            .collect();
        if ambient.is_empty() {
            return vec![];
        }
        let root = snapshot.istio.root_namespace.as_str();
        let mut out = vec![];
        let mut look = |policy: &'a Policy, path: String, result, refuses| {
            let mut own =
                ambient.iter().filter(|w| policy.applies_to(w.object.namespace(), &w.template.labels, root));
            if let Some(first) = own.next().filter(|_| configured(policy.object.namespace())) {
                out.push(Fact {
                    object: &policy.object,
                    path,
                    workload: first,
                    more: own.count(),
                    result,
                    refuses,
                });
            }
        };
        for policy in snapshot.istio.authorization_policies.iter().filter(|p| p.targets.is_empty()) {
            let Some(path) = enrolment::http_clauses(&policy.object).into_iter().next() else { continue };
            match policy.object.body.text("spec.action").unwrap_or("ALLOW") {
                "ALLOW" => look(
                    policy,
                    path,
                    "the rule allows nobody, and what no other policy allows is refused",
                    true,
                ),
                "DENY" => look(
                    policy,
                    path,
                    "the clause is left out, and every connection that the rest of the rule fits is refused",
                    true,
                ),
                _ => look(policy, path, "ztunnel leaves the policy out", false),
            }
        }
        for policy in snapshot.istio.request_authentications.iter().filter(|p| p.targets.is_empty()) {
            look(policy, "spec.jwtRules".to_owned(), "tokens are not looked at", false);
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let subject = reference.field(&fact.path);
        let more = if fact.more > 0 { format!(" and {} more", fact.more) } else { String::new() };
        let whom = format!("{}{more}", fact.workload.reference());
        let services: Vec<ServiceName> =
            snapshot.services_before(fact.workload).map(|service| service.service_name()).collect();
        let target = services.first().map_or("NAME", |service| service.name.as_str());
        let flags: &[&str] = if fact.refuses { &["rbac", "reset"] } else { &[] };
        let effects =
            services.iter().filter(|_| fact.refuses).map(|service| Effect::requests(service, flags));
        Finding::new(Self::META, subject.clone(), &[&fact.workload.reference().name])
            .title(format!("{reference} asks about requests, and ztunnel before {whom} sees none"))
            .message(format!(
                "{reference} applies to {whom} without targetRefs, so that ztunnel reads it and no waypoint does. ztunnel does not know {}: {}.",
                fact.path, fact.result
            ))
            .mechanism("ambient: HTTP policy with a selector is read by ztunnel, not by a waypoint (targetRefs missing)")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, format!("needs a proxy that reads requests; {}", fact.result)))
            .evidence(Evidence::object(fact.workload.reference(), "is in ambient mode, without a sidecar"))
            .effects(effects)
            .remedy(Remedy::manual(format!(
                "Replace spec.selector of {reference} by spec.targetRefs: [{{kind: Service, group: \"\", name: {target}}}], for each Service that it is meant for"
            )))
            .prevention(Prevention::of("Test", "After each change ask once for a path that is allowed and once for one that is not"))
    }
}
