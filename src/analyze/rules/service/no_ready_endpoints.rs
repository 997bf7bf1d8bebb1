//! SVC102.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::fields::Fields;
use crate::model::network::Service;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use std::collections::BTreeSet;

crate::rule! {
    /// A Service has pods, and none of them is ready.
    ///
    /// ## What it detects
    /// A Service whose selector matches pods of which not one is ready, so that it has no endpoint that takes traffic; and a
    /// Service whose workload has no pod at all while callers fail because of it.
    /// ## Why it matters
    /// Every request to the Service fails: `503 UH no_healthy_upstream` with a mesh, a refused connection without.
    /// ## Evidence
    /// Readiness of the pods, the addresses of the EndpointSlices, failed calls of clients.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=NAME -o yaml`: every endpoint has `ready: false`.
    /// ## How to fix
    /// Find out why the pods are not ready: this finding shows the effect, the findings about the pods show the cause.
    /// ## False positives
    /// Pods that have only just been started; a Service with `publishNotReadyAddresses` takes them and is not looked at.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#services-without-selectors>
    NoReadyEndpoints {
        code: "SVC102", name: "no-ready-endpoints", family: Network, severity: Error,
        needs: [Objects, Status], aliases: [],
    }
}

/// A Service without a ready pod.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    owners: BTreeSet<ObjectRef>,
    pods: usize,
    /// Since when none is ready, as far as conditions say.
    since: Option<Timestamp>,
    seen: Seen,
}

/// Pods that have not been ready for this long are no longer "only just started".
const STARTING_SECONDS: i64 = 60;

impl Check for NoReadyEndpoints {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out = vec![];
        for service in &snapshot.services {
            let lax = service.object.body.flag("spec.publishNotReadyAddresses");
            if !service.has_selector() || lax || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let pods: Vec<_> = snapshot.pods_behind(service).filter(|pod| pod.has_status()).collect();
            if pods.iter().any(|pod| pod.ready()) {
                continue;
            }
            let name = service.service_name();
            let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
            let seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |_, o| o.has_flag("UH"))
                .and(seen::together(errors.get(&name)));
            let owners: BTreeSet<ObjectRef> = if pods.is_empty() {
                snapshot.workloads_behind(service).map(|w| w.reference().clone()).collect()
            } else {
                pods.iter().map(|pod| snapshot.owner(pod)).collect()
            };
            // Scaled to zero on purpose hurts only who calls; a selector that matches nothing is another rule's.
            if pods.is_empty() && (owners.is_empty() || !seen.any()) {
                continue;
            }
            let conditions = pods.iter().filter_map(|pod| pod.condition("Ready")?.since);
            let since = conditions.max();
            out.push(Fact { service, owners, pods: pods.len(), since, seen });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let owners = fact.owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let starting =
            fact.since.is_some_and(|since| snapshot.now.as_second() - since.as_second() < STARTING_SECONDS);
        let severity = if starting && !fact.seen.any() { Severity::Warning } else { Severity::Error };
        let (title, what) = match fact.pods {
            0 => (
                format!("{} has no endpoint: {owners} has no pod", fact.service.reference()),
                "no pod behind it".to_owned(),
            ),
            pods => (
                format!(
                    "{} has no ready endpoint: 0 of {pods} pods of {owners} are ready",
                    fact.service.reference()
                ),
                format!("0 of {pods} pods ready"),
            ),
        };
        let look = format!(
            "kubectl {}get endpointslices -l kubernetes.io/service-name={} -o wide",
            crate::analyze::remedy::scope(fact.service.reference()),
            quote(&name.name)
        );
        Finding::new(Self::META, fact.service.reference().field("spec.selector"), &[])
            .title(title)
            .message(format!(
                "{} selects pods of {owners}: {what}. Without a ready endpoint every request to it fails. Why the pods are not ready is the question to ask next.",
                fact.service.reference()
            ))
            .mechanism("no ready endpoints: no healthy upstream")
            .severity(severity)
            .role(Role::Symptom, Confidence::Observed)
            .service(Some(name.clone()))
            .evidence(Evidence::object(fact.service.reference(), what.clone()).at(fact.since))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset.or(fact.since))
            .effect(Effect::requests(&name, &["UH", "refused", "5xx"]))
            .effects(fact.owners.iter().filter(|_| fact.pods > 0).map(Effect::pods))
            .remedy(Remedy::commands("Look at the endpoints, then at why the pods are not ready", vec![look], vec![]))
            .prevention(Prevention::alert(
                "Alert when a Service has no ready endpoint",
                format!(
                    "sum by (namespace, endpointslice) (kube_endpointslice_endpoints{{namespace=\"{}\",endpointslice=~\"{}-.*\",ready=\"true\"}}) == 0",
                    name.namespace, name.name
                ),
            ))
    }
}
