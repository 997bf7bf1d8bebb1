//! Which requests a fix is tried on: those that were seen to fail, those that a route at fault takes, those that known callers
//! make, and some of the neighbours', which must fare as before.

use crate::model::json::Value;
use std::collections::BTreeSet;

use crate::analyze::diagnosis::Diagnosis;
use crate::analyze::finding::{Effect, Finding};
use crate::analyze::twin::ask::{Ask, BackendResponse, Origin, Protocol, Request, describe};
use crate::analyze::twin::probe::{
    at_gateways, at_parents, called_port, istio_request, named, of_port, placed, serves_gateway,
};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{self, VirtualService, full_host, service_of_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter, address, most};

/// Requests that one finding's fixes are tried on, at most.
const MAX_ASKS: usize = 24;
/// Of those, the ones that are about what it blames.
const MAX_AFFECTED: usize = 12;
/// Callers of one Service, routes of one object, ways to fail on one edge, ports of one Service.
const MAX_EACH: usize = 4;

/// A request to try a fix on.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The request; its name is what a reader sees.
    pub ask: Ask,
    /// Whether it is known to be what fails: seen in an access log, or taken by the route at fault.
    pub felt: bool,
}

/// The requests of a finding and of those that it explains, the most telling first.
pub(super) fn questions(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    finding: &Finding,
    explains: &[String],
) -> Vec<Question> {
    let mut out = List::default();
    let services = services(snapshot, diagnosis, finding, explains);
    if let Some(asked) = &diagnosis.request {
        out.add(asked.ask.from.clone(), asked.ask.request.clone(), true);
    }
    routes(snapshot, finding, &services, &mut out);
    outside(snapshot, finding, &mut out);
    for service in &services {
        logged(snapshot, service, &mut out);
    }
    for service in &services {
        let callers = callers(snapshot, service);
        called(snapshot, service, &callers, &mut out);
    }
    out.all.truncate(MAX_AFFECTED);
    for (caller, service) in snapshot.graph.edges.keys() {
        let near = [&caller.namespace, &service.namespace].contains(&&finding.subject.namespace);
        if out.all.len() >= MAX_ASKS {
            break;
        }
        if near && !services.contains(service) {
            called(snapshot, service, &[caller], &mut out);
        }
    }
    out.all.truncate(MAX_ASKS);
    out.all
}

#[derive(Default)]
struct List {
    all: Vec<Question>,
    names: BTreeSet<String>,
}

impl List {
    fn add(&mut self, from: Origin, request: Request, felt: bool) {
        let name = describe(&from, &request);
        if self.names.insert(name.clone()) {
            self.all.push(Question { ask: Ask { name, from, request }, felt });
        }
    }
}

/// The Services whose requests the finding and what it explains are about.
fn services(
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
    finding: &Finding,
    explains: &[String],
) -> Vec<ServiceName> {
    let explained = diagnosis.findings.iter().filter(|f| f.id != finding.id && explains.contains(&f.id));
    let mut out: Vec<ServiceName> = vec![];
    let mut add = |service: ServiceName| {
        if snapshot.service(&service).is_some() && !out.contains(&service) {
            out.push(service);
        }
    };
    for finding in std::iter::once(finding).chain(explained) {
        finding.service.iter().cloned().for_each(&mut add);
        for effect in &finding.effects {
            match effect {
                Effect::Requests { service, .. } => add(service.clone()),
                Effect::Pods { workload } => {
                    snapshot.graph.services_of(workload).cloned().for_each(&mut add);
                }
                Effect::Calls { workload } => snapshot.graph.callees(workload).cloned().for_each(&mut add),
            }
        }
    }
    out.truncate(MAX_EACH);
    out
}

