//! PLAT104.

use crate::model::json::json;
use regex::Regex;
use std::sync::LazyLock;

use super::scaling::{Autoscaler, autoscalers};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Condition;

crate::rule! {
    /// An autoscaler cannot work: it gets no metrics, or does not find what it scales.
    ///
    /// ## What it detects
    /// A HorizontalPodAutoscaler whose condition `ScalingActive` or `AbleToScale` is false, and why: containers without a request,
    /// a metrics API that does not answer, a target that does not exist.
    /// ## Why it matters
    /// Nothing fails by it alone; but under load no replica is added, and the service becomes slow just when it is used most.
    /// ## Evidence
    /// The autoscaler's conditions with their reasons.
    /// ## How to confirm
    /// `kubectl describe hpa NAME` shows the condition; `kubectl top pods` shows whether metrics are there.
    /// ## How to fix
    /// Give every container a request (injected sidecars too), bring the metrics API back, or correct `scaleTargetRef`.
    /// ## False positives
    /// `ScalingDisabled` (the target is at zero replicas), `BackoffBoth` and `BackoffDownscale` (it waits between two scalings), `ScalingLimited` with `TooFewReplicas` (it is at its lower end), and the
    /// first two minutes of new pods.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>
    AutoscalerCannotScale {
        code: "PLAT104", name: "autoscaler-cannot-scale", family: Platform, severity: Warning,
        needs: [Objects], aliases: ["K8S-HPA"],
    }
}

/// An autoscaler that cannot work.
#[derive(Debug)]
pub struct Fact<'a> {
    scaler: Autoscaler<'a>,
    condition: Condition,
    /// The container that lacks a request, and of what.
    request: Option<(String, String)>,
}

impl Check for AutoscalerCannotScale {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        autoscalers(snapshot)
            .filter_map(|scaler| {
                let bad = |kind: &str| {
                    scaler
                        .condition(kind)
                        .filter(|c| c.status == "False" && c.reason != "ScalingDisabled")
                        // Old versions say so while they wait between two scalings.
                        .filter(|c| !c.reason.starts_with("Backoff"))
                        .cloned()
                };
                // It says so of pods that are too young to have metrics, for a short while.
                const PATIENCE_SECONDS: f64 = 120.0;
                let condition = bad("AbleToScale").or_else(|| bad("ScalingActive"))?;
                if condition
                    .since
                    .is_some_and(|at| common::seconds_between(at, snapshot.now) < PATIENCE_SECONDS)
                {
                    return None;
                }
                let request = missing_request(&condition.message);
                Some(Fact { request, condition, scaler })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (scaler, condition) = (&fact.scaler, &fact.condition);
        let r = &scaler.object.reference;
        let target = &scaler.target;
        let container = fact.request.as_ref().and_then(|(name, _)| scaler.workload?.template.container(name));
        let (subject, why) = match (&fact.request, condition.kind.as_str()) {
            (Some((name, resource)), _) => {
                let path = scaler.workload.zip(container).map(|(w, c)| {
                    w.template_path(&format!("spec.{}.resources.requests.{resource}", c.path()))
                });
                (
                    path.map_or_else(|| r.clone(), |path| target.field(path)),
                    format!("container {name} of {target} has no request for {resource}"),
                )
            }
            (None, "AbleToScale") => {
                (r.field("spec.scaleTargetRef"), format!("it cannot scale {target} ({})", condition.reason))
            }
            (None, _) => (r.field("spec.metrics"), format!("it gets no metrics ({})", condition.reason)),
        };
        Finding::new(Self::META, subject.clone(), &[&r.name])
            .title(format!("{r} cannot scale: {why}"))
            .message(format!("{r} cannot work: {why}. {target} keeps its present number of replicas however much load there is."))
            .mechanism("autoscaler cannot scale: metrics or requests are missing")
            .severity(Severity::Warning)
            .role(Role::Context, Confidence::Observed)
            .service(scaler.services(snapshot).into_iter().next())
            .related(r.clone())
            .evidence(Evidence::object(r, format!("condition {} is False: {}", condition.kind, condition.reason)).excerpt(&condition.message).at(condition.since))
            .onset(condition.since)
            .maybe_remedy(add_request(fact))
            .remedy(Remedy::commands(
                match (&fact.request, condition.kind.as_str()) {
                    (Some(_), _) => "Give every container of the target a request, injected sidecars included",
                    (None, "AbleToScale") => "Correct scaleTargetRef, or bring its target back",
                    (None, _) => "Bring the metrics API back: the APIService v1beta1.metrics.k8s.io must be Available, and metrics-server must reach the kubelets",
                },
                vec![common::describe_command(r), "kubectl get apiservice v1beta1.metrics.k8s.io".to_owned()],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when an autoscaler is not active",
                format!("kube_horizontalpodautoscaler_status_condition{{namespace=\"{}\",horizontalpodautoscaler=\"{}\",condition=\"ScalingActive\",status=\"false\"}} == 1", r.namespace, r.name),
            ))
    }
}

/// `missing request for cpu in container app of Pod web-1`.
fn missing_request(message: &str) -> Option<(String, String)> {
    static SENTENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"missing request for (\S+) in container (\S+)").ok());
    let found = SENTENCE.as_ref()?.captures(message)?;
    Some((found.get(2)?.as_str().to_owned(), found.get(1)?.as_str().to_owned()))
}

/// A modest request for the container that has none.
fn add_request(fact: &Fact<'_>) -> Option<Remedy> {
    let (name, resource) = fact.request.as_ref()?;
    let workload = fact.scaler.workload?;
    let container = workload.template.container(name)?;
    let value = match (resource.as_str(), container.resource("limits", resource)) {
        ("cpu", Some(limit)) => common::cores(limit / 2.0),
        ("cpu", None) => "100m".to_owned(),
        ("memory", Some(limit)) => common::bytes(limit),
        ("memory", None) => "128Mi".to_owned(),
        _ => return None,
    };
    let base = workload.template_path(&format!("spec.{}", container.path()));
    let operation = if container.body.at("resources.requests").is_some() {
        common::operation("add", &format!("{base}.resources.requests.{resource}"), &json!(value))
    } else if container.body.at("resources").is_some() {
        common::operation("add", &format!("{base}.resources.requests"), &json!({ resource.as_str(): value }))
    } else {
        json!({"op": "add", "path": pointer(&format!("{base}.resources")), "value": {"requests": { resource.as_str(): value }}})
    };
    Remedy::patch(
        &workload.object,
        &json!([operation]),
        format!(
            "Request {value} {resource} for container {name}: replace it by what the container uses on average"
        ),
    )
}
