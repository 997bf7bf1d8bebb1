//! Which ports the pods behind a Service really serve.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Reporter};
use crate::model::workload::{Container, PodTemplate};

/// Ports of Istio's own proxy and agent.
pub fn is_proxy_port(port: i64) -> bool {
    (15000..=15100).contains(&port)
}

/// The templates of the pods behind a Service: those of their workloads, which hold probes as they were written, else the
/// pods' own.
pub fn templates<'a>(snapshot: &'a Snapshot, service: &'a Service) -> Vec<&'a PodTemplate> {
    let templates: Vec<&PodTemplate> = snapshot.workloads_behind(service).map(|w| &w.template).collect();
    if templates.is_empty() {
        snapshot.pods_behind(service).map(|pod| &pod.template).collect()
    } else {
        templates
    }
}

/// The ports that the application containers declare.
pub fn declared(templates: &[&PodTemplate]) -> BTreeSet<i64> {
    let containers = templates.iter().flat_map(|template| template.application_containers());
    containers.flat_map(|c| &c.ports).map(|p| p.number).filter(|port| !is_proxy_port(*port)).collect()
}

/// The port that a probe of a container calls.
fn probe_port(container: &Container, probe: &Value) -> Option<i64> {
    let port = ["httpGet.port", "tcpSocket.port", "grpc.port"].iter().find_map(|path| probe.at(path))?;
    match port {
        Value::String(name) if name.parse::<i64>().is_err() => {
            container.ports.iter().find(|p| p.name == name).map(|p| p.number)
        }
        Value::String(number) => number.parse().ok(),
        other => other.as_i64(),
    }
}

/// The ports that readiness and liveness probes call.
pub fn probed(templates: &[&PodTemplate]) -> BTreeSet<i64> {
    let containers = templates.iter().flat_map(|template| template.application_containers());
    containers
        .flat_map(|c| {
            let probes = ["readinessProbe", "livenessProbe"].into_iter().filter_map(|name| c.probe(name));
            probes.filter_map(|probe| probe_port(c, probe)).collect::<Vec<_>>()
        })
        .filter(|port| !is_proxy_port(*port))
        .collect()
}

/// What the proxies of the pods behind a Service saw, by the pods' port: requests that an application answered, and
/// connections that it refused.
pub fn inbound<'a>(snapshot: &'a Snapshot, service: &'a Service) -> BTreeMap<i64, (u64, Seen)> {
    let mut by_port: BTreeMap<i64, Vec<&EdgeTraffic>> = BTreeMap::new();
    let Some(behind) = snapshot.graph.backing.get(&service.service_name()) else { return BTreeMap::new() };
    for edge in snapshot.traffic.iter().filter(|e| e.reporter == Reporter::Destination) {
        if let Some(port) = edge.cluster.port
            && behind.iter().any(|workload| workload.same_object(&edge.workload))
        {
            by_port.entry(port).or_default().push(edge);
        }
    }
    let sums = by_port.into_iter().map(|(port, edges)| {
        let answered = edges.iter().flat_map(|e| &e.outcomes).filter(|o| o.details == "via_upstream");
        let answered = answered.map(|o| o.count).sum();
        (port, (answered, seen::outcomes(edges.into_iter(), |_, o| seen::refused(o))))
    });
    sums.collect()
}

/// The port that a Service's port should point at instead of `wrong`, and how that is known.
pub fn served(
    service: &Service,
    index: usize,
    port: &ServicePort,
    wrong: i64,
    templates: &[&PodTemplate],
    inbound: &BTreeMap<i64, (u64, Seen)>,
) -> Option<(i64, &'static str)> {
    let declared = declared(templates);
    let before =
        applied(&service.object, &format!("spec.ports[{index}].targetPort")).and_then(|old| old.as_i64());
    if let Some(before) = before.filter(|b| *b != wrong && (declared.is_empty() || declared.contains(b))) {
        return Some((before, "it was the target before the last edit"));
    }
    let answered = inbound.iter().filter(|(p, (answered, _))| **p != wrong && *answered > 0);
    if let Some((port, _)) = answered.max_by_key(|(_, (answered, _))| *answered) {
        return Some((*port, "requests to it are answered"));
    }
    let one = |ports: BTreeSet<i64>| ports.first().copied().filter(|_| ports.len() == 1);
    if let Some(probed) = one(probed(templates)).filter(|p| *p != wrong) {
        return Some((probed, "the pods' probes pass on it"));
    }
    let named = templates.iter().flat_map(|t| t.application_containers()).flat_map(|c| &c.ports);
    let named: BTreeSet<i64> =
        named.filter(|p| !p.name.is_empty() && p.name == port.name).map(|p| p.number).collect();
    if let Some(named) = one(named).filter(|p| *p != wrong) {
        return Some((named, "the containers declare it under the port's own name"));
    }
    one(declared).filter(|p| *p != wrong).map(|p| (p, "it is the only port that the containers declare"))
}
