//! Who can reach a Service, and what refuses the others.

use serde::Serialize;
use std::collections::BTreeSet;

use super::Twin;
use super::answer::{Answer, Outcome};
use super::ask::{Ask, Origin, Request, describe, place};
use super::probe;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, service_of_host};
use crate::model::network::{Service, ServiceName, ServicePort};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// Requests that are asked in one reading of a snapshot, at most: some ten seconds.
pub const MAX_ASKED: usize = 200_000;
/// Requests that are tried from one source on one port: `GET /`, and what policies and routes name.
const MAX_PROBES: usize = 8;

/// How a source fares at one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Access {
    /// At least one of the requests gets there.
    Reaches,
    /// None does.
    Refused,
    /// The twin cannot say.
    NotModelled,
}

/// A source and a port.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Passage {
    /// Where requests come from: `shop/frontend`, `outside, at gateway shop/public`.
    pub from: String,
    /// The Service's port; none for a gateway, which chooses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
    /// Whether anything gets there.
    pub access: Access,
    /// Requests that get there; where none does, the first one that was tried.
    pub requests: Vec<String>,
    /// What the caller sees: `200`, `403`.
    pub seen: String,
    /// What decided, or why the twin cannot say.
    pub detail: String,
    /// The object and field that decided last; none where nothing refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<ObjectRef>,
}

/// Who reaches a Service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// The Service.
    pub service: ServiceName,
    /// Every source at every port: those that reach it first.
    pub passages: Vec<Passage>,
    /// Sources that were not asked, because there are more than are asked at once.
    pub left_out: usize,
}

impl Reach {
    /// How many sources get there at any port, and how many there are.
    pub fn counts(&self) -> (usize, usize) {
        let all: BTreeSet<&String> = self.passages.iter().map(|p| &p.from).collect();
        let reach = self.passages.iter().filter(|p| p.access == Access::Reaches).map(|p| &p.from);
        (reach.collect::<BTreeSet<_>>().len(), all.len())
    }
}

/// Whatever makes pods and is owned by nothing that was seen, and bare pods.
fn sources(snapshot: &Snapshot) -> Vec<&ObjectRef> {
    let workloads = snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()).map(|w| w.reference());
    let bare = snapshot.pods.iter().filter(|pod| pod.object.owners.is_empty() && !pod.ended());
    workloads.chain(bare.map(|pod| &pod.object.reference)).collect()
}

/// Who reaches a Service; `left` is what is still asked at all, and is counted down.
pub fn reach(twin: &Twin<'_>, service: &Service, left: &mut usize) -> Reach {
    let snapshot = twin.snapshot;
    let name = service.service_name();
    let behind = snapshot.graph.backing.get(&name);
    let mut passages = vec![];
    let mut left_out = 0;
    for source in sources(snapshot) {
        let own = behind.is_some_and(|own| own.contains(source));
        if own || probe::serves_gateway(snapshot, source) {
            continue;
        }
        let origin = Origin::Workload(probe::named(source));
        for port in &service.ports {
            let probes = probes(snapshot, service, port);
            if *left < probes.len() {
                left_out += 1;
                continue;
            }
            *left -= probes.len();
            let asks = probes.into_iter().map(|request| (origin.clone(), request)).collect();
            passages.extend(passage(twin, &name, Some(port.number), asks));
        }
    }
    let mut doors: Vec<(Origin, Vec<Request>)> = vec![];
    for (origin, request) in at_doors(snapshot, &name) {
        match doors.iter_mut().find(|(known, _)| *known == origin) {
            Some((_, requests)) if requests.len() < MAX_PROBES => requests.push(request),
            Some(_) => {}
            None => doors.push((origin, vec![request])),
        }
    }
    for (origin, requests) in doors {
        *left = left.saturating_sub(requests.len());
        let asks = requests.into_iter().map(|request| (origin.clone(), request)).collect();
        passages.extend(passage(twin, &name, None, asks));
    }
    passages.sort_by(|a, b| (a.port, a.access, &a.from).cmp(&(b.port, b.access, &b.from)));
    Reach { service: name, passages, left_out }
}

