//! What the mesh itself needs to connect, and which policies keep it from that.

use std::collections::BTreeMap;

use super::policy::{Blocking, blocking, end, ips_of};
use crate::analyze::traffic::text;
use crate::analyze::twin::policy::network::{Direction, End, PodEnd, Port};
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Workload};

/// Ztunnel's port for calls between pods.
const HBONE: i64 = 15008;
/// The inbound port of Linkerd's proxy.
const LINKERD_INBOUND: i64 = 4143;
/// The port of Istio's control plane.
const XDS: i64 = 15012;
/// The port of Istio's webhooks, on istiod's pods.
const WEBHOOK: i64 = 15017;
/// The port on which a gateway says that it is ready.
const READINESS: i64 = 15021;
/// The port of a proxy's own metrics.
const METRICS: i64 = 15090;
/// The port of the metrics of a proxy and its application together.
const MERGED_METRICS: i64 = 15020;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Calls between pods of the mesh.
    Calls,
    /// Configuration and certificates, from the control plane.
    ControlPlane,
    /// Injection and validation: the API server asks istiod.
    Webhooks,
    /// Health checks of a load balancer before a gateway.
    GatewayHealth,
    /// Prometheus reading the proxy's metrics.
    Metrics,
}

/// A port of the mesh that policies keep closed.
#[derive(Debug)]
pub struct Fact<'a> {
    /// What it is for.
    pub need: Need,
    /// Whose pods the policies apply to, or whose proxies suffer.
    pub workload: &'a Workload,
    /// Who is kept out, or where it cannot get to.
    pub other: String,
    /// The namespace of that, where it is in the cluster.
    pub other_namespace: Option<String>,
    /// The policies.
    pub policies: Vec<Blocking<'a>>,
    /// The port.
    pub port: i64,
    /// A line that says so, and where it stands.
    pub said: Option<(String, String)>,
    /// The Services that suffer.
    pub services: Vec<ServiceName>,
}

/// By workload, port and what the port is for, so that each is said once.
type Found<'a> = BTreeMap<(ObjectRef, i64), Fact<'a>>;

/// Everything that is kept from the mesh.
pub fn blocked(snapshot: &Snapshot) -> Vec<Fact<'_>> {
    let mut out = Found::new();
    calls(snapshot, &mut out);
    let planes: Vec<&Workload> = of_the_platform(snapshot, |w| w.template.container("discovery").is_some());
    if let Some(plane) = planes.first() {
        control_plane(snapshot, plane, &mut out);
        webhooks(snapshot, plane, &mut out);
    }
    gateways(snapshot, &mut out);
    metrics(snapshot, &mut out);
    out.into_values().collect()
}

fn tcp(number: i64) -> Port<'static> {
    Port { number, transport: "TCP" }
}

/// Workloads at the top of any namespace.
fn of_the_platform(snapshot: &Snapshot, wanted: impl Fn(&Workload) -> bool) -> Vec<&Workload> {
    snapshot.workloads.iter().filter(|w| w.object.owners.is_empty() && wanted(w)).collect()
}

/// Workloads whose pods carry Istio's proxy.
fn proxied(snapshot: &Snapshot) -> impl Iterator<Item = (&Workload, &Pod)> {
    let own = snapshot.workloads.iter();
    own.filter(|w| w.object.owners.is_empty() && snapshot.in_scope(w.object.namespace())).filter_map(|w| {
        let pod = snapshot.pods_of(w.reference()).find(|pod| snapshot.has_istio_proxy(pod))?;
        Some((w, pod))
    })
}

/// Calls between pods of the mesh, whose application's port is open and whose mesh's port is not.
fn calls<'a>(snapshot: &'a Snapshot, out: &mut Found<'a>) {
    for (service, workloads) in &snapshot.graph.backing {
        let Some(known) = snapshot.service(service).filter(|s| snapshot.in_scope(s.object.namespace()))
        else {
            continue;
        };
        for callee in workloads.iter().filter_map(|r| snapshot.workload(r)) {
            let Some(port) = mesh_port(snapshot, callee) else { continue };
            let edges = snapshot.graph.edges.keys().filter(|(_, callee)| callee == service);
            let callers = edges.filter_map(|(caller, _)| snapshot.workload(caller));
            for caller in callers.filter(|w| mesh_port(snapshot, w) == Some(port)) {
                call(snapshot, known, (caller, callee), port, out);
            }
        }
    }
}

