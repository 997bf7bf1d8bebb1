//! SVC104.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::protocol_differs::other_protocols;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::seen::{self, CallFailure, Seen};
use crate::model::network::{Service, ServicePort, TargetPort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::{ContainerPort, ContainerRole, PodTemplate};

crate::rule! {
    /// A Service points at a named port that none of its pods has.
    ///
    /// ## What it detects
    /// A port of a Service whose `targetPort` is a name, where no container of any pod behind the Service declares a port of
    /// that name and protocol.
    /// ## Why it matters
    /// The endpoints of that port stay empty although the pods are ready: requests to it are refused, or answered with
    /// `503 UH` by a proxy, while other ports of the same Service work.
    /// ## Evidence
    /// The name that the Service asks for, and the names that the containers declare.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=NAME -o yaml` lists the addresses without this port.
    /// ## How to fix
    /// Write the name that the containers declare, or the port's number, into the Service's `targetPort`.
    /// ## False positives
    /// A port that nobody calls, such as metrics of an optional sidecar.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/services-networking/service/#field-spec-ports>
    NamedPortMissing {
        code: "SVC104", name: "named-port-missing", family: Network, severity: Error,
        needs: [Objects], aliases: ["KIA0701"],
    }
}

/// A port that leads nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
    wanted: &'a String,
    declared: BTreeSet<(&'a String, i64)>,
    seen: Seen,
}

impl Check for NamedPortMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut refused = None;
        let mut out = vec![];
        for service in snapshot.services.iter().filter(|s| s.kind != "ExternalName") {
            let named: Vec<_> = service
                .ports
                .iter()
                .enumerate()
                .filter_map(|(index, port)| match &port.target {
                    TargetPort::Name(name) => Some((index, port, name)),
                    TargetPort::Number(_) => None,
                })
                .collect();
            if named.is_empty() || !seen::wanted(snapshot, service.object.namespace()) {
                continue;
            }
            let mut templates: Vec<&PodTemplate> =
                snapshot.pods_behind(service).map(|pod| &pod.template).collect();
            if templates.is_empty() {
                templates = snapshot.workloads_behind(service).map(|w| &w.template).collect();
            }
            if templates.is_empty() {
                continue;
            }
            for (index, port, wanted) in named {
                // The name is there with another protocol: SVC117 says so.
                if !other_protocols(port, &templates).is_empty() {
                    continue;
                }
                let declared: BTreeSet<(&String, i64)> = templates
                    .iter()
                    .flat_map(|template| ports(template))
                    .filter(|p| p.protocol == port.transport && !p.name.is_empty())
                    .map(|p| (&p.name, p.number))
                    .collect();
                if declared.iter().any(|(name, _)| *name == wanted) {
                    continue;
                }
                let name = service.service_name();
                let errors = refused.get_or_insert_with(|| seen::call_errors(snapshot, CallFailure::Refused));
                let mut seen = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |e, o| {
                    o.has_flag("UH") && e.cluster.port == Some(port.number)
                });
                if service.ports.len() == 1 {
                    seen = seen.and(seen::together(errors.get(&name)));
                }
                out.push(Fact { service, index, port, wanted, declared, seen });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let has = match fact.declared.len() {
            0 => "no named port".to_owned(),
            _ => fact.declared.iter().map(|(n, p)| format!("\"{n}\" ({p})")).collect::<Vec<_>>().join(", "),
        };
        let observed = fact.seen.any();
        let path = format!("spec.ports[{}].targetPort", fact.index);
        let alone = !snapshot.runs() && fact.service.ports.len() == 1;
        Finding::new(Self::META, service.field(&path), &[fact.wanted])
            .title(format!("{service} port {} points at port \"{}\"; its pods have {has}", fact.port.number, fact.wanted))
            .message(format!(
                "targetPort \"{}\" of {service} is the name of no container port behind it: the containers declare {has}. The endpoints of port {} are empty, whatever the pods' readiness.",
                fact.wanted, fact.port.number
            ))
            .mechanism("named targetPort that no container declares: the port has no endpoints")
            .severity(if observed || alone { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .evidence(Evidence::object(&service.field(&path), format!("targetPort \"{}\"", fact.wanted)))
            .evidence(Evidence::object(service, format!("the pods behind it declare {has}")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effect(Effect::requests(&name, &["UH", "refused", "5xx"]))
            .maybe_remedy(correct(fact, &path))
            .prevention(Prevention::of("Test", "In the pipeline: every named targetPort is declared by the pods that its Service selects"))
            .prevention(Prevention::alert(
                "Alert when callers' proxies find no endpoint",
                format!("sum by (destination_service) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*UH.*\",destination_service_name=\"{}\"}}[1m])) > 0", name.name),
            ))
    }
}

/// Ports of containers that run beside each other.
fn ports(template: &PodTemplate) -> impl Iterator<Item = &ContainerPort> {
    template.containers.iter().filter(|c| c.role != ContainerRole::Init).flat_map(|c| &c.ports)
}

/// Before the last edit, a near name, the number of the Service's own port, or the only port there is.
fn correct(fact: &Fact<'_>, path: &str) -> Option<Remedy> {
    let before = applied(&fact.service.object, path).filter(|old| {
        old.as_str().is_some_and(|old| fact.declared.iter().any(|(name, _)| *name == old)) || old.is_i64()
    });
    let near = || nearest(fact.wanted, fact.declared.iter().map(|(name, _)| name.as_str()));
    let alike = || fact.declared.iter().find(|(_, n)| *n == fact.port.number).map(|(name, _)| name.as_str());
    let only = || fact.declared.first().filter(|_| fact.declared.len() == 1).map(|(name, _)| name.as_str());
    let value = before.or_else(|| near().or_else(alike).or_else(only).map(|name| json!(name)))?;
    Remedy::patch(
        &fact.service.object,
        &json!([{"op": "replace", "path": crate::analyze::remedy::pointer(path), "value": value}]),
        format!("Set targetPort of {} to {value}, which its pods declare", fact.service.reference()),
    )
}
