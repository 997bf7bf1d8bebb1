//! SVC103.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::analyze::rules::service::served;
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A Service sends connections to a port on which none of its pods listens.
    ///
    /// ## What it detects
    /// A port of a Service with a number as `targetPort` that no container behind it declares, where connections are refused:
    /// by the pods' proxies (`UF`, connection refused, on the inbound cluster of that port) or in callers' logs, while the
    /// pods are ready on another port.
    /// ## Why it matters
    /// The pods are ready and the endpoints are there, so that nothing looks wrong; still every connection is refused.
    /// ## Evidence
    /// The target port, the ports that containers declare and that probes call, and the refused connections.
    /// ## How to confirm
    /// `kubectl port-forward` to the pod on the declared port works; on the Service's target port it is refused.
    /// ## How to fix
    /// Set `targetPort` to the port that the pods serve.
    /// ## False positives
    /// Declaring a container port opens nothing: a target port that is merely undeclared is reported as information, and
    /// not at all where requests to it are answered.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#field-spec-ports>
    TargetPortNotServed {
        code: "SVC103", name: "target-port-not-served", family: Network, severity: Error,
        needs: [Objects], aliases: ["KIA0701"],
    }
}

/// A target port that is not declared.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
    target: i64,
    declared: BTreeSet<i64>,
    better: Option<(i64, &'static str)>,
    seen: Seen,
}

impl Check for TargetPortNotServed {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out = vec![];
        for service in &snapshot.services {
            // Clients of a headless Service connect to the pods themselves: its target port decides nothing.
            if service.kind == "ExternalName"
                || service.headless()
                || service.selector.is_empty()
                || !seen::wanted(snapshot, service.object.namespace())
            {
                continue;
            }
            let numbers = service.ports.iter().enumerate().filter_map(|(index, port)| match port.target {
                TargetPort::Number(target) if port.transport == "TCP" => Some((index, port, target)),
                _ => None,
            });
            let templates = served::templates(snapshot, service);
            let declared = served::declared(&templates);
            let host_network = templates.iter().any(|t| t.host_network);
            let odd: Vec<_> = numbers.filter(|(_, _, target)| !declared.contains(target)).collect();
            if templates.is_empty() || odd.is_empty() || host_network {
                continue;
            }
            let inbound = served::inbound(snapshot, service);
            for (index, port, target) in odd {
                let (answered, mut seen) = inbound.get(&target).cloned().unwrap_or_default();
                if answered > 0 || served::probed(&templates).contains(&target) {
                    continue;
                }
                let ready = snapshot.pods_behind(service).any(|pod| pod.ready());
                if !seen.any() && ready && answers_from_callers(snapshot, service, port) == 0 {
                    let errors =
                        refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
                    seen = seen::together(errors.get(&service.service_name()));
                }
                let better = served::served(service, index, port, target, &templates, &inbound);
                let certain = seen.any() && (ready || !snapshot.runs());
                // Without refused connections only what is declared speaks; without that either, nothing does.
                if !certain && declared.is_empty() {
                    continue;
                }
                if !certain {
                    seen = Seen::default();
                }
                out.push(Fact { service, index, port, target, declared: declared.clone(), better, seen });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let path = format!("spec.ports[{}].targetPort", fact.index);
        let declared = match fact.declared.len() {
            0 => "no port".to_owned(),
            _ => fact.declared.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let observed = fact.seen.any();
        let title = match (observed, fact.better) {
            (true, Some((better, _))) => {
                format!(
                    "{service} sends port {} to {}, where no pod listens; they serve {better}",
                    fact.port.number, fact.target
                )
            }
            (true, None) => {
                format!("{service} sends port {} to {}, where no pod listens", fact.port.number, fact.target)
            }
            (false, _) => {
                format!("{service} points at port {}; its containers declare {declared}", fact.target)
            }
        };
        let refused = if observed {
            format!("{} connections to it were refused", fact.seen.count)
        } else {
            "Declaring ports opens none, so this alone proves nothing".to_owned()
        };
        let finding = Finding::new(Self::META, service.field(&path), &[&fact.target.to_string()])
            .title(title)
            .message(format!(
                "targetPort {} of {service} is declared by no container behind it: they declare {declared}. {refused}.",
                fact.target
            ))
            .mechanism("wrong targetPort: connection refused, no container serves the port")
            .service(Some(name.clone()))
            .evidence(Evidence::object(&service.field(&path), format!("port {} goes to {}", fact.port.number, fact.target)))
            .evidence(Evidence::object(service, format!("the containers behind it declare {declared}")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .maybe_remedy(fact.better.and_then(|(better, why)| {
                Remedy::patch(
                    &fact.service.object,
                    &json!([{"op": if has_target(fact) { "replace" } else { "add" }, "path": pointer(&path), "value": better}]),
                    format!("Set targetPort of {service} to {better}: {why}"),
                )
            }))
            .prevention(Prevention::of("Test", "In the pipeline: every targetPort is a port that the selected containers declare"))
            .prevention(Prevention::alert(
                "Alert on connections that are refused",
                format!("sum by (destination_service) (rate(istio_requests_total{{response_flags=~\".*UF.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ));
        if observed {
            finding
                .severity(Severity::Error)
                .role(Role::Cause, Confidence::Observed)
                .effect(Effect::requests(&name, &["UF", "refused", "5xx"]))
        } else {
            finding.severity(Severity::Info).role(Role::Context, Confidence::Possible)
        }
    }
}

fn has_target(fact: &Fact<'_>) -> bool {
    fact.service.object.body.pointer(&pointer(&format!("spec.ports[{}].targetPort", fact.index))).is_some()
}

/// Requests to this port that callers' proxies saw answered.
fn answers_from_callers(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> u64 {
    let name = service.service_name();
    let edges = snapshot.traffic_to(&name, Reporter::Source).filter(|e| e.cluster.port == Some(port.number));
    edges
        .flat_map(|e| &e.outcomes)
        .filter(|o| o.code < 500 && o.details == "via_upstream")
        .map(|o| o.count)
        .sum()
}