/// The best of what becomes of several requests of one source.
fn passage(
    twin: &Twin<'_>,
    service: &ServiceName,
    port: Option<i64>,
    asks: Vec<(Origin, Request)>,
) -> Option<Passage> {
    let mut best: Option<Passage> = None;
    for (from, request) in asks {
        let title = describe(&from, &request);
        let title = title.split(" from ").next().unwrap_or_default().to_owned();
        let place = place(&from);
        let answer = twin.answer(&Ask { name: String::new(), from, request });
        let access = access(&answer, service);
        match &mut best {
            Some(known) if known.access == access && access == Access::Reaches => known.requests.push(title),
            Some(known) if known.access <= access => {}
            _ => {
                let by = answer.steps.iter().rev().find_map(|step| {
                    step.object.as_ref().map(|object| object.field(step.field_path.clone()))
                });
                best = Some(Passage {
                    from: place,
                    port,
                    access,
                    requests: vec![title],
                    seen: if access == Access::NotModelled { String::new() } else { answer.label() },
                    detail: answer.detail.clone(),
                    by: by.filter(|_| access != Access::Reaches),
                });
            }
        }
    }
    best
}

/// Whether an answer means that the Service gets the request.
fn access(answer: &Answer, service: &ServiceName) -> Access {
    let there =
        || answer.backends.iter().any(|b| b.namespace == service.namespace && b.service == service.name);
    // A gateway's Service is on the way to others.
    let full = full_host(&service.name, &service.namespace);
    let on_the_way = || answer.cluster.rsplit('|').next() == Some(full.as_str());
    match answer.outcome {
        Outcome::NotModelled => Access::NotModelled,
        Outcome::Forwarded if there() || on_the_way() => Access::Reaches,
        _ => Access::Refused,
    }
}

