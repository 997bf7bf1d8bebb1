//! ISTIO144.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::session_affinity_imbalance::hashing;
use super::skew::{Skew, skews};
use super::support::annotate;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::network::Protocol;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::Workload;

crate::rule! {
    /// Long-lived connections pin all requests to one pod.
    ///
    /// ## What it detects
    /// One of several ready pods of a Deployment that gets nearly all requests of a Service, over a handful of connections, where
    /// nothing chooses a pod for each request: the port is not declared as HTTP/2 or gRPC, the Service is headless, or the
    /// callers have no proxy.
    /// ## Why it matters
    /// gRPC and HTTP/2 put every request of a client on one connection, and a balancer of connections chooses once. One pod
    /// works, the others idle, and scaling up changes nothing.
    /// ## Evidence
    /// Requests by pod and the number of connections in the access logs of the pods' own proxies, or requests by pod of
    /// `istio_requests_total` and Linkerd's `request_total`; the Service's port; whether the callers have a proxy.
    /// ## How to confirm
    /// Requests by pod: `sum by (pod) (rate(istio_requests_total{reporter="destination"}[5m]))`.
    /// ## How to fix
    /// Declare the port with `appProtocol: grpc` (or `http2`) so that callers' proxies choose for each request, bring the callers
    /// into the mesh, or let the server end connections after some minutes (`MaxConnectionAge`).
    /// ## False positives
    /// Pods of a StatefulSet, of which one is the primary, are left out; so are pods that became ready a moment ago. Where
    /// nothing fails and nothing is slow it is information.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>
    ConnectionsPinToOnePod {
        code: "ISTIO144", name: "connections-pin-to-one-pod", family: Mesh, severity: Warning,
        needs: [Status, Requests], aliases: [],
    }
}

/// More connections than this for each pod are balanced by their number.
const FEW_CONNECTIONS: usize = 4;

/// Why nothing chooses a pod for each request.
#[derive(Debug)]
enum Why<'a> {
    /// The Service's port is not declared as HTTP; its index.
    Port(usize),
    /// Callers find the pods themselves.
    Headless,
    /// This caller has no proxy.
    Caller(&'a Workload),
}

/// Requests that stay on one pod.
#[derive(Debug)]
pub struct Fact<'a> {
    skew: Skew<'a>,
    why: Why<'a>,
}

impl Check for ConnectionsPinToOnePod {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let facts = skews(snapshot).into_iter().filter_map(|skew| {
            // Where an affinity is configured, that is why.
            let affine = skew.service.object.body.text("spec.sessionAffinity") == Some("ClientIP");
            if affine || hashing(snapshot, skew.service).is_some() {
                return None;
            }
            if !skew.counted
                && (skew.connections > skew.pods * FEW_CONNECTIONS || skew.protocol == "HTTP/1.1")
            {
                return None;
            }
            let why = why(snapshot, &skew)?;
            Some(Fact { skew, why })
        });
        facts.collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let skew = &fact.skew;
        let (service, name) = (skew.service.reference(), skew.service.service_name());
        let idle = text::several(skew.pods as u64 - 1, "other pod");
        let share = text::share(skew.top.requests, skew.requests(), "requests");
        let connections = if skew.counted {
            String::new()
        } else {
            format!(" They came on {}.", text::several(skew.connections as u64, "connection"))
        };
        let (subject, reason): (ObjectRef, String) = match &fact.why {
            Why::Port(index) => {
                let port = skew.service.ports.get(*index);
                let label =
                    port.map_or(String::new(), |p| format!("{} {:?}", p.number, text::plain(&p.name, 40)));
                (
                    service.field(format!("spec.ports[{index}].appProtocol")),
                    format!(
                        "port {label} is not declared as HTTP/2 or gRPC, so callers' proxies balance connections and not requests"
                    ),
                )
            }
            Why::Headless => (
                service.field("spec.clusterIP"),
                "the Service is headless: each client picks an address and keeps it".to_owned(),
            ),
            Why::Caller(workload) => (
                workload.reference().field(workload.template_path("metadata.labels")),
                format!(
                    "{} has no proxy: a pod is chosen once for each of its connections",
                    workload.reference()
                ),
            ),
        };
        let felt = skew.felt();
        let hurt = felt.clone().map_or("Nothing fails for it yet.".to_owned(), |how| format!("There {how}."));
        Finding::new(Self::META, subject.clone(), &[&name.to_string()])
            .title(format!("{} gets {share} to {}; {idle} idle", skew.pod.object.reference, name.name))
            .message(format!(
                "Of {} ready pods of {name} one gets {share}.{connections} The reason: {reason}. {hurt} More replicas change nothing.",
                skew.pods
            ))
            .mechanism("connection imbalance: long-lived HTTP/2 or gRPC connections pin requests to one pod")
            .severity(if felt.is_some() { Severity::Warning } else { Severity::Info })
            .role(
                if felt.is_some() { Role::Cause } else { Role::Context },
                if felt.is_some() { Confidence::Observed } else { Confidence::Possible },
            )
            .service(Some(name.clone()))
            .evidence(Evidence::new(
                if skew.counted { "Metric" } else { "AccessLog" },
                format!("requests to {name} by pod"),
                format!("{share} at {}, the rest at {idle}", skew.pod.object.name()),
            ))
            .evidence(Evidence::object(&subject, reason))
            .effect(Effect::requests(&name, &["slow", "UT", "timeout", "5xx", "UO"]))
            .maybe_remedy(declare(fact))
            .maybe_remedy(inject(fact))
            .remedy(Remedy::manual(
                "Let the server end connections after some minutes (gRPC's MaxConnectionAge, an idle time-out), so that clients choose anew",
            ))
            .prevention(Prevention::alert(
                "Alert when one pod gets twice the average",
                format!(
                    "max(sum by (pod) (rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[10m]))) / avg(sum by (pod) (rate(istio_requests_total{{reporter=\"destination\",destination_service_name=\"{0}\"}}[10m]))) > 2",
                    text::plain(&name.name, 63)
                ),
            ))
            .prevention(Prevention::of("Setting", "appProtocol on every port that speaks gRPC or HTTP/2, and a maximum age of connections in every gRPC server"))
    }
}

