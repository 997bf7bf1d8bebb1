//! PLAT113.

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::pods::common;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Condition, conditions};

crate::rule! {
    /// A part of the Kubernetes API that another server answers for is down.
    ///
    /// ## What it detects
    /// An `APIService` whose condition `Available` is false for more than a minute, such as the metrics API, and the autoscalers that
    /// need it.
    /// ## Why it matters
    /// Autoscalers that read metrics from it stand still, `kubectl top` fails, and no namespace can be deleted while it is down.
    /// ## Evidence
    /// The condition with its reason, and the Service that should answer.
    /// ## How to confirm
    /// `kubectl get apiservices` shows `False` with the reason.
    /// ## How to fix
    /// Bring back the pods behind its Service, or delete the APIService if what it belonged to is gone.
    /// ## False positives
    /// Parts of the API that the API server answers for itself have no Service and are always available.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/extend-kubernetes/api-extension/apiserver-aggregation/>
    ApiServiceDown {
        code: "PLAT113", name: "api-service-unavailable", family: Platform, severity: Warning,
        needs: [Objects], aliases: ["K8S-APISERVICE"],
    }
}

/// A part of the API that does not answer.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    condition: Condition,
    /// Autoscalers of wanted namespaces that need it.
    scalers: Vec<&'a Object>,
}

/// A restart of the server behind it takes so long.
const PATIENCE_SECONDS: f64 = 60.0;

impl Check for ApiServiceDown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for object in snapshot.objects_of("APIService") {
            let all = conditions(object.body.list("status.conditions"));
            let Some(condition) = all.into_iter().find(|c| c.kind == "Available" && c.status == "False")
            else {
                continue;
            };
            let lasts =
                condition.since.is_none_or(|at| common::seconds_between(at, snapshot.now) > PATIENCE_SECONDS);
            if !lasts {
                continue;
            }
            let kinds: &[&str] = match object.body.text("spec.group").unwrap_or_default() {
                "metrics.k8s.io" => &["Resource", "ContainerResource"],
                "custom.metrics.k8s.io" => &["Pods", "Object"],
                "external.metrics.k8s.io" => &["External"],
                _ => &[],
            };
            let needs = |scaler: &&Object| {
                let by_cpu = scaler.body.at("spec.targetCPUUtilizationPercentage").is_some()
                    && kinds.contains(&"Resource");
                let metrics = scaler.body.list("spec.metrics").iter();
                snapshot.in_scope(scaler.namespace())
                    && (by_cpu || metrics.filter_map(|m| m.text("type")).any(|kind| kinds.contains(&kind)))
            };
            let scalers = snapshot.objects_of("HorizontalPodAutoscaler").filter(needs).collect();
            out.push(Fact { object, condition, scalers });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (r, c) = (&fact.object.reference, &fact.condition);
        let (namespace, name) =
            (fact.object.body.string("spec.service.namespace"), fact.object.body.string("spec.service.name"));
        let scalers: Vec<String> = fact.scalers.iter().take(3).map(|o| o.reference.to_string()).collect();
        let hurts = if scalers.is_empty() {
            "Nothing in the namespaces that were looked at needs it.".to_owned()
        } else {
            format!(
                "{} get no metrics from it and keep their number of replicas however much load there is.",
                scalers.join(", ")
            )
        };
        let finding = Finding::new(Self::META, r.field("spec.service"), &[])
            .title(format!("{r} is not available ({})", c.reason))
            .message(format!("The API server cannot reach {}, for which Service {namespace}/{name} should answer ({}). {hurts}", r.name, c.reason))
            .mechanism("aggregated API is down")
            .severity(if scalers.is_empty() { Severity::Info } else { Severity::Warning })
            .role(Role::Context, Confidence::Observed)
            .evidence(Evidence::object(&r.field("status.conditions[Available]"), format!("{}: {}", c.status, c.reason)).excerpt(&c.message).at(c.since))
            .onset(c.since);
        let target = crate::model::network::ServiceName::new(&namespace, &name);
        let stopped = snapshot
            .service(&target)
            .and_then(|s| snapshot.workloads_behind(s).find(|w| w.replicas == Some(0)));
        finding
            .maybe_remedy(stopped.map(|w| {
                let owner = w.reference();
                Remedy::scale(
                    owner,
                    0,
                    1,
                    format!("Scale {owner} up: it answers for this part of the API and has 0 replicas"),
                )
            }))
            .remedy(Remedy::commands(
                format!("Bring back the pods behind Service {namespace}/{name}"),
                vec![
                    common::describe_command(r),
                    format!(
                        "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
                        quote(&namespace),
                        quote(&name)
                    ),
                ],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert when a part of the API is down",
                format!("aggregator_unavailable_apiservice{{name=\"{}\"}} == 1", r.name),
            ))
    }
}
