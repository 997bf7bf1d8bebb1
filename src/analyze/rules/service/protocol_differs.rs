//! SVC117.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::served;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::{ContainerRole, PodTemplate};

crate::rule! {
    /// A Service forwards another transport protocol than its pods take on that port.
    ///
    /// ## What it detects
    /// A port of a Service with the protocol TCP, UDP or SCTP whose target the containers behind it declare with another protocol alone.
    /// ## Why it matters
    /// Name and number look right, and still nothing leads there: a named target port counts only with its protocol, so the port has no
    /// endpoints; a numbered one forwards packets of a kind that nobody sends. Callers are refused while the pods are ready.
    /// ## Evidence
    /// The protocol of the Service's port against that of the containers' port, and calls that are refused.
    /// ## How to confirm
    /// `kubectl get service NAME -o jsonpath='{.spec.ports}'` against the `ports` of the pods' containers.
    /// ## How to fix
    /// Set `protocol` of the Service's port to what the containers declare.
    /// ## False positives
    /// A numbered port is reported only where calls to the Service are refused: what containers declare binds nobody. A Service that
    /// serves both protocols (DNS) is not reported where the containers declare both.
    /// ## References
    /// <https://kubernetes.io/docs/reference/networking/service-protocols/>
    ProtocolDiffers {
        code: "SVC117", name: "port-protocol-differs", family: Network, severity: Error,
        needs: [Objects], aliases: [],
    }
}

/// A port with another protocol than its target.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
    declared: &'a str,
    seen: Seen,
}

/// The protocols with which containers behind a Service declare the target of a port; empty where one of them declares it with
/// the port's own protocol, or none declares it at all.
pub fn other_protocols<'a>(port: &ServicePort, templates: &[&'a PodTemplate]) -> BTreeSet<&'a str> {
    let running = templates.iter().flat_map(|t| &t.containers).filter(|c| c.role != ContainerRole::Init);
    let aimed = running.flat_map(|c| &c.ports).filter(|p| match &port.target {
        TargetPort::Name(name) => &p.name == name,
        TargetPort::Number(number) => p.number == *number,
    });
    let found: BTreeSet<&str> = aimed.map(|p| p.protocol.as_str()).collect();
    if found.contains(port.transport.as_str()) { BTreeSet::new() } else { found }
}

impl Check for ProtocolDiffers {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out = vec![];
        for service in &snapshot.services {
            if !service.has_selector() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let templates = served::templates(snapshot, service);
            for (index, port) in service.ports.iter().enumerate() {
                let Some(declared) = other_protocols(port, &templates).into_iter().next() else { continue };
                // The same number with the other protocol stands beside it, and takes what it is sent.
                if service.ports.iter().any(|p| p.number == port.number && p.transport == declared) {
                    continue;
                }
                let name = service.service_name();
                let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
                let mut seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |e, o| {
                    (o.has_flag("UH") || seen::refused(o)) && e.cluster.port == Some(port.number)
                });
                if service.ports.len() == 1 {
                    seen = seen.and(seen::together(errors.get(&name)));
                }
                if seen.any() || matches!(port.target, TargetPort::Name(_)) {
                    out.push(Fact { service, index, port, declared, seen });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let (port, transport, declared) = (fact.port.number, &fact.port.transport, fact.declared);
        let subject = service.field(format!("spec.ports[{}].protocol", fact.index));
        let observed = fact.seen.any();
        let alone = !snapshot.runs() && fact.service.ports.len() == 1;
        let refused =
            if observed { format!(": {} calls to it failed", fact.seen.count) } else { String::new() };
        let led = match &fact.port.target {
            TargetPort::Name(_) => {
                "A named target port counts only with its protocol, so this port has no endpoints, whatever the pods' readiness"
            }
            TargetPort::Number(_) => "What callers send with the pods' protocol is forwarded by nobody",
        };
        Finding::new(Self::META, subject.clone(), &[transport, declared])
            .title(format!("{service} forwards {transport} on port {port}, and its pods serve {declared} there{refused}"))
            .message(format!(
                "Port {port} of {service} has the protocol {transport}, and the containers behind it declare its target {} with {declared} alone. {led}.",
                fact.port.target
            ))
            .mechanism("port protocol differs: the Service forwards another protocol (UDP, TCP) than its pods serve")
            .severity(if observed || alone { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .evidence(Evidence::object(&subject, format!("protocol {transport}")))
            .evidence(Evidence::object(service, format!("the containers behind it declare the target with {declared}")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effect(Effect::requests(&name, &["UH", "UF", "refused", "5xx"]))
            .maybe_remedy(correct(fact))
            .prevention(Prevention::of("Test", "In the pipeline: each port of a Service has the protocol that the pods behind it declare for its target"))
            .prevention(Prevention::alert(
                "Alert when callers' proxies find no endpoint",
                format!("sum by (destination_service) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UH.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
    }
}

/// The protocol that the containers declare.
fn correct(fact: &Fact<'_>) -> Option<Remedy> {
    let path = pointer(&format!("spec.ports[{}].protocol", fact.index));
    let has = fact.service.object.body.pointer(&path).is_some();
    Remedy::patch(
        &fact.service.object,
        &json!([{"op": if has { "replace" } else { "add" }, "path": path, "value": fact.declared}]),
        format!(
            "Set protocol of port {} of {} to {}, which its pods declare",
            fact.port.number,
            fact.service.reference(),
            fact.declared
        ),
    )
}