/// What keeps requests from being balanced one by one.
fn why<'a>(snapshot: &'a Snapshot, skew: &Skew<'a>) -> Option<Why<'a>> {
    if skew.service.headless() {
        return Some(Why::Headless);
    }
    let name = skew.service.service_name();
    let leads = |port: &&(usize, Option<i64>)| skew.port.is_none() || port.1 == skew.port;
    let ports: Vec<(usize, Option<i64>)> = skew
        .service
        .ports
        .iter()
        .enumerate()
        .map(|(index, port)| (index, skew.service.pod_port(port, skew.pod)))
        .collect();
    let (index, _) = *ports.iter().find(leads)?;
    let meshed = snapshot.traffic_to(&name, Reporter::Source).next().is_some();
    if meshed {
        let protocol = skew.service.ports.get(index)?.protocol();
        // A port that says nothing is read by its first bytes, which works for HTTP/2 in plaintext.
        let bytes = matches!(protocol, Protocol::Tcp | Protocol::OtherTcp | Protocol::Tls);
        return bytes.then_some(Why::Port(index));
    }
    let callers: BTreeSet<&ObjectRef> = snapshot.graph.callers(&name).collect();
    let plain = |workload: &&Workload| {
        let mut pods = snapshot.pods_of(workload.reference()).peekable();
        pods.peek().is_some()
            && pods.all(|pod| {
                !snapshot.has_istio_proxy(pod) && !pod.template.has_running_container("linkerd-proxy")
            })
    };
    callers.into_iter().filter_map(|caller| snapshot.workload(caller)).find(plain).map(Why::Caller)
}

/// Says what the port speaks.
fn declare(fact: &Fact<'_>) -> Option<Remedy> {
    let Why::Port(index) = &fact.why else { return None };
    let port = fact.skew.service.ports.get(*index)?;
    let known = !port.app_protocol.is_empty();
    Remedy::patch(
        &fact.skew.service.object,
        &json!([{"op": if known { "replace" } else { "add" }, "path": format!("/spec/ports/{index}/appProtocol"), "value": "grpc"}]),
        format!(
            "Set appProtocol of port {} to grpc: callers' proxies then choose a pod for each request (http2 where it is no gRPC)",
            port.number
        ),
    )
}

/// Gives the caller a proxy.
fn inject(fact: &Fact<'_>) -> Option<Remedy> {
    let Why::Caller(workload) = &fact.why else { return None };
    let key = "sidecar.istio.io/inject";
    let path = pointer(&workload.template_path("metadata.labels"));
    if workload.object.body.pointer(&path).is_none_or(|labels| !labels.is_object()) {
        return annotate(
            workload,
            key,
            "true",
            "Give the caller a proxy, which chooses a pod for each request",
        );
    }
    let add = json!([{"op": "add", "path": format!("{path}/{}", pointer_segment(key)), "value": "true"}]);
    let remedy = Remedy::patch(
        &workload.object,
        &add,
        "Give the caller a proxy, which chooses a pod for each request; its pods are replaced",
    )?;
    Some(remedy.risk(Risk::Medium))
}