fn call<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    (caller, callee): (&'a Workload, &'a Workload),
    port: i64,
    out: &mut Found<'a>,
) {
    let (from_ips, to_ips) = (ips_of(snapshot, caller), ips_of(snapshot, callee));
    let (from, to) = (end(caller, &from_ips), end(callee, &to_ips));
    let sides = [(Direction::Ingress, &to, End::Pod(from)), (Direction::Egress, &from, End::Pod(to))];
    for (direction, own, other) in sides {
        let closed = |number: i64| blocking(snapshot, direction, own, &other, tcp(number));
        let policies = closed(port);
        let mut ports = service.ports.iter().filter_map(|p| p.on(&callee.template));
        // Where the application's own port is closed too, the call was never meant to pass.
        if policies.is_empty() || !ports.any(|number| closed(number).is_empty()) {
            continue;
        }
        let (workload, peer) = match direction {
            Direction::Ingress => (callee, caller),
            Direction::Egress => (caller, callee),
        };
        out.entry((workload.reference().clone(), port)).or_insert_with(|| Fact {
            need: Need::Calls,
            workload,
            other: peer.reference().to_string(),
            other_namespace: Some(peer.object.namespace().to_owned()),
            policies,
            port,
            said: hbone(snapshot, callee),
            services: vec![service.service_name()],
        });
    }
}

/// The port on which pods of the workload's mesh call each other; `None` where that is the application's own.
fn mesh_port(snapshot: &Snapshot, workload: &Workload) -> Option<i64> {
    let pods: Vec<&Pod> = snapshot.pods_of(workload.reference()).filter(|pod| !pod.ended()).collect();
    if pods.iter().any(|pod| pod.template.has_running_container("linkerd-proxy")) {
        return Some(LINKERD_INBOUND);
    }
    let captured = |pod: &&&Pod| {
        pod.template.annotations.get("ambient.istio.io/redirection").is_some_and(|v| v == "enabled")
    };
    pods.iter().find(captured).map(|_| HBONE)
}

/// What ztunnel says of a workload that does not answer.
fn hbone(snapshot: &Snapshot, workload: &Workload) -> Option<(String, String)> {
    let name = workload.object.name();
    let logs = snapshot.logs.iter();
    logs.filter(|log| log.container == "istio-proxy" && log.pod.starts_with("ztunnel")).find_map(|log| {
        let line = log
            .lines
            .iter()
            .find(|line| line.text.contains("NetworkPolicy is blocking HBONE") && line.text.contains(name))?;
        Some((format!("Pod {}/{}, ztunnel", log.namespace, log.pod), line.text.clone()))
    })
}

/// Proxies that policies, at their own end or at istiod's, keep from the control plane.
fn control_plane<'a>(snapshot: &'a Snapshot, plane: &'a Workload, out: &mut Found<'a>) {
    let plane_ips = ips_of(snapshot, plane);
    let to = end(plane, &plane_ips);
    for (workload, pod) in proxied(snapshot) {
        let ips = ips_of(snapshot, workload);
        let from = end(workload, &ips);
        let mut policies = blocking(snapshot, Direction::Egress, &from, &End::Pod(to), tcp(XDS));
        if policies.is_empty() {
            policies = blocking(snapshot, Direction::Ingress, &to, &End::Pod(from), tcp(XDS));
        }
        if policies.is_empty() {
            continue;
        }
        let says = |text: &str| {
            text.contains(&format!(":{XDS}")) && (text.contains("timeout") || text.contains("timed out"))
        };
        let log = snapshot.log(pod.object.namespace(), pod.object.name(), "istio-proxy", false);
        let said = log.and_then(|log| log.lines.iter().find(|line| says(&line.text))).map(|line| {
            let pod = text::plain(pod.object.name(), 63);
            (format!("Pod {}/{pod}, istio-proxy", workload.object.namespace()), line.text.clone())
        });
        let (other, other_namespace) = match policies.first().map(|policy| policy.direction) {
            Some(Direction::Ingress) => (workload.reference(), workload.object.namespace()),
            _ => (plane.reference(), plane.object.namespace()),
        };
        let fact = Fact {
            need: Need::ControlPlane,
            workload,
            other: other.to_string(),
            other_namespace: Some(other_namespace.to_owned()),
            policies,
            port: XDS,
            said,
            services: snapshot.services_before(workload).map(Service::service_name).collect(),
        };
        out.insert((workload.reference().clone(), XDS), fact);
    }
}

