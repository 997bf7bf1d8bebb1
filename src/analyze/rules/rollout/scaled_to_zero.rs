//! ROLLOUT102.

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::Digest;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::change::ChangeKind;
use crate::model::fields::Fields;
use crate::model::graph::Provenance;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::workload::Workload;

crate::rule! {
    /// A Service that others call has only workloads that are scaled to zero.
    ///
    /// ## What it detects
    /// A Service whose selector matches the template of workloads which all have zero replicas, and which somebody calls: by access
    /// logs, metrics or applications' logs, or because a route or another workload's configuration names it.
    /// ## Why it matters
    /// The Service has no endpoint: every call is refused, or answered with `503 UH no_healthy_upstream` by the caller's proxy.
    /// ## Evidence
    /// `spec.replicas` of the workloads, the number of replicas before, the callers, and their failing calls.
    /// ## How to confirm
    /// `kubectl get deployment NAME` shows 0/0; `kubectl get endpointslices -l kubernetes.io/service-name=SERVICE` lists nobody.
    /// ## How to fix
    /// Scale the workload up to the number of replicas that it had; or, if it is meant to be gone, take the calls out of its callers.
    /// ## False positives
    /// A workload that nobody calls is not reported, nor one that an autoscaler starts on demand.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/>
    ScaledToZero {
        code: "ROLLOUT102", name: "scaled-to-zero", family: Workload, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A called Service without replicas.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    /// The workloads behind it, the one to start first.
    workloads: Vec<&'a Workload>,
    callers: Vec<(ObjectRef, BTreeSet<Provenance>)>,
    /// Calls to it that failed, as callers' logs and proxies tell: how many, and since when.
    failed: u64,
    first: Option<Timestamp>,
}

impl Check for ScaledToZero {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut seen = BTreeSet::new();
        let mut out = vec![];
        let idle = |w: &&Workload| {
            w.object.owners.is_empty() && w.replicas == Some(0) && snapshot.in_scope(w.object.namespace())
        };
        for workload in snapshot.workloads.iter().filter(idle) {
            for service in snapshot.services_before(workload) {
                if seen.insert(service.service_name()) {
                    out.extend(unserved(snapshot, service));
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let Some(workload) = fact.workloads.first() else {
            return Finding::new(Self::META, fact.service.reference().clone(), &[]);
        };
        let owner = workload.reference();
        let (before, at) = before(snapshot, workload);
        let known = before
            .map(|n| format!(" It had {} before.", common::plural(n.max(0) as usize, "replica")))
            .unwrap_or_default();
        let by = snapshot
            .changes
            .iter()
            .rev()
            .find(|c| c.kind == ChangeKind::Scaled && c.subject.same_object(owner))
            .map(|c| (c.time, c.by.clone()));
        let onset = by.as_ref().map(|(at, _)| *at).or(at).or(fact.first);
        let callers =
            fact.callers.iter().map(|(caller, _)| caller.to_string()).take(3).collect::<Vec<_>>().join(", ");
        let mut message = format!(
            "Every workload behind Service {name} has zero replicas ({}), so the Service has no endpoint; {callers} {} it.{known}",
            fact.workloads.iter().map(|w| w.reference().to_string()).collect::<Vec<_>>().join(", "),
            if fact.callers.len() == 1 { "calls" } else { "call" }
        );
        if fact.failed > 0 {
            message += &format!(
                " {} calls to it have failed{}.",
                fact.failed,
                fact.first.map(|at| format!(" since {}", common::clock(at))).unwrap_or_default()
            );
        }
        if let Some((at, who)) = by.as_ref().filter(|(_, who)| !who.is_empty()) {
            message += &format!(" {who} scaled it at {}.", common::clock(*at));
        }
        let observed = fact.failed > 0;
        let to = before.unwrap_or(1).max(1);
        Finding::new(Self::META, owner.field("spec.replicas"), &[&name.name])
            .title(format!("{owner} is scaled to zero, and Service {} is still called by {}", name.name, short(&fact.callers)))
            .message(message)
            .mechanism("scaled to zero: no replicas behind a Service that is called")
            .severity(if observed { Severity::Critical } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .evidence(Evidence::object(&owner.field("spec.replicas"), format!("0{}", before.map(|n| format!(", {n} before")).unwrap_or_default())).at(onset))
            .evidences(fact.callers.iter().take(3).map(|(caller, how)| {
                let how = how.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ");
                Evidence::object(caller, format!("calls Service {name} (known from: {how})"))
            }))
            .evidences((fact.failed > 0).then(|| Evidence::new("Log", format!("callers of Service {name}"), format!("{} failed calls", fact.failed)).at(fact.first)))
            .onset(onset)
            .effect(Effect::requests(&name, common::DOWN))
            .effect(Effect::pods(owner))
            .remedy(Remedy::scale(owner, 0, to, format!("Scale {owner} up to spec.replicas {to}{}", if before.is_some() { ", as before" } else { "" })))
            .prevention(Prevention::alert(
                "Alert when a Service has no ready endpoint",
                format!("kube_deployment_spec_replicas{{namespace=\"{}\",deployment=\"{}\"}} == 0", owner.namespace, owner.name),
            ))
            .prevention(Prevention::of("Policy", "A HorizontalPodAutoscaler with minReplicas of at least 1, or a policy that refuses replicas 0 for workloads behind a Service that is in use"))
    }
}

/// The first caller, and how many more.
fn short(callers: &[(ObjectRef, BTreeSet<Provenance>)]) -> String {
    match callers {
        [] => String::new(),
        [(one, _)] => format!("{} {}", one.kind, one.name),
        [(one, _), rest @ ..] => format!("{} {} and {} more", one.kind, one.name, rest.len()),
    }
}

/// The fact, where nobody serves this Service and somebody calls it.
fn unserved<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Option<Fact<'a>> {
    if service.kind == "ExternalName" {
        return None;
    }
    let mut workloads: Vec<&Workload> = snapshot.workloads_behind(service).collect();
    if workloads.iter().any(|w| w.replicas != Some(0)) || workloads.iter().any(|w| on_demand(snapshot, w)) {
        return None;
    }
    if snapshot.pods_behind(service).any(|pod| pod.ready()) {
        return None;
    }
    workloads.sort_by_key(|w| (w.object.name() != service.object.name(), w.reference().clone()));
    let name = service.service_name();
    let own = |caller: &ObjectRef| workloads.iter().any(|w| w.reference().same_object(caller));
    // A caller that has no pod itself calls nobody.
    let idle = |caller: &ObjectRef| snapshot.workload(caller).is_some_and(|w| w.replicas == Some(0));
    let callers: Vec<(ObjectRef, BTreeSet<Provenance>)> = snapshot
        .graph
        .edges
        .iter()
        .filter(|((from, to), _)| *to == name && !own(from) && !idle(from))
        .map(|((from, _), edge)| (from.clone(), edge.provenance.clone()))
        .collect();
    if callers.is_empty() {
        return None;
    }
    let (failed, first) = failed_calls(snapshot, service);
    Some(Fact { service, workloads, callers, failed, first })
}

/// Whether something starts it as soon as it is called: an autoscaler that may go to zero.
fn on_demand(snapshot: &Snapshot, workload: &Workload) -> bool {
    let targets = |object: &crate::model::object::Object| {
        let target = object.body.at("spec.scaleTargetRef");
        object.namespace() == workload.object.namespace()
            && target.is_some_and(|t| {
                t.text("name") == Some(workload.object.name())
                    && t.text("kind").is_none_or(|kind| kind == workload.reference().kind)
            })
    };
    snapshot.objects_of("ScaledObject").any(targets)
        || snapshot
            .objects_of("HorizontalPodAutoscaler")
            .any(|hpa| hpa.body.int("spec.minReplicas") == Some(0) && targets(hpa))
}

/// Calls to a Service that failed for want of anybody who answers, by callers' logs and proxies.
fn failed_calls(snapshot: &Snapshot, service: &Service) -> (u64, Option<Timestamp>) {
    let name = service.service_name();
    let (mut failed, mut first) = (0, None::<Timestamp>);
    let mut add = |count: u64, at: Option<Timestamp>| {
        failed += count;
        first = first.into_iter().chain(at).min();
    };
    for log in snapshot.derived::<Digest>().workloads.values() {
        for calls in log.calls.iter().filter(|c| c.service.as_ref() == Some(&name) && !c.ended(log)) {
            add(calls.count, calls.first);
        }
    }
    for edge in snapshot.traffic.iter().filter(|e| e.service.as_ref() == Some(&name)) {
        for outcome in edge.outcomes.iter().filter(|o| o.has_flag("UH") || o.has_flag("UF")) {
            add(outcome.count, outcome.first);
        }
    }
    (failed, first)
}

/// How many replicas it had, and when that ended: by its series, else by events of its scaling.
fn before(snapshot: &Snapshot, workload: &Workload) -> (Option<i64>, Option<Timestamp>) {
    let r = workload.reference();
    let named = |s: &&crate::model::series::Series| {
        s.label("namespace") == r.namespace
            && (s.label("deployment") == r.name || s.label("statefulset") == r.name)
    };
    let series = ["kube_deployment_spec_replicas", "kube_statefulset_replicas"]
        .into_iter()
        .find_map(|name| snapshot.series_named(name).find(named));
    if let Some(series) = series {
        let last = series.points.iter().rev().find(|(_, value)| *value > 0.0);
        let end = last
            .and_then(|(at, _)| series.points.iter().find(|(t, _)| t > at))
            .and_then(|(t, _)| time::from_unix(*t));
        if let Some((_, value)) = last {
            return (Some(*value as i64), end);
        }
    }
    let event = snapshot
        .events_about(r)
        .filter(|e| e.reason == "ScalingReplicaSet" && e.message.contains("to 0"))
        .last();
    let count = event.and_then(|e| e.message.rsplit_once("from ")?.1.split_whitespace().next()?.parse().ok());
    (count, event.and_then(|e| e.last))
}
