//! ISTIO102.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{self, Hosts, Known};
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::mesh::istio::VirtualService;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route sends requests to a port that its Service does not have, or leaves open which of several it means.
    ///
    /// ## What it detects
    /// A destination of a VirtualService whose `port.number` is no port of the Service or ServiceEntry that it names, and a
    /// destination without a port for a Service with several.
    /// ## Why it matters
    /// The proxy has no cluster for that port and answers `503 NC cluster_not_found`. Without a port it takes the one that
    /// was called, which at a gateway is the gateway's own and rarely one of the Service's.
    /// ## Evidence
    /// The port in the route against the Service's ports; access-log records with the flag `NC`.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD --fqdn HOST` lists the ports that exist.
    /// ## How to fix
    /// Write one of the Service's port numbers (not the container's) into `destination.port.number`.
    /// ## False positives
    /// A missing port in a route of the mesh alone is a warning only: the port that was called counts.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0112/>
    DestinationPortNotFound {
        code: "ISTIO102", name: "destination-port-not-found", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0112", "IST0101"],
    }
}

/// A port that leads nowhere, or that is not named.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    host: String,
    path: String,
    /// The port that is written; `None` where none is.
    port: Option<i64>,
    ports: BTreeSet<i64>,
    /// Whether the route is used at a gateway that listens on none of these ports.
    lost_at_gateway: bool,
    target: Option<ServiceName>,
    seen: Seen,
}

impl Check for DestinationPortNotFound {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let known = Hosts::new(snapshot);
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            if !seen::configured(namespace) {
                continue;
            }
            let gateway_ports: BTreeSet<i64> = virtual_service
                .gateways
                .iter()
                .filter_map(|name| hosts::gateway(snapshot, name, namespace))
                .flat_map(|gateway| gateway.servers.iter().map(|server| server.port))
                .collect();
            for (route, destination) in virtual_service.destinations() {
                let (ports, target) = match known.look_up(&destination.host, namespace) {
                    Known::Service(service) if service.kind != "ExternalName" => (
                        service.ports.iter().map(|p| p.number).collect::<BTreeSet<i64>>(),
                        Some(service.service_name()),
                    ),
                    Known::Entry(entry) => (entry.ports.iter().map(|(n, _)| *n).collect(), None),
                    _ => continue,
                };
                let wrong = match destination.port {
                    Some(port) => !ports.contains(&port),
                    None => ports.len() > 1 && target.is_some(),
                };
                if ports.is_empty() || !wrong || destination.weight == Some(0) {
                    continue;
                }
                let lost_at_gateway =
                    !gateway_ports.is_empty() && gateway_ports.iter().all(|port| !ports.contains(port));
                let seen = hosts::no_cluster(snapshot, virtual_service, route);
                out.push(Fact {
                    virtual_service,
                    host: destination.host.clone(),
                    path: destination.path.clone(),
                    port: destination.port,
                    ports,
                    lost_at_gateway,
                    target,
                    seen,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.virtual_service.reference();
        let ports = fact.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let service = hosts::service_of(snapshot, fact.virtual_service).or_else(|| fact.target.clone());
        let path = format!("{}.port.number", fact.path);
        let (title, message) = match fact.port {
            Some(port) => (
                format!("{reference} sends requests to port {port} of {}, which has only {ports}", fact.host),
                format!(
                    "{path} is {port}; the ports of {} are {ports}. Proxies have no cluster for it and answer 503 NC cluster_not_found.",
                    fact.host
                ),
            ),
            None => (
                format!("{reference} does not say which port of {} it means: {ports}", fact.host),
                format!(
                    "{} has several ports ({ports}) and {} names none. The port that was called counts then, at a gateway the gateway's own.",
                    fact.host, fact.path
                ),
            ),
        };
        let certain = fact.port.is_some() || fact.lost_at_gateway;
        let observed = fact.seen.any() && certain;
        let severity = match (observed, certain && !snapshot.runs()) {
            (true, _) | (_, true) => Severity::Error,
            _ => Severity::Warning,
        };
        let confidence = match (observed, certain) {
            (true, _) => Confidence::Observed,
            (false, true) => Confidence::Configured,
            (false, false) => Confidence::Possible,
        };
        let before = applied(&fact.virtual_service.object, &path)
            .and_then(|v| v.as_i64())
            .filter(|p| fact.ports.contains(p));
        let best =
            before.or_else(|| fact.ports.first().copied().filter(|_| fact.ports.len() == 1)).or_else(|| {
                fact.target
                    .as_ref()
                    .and_then(|name| snapshot.service(name))
                    .and_then(|s| s.ports.iter().find(|p| p.protocol().is_http()))
                    .map(|p| p.number)
            });
        let operations = match fact.port {
            Some(_) => json!([{"op": "replace", "path": pointer(&path), "value": best}]),
            None => {
                json!([{"op": "add", "path": format!("{}/port", pointer(&fact.path)), "value": {"number": best}}])
            }
        };
        Finding::new(Self::META, reference.field(&path), &[&fact.host])
            .title(title)
            .message(message)
            .mechanism("destination port not found: the Service has no such port, cluster not found")
            .severity(severity)
            .role(if certain { Role::Cause } else { Role::Context }, confidence)
            .service(service.clone())
            .evidence(Evidence::object(&reference.field(&path), match fact.port {
                Some(port) => format!("port {port}"),
                None => "no port is named".to_owned(),
            }))
            .evidence(Evidence::object(reference, format!("{} has ports {ports}", fact.host)))
            .evidences(if certain { fact.seen.evidence.clone() } else { vec![] })
            .onset(fact.seen.onset.filter(|_| certain))
            .effects(service.iter().filter(|_| certain).map(|s| Effect::requests(s, &["NC", "5xx"])))
            .maybe_remedy(best.and_then(|best| {
                Remedy::patch(&fact.virtual_service.object, &operations, format!("Send the requests to port number {best} of {}", fact.host))
            }))
            .prevention(Prevention::of("Test", "In the pipeline: every port that a route names is one of its Service's (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when proxies have routes to clusters that do not exist",
                "sum by (source_workload, destination_service) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NC.*\"}[1m])) > 0",
            ))
    }
}