/// The API server asks istiod from an address of its node: policies that let in pods alone keep it out.
fn webhooks<'a>(snapshot: &'a Snapshot, plane: &'a Workload, out: &mut Found<'a>) {
    let ips = ips_of(snapshot, plane);
    let own = end(plane, &ips);
    let policies = from_outside(snapshot, &own, WEBHOOK);
    // Some API servers stand elsewhere and come through a pod.
    let tunnels = of_the_platform(snapshot, |w| w.object.name().starts_with("konnectivity-agent"));
    let through = tunnels.iter().any(|tunnel| {
        let from = End::Pod(end(tunnel, &[]));
        blocking(snapshot, Direction::Ingress, &own, &from, tcp(WEBHOOK)).is_empty()
    });
    if policies.is_empty() || through || proxied(snapshot).next().is_none() {
        return;
    }
    let fact = Fact {
        need: Need::Webhooks,
        workload: plane,
        other: "the API server".to_owned(),
        other_namespace: None,
        policies,
        port: WEBHOOK,
        said: None,
        services: vec![],
    };
    out.insert((plane.reference().clone(), WEBHOOK), fact);
}

/// Policies that let a port be reached from no address outside the cluster. Where ranges of addresses are let in, nobody can
/// say whether the one that calls is among them.
fn from_outside<'a>(snapshot: &'a Snapshot, own: &PodEnd<'_>, port: i64) -> Vec<Blocking<'a>> {
    blocking(snapshot, Direction::Ingress, own, &End::Outside, tcp(port))
}

/// Gateways that take traffic from outside on some port, and no health checks.
fn gateways<'a>(snapshot: &'a Snapshot, out: &mut Found<'a>) {
    for (workload, _) in proxied(snapshot) {
        let exposed = snapshot.services_before(workload).find(|service| {
            service.kind == "LoadBalancer" && service.ports.iter().any(|port| port.number == READINESS)
        });
        let Some(service) = exposed else { continue };
        let ips = ips_of(snapshot, workload);
        let own = end(workload, &ips);
        let policies = from_outside(snapshot, &own, READINESS);
        let mut others = service.ports.iter().filter(|port| port.number != READINESS);
        let open = others.any(|port| {
            port.on(&workload.template).is_some_and(|number| from_outside(snapshot, &own, number).is_empty())
        });
        // A gateway that takes nothing from outside needs no such check.
        if policies.is_empty() || !open {
            continue;
        }
        let fact = Fact {
            need: Need::GatewayHealth,
            workload,
            other: "health checks of its load balancer".to_owned(),
            other_namespace: None,
            policies,
            port: READINESS,
            said: None,
            services: vec![service.service_name()],
        };
        out.insert((workload.reference().clone(), READINESS), fact);
    }
}

/// Proxies whose metrics Prometheus cannot read on either port.
fn metrics<'a>(snapshot: &'a Snapshot, out: &mut Found<'a>) {
    let servers = of_the_platform(snapshot, is_prometheus);
    let Some(server) = servers.first() else { return };
    let server_ips = ips_of(snapshot, server);
    let from = end(server, &server_ips);
    for (workload, pod) in proxied(snapshot) {
        if pod.template.annotations.get("prometheus.io/scrape").is_some_and(|word| word == "false") {
            continue;
        }
        let ips = ips_of(snapshot, workload);
        let to = end(workload, &ips);
        let closed = |port: i64| {
            let inward = blocking(snapshot, Direction::Ingress, &to, &End::Pod(from), tcp(port));
            if inward.is_empty() {
                blocking(snapshot, Direction::Egress, &from, &End::Pod(to), tcp(port))
            } else {
                inward
            }
        };
        let policies = closed(METRICS);
        // One of both is enough.
        if policies.is_empty() || closed(MERGED_METRICS).is_empty() {
            continue;
        }
        let (other, namespace) = match policies.first().map(|policy| policy.direction) {
            Some(Direction::Egress) => (workload.reference(), workload.object.namespace()),
            _ => (server.reference(), server.object.namespace()),
        };
        let fact = Fact {
            need: Need::Metrics,
            workload,
            other: other.to_string(),
            other_namespace: Some(namespace.to_owned()),
            policies,
            port: METRICS,
            said: None,
            services: vec![],
        };
        out.insert((workload.reference().clone(), METRICS), fact);
    }
}

/// A workload that runs Prometheus itself, by its container or its image.
fn is_prometheus(workload: &Workload) -> bool {
    let mut containers = workload.template.application_containers();
    containers.any(|c| {
        let image = c.image.rsplit('/').next().unwrap_or_default();
        c.name == "prometheus" || image.split([':', '@']).next() == Some("prometheus")
    })
}