/// Who is known to call a Service; where nobody is, some other workload of its namespace stands for whoever does.
fn callers<'a>(snapshot: &'a Snapshot, service: &'a ServiceName) -> Vec<&'a ObjectRef> {
    let known: Vec<&ObjectRef> = snapshot.graph.callers(service).take(MAX_EACH).collect();
    if !known.is_empty() {
        return known;
    }
    let behind = snapshot.graph.backing.get(service);
    let others = snapshot.workloads.iter().filter(|w| {
        w.object.namespace() == service.namespace
            && w.object.owners.is_empty()
            && matches!(w.reference().kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
            && behind.is_none_or(|own| !own.contains(w.reference()))
    });
    others.map(|w| w.reference()).take(1).collect()
}

/// `GET /` of each port, or a bare connection, from each caller.
fn called(snapshot: &Snapshot, service: &ServiceName, callers: &[&ObjectRef], out: &mut List) {
    let Some(object) = snapshot.service(service) else { return };
    for caller in callers {
        // What a gateway sends on is asked for at its door.
        if serves_gateway(snapshot, caller) {
            continue;
        }
        for port in object.ports.iter().take(MAX_EACH) {
            let Some(request) = of_port(service, port) else { continue };
            out.add(Origin::Workload(named(caller)), request, false);
        }
    }
}

/// The requests to a Service that were seen to fail.
fn logged(snapshot: &Snapshot, service: &ServiceName, out: &mut List) {
    let edges = snapshot.traffic.iter().filter(|edge| edge.service.as_ref() == Some(service));
    for edge in edges {
        let from = match edge.reporter {
            Reporter::Source => Some(&edge.workload),
            Reporter::Destination => edge.peer.as_ref(),
        };
        let Some(from) = from else { continue };
        for outcome in edge.outcomes.iter().filter(|outcome| outcome.failed).take(MAX_EACH) {
            if let Some((origin, request)) = seen(snapshot, service, from, (edge, outcome)) {
                out.add(origin, request, true);
            }
        }
    }
}

/// The requests of a workload to hosts that are no Service's, as far as they were seen to fail.
fn outside(snapshot: &Snapshot, finding: &Finding, out: &mut List) {
    let mut workloads: Vec<&ObjectRef> = finding
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Calls { workload } => Some(workload),
            _ => None,
        })
        .collect();
    workloads.push(&finding.subject);
    let edges = snapshot.traffic.iter().filter(|edge| {
        edge.reporter == Reporter::Source
            && edge.service.is_none()
            && workloads.iter().any(|w| w.same_object(&edge.workload))
    });
    for edge in edges.take(MAX_EACH) {
        for outcome in edge.outcomes.iter().filter(|outcome| outcome.failed).take(MAX_EACH) {
            let host = most(&outcome.authorities).unwrap_or(&edge.authority);
            if host.is_empty() || outcome.connection || serves_gateway(snapshot, &edge.workload) {
                continue;
            }
            let request = http(outcome, host);
            let port = if request.authority().1.is_none() { called_port(outcome) } else { None };
            out.add(Origin::Workload(named(&edge.workload)), Request { port, ..request }, true);
        }
    }
}

/// A request of HTTP as an access log shows it most often.
fn http(outcome: &Outcome, host: &str) -> Request {
    let path = most(&outcome.paths).filter(|path| path.starts_with('/')).unwrap_or("/");
    Request {
        method: most(&outcome.methods).unwrap_or("GET").to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        ..Request::default()
    }
}

/// How long the application takes where the caller's proxy did not wait for it: half of what its own proxy saw took longer.
fn taken(snapshot: &Snapshot, service: &ServiceName, outcome: &Outcome) -> BackendResponse {
    let mut own = snapshot.traffic_to(service, Reporter::Destination).flat_map(|edge| &edge.outcomes);
    let millis = (outcome.has_flag("UT") || outcome.has_flag("URX"))
        .then(|| own.find(|o| !o.connection && !o.failed || o.has_flag("DC"))?.duration(0.5))
        .flatten();
    BackendResponse {
        delay: millis.map(|millis| format!("{millis}ms")).unwrap_or_default(),
        ..BackendResponse::default()
    }
}

