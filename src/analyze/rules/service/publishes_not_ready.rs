//! SVC112.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A Service sends requests to pods that are not ready.
    ///
    /// ## What it detects
    /// A Service with an address of its own and `publishNotReadyAddresses: true` of which pods are not ready.
    /// ## Why it matters
    /// Readiness keeps no pod out of such a Service: its share of the requests goes to pods that have said they cannot take any.
    /// ## Evidence
    /// The Service's field, and its pods that are not ready.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=NAME -o yaml` lists the pod's address as ready.
    /// ## How to fix
    /// Take the field out of the Service; where peers must find each other before they are ready, give them a headless Service of their
    /// own.
    /// ## False positives
    /// Headless Services have the field so that peers find each other, and are not reported; nor is one of which all pods are ready.
    /// ## References
    /// <https://kubernetes.io/docs/reference/kubernetes-api/service-resources/service-v1/#ServiceSpec>
    PublishesNotReady {
        code: "SVC112", name: "publishes-not-ready-pods", family: Network, severity: Warning,
        needs: [Status], aliases: ["SVC-HEADLESS"],
    }
}

/// A Service with pods that are not ready among its endpoints.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    unready: Vec<&'a Pod>,
    all: usize,
}

impl Check for PublishesNotReady {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let lax = |s: &&Service| {
            s.object.body.flag("spec.publishNotReadyAddresses")
                && !s.headless()
                && seen::wanted(snapshot, s.object.namespace())
        };
        let mut out = vec![];
        for service in snapshot.services.iter().filter(lax) {
            let placed = |pod: &&Pod| pod.has_status() && !pod.ips.is_empty() && pod.object.deleted.is_none();
            let pods: Vec<&Pod> = snapshot.pods_behind(service).filter(placed).collect();
            let unready: Vec<&Pod> = pods.iter().copied().filter(|pod| !pod.ready()).collect();
            if !unready.is_empty() {
                out.push(Fact { service, unready, all: pods.len() });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.service.reference().field("spec.publishNotReadyAddresses");
        let share = common::plural_of(fact.unready.len(), fact.all, "pod");
        let since = fact.unready.iter().filter_map(|p| p.condition("Ready")?.since).min();
        let owner: Option<ObjectRef> = fact.unready.first().map(|pod| snapshot.owner(pod));
        let mut finding = Finding::new(Self::META, subject.clone(), &[])
            .title(format!("Service {name} sends requests to {share} that are not ready"))
            .message(format!("Service {name} has publishNotReadyAddresses, and {share} behind it are not ready: their share of the requests goes to them all the same."))
            .mechanism("publishNotReadyAddresses: requests go to pods that are not ready")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, "true"))
            .evidences(fact.unready.iter().take(3).map(|pod| Evidence::object(&pod.object.reference, "not ready").at(since)))
            .onset(since)
            .effect(Effect::requests(&name, &["refused", "UF", "5xx", "reset", "timeout"]))
            .maybe_remedy(Remedy::patch(
                &fact.service.object,
                &json!([{"op": "replace", "path": "/spec/publishNotReadyAddresses", "value": false}]),
                "Let readiness decide again who gets requests",
            ))
            .prevention(Prevention::of("Policy", "publishNotReadyAddresses only on headless Services, for peers that must find each other"));
        if let Some(owner) = owner {
            finding = finding.related(owner);
        }
        finding
    }
}
