//! Requests to ask about where nobody named one: what a route's condition takes, what a port speaks, how a gateway is reached.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::ask::{Named, Origin, Protocol, Request, Tls};
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{self, Listener, Reference};
use crate::model::mesh::istio::{self, VirtualService, host_matches};
use crate::model::network::{self, ServiceName, ServicePort};
use crate::model::object::ObjectRef;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter, most};
use crate::model::workload::PodTemplate;

/// The label by which Istio marks what it makes for a Gateway of the Gateway API.
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What an object is asked for by.
pub fn named(reference: &ObjectRef) -> Named {
    Named {
        namespace: reference.namespace.clone(),
        kind: reference.kind.clone(),
        name: reference.name.clone(),
    }
}

/// `GET /` of a port of a Service, or a bare connection, as the port's protocol has it; none where the number is none.
pub fn of_port(service: &ServiceName, port: &ServicePort) -> Option<Request> {
    let number = u16::try_from(port.number).ok()?;
    let (protocol, method) = match port.protocol() {
        network::Protocol::Http | network::Protocol::Unknown => (Protocol::Http, "GET"),
        network::Protocol::Http2 => (Protocol::Http2, "GET"),
        network::Protocol::Grpc => (Protocol::Grpc, "POST"),
        network::Protocol::Udp => (Protocol::Udp, ""),
        _ => (Protocol::Tcp, ""),
    };
    let host = format!("{}.{}", service.name, service.namespace);
    let host = if number == 80 && protocol.is_http() { host } else { format!("{host}:{number}") };
    Some(Request { protocol, method: method.to_owned(), host, ..Request::default() })
}