/// The requests that are tried at a port: `GET /`, and what policies that allow something name.
fn probes(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Vec<Request> {
    let Some(plain) = probe::of_port(&service.service_name(), port) else { return vec![] };
    let mut out = vec![plain.clone()];
    if !plain.protocol.is_http() {
        return out;
    }
    let istio = &snapshot.istio;
    let labels: Vec<_> = snapshot.workloads_behind(service).map(|w| &w.template.labels).collect();
    let namespace = service.object.namespace();
    let allowing = istio.authorization_policies.iter().filter(|policy| {
        policy.object.body.text("spec.action").is_none_or(|action| action == "ALLOW")
            && labels.iter().any(|labels| policy.applies_to(namespace, labels, &istio.root_namespace))
    });
    // A pattern stands for the shortest text that fits it.
    let plain_text = |pattern: &String| pattern.replace("{**}", "x").replace("{*}", "x").replace('*', "");
    for policy in allowing {
        for operation in policy.object.body.list("spec.rules").iter().flat_map(|rule| rule.list("to")) {
            let methods = operation.texts("operation.methods");
            let paths = operation.texts("operation.paths");
            let method = methods.first().map_or_else(|| plain.method.clone(), |m| m.replace('*', "GET"));
            let paths = if paths.is_empty() { vec!["/".to_owned()] } else { paths };
            for path in paths.iter().map(plain_text) {
                let path = if path.starts_with('/') { path } else { format!("/{path}") };
                let request = Request { method: method.clone(), path, ..plain.clone() };
                if out.len() < MAX_PROBES && !out.contains(&request) {
                    out.push(request);
                }
            }
        }
    }
    out
}

/// The requests that routes at gateways lead to a Service.
fn at_doors(snapshot: &Snapshot, service: &ServiceName) -> Vec<(Origin, Request)> {
    let mut out = vec![];
    for route in &snapshot.istio.virtual_services {
        let Some(host) = probe::plain_host(&route.hosts) else { continue };
        let leads = |host: &str| {
            service_of_host(&full_host(host, route.object.namespace()))
                .is_some_and(|(ns, name)| ns == service.namespace && name == service.name)
        };
        let http = route.routes.iter().filter(|r| r.protocol == "http");
        for one in http.filter(|r| r.destinations.iter().any(|d| leads(&d.host))) {
            out.extend(probe::at_gateways(snapshot, route, one, host));
        }
    }
    for route in &snapshot.gateway_api.routes {
        if !matches!(route.reference().kind.as_str(), "HTTPRoute" | "GRPCRoute") {
            continue;
        }
        for (at, rule) in route.object.body.list("spec.rules").iter().enumerate() {
            let inside = format!("spec.rules[{at}].");
            let leads = route.backends.iter().any(|backend| {
                backend.path.starts_with(&inside)
                    && backend.kind == "Service"
                    && backend.namespace == service.namespace
                    && backend.name == service.name
            });
            if leads {
                out.extend(probe::at_parents(snapshot, route, rule));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::snapshot::Builder;

    fn workload(name: &str) -> [Value; 2] {
        let meta = json!({"name": name, "namespace": "n"});
        [
            json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80}]}}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"template": {"metadata": {"labels": {"app": name}},
                "spec": {"serviceAccountName": name, "containers": [{"name": "c"}, {"name": "istio-proxy"}]}}}}),
        ]
    }

    fn snapshot() -> Snapshot {
        let mut builder = Builder::new();
        for object in ["payment", "checkout", "stranger"].iter().flat_map(|name| workload(name)) {
            builder.object(object);
        }
        let security = |kind: &str, spec: Value| json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "payment", "namespace": "n"}, "spec": spec});
        builder.object(security("PeerAuthentication", json!({"mtls": {"mode": "STRICT"}})));
        builder.object(security(
            "AuthorizationPolicy",
            json!({"selector": {"matchLabels": {"app": "payment"}}, "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/n/sa/checkout"]}}],
                "to": [{"operation": {"methods": ["POST"], "paths": ["/charges/*"]}}]}]}),
        ));
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {"selector": {"istio": "gw"}, "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["a.example.com"]}]}}));
        builder.object(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "v", "namespace": "n"},
            "spec": {"hosts": ["a.example.com"], "gateways": ["g"], "http": [{"match": [{"uri": {"prefix": "/stranger"}}], "route": [{"destination": {"host": "stranger"}}]}]}}));
        builder.finish()
    }

    fn of(snapshot: &Snapshot, name: &str) -> Reach {
        let service = snapshot.service(&ServiceName::new("n", name)).unwrap();
        reach(&Twin::new(snapshot), service, &mut MAX_ASKED.clone())
    }

    #[test]
    fn the_request_that_a_policy_allows_is_tried_and_its_refusal_of_others_named() {
        let reach = of(&snapshot(), "payment");
        let told: Vec<_> = reach.passages.iter().map(|p| (p.from.as_str(), p.access)).collect();
        assert_eq!(told, [("n/checkout", Access::Reaches), ("n/stranger", Access::Refused)]);
        assert_eq!(reach.passages[0].requests, ["POST http://payment.n/charges/"]);
        assert_eq!(reach.passages[1].seen, "403");
        assert_eq!(reach.passages[1].by.as_ref().unwrap().kind, "AuthorizationPolicy");
        assert_eq!(reach.counts(), (1, 2));
    }

    #[test]
    fn a_gateway_is_a_source_where_a_route_leads_there() {
        let reach = of(&snapshot(), "stranger");
        let outside = reach.passages.iter().find(|p| p.from.starts_with("outside")).unwrap();
        assert_eq!((outside.port, outside.requests[0].as_str()), (None, "GET http://a.example.com/stranger"));
    }

    #[test]
    fn what_is_not_asked_is_counted() {
        let snapshot = snapshot();
        let service = snapshot.service(&ServiceName::new("n", "payment")).unwrap();
        let reach = reach(&Twin::new(&snapshot), service, &mut 2);
        assert_eq!((reach.passages.len(), reach.left_out), (1, 1));
    }
}
