//! Which requests a fix is tried on: those that were seen to fail, those that a route at fault takes, those that known callers
//! make, and some of the neighbours', which must fare as before.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::diagnosis::Diagnosis;
use crate::analyze::finding::{Effect, Finding};
use crate::analyze::twin::ask::{Ask, BackendResponse, Named, Origin, Protocol, Request, Tls, describe};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Gateway, Listener};
use crate::model::mesh::istio::{self, VirtualService, full_host, host_matches, service_of_host};
use crate::model::network::{self, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter, address};

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

fn named(reference: &ObjectRef) -> Named {
    Named {
        namespace: reference.namespace.clone(),
        kind: reference.kind.clone(),
        name: reference.name.clone(),
    }
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
            let Ok(number) = u16::try_from(port.number) else { continue };
            let (protocol, method) = match port.protocol() {
                network::Protocol::Http | network::Protocol::Unknown => (Protocol::Http, "GET"),
                network::Protocol::Http2 => (Protocol::Http2, "GET"),
                network::Protocol::Grpc => (Protocol::Grpc, "POST"),
                network::Protocol::Udp => (Protocol::Udp, ""),
                _ => (Protocol::Tcp, ""),
            };
            let host = format!("{}.{}", service.name, service.namespace);
            let host = if number == 80 && protocol.is_http() { host } else { format!("{host}:{number}") };
            let request = Request { protocol, method: method.to_owned(), host, ..Request::default() };
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
            let called = most(&outcome.called).and_then(|text| text.rsplit_once(':')?.1.parse::<u16>().ok());
            let host = most(&outcome.authorities).unwrap_or(&edge.authority);
            if host.is_empty() || outcome.connection || serves_gateway(snapshot, &edge.workload) {
                continue;
            }
            let request = http(outcome, host);
            let port = if request.authority().1.is_none() { called } else { None };
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

/// The most frequent of some values.
fn most(counted: &BTreeMap<String, u64>) -> Option<&str> {
    counted
        .iter()
        .max_by_key(|(text, count)| (**count, std::cmp::Reverse(*text)))
        .map(|(text, _)| text.as_str())
}

/// The request that an access log shows.
fn seen(
    snapshot: &Snapshot,
    service: &ServiceName,
    from: &ObjectRef,
    (edge, outcome): (&EdgeTraffic, &Outcome),
) -> Option<(Origin, Request)> {
    let called = most(&outcome.called).and_then(|text| text.rsplit_once(':')?.1.parse::<u16>().ok());
    let own_port = edge.cluster.port.and_then(|port| u16::try_from(port).ok());
    let port = if edge.reporter == Reporter::Source { called.or(own_port) } else { None };
    if outcome.connection {
        let host = most(&outcome.called).map(address).unwrap_or_default();
        let request = Request {
            protocol: Protocol::Tcp,
            method: String::new(),
            host: if snapshot.service(service).is_some() {
                format!("{}.{}", service.name, service.namespace)
            } else {
                host.to_owned()
            },
            port: own_port.or(port),
            ..Request::default()
        };
        return request.port.is_some().then(|| (Origin::Workload(named(from)), request));
    }
    let mut request = http(outcome, most(&outcome.authorities)?);
    request.backend_response = taken(snapshot, service, outcome);
    if serves_gateway(snapshot, from) {
        let (bare, _) = request.authority();
        let (gateway, port, tls) = door(snapshot, from, &bare)?;
        request.host = bare;
        request.port = Some(port);
        request.tls = tls;
        return Some((Origin::Gateway(gateway), request));
    }
    if request.authority().1.is_none() {
        request.port = port;
    }
    Some((Origin::Workload(named(from)), request))
}

fn labels_of<'a>(snapshot: &'a Snapshot, workload: &'a ObjectRef) -> Option<&'a Labels> {
    let own = snapshot.workload(workload).map(|w| &w.template.labels);
    own.or_else(|| snapshot.pods_of(workload).next().map(|pod| &pod.template.labels))
}

fn picks(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The label by which Istio marks what it makes for a Gateway of the Gateway API.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

fn serves_gateway(snapshot: &Snapshot, workload: &ObjectRef) -> bool {
    labels_of(snapshot, workload).is_some_and(|labels| {
        labels.contains_key(GATEWAY_NAME)
            || snapshot.istio.gateways.iter().any(|gateway| picks(&gateway.selector, labels))
    })
}

/// The Gateway that a workload serves for a host, with the port and TLS by which it is reached.
fn door(snapshot: &Snapshot, workload: &ObjectRef, host: &str) -> Option<(Named, u16, Tls)> {
    let labels = labels_of(snapshot, workload)?;
    if let Some(name) = labels.get(GATEWAY_NAME) {
        let gateway = snapshot
            .gateway_api
            .gateways
            .iter()
            .find(|g| g.object.name() == name && g.object.namespace() == workload.namespace)?;
        let (port, tls) = listener(gateway, host)?;
        return Some((named(&gateway.object.reference), port, tls));
    }
    let serving = snapshot.istio.gateways.iter().filter(|gateway| picks(&gateway.selector, labels));
    serving.into_iter().find_map(|gateway| {
        let (port, tls) = server(gateway, host)?;
        Some((named(&gateway.object.reference), port, tls))
    })
}

/// The server of a Gateway of Istio's that takes a host: one in plaintext rather than one with TLS.
fn server(gateway: &istio::Gateway, host: &str) -> Option<(u16, Tls)> {
    let takes = |hosts: &[String]| {
        hosts.iter().any(|own| host_matches(own.rsplit_once('/').map_or(own.as_str(), |(_, own)| own), host))
    };
    // Where none takes it, that is what is tried: at the first one, which others of its port stand beside.
    let any = !gateway.servers.iter().any(|server| takes(&server.hosts));
    let found = gateway.servers.iter().filter(|server| any || takes(&server.hosts)).filter_map(|server| {
        let tls = match server.protocol.to_ascii_uppercase().as_str() {
            "HTTP" | "HTTP2" | "GRPC" => Tls::Plaintext,
            "HTTPS" => Tls::Tls,
            _ => return None,
        };
        Some((u16::try_from(server.port).ok()?, tls))
    });
    found.min_by_key(|(_, tls)| *tls != Tls::Plaintext)
}

/// The same of a Gateway of the Gateway API.
fn listener(gateway: &Gateway, host: &str) -> Option<(u16, Tls)> {
    let takes = |l: &Listener| l.hostname.is_empty() || host_matches(&l.hostname, host);
    let any = !gateway.listeners.iter().any(takes);
    let found = gateway.listeners.iter().filter(|l| any || takes(l)).filter_map(|listener| {
        let tls = match listener.protocol.as_str() {
            "HTTP" => Tls::Plaintext,
            "HTTPS" => Tls::Tls,
            _ => return None,
        };
        Some((u16::try_from(listener.port).ok()?, tls))
    });
    found.min_by_key(|(_, tls)| *tls != Tls::Plaintext)
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
        for parent in route.parents.iter().filter(|parent| parent.kind == "Gateway") {
            let gateway = snapshot
                .gateway_api
                .gateways
                .iter()
                .find(|g| g.object.namespace() == parent.namespace && g.object.name() == parent.name);
            let Some(gateway) = gateway else { continue };
            let host = route.hostnames.iter().find(|host| !host.contains('*'));
            let host = host.or_else(|| {
                gateway.listeners.iter().map(|l| &l.hostname).find(|h| !h.is_empty() && !h.contains('*'))
            });
            let host = host.map_or("example.com", String::as_str);
            let Some((port, tls)) = listener(gateway, host) else { continue };
            for (at, rule) in route.object.body.list("spec.rules").iter().enumerate().take(MAX_EACH) {
                let here = finding.subject.field_path.starts_with(&format!("spec.rules[{at}]"));
                if own && finding.subject.field_path.starts_with("spec.rules[") && !here {
                    continue;
                }
                let empty = Value::Null;
                let matching = rule.list("matches").first().unwrap_or(&empty);
                let Some(request) = gateway_api_request(matching, host) else { continue };
                let request = Request { port: Some(port), tls, ..request };
                out.add(Origin::Gateway(named(&gateway.object.reference)), request, own);
            }
        }
    }
}

/// A request that a condition of a Gateway API route takes; none where only an expression tells.
fn gateway_api_request(matching: &Value, host: &str) -> Option<Request> {
    let exact = |entry: &Value| entry.text("type").is_none_or(|kind| kind == "Exact");
    if matching.text("path.type") == Some("RegularExpression") || !matching.list("headers").iter().all(exact)
    {
        return None;
    }
    let headers = matching.list("headers").iter().map(|h| (h.string("name"), h.string("value")));
    let query: Vec<String> = matching
        .list("queryParams")
        .iter()
        .map(|q| format!("{}={}", q.string("name"), q.string("value")))
        .collect();
    let path = matching.text("path.value").unwrap_or("/");
    Some(Request {
        method: matching
            .text("method")
            .filter(|m| m.chars().all(char::is_uppercase))
            .unwrap_or("GET")
            .to_owned(),
        host: host.to_owned(),
        path: if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) },
        headers: headers.collect(),
        ..Request::default()
    })
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
        let matching = one.matches.first().unwrap_or(&empty);
        let Some(request) = istio_request(matching, host) else { continue };
        for gateway in &route.gateways {
            if gateway == "mesh" {
                let full = full_host(host, namespace);
                let service = service_of_host(&full).map(|(ns, name)| ServiceName::new(ns, name));
                let Some(service) = service.filter(|name| snapshot.service(name).is_some()) else { continue };
                let port = snapshot.service(&service).and_then(|s| s.ports.first()).map(|port| port.number);
                let port = matching.int("port").or(port).and_then(|port| u16::try_from(port).ok());
                for caller in callers(snapshot, &service) {
                    if serves_gateway(snapshot, caller) {
                        continue;
                    }
                    let request = Request {
                        host: format!("{}.{}", service.name, service.namespace),
                        port,
                        ..request.clone()
                    };
                    out.add(Origin::Workload(named(caller)), request, blamed);
                }
                continue;
            }
            let (ns, name) = gateway.split_once('/').unwrap_or((namespace, gateway));
            let known = snapshot.istio.gateways.iter();
            let gateway = known.into_iter().find(|g| g.object.namespace() == ns && g.object.name() == name);
            let Some(gateway) = gateway else { continue };
            let Some((port, tls)) = server(gateway, host) else { continue };
            let request = Request { port: Some(port), tls, ..request.clone() };
            out.add(Origin::Gateway(named(&gateway.object.reference)), request, blamed);
        }
    }
}

/// A request that a condition of a VirtualService takes; none where only an expression tells.
fn istio_request(matching: &Value, host: &str) -> Option<Request> {
    let text = |entry: Option<&Value>| -> Option<Option<String>> {
        let Some(entry) = entry else { return Some(None) };
        let value = entry.text("exact").or_else(|| entry.text("prefix"))?;
        Some(Some(value.to_owned()))
    };
    let path = text(matching.at("uri"))?.unwrap_or_else(|| "/".to_owned());
    let method = text(matching.at("method"))?.unwrap_or_else(|| "GET".to_owned());
    let mut headers = BTreeMap::new();
    for (name, entry) in matching.map("headers").into_iter().flatten() {
        headers.insert(name.clone(), text(Some(entry))?.unwrap_or_default());
    }
    let mut query = vec![];
    for (name, entry) in matching.map("queryParams").into_iter().flatten() {
        query.push(format!("{name}={}", text(Some(entry))?.unwrap_or_default()));
    }
    let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
    Some(Request { method, host: host.to_owned(), path, headers, ..Request::default() })
}
