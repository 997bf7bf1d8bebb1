//! ISTIO163.

use crate::model::json::json;

use super::support::since;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{Seen, outcomes};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// A Sidecar hands requests to another port of the application than the one it serves them on.
    ///
    /// ## What it detects
    /// An `ingress` listener of a Sidecar whose `defaultEndpoint` names a port that the application's containers do not declare, where
    /// the Service leads to a port that they do, and requests that were handed there failed.
    /// ## Why it matters
    /// The proxy takes the requests and hands them to nobody (503), or to something else in the pod that does not know them (404). The
    /// pod is ready all the while: probes go their own way.
    /// ## Evidence
    /// The Sidecar's listener, the containers' ports, and the address that the pods' proxies called in their access logs.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --direction inbound` shows the address.
    /// ## How to fix
    /// Let `defaultEndpoint` name the port that the application serves.
    /// ## False positives
    /// An application that serves a port it does not declare: as long as requests succeed there, this is silent.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/sidecar/#IstioIngressListener>
    SidecarHandsToNobody {
        code: "ISTIO163", name: "sidecar-hands-to-nobody", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// Fewer failures than this say nothing.
const ENOUGH: u64 = 5;

/// A listener that hands on to the wrong port.
#[derive(Debug)]
pub struct Fact<'a> {
    sidecar: &'a Policy,
    /// The listener's index.
    index: usize,
    /// The port that it takes, and the address that it hands to.
    port: i64,
    endpoint: &'a str,
    service: &'a Service,
    seen: Seen,
    requests: u64,
}

impl Check for SidecarHandsToNobody {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let root = snapshot.istio.root_namespace.as_str();
        let mut out: Vec<Fact<'a>> = vec![];
        for sidecar in &snapshot.istio.sidecars {
            for (index, listener) in sidecar.object.body.list("spec.ingress").iter().enumerate() {
                let (Some(port), Some(endpoint)) =
                    (listener.int("port.number"), listener.text("defaultEndpoint"))
                else {
                    continue;
                };
                let Some(to) = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse::<i64>().ok())
                else {
                    continue;
                };
                for service in snapshot.services.iter().filter(|s| snapshot.in_scope(s.object.namespace())) {
                    let own = |w: &&crate::model::workload::Workload| {
                        sidecar.applies_to(w.object.namespace(), &w.template.labels, root)
                            && service.ports.iter().any(|p| p.on(&w.template) == Some(port))
                            && declares(&w.template, port)
                            && !declares(&w.template, to)
                    };
                    if to == port || !snapshot.workloads_behind(service).any(|w| own(&w)) {
                        continue;
                    }
                    let name = service.service_name();
                    let edges = || inbound(snapshot, &name);
                    let seen = outcomes(edges(), |_, outcome| failed_at(outcome, to));
                    let requests: u64 = edges().map(|edge| edge.requests).sum();
                    let through = edges()
                        .flat_map(|edge| &edge.outcomes)
                        .any(|o| at(o, to) && o.code > 0 && o.code < 400);
                    if seen.count >= ENOUGH && !through {
                        out.push(Fact { sidecar, index, port, endpoint, service, seen, requests });
                    }
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.sidecar.object;
        let field = format!("spec.ingress[{}].defaultEndpoint", fact.index);
        let subject = object.reference.field(&field);
        let name = fact.service.service_name();
        let endpoint = text::plain(fact.endpoint, 60);
        Finding::new(Self::META, subject.clone(), &[&name.name])
            .title(format!("{} hands requests for port {} of {name} to {endpoint}, where it is not served", object.reference, fact.port))
            .message(format!(
                "The listener for port {} has the defaultEndpoint {endpoint}. The application behind Service {name} declares port {} and not that one: {} failed{}.",
                fact.port,
                fact.port,
                text::share(fact.seen.count, fact.requests.max(fact.seen.count), "requests"),
                since(fact.seen.onset)
            ))
            .mechanism("Sidecar ingress: defaultEndpoint names a port that the application does not serve")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, format!("port {} → {endpoint}", fact.port)))
            .evidences(fact.seen.evidence.clone())
            .effect(Effect::requests(&name, &["UF", "refused", "404", "4xx", "5xx", "URX"]))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "replace", "path": pointer(&field), "value": format!("127.0.0.1:{}", fact.port)}]),
                format!("Let defaultEndpoint of {} name port {}, which the application serves", object.reference, fact.port),
            ))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "remove", "path": pointer(&format!("spec.ingress[{}].defaultEndpoint", fact.index))}]),
                "Take defaultEndpoint away: requests go to the port that they came for",
            ))
            .prevention(Prevention::of("Test", "After each change of a Sidecar with ingress listeners: one request to the Service from another pod"))
            .prevention(Prevention::alert(
                "Alert when a pod's own proxy cannot reach its application",
                format!("sum by (destination_workload) (rate(istio_requests_total{{reporter=\"destination\",response_code=~\"404|503\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
    }
}

/// Whether an application's container declares a port.
fn declares(template: &crate::model::workload::PodTemplate, port: i64) -> bool {
    template.application_containers().any(|container| container.ports.iter().any(|own| own.number == port))
}

/// What the proxies of a Service's pods say.
fn inbound<'a>(snapshot: &'a Snapshot, service: &'a ServiceName) -> impl Iterator<Item = &'a EdgeTraffic> {
    snapshot.traffic_to(service, Reporter::Destination)
}

/// Whether a request was handed to a port of the pod itself.
fn at(outcome: &Outcome, port: i64) -> bool {
    let end = format!(":{port}");
    outcome.upstreams.keys().any(|address| address.ends_with(&end))
}

/// Whether it failed there.
fn failed_at(outcome: &Outcome, port: i64) -> bool {
    at(outcome, port) && (outcome.failed || outcome.code >= 400)
}
