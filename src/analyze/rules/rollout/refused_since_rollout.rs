//! ROLLOUT107.

use jiff::Timestamp;

use super::failures_since_rollout::newest;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, Calls};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::pods::probe::Probe;
use crate::model::change::Change;
use crate::model::json::json;
use crate::model::network::{Service, ServicePort};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, Pod, Workload};

crate::rule! {
    /// Callers are refused since a rollout, although the new pods count as ready.
    ///
    /// ## What it detects
    /// A rollout in the time that is looked at, ready pods of its revision behind a Service, and callers without a proxy of their own
    /// whose connections to that Service are refused for longer after those pods became ready than addresses take to spread, where
    /// none was before the rollout.
    /// ## Why it matters
    /// The container does not listen on the port, or not yet. Without a readiness probe a pod counts as ready as soon as it runs, so
    /// that requests go to it before it can take them, in every rollout and after every restart.
    /// ## Evidence
    /// The connections that were refused, since when the pods are ready, whether the container has a readiness probe, and what
    /// the rollout changed.
    /// ## How to confirm
    /// `kubectl exec` into a pod and look for the port among its listeners: `ss -ltn`.
    /// ## How to fix
    /// A readiness probe on the port that is called; where the new revision never listens, go back to the one before.
    /// ## False positives
    /// Connections that are refused while no pod is ready are those of a Service without endpoints, and not meant. Where ready pods of
    /// several workloads are behind the Service, none is blamed. A Service whose `targetPort` no longer fits is another matter, and so
    /// is a caller that asks for another port.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>
    RefusedSinceRollout {
        code: "ROLLOUT107", name: "refused-since-rollout", family: Workload, severity: Error,
        needs: [Status, Logs], aliases: [],
    }
}

/// Addresses of new pods have spread to every node after this many seconds; until then old ones are called, and refuse.
const SPREADS: i64 = 5;

/// Times of objects are written in whole seconds, and a ReplicaSet is made a moment after the pods before it have gone.
const WRITTEN: i64 = 2;

/// A rollout since which callers are refused.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    rollout: &'a Change,
    service: &'a Service,
    port: &'a ServicePort,
    /// The number on which the pod is called for it.
    number: i64,
    /// The container that is called, and whether it has a readiness probe.
    container: &'a Container,
    probed: bool,
    /// The latest pod of the new revision to become ready, and when.
    pod: &'a Pod,
    ready: Timestamp,
    refused: Vec<Calls>,
}

impl Check for RefusedSinceRollout {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        newest(snapshot).into_iter().filter_map(|rollout| refusing(snapshot, rollout)).collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let owner = fact.workload.reference();
        let (at, what) = (common::clock(fact.rollout.time), common::differences(fact.rollout));
        let service = fact.service.service_name();
        let (name, number) = (&fact.container.name, fact.port.number);
        let first = fact.refused.iter().filter_map(|calls| calls.first).min();
        let count: u64 = fact.refused.iter().map(|calls| calls.count).sum();
        let field = fact.workload.template_path(&format!("spec.{}.readinessProbe", fact.container.path()));
        let subject = owner.field(field.clone());
        let refused = format!("{count} connections to port {number} of Service {service}");
        let probe = if fact.probed {
            format!("the readiness probe of container {name} does not ask on the port that is called")
        } else {
            format!("container {name} has no readiness probe, so a pod counts as ready as soon as it runs")
        };
        let finding = Finding::new(Self::META, subject.clone(), &[&at])
            .title(format!("{owner} refuses connections since its rollout of {at}, though its pods are ready"))
            .message(format!(
                "The rollout of {at} changed {what}. {refused} were refused since then, and none before; {} is ready since {}. It does not listen on the port, or not yet: {probe}.",
                fact.pod.object.reference,
                common::clock(fact.ready)
            ))
            .mechanism("rollout: ready pods that do not listen (yet), no readiness probe on the port: connection refused")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(service.clone()))
            .evidence(Evidence::object(&subject, if fact.probed { "asks elsewhere" } else { "absent" }))
            .evidence(
                Evidence::object(&fact.pod.object.reference.field("status.conditions"), "ready").at(Some(fact.ready)),
            )
            .remedy(Remedy::undo_rollout(owner, format!("Go back to the revision before {at} ({what})")))
            .maybe_remedy((!fact.probed).then(|| add_probe(fact, &field)).flatten())
            .effect(Effect::requests(&service, &["refused", "UF", "5xx"]))
            .prevention(Prevention::of(
                "Setting",
                "A readiness probe on the port that is called for every container behind a Service, and minReadySeconds for what warms up",
            ))
            .prevention(Prevention::of("Test", "In the pipeline: a workload behind a Service has a readiness probe"));
        let told = fact
            .refused
            .iter()
            .fold(finding, |finding, calls| calls.told(finding, None, &["refused", "UF", "5xx"], &["5xx"]));
        told.onset(first)
    }
}

