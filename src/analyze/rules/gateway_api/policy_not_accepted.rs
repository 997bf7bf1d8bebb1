//! GWAPI108.

use std::collections::BTreeMap;

use super::fault::{Fault, set};
use super::prelude::*;
use super::targets::{self, Found, Target};

crate::rule! {
    /// A policy is attached to something that does not exist, or to something that an older policy has already.
    ///
    /// ## What it detects
    /// A `targetRef` of a policy (BackendTLSPolicy, XBackendTrafficPolicy, AuthorizationPolicy, RequestAuthentication, …) whose
    /// Service, ServiceEntry, Gateway or route does not exist, or has no port, listener or rule of the name in
    /// `sectionName`; a BackendTLSPolicy for a kind that is no backend; and two policies of one kind for the same target, of
    /// which the older one holds.
    /// ## Why it matters
    /// The policy is not applied: connections stay without TLS, rules that were meant to protect protect nothing.
    /// ## Evidence
    /// The reference against the objects that exist, or the other policy with its age.
    /// ## How to confirm
    /// `kubectl describe` of the policy shows `Accepted=False` with `TargetNotFound` or `Conflicted` under `status.ancestors`.
    /// ## How to fix
    /// Correct the reference, or merge the two policies into one.
    /// ## False positives
    /// Targets in namespaces that were not read, and kinds that only their implementation knows, are left out.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/policy-attachment/>
    PolicyNotAccepted {
        code: "GWAPI108", name: "policy-not-accepted", family: Gateway, severity: Warning,
        needs: [Objects], aliases: ["IST0171"],
    }
}

/// Kinds of which one target takes one policy.
const EXCLUSIVE: &[&str] =
    &["BackendTLSPolicy", "XBackendTrafficPolicy", "BackendTrafficPolicy", "BackendLBPolicy"];

const NOT_APPLIED: &str = "The policy is not applied there.";

impl Check for PolicyNotAccepted {
    type Fact<'a> = Fault<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fault<'a>> {
        let mut out = vec![];
        let mut held: BTreeMap<(String, Target), Vec<(&'a Object, String)>> = BTreeMap::new();
        for policy in snapshot.objects.iter().filter(|o| seen::configured(o.namespace())) {
            for target in targets::of(policy) {
                let kind = policy.reference.kind.as_str();
                if kind == "BackendTLSPolicy" && !is_backend(&target) {
                    out.push(wrong_kind(policy, &target));
                    continue;
                }
                match targets::find(snapshot, &target) {
                    Found::Nothing(near) => out.push(not_found(snapshot, policy, &target, near)),
                    Found::NoSection(parts) => out.push(no_section(snapshot, policy, &target, &parts)),
                    Found::There | Found::Unknown if EXCLUSIVE.contains(&kind) => {
                        let key = Target { path: String::new(), ..target.clone() };
                        held.entry((kind.to_owned(), key)).or_default().push((policy, target.path));
                    }
                    Found::There | Found::Unknown => {}
                }
            }
        }
        for ((_, target), mut policies) in held {
            // The oldest holds; of two of one age the first by name.
            policies.sort_by_key(|(policy, _)| (policy.created, policy.reference.clone()));
            let Some((first, _)) = policies.first().cloned() else { continue };
            for (policy, path) in policies.into_iter().filter(|(p, _)| !std::ptr::eq(*p, first)) {
                out.push(conflict(policy, path, first, &target, services(snapshot, &target)));
            }
        }
        out.sort_by(|a, b| (&a.object.reference, &a.path).cmp(&(&b.object.reference, &b.path)));
        out
    }

    fn describe(&self, fact: &Fault<'_>, _: &Snapshot) -> Finding {
        fact.finding(Self::META)
    }
}

/// Whether requests are sent to objects of this kind; kinds of other groups are their implementation's own.
fn is_backend(target: &Target) -> bool {
    match target.group.as_str() {
        "" => target.kind == "Service",
        attach::GROUP => false,
        _ => true,
    }
}

/// The Services that a policy for this target is for.
fn services(snapshot: &Snapshot, target: &Target) -> Vec<ServiceName> {
    let name = ServiceName::new(&target.namespace, &target.name);
    let there = target.kind == "Service" && snapshot.service(&name).is_some();
    if there { vec![name] } else { vec![] }
}

fn wrong_kind<'a>(policy: &'a Object, target: &Target) -> Fault<'a> {
    let why = format!("its target is a {}, which is no backend", target.kind);
    Fault::new(policy, format!("{}.kind", target.path), "TargetNotFound", why)
        .means(NOT_APPLIED, "targetRef of a policy names a kind that it is not for")
}

fn not_found<'a>(
    snapshot: &Snapshot,
    policy: &'a Object,
    target: &Target,
    near: Option<String>,
) -> Fault<'a> {
    let hint = near.as_ref().map(|name| format!("; {name} was probably meant")).unwrap_or_default();
    let path = format!("{}.name", target.path);
    let fix = near
        .and_then(|name| set(policy, &path, json!(name), format!("Set the name of the targetRef to {name}")));
    Fault::new(
        policy,
        path,
        "TargetNotFound",
        format!("{}, its target, does not exist{hint}", target.reference()),
    )
    .means(NOT_APPLIED, "policy target not found: targetRef names nothing")
    .hits(services(snapshot, target), &["tls", "5xx"])
    .fix(fix)
}

fn no_section<'a>(snapshot: &Snapshot, policy: &'a Object, target: &Target, parts: &[String]) -> Fault<'a> {
    let path = format!("{}.sectionName", target.path);
    let part = match target.kind.as_str() {
        "Service" | "ServiceEntry" => "port",
        "Gateway" => "listener",
        _ => "rule",
    };
    let there =
        if parts.is_empty() { "it names none".to_owned() } else { format!("it has {}", parts.join(", ")) };
    let only = parts.first().filter(|_| parts.len() == 1).map(String::as_str);
    let near = nearest(&target.section, parts.iter().map(String::as_str)).or(only);
    let fix = near.and_then(|name| set(policy, &path, json!(name), format!("Set the sectionName to {name}")));
    Fault::new(
        policy,
        path,
        "TargetNotFound",
        format!("{} has no {part} named \"{}\"; {there}", target.reference(), target.section),
    )
    .means(NOT_APPLIED, "policy target not found: sectionName names no port, listener or rule")
    .hits(services(snapshot, target), &["tls", "5xx"])
    .fix(fix)
}

fn conflict<'a>(
    policy: &'a Object,
    path: String,
    first: &Object,
    target: &Target,
    services: Vec<ServiceName>,
) -> Fault<'a> {
    let why = format!("{} has {} already", first.reference, target.reference());
    Fault::new(policy, path, "Conflicted", why)
        .means(
            "One target takes one policy of a kind, and the oldest holds: this one is not applied.",
            "policy conflict: two policies for one targetRef",
        )
        .hits(services, &["tls", "5xx"])
        .with(Some(first.reference.field("spec.targetRefs")))
}