/// The request that an access log shows.
fn seen(
    snapshot: &Snapshot,
    service: &ServiceName,
    from: &ObjectRef,
    (edge, outcome): (&EdgeTraffic, &Outcome),
) -> Option<(Origin, Request)> {
    if outcome.connection {
        let own_port = edge.cluster.port.and_then(|port| u16::try_from(port).ok());
        let called = || called_port(outcome).filter(|_| edge.reporter == Reporter::Source);
        let host = most(&outcome.called).map(address).unwrap_or_default();
        let request = Request {
            protocol: Protocol::Tcp,
            method: String::new(),
            host: if snapshot.service(service).is_some() {
                format!("{}.{}", service.name, service.namespace)
            } else {
                host.to_owned()
            },
            port: own_port.or_else(called),
            ..Request::default()
        };
        return request.port.is_some().then(|| (Origin::Workload(named(from)), request));
    }
    let mut request = http(outcome, most(&outcome.authorities)?);
    request.backend_response = taken(snapshot, service, outcome);
    placed(snapshot, from, (edge, outcome), request)
}

/// The requests that routes at fault, or routes to the Services at fault, take.
fn routes(snapshot: &Snapshot, finding: &Finding, services: &[ServiceName], out: &mut List) {
    let blamed = |reference: &ObjectRef| {
        finding.subject.same_object(reference) || finding.related.iter().any(|r| r.same_object(reference))
    };
    for route in &snapshot.istio.virtual_services {
        virtual_service(snapshot, route, (finding, blamed(route.reference())), services, out);
    }
    for route in &snapshot.gateway_api.routes {
        let leads = route.backends.iter().any(|backend| {
            backend.kind == "Service"
                && services.iter().any(|s| s.namespace == backend.namespace && s.name == backend.name)
        });
        let (own, kind) = (blamed(route.reference()), route.reference().kind.as_str());
        if !(own || leads) || !matches!(kind, "HTTPRoute" | "GRPCRoute") {
            continue;
        }
        for (at, rule) in route.object.body.list("spec.rules").iter().enumerate().take(MAX_EACH) {
            let here = finding.subject.field_path.starts_with(&format!("spec.rules[{at}]"));
            if own && finding.subject.field_path.starts_with("spec.rules[") && !here {
                continue;
            }
            for (origin, request) in at_parents(snapshot, route, rule) {
                out.add(origin, request, own);
            }
        }
    }
}

fn virtual_service(
    snapshot: &Snapshot,
    route: &VirtualService,
    (finding, blamed): (&Finding, bool),
    services: &[ServiceName],
    out: &mut List,
) {
    let namespace = route.object.namespace();
    let leads = |host: &str| {
        service_of_host(&full_host(host, namespace))
            .is_some_and(|(ns, name)| services.contains(&ServiceName::new(ns, name)))
    };
    let http: Vec<&istio::Route> = route.routes.iter().filter(|r| r.protocol == "http").collect();
    let pointed: Vec<&istio::Route> =
        http.iter().copied().filter(|r| blamed && finding.subject.field_path.starts_with(&r.path)).collect();
    let chosen = if !pointed.is_empty() {
        pointed
    } else if blamed {
        http
    } else {
        http.into_iter().filter(|r| r.destinations.iter().any(|d| leads(&d.host))).collect()
    };
    let Some(host) = route.hosts.iter().find(|host| !host.contains('*')) else { return };
    for one in chosen.into_iter().take(MAX_EACH) {
        let empty = Value::Null;
        let matching = one.matches().first().unwrap_or(&empty);
        let Some(request) = istio_request(matching, host) else { continue };
        for (origin, request) in at_gateways(snapshot, route, one, host) {
            out.add(origin, request, blamed);
        }
        if route.gateways.iter().any(|gateway| gateway == "mesh") {
            let name = service_of_host(&full_host(host, namespace)).map(|(ns, n)| ServiceName::new(ns, n));
            let Some(service) = name.as_ref().and_then(|name| snapshot.service(name)) else { continue };
            let name = service.service_name();
            let port = matching.int("port").or_else(|| service.ports.first().map(|port| port.number));
            let port = port.and_then(|port| u16::try_from(port).ok());
            let full = format!("{}.{}", name.name, name.namespace);
            for caller in callers(snapshot, &name) {
                if !serves_gateway(snapshot, caller) {
                    let request = Request { host: full.clone(), port, ..request.clone() };
                    out.add(Origin::Workload(named(caller)), request, blamed);
                }
            }
        }
    }
}