/// Whether a selector that is not empty picks these labels.
pub fn picks(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn labels_of<'a>(snapshot: &'a Snapshot, workload: &'a ObjectRef) -> Option<&'a Labels> {
    let own = snapshot.workload(workload).map(|w| &w.template.labels);
    own.or_else(|| snapshot.pods_of(workload).next().map(|pod| &pod.template.labels))
}

/// Whether the proxy of pods is a gateway: it takes connections at its own ports, nothing is intercepted.
pub fn runs_router(template: &PodTemplate) -> bool {
    let proxy = template.container("istio-proxy");
    proxy.is_some_and(|proxy| proxy.body.texts("args").iter().any(|word| word == "router"))
}

/// Whether a workload serves a Gateway, of Istio or of the Gateway API, or is there to serve one: its proxy runs as a router, and
/// the Gateway may be one that nobody read, or one whose selector is wrong.
pub fn serves_gateway(snapshot: &Snapshot, workload: &ObjectRef) -> bool {
    let template = snapshot.workload(workload).map(|w| &w.template);
    let template = template.or_else(|| snapshot.pods_of(workload).next().map(|pod| &pod.template));
    if template.is_some_and(runs_router) {
        return true;
    }
    labels_of(snapshot, workload).is_some_and(|labels| {
        labels.contains_key(GATEWAY_NAME)
            || snapshot.istio.gateways.iter().any(|gateway| picks(&gateway.selector, labels))
    })
}

/// The Gateway that a workload serves for a host, with the port and TLS by which it is reached.
pub fn door(snapshot: &Snapshot, workload: &ObjectRef, host: &str) -> Option<(Named, u16, Tls)> {
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

/// The server of a Gateway of Istio's that takes a host: one in plaintext rather than one with TLS. Where none takes it, the
/// first one that speaks HTTP: what it says to such a host is the question.
pub fn server(gateway: &istio::Gateway, host: &str) -> Option<(u16, Tls)> {
    let takes = |hosts: &[String]| {
        hosts.iter().any(|own| host_matches(own.rsplit_once('/').map_or(own.as_str(), |(_, own)| own), host))
    };
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
pub fn listener(gateway: &gateway_api::Gateway, host: &str) -> Option<(u16, Tls)> {
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

/// The port that clients called most often.
pub fn called_port(outcome: &Outcome) -> Option<u16> {
    most(&outcome.called)?.rsplit_once(':')?.1.parse().ok()
}

/// A request of an access log, where it comes from and by which port: at a gateway through the door that takes its host, else from
/// the workload, by the port that was called, where the host names none.
pub fn placed(
    snapshot: &Snapshot,
    from: &ObjectRef,
    (edge, outcome): (&EdgeTraffic, &Outcome),
    request: Request,
) -> Option<(Origin, Request)> {
    let (host, port) = request.authority();
    if serves_gateway(snapshot, from) {
        let (gateway, port, tls) = door(snapshot, from, &host)?;
        return Some((Origin::Gateway(gateway), Request { host, port: Some(port), tls, ..request }));
    }
    let own = edge.cluster.port.and_then(|port| u16::try_from(port).ok());
    // What the callee's proxy logs is the pod's port, not the Service's.
    let called = if edge.reporter == Reporter::Source { called_port(outcome).or(own) } else { None };
    let port = if port.is_none() { called } else { None };
    Some((Origin::Workload(named(from)), Request { port, ..request }))
}

/// A host without wildcard out of several.
pub fn plain_host(hosts: &[String]) -> Option<&String> {
    hosts.iter().find(|host| !host.contains('*'))
}

/// The requests that a route of a VirtualService takes at the gateways that it is bound to, for one host.
pub fn at_gateways(
    snapshot: &Snapshot,
    virtual_service: &VirtualService,
    route: &istio::Route,
    host: &str,
) -> Vec<(Origin, Request)> {
    let own = virtual_service.object.namespace();
    let empty = Value::Null;
    let Some(request) = istio_request(route.matches().first().unwrap_or(&empty), host) else { return vec![] };
    let bound = virtual_service.gateways.iter().filter_map(|gateway| {
        let (namespace, name) = gateway.split_once('/').unwrap_or((own, gateway));
        let mut known = snapshot.istio.gateways.iter();
        known.find(|g| g.object.namespace() == namespace && g.object.name() == name)
    });
    bound
        .filter_map(|gateway| {
            let (port, tls) = server(gateway, host)?;
            let request = Request { port: Some(port), tls, ..request.clone() };
            Some((Origin::Gateway(named(&gateway.object.reference)), request))
        })
        .collect()
}

/// The Gateway of the Gateway API that a route is attached to.
pub fn parent<'a>(snapshot: &'a Snapshot, parent: &Reference) -> Option<&'a gateway_api::Gateway> {
    let mut all = snapshot.gateway_api.gateways.iter().filter(|_| parent.kind == "Gateway");
    all.find(|g| g.object.namespace() == parent.namespace && g.object.name() == parent.name)
}

/// The requests that a rule of an HTTPRoute or GRPCRoute takes at the Gateways that it is attached to.
pub fn at_parents(snapshot: &Snapshot, route: &gateway_api::Route, rule: &Value) -> Vec<(Origin, Request)> {
    let empty = Value::Null;
    let matching = rule.list("matches").first().unwrap_or(&empty);
    route
        .parents
        .iter()
        .filter_map(|reference| parent(snapshot, reference))
        .filter_map(|gateway| {
            let listened = gateway.listeners.iter().map(|l| l.hostname.as_str());
            let host = plain_host(&route.hostnames).map(String::as_str);
            let host = host.or_else(|| listened.into_iter().find(|h| !h.is_empty() && !h.contains('*')));
            let host = host.unwrap_or("example.com");
            let (port, tls) = listener(gateway, host)?;
            let request = gateway_api_request(matching, host)?;
            let request = Request { port: Some(port), tls, ..request };
            Some((Origin::Gateway(named(&gateway.object.reference)), request))
        })
        .collect()
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

/// A request that a condition of a VirtualService takes; none where only an expression tells.
pub fn istio_request(matching: &Value, host: &str) -> Option<Request> {
    let text = |entry: Option<&Value>| -> Option<Option<String>> {
        let Some(entry) = entry else { return Some(None) };
        let value = entry.text("exact").or_else(|| entry.text("prefix"))?;
        Some(Some(value.to_owned()))
    };
    let path = text(matching.at("uri"))?.unwrap_or_else(|| "/".to_owned());
    let method = text(matching.at("method"))?.unwrap_or_else(|| "GET".to_owned());
    let mut headers = BTreeMap::new();
    for (name, entry) in matching.map("headers").into_iter().flatten() {
        headers.insert(name.to_string(), text(Some(entry))?.unwrap_or_default());
    }
    let mut query = vec![];
    for (name, entry) in matching.map("queryParams").into_iter().flatten() {
        query.push(format!("{name}={}", text(Some(entry))?.unwrap_or_default()));
    }
    let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
    Some(Request { method, host: host.to_owned(), path, headers, ..Request::default() })
}
