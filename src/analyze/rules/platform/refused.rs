//! Pods that the API server refused to make: there is no pod to look at, only what its maker was told.

use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::rule::Meta;
use crate::analyze::rules::pods::common;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// What a pipeline would have seen before: admission looks at pods, and the template of a Deployment passes it unread.
pub(crate) const TRY_AS_POD: &str = "In the pipeline, apply the template as a bare Pod with --dry-run=server in its namespace: a Deployment alone is not checked";

/// The expression of an alert for workloads of a namespace that lack pods which nobody makes.
pub(crate) fn without_pods(owner: &ObjectRef) -> String {
    format!(
        "kube_replicaset_spec_replicas{{namespace=\"{0}\"}} - on(namespace, replicaset) kube_replicaset_status_replicas{{namespace=\"{0}\"}} > 0",
        owner.namespace
    )
}

/// A workload whose pods are refused, with one of the reasons that it was given.
#[derive(Debug)]
pub(crate) struct Refused<'a> {
    /// The workload at the top.
    pub owner: ObjectRef,
    /// The same with its template, where it was seen.
    pub workload: Option<&'a Workload>,
    /// What it was told.
    pub message: &'a str,
    /// Pods that are missing; 0 where nobody says.
    pub missing: i64,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Where it was said.
    pub evidence: Evidence,
}

impl Refused<'_> {
    /// The Services in front of the workload.
    pub(crate) fn services(&self, snapshot: &Snapshot) -> Vec<ServiceName> {
        let before = self.workload.into_iter().flat_map(|w| snapshot.services_before(w));
        before.map(|service| service.service_name()).collect()
    }

    /// Pods of the workload that are ready all the same.
    pub(crate) fn ready(&self) -> i64 {
        self.workload.and_then(|w| w.status_count("readyReplicas")).unwrap_or(0)
    }

    /// `2 pods of Deployment shop/checkout are missing`.
    pub(crate) fn lacks(&self) -> String {
        if self.missing > 0 {
            let verb = if self.missing == 1 { "is" } else { "are" };
            format!("{} of {} {verb} missing", common::plural(self.missing as usize, "pod"), self.owner)
        } else {
            format!("pods of {} are missing", self.owner)
        }
    }

    /// Whether anything of it still serves, as a sentence.
    pub(crate) fn serves(&self) -> &'static str {
        if self.ready() == 0 { "No pod of it serves." } else { "The pods that it has still serve." }
    }

    /// A finding about the refusal, with what all such findings have: severity, role, evidence, onset and effects.
    pub(crate) fn finding(
        &self,
        meta: &'static Meta,
        subject: ObjectRef,
        parameters: &[&str],
        snapshot: &Snapshot,
    ) -> Finding {
        let (ready, services) = (self.ready(), self.services(snapshot));
        Finding::new(meta, subject, parameters)
            .severity(if ready == 0 { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .evidence(self.evidence.clone())
            .onset(self.since)
            .effect(Effect::pods(&self.owner))
            .effects(services.iter().filter(|_| ready == 0).map(|s| Effect::requests(s, common::DOWN)))
    }
}

/// All makers of pods in wanted namespaces that are refused now: `FailedCreate` events of those that still lack pods, and
/// the condition `ReplicaFailure`.
pub(crate) fn refused(snapshot: &Snapshot) -> Vec<Refused<'_>> {
    let by_name = common::workloads_by_name(snapshot);
    let mut out: BTreeMap<(ObjectRef, &str), Refused<'_>> = BTreeMap::new();
    let top = |reference: &ObjectRef| {
        let own = by_name
            .get(&(reference.kind.clone(), reference.namespace.clone(), reference.name.clone()))
            .copied();
        let above = own.and_then(|w| w.object.owners.first());
        let owner = above
            .cloned()
            .unwrap_or_else(|| own.map_or_else(|| reference.clone(), |w| w.reference().clone()));
        let workload =
            by_name.get(&(owner.kind.clone(), owner.namespace.clone(), owner.name.clone())).copied();
        (own, workload.map_or(owner, |w| w.reference().clone()), workload)
    };
    for event in
        snapshot.events.iter().filter(|e| e.reason == "FailedCreate" && snapshot.in_scope(&e.about.namespace))
    {
        let (own, owner, workload) = top(&event.about);
        // An event is about the past as soon as its maker has all of its pods.
        let missing = own.map(lacking);
        if missing == Some(0) || !common::recent(snapshot, event.last) {
            continue;
        }
        let entry = out.entry((owner.clone(), event.message.as_str()));
        let fact = entry.or_insert_with(|| Refused {
            owner,
            workload,
            message: &event.message,
            missing: missing.unwrap_or(0),
            since: event.first,
            evidence: common::event_evidence(event),
        });
        fact.since = fact.since.into_iter().chain(event.first).min();
    }
    for workload in snapshot.workloads.iter().filter(|w| snapshot.in_scope(w.object.namespace())) {
        let Some(condition) = workload.condition("ReplicaFailure").filter(|c| c.status == "True") else {
            continue;
        };
        let (_, owner, above) = top(workload.reference());
        if out.keys().any(|(known, _)| known.same_object(&owner)) || lacking(workload) == 0 {
            continue;
        }
        let evidence =
            Evidence::object(workload.reference(), format!("condition ReplicaFailure: {}", condition.reason))
                .excerpt(&condition.message)
                .at(condition.since);
        out.insert(
            (owner.clone(), condition.message.as_str()),
            Refused {
                owner,
                workload: above,
                message: &condition.message,
                missing: lacking(workload),
                since: condition.since,
                evidence,
            },
        );
    }
    out.into_values().collect()
}

/// Pods that a workload lacks, as its own status tells: 1 where it has none to tell.
fn lacking(workload: &Workload) -> i64 {
    let Some(wanted) = workload.replicas.or_else(|| workload.status_count("desiredNumberScheduled")) else {
        return 1;
    };
    let field = if workload.reference().kind == "DaemonSet" { "currentNumberScheduled" } else { "replicas" };
    workload.status_count(field).map_or(1, |have| (wanted - have).max(0))
}
