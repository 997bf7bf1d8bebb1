//! PLAT105.

use crate::model::json::json;

use super::scaling::{Autoscaler, autoscalers};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An autoscaler is at its maximum and its pods are busier than it wants them to be.
    ///
    /// ## What it detects
    /// A HorizontalPodAutoscaler with as many replicas as `maxReplicas` allows, whose condition `ScalingLimited` is true with
    /// `TooManyReplicas`, while the measured use lies more than a tenth above its target.
    /// ## Why it matters
    /// More load cannot be spread over more pods: answers become slow, queues grow, timeouts follow.
    /// ## Evidence
    /// Current and maximal replicas, current use against the target, the condition.
    /// ## How to confirm
    /// `kubectl get hpa NAME` shows TARGETS above the wanted value and REPLICAS equal to MAXPODS.
    /// ## How to fix
    /// Raise `maxReplicas` (and see that the cluster and what the pods call can take it), or give each pod more.
    /// ## False positives
    /// An autoscaler at its maximum whose pods are not busy, and one at its minimum (`TooFewReplicas`), which is normal.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>
    AutoscalerAtMax {
        code: "PLAT105", name: "autoscaler-at-max", family: Platform, severity: Warning,
        needs: [Objects], aliases: ["K8S-HPA"],
    }
}

/// An autoscaler at its end.
#[derive(Debug)]
pub struct Fact<'a> {
    scaler: Autoscaler<'a>,
    now: i64,
    wanted: i64,
}

/// From this much above the target on it would scale, if it could: Kubernetes tolerates a tenth.
const TOLERANCE: f64 = 1.1;

impl Check for AutoscalerAtMax {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        autoscalers(snapshot)
            .filter_map(|scaler| {
                let limited = scaler
                    .condition("ScalingLimited")
                    .is_some_and(|c| c.status == "True" && c.reason == "TooManyReplicas");
                let full = scaler.max > 0 && scaler.current.is_some_and(|n| n >= scaler.max);
                let (now, wanted) = scaler.utilization()?;
                (limited && full && now as f64 > wanted as f64 * TOLERANCE).then_some(Fact {
                    scaler,
                    now,
                    wanted,
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (scaler, now, wanted) = (&fact.scaler, fact.now, fact.wanted);
        let r = &scaler.object.reference;
        let services = scaler.services(snapshot);
        let since = scaler.condition("ScalingLimited").and_then(|c| c.since);
        let needed = (scaler.max as f64 * now as f64 / wanted.max(1) as f64).ceil() as i64;
        let subject = r.field("spec.maxReplicas");
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{r} is at its maximum of {} replicas, and they are at {now} % of {wanted} %", scaler.max))
            .message(format!(
                "{r} has scaled {} to maxReplicas {} and its pods use {now} % where it wants {wanted} %: it would need {needed} of them and is not allowed to add any.",
                scaler.target, scaler.max
            ))
            .mechanism("autoscaler at its maximum: maxReplicas is too low for the load")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .related(scaler.target.field("spec.replicas"))
            .evidence(Evidence::object(&subject, format!("{} of {} replicas; use {now} %, target {wanted} %", scaler.current.unwrap_or(0), scaler.max)).at(since))
            .onset(since)
            .effects(services.iter().map(|s| Effect::requests(s, &["slow", "UT", "UO", "timeout"])))
            .maybe_remedy(Remedy::patch(
                scaler.object,
                &json!([{"op": "replace", "path": "/spec/maxReplicas", "value": needed}]),
                format!("Raise maxReplicas from {} to {needed}: at the present load each pod is then at its target", scaler.max),
            ))
            .remedy(Remedy::manual("Or give each pod more CPU, or find out why the load has grown"))
            .prevention(Prevention::alert(
                "Alert when an autoscaler has reached its maximum",
                format!("kube_horizontalpodautoscaler_status_current_replicas{{namespace=\"{ns}\",horizontalpodautoscaler=\"{name}\"}} >= kube_horizontalpodautoscaler_spec_max_replicas{{namespace=\"{ns}\",horizontalpodautoscaler=\"{name}\"}}", ns = r.namespace, name = r.name),
            ))
            .prevention(Prevention::of("Test", format!("A load test at twice today's peak against {}", common::plural(scaler.max.max(0) as usize, "replica"))))
    }
}