/// What refuses since a rollout, where something does.
fn refusing<'a>(snapshot: &'a Snapshot, rollout: &'a Change) -> Option<Fact<'a>> {
    let workload = snapshot.workload(&rollout.subject)?;
    let since = |at: Timestamp| at.as_second() + WRITTEN >= rollout.time.as_second();
    let made = |pod: &Pod| pod.object.created.is_some_and(since);
    let became = |pod: &'a Pod| Some((pod, pod.condition("Ready")?.since?));
    let fresh = snapshot.pods_of(&rollout.subject).filter(|pod| pod.ready() && made(pod));
    let (pod, ready) = fresh.filter_map(became).max_by_key(|(_, since)| *since)?;
    // A proxy beside the application answers in its place, and says itself why it cannot reach it.
    if snapshot.has_istio_proxy(pod) {
        return None;
    }
    let failing = calls::failing(snapshot);
    snapshot.services_before(workload).find_map(|service| {
        let name = service.service_name();
        let own = |calls: &&Calls| calls.service() == Some(&name);
        let lasts = |calls: &Calls| calls.last.is_some_and(|at| at.as_second() > ready.as_second() + SPREADS);
        let refused: Vec<Calls> = failing
            .all
            .iter()
            .filter(own)
            .filter(|calls| calls.kind() == Some(Kind::Refused) && !proxied(snapshot, &calls.caller))
            .filter(|calls| calls.severity() >= Severity::Warning && calls.first.is_some_and(since))
            .cloned()
            .collect();
        let other = |pod: &Pod| pod.ready() && !snapshot.owner(pod).same_object(&rollout.subject);
        // Where others are behind the Service as well, which of them refuses is not seen.
        if !refused.iter().any(lasts) || snapshot.pods_behind(service).any(other) {
            return None;
        }
        // Where pods say on which port they are called, the container is that one; of several without a word the first.
        let [port] = service.ports.as_slice() else { return None };
        let number = service.pod_port(port, pod)?;
        let serving = || workload.template.containers.iter().filter(|c| common::serves(c));
        let container = serving().find(|c| c.ports.iter().any(|p| p.number == number));
        let container = container.or_else(|| serving().next())?;
        let probe = Probe::read(container, "readinessProbe");
        // What asks on this very port and is content was right when it asked.
        if probe.as_ref().is_some_and(|probe| probe.number == Some(number)) {
            return None;
        }
        Some(Fact {
            workload,
            rollout,
            service,
            port,
            number,
            container,
            probed: probe.is_some(),
            pod,
            ready,
            refused,
        })
    })
}

/// Whether a caller's connections go through a proxy, which then says what it met.
fn proxied(snapshot: &Snapshot, caller: &ObjectRef) -> bool {
    snapshot.pods_of(caller).any(|pod| snapshot.has_istio_proxy(pod))
}

/// A probe that asks for a connection alone, which says nothing of what the application speaks.
fn add_probe(fact: &Fact<'_>, field: &str) -> Option<Remedy> {
    let probe = json!({"tcpSocket": {"port": fact.number}, "periodSeconds": 5});
    let operation = json!([{"op": "add", "path": pointer(field), "value": probe}]);
    let summary = format!("Give container {} a readiness probe on port {}", fact.container.name, fact.number);
    Remedy::patch(&fact.workload.object, &operation, summary)
}
