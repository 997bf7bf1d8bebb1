//! ISTIO172.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Gateway, GatewayServer, VirtualService, full_host, hosts_overlap};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A VirtualService's routes are of a kind that its Gateway's servers do not take.
    ///
    /// ## What it detects
    /// A VirtualService all of whose routes are of kinds (`http`, `tls`, `tcp`) that no server of a Gateway takes which admits its hosts:
    /// HTTP, HTTP2, GRPC and terminated HTTPS take `http`, TLS that is passed through takes `tls`, TCP and terminated TLS take `tcp`.
    /// ## Why it matters
    /// Such routes are dropped without a word. A server of TCP without a `tcp` route does not even listen, so that clients cannot connect.
    /// ## Evidence
    /// The protocol and TLS mode of the servers against the kinds of the routes.
    /// ## How to confirm
    /// `istioctl proxy-config listeners GATEWAY-POD` shows no HTTP listener at that port.
    /// ## How to fix
    /// Give the server's port the protocol that the routes are for, or write routes for the protocol it has.
    /// ## False positives
    /// None known: the control plane attaches routes by these kinds alone. A VirtualService with a route of a fitting kind is not
    /// reported, whatever else it holds.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/gateway/#Port>
    GatewayProtocolMismatch {
        code: "ISTIO172", name: "gateway-protocol-mismatch", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: [],
    }
}

/// Routes that a Gateway drops.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    gateway: &'a Gateway,
    server: &'a GatewayServer,
    /// `http`, `tls` or `tcp`: what the server takes.
    takes: &'static str,
    /// What the routes are.
    has: BTreeSet<&'static str>,
}

impl Check for GatewayProtocolMismatch {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            let has: BTreeSet<&'static str> =
                virtual_service.routes.iter().map(|route| route.protocol).collect();
            if !seen::configured(namespace) || has.is_empty() {
                continue;
            }
            let bound =
                virtual_service.gateways.iter().filter_map(|name| hosts::gateway(snapshot, name, namespace));
            for gateway in bound {
                let admits = |server: &&'a GatewayServer| {
                    server
                        .hosts
                        .iter()
                        .filter_map(|host| hosts::server_host(host, gateway.object.namespace(), namespace))
                        .any(|open| {
                            virtual_service.hosts.iter().any(|host| {
                                hosts_overlap(open, &full_host(host, namespace)) || hosts_overlap(open, host)
                            })
                        })
                };
                let servers: Vec<&GatewayServer> = gateway.servers.iter().filter(admits).collect();
                let kinds: Option<Vec<&'static str>> = servers.iter().map(|server| takes(server)).collect();
                let Some(kinds) = kinds else { continue };
                if let (Some(server), Some(takes)) = (servers.first(), kinds.first())
                    && !kinds.iter().any(|kind| has.contains(kind))
                {
                    out.push(Fact { virtual_service, gateway, server, takes, has: has.clone() });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let gateway = &fact.gateway.object.reference;
        let reference = fact.virtual_service.reference();
        let place = format!("{}.port.protocol", fact.server.path);
        let subject = gateway.field(&place);
        let kinds = fact.has.iter().copied().collect::<Vec<_>>().join(" and ");
        let (protocol, port) = (text::plain(&fact.server.protocol, 20), fact.server.port);
        let routes = reference.field(format!("spec.{}", fact.has.first().copied().unwrap_or("http")));
        let silent = if fact.takes == "tcp" {
            "Without a tcp route it does not listen there at all, so clients cannot connect."
        } else {
            "They are dropped without a word, and requests find no route."
        };
        Finding::new(Self::META, subject.clone(), &[&reference.namespace, &reference.name])
            .title(format!("{gateway}: port {port} is declared as {protocol}, and {reference} has {kinds} routes alone"))
            .message(format!(
                "The servers of {gateway} that admit the hosts of {reference} take {} routes ({place} is {protocol}), and it has none. {silent}",
                fact.takes
            ))
            .mechanism("gateway protocol: the server's protocol takes no routes of this kind")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Configured)
            .service(hosts::service_of(snapshot, fact.virtual_service))
            .related(routes.clone())
            .evidence(Evidence::object(&subject, protocol.clone()))
            .evidence(Evidence::object(&routes, format!("{kinds} routes alone")))
            .effects(hosts::ingress_effects(snapshot, fact.virtual_service))
            .maybe_remedy(declare(fact, &place))
            .prevention(Prevention::of("Test", "In the pipeline: every route is of a kind that its Gateway takes (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when a gateway falls silent",
                "sum by (source_workload) (rate(istio_requests_total{source_workload=~\".*gateway.*\"}[5m])) == 0",
            ))
    }
}

/// The kind of routes that a server takes; `None` for a protocol that nobody here knows.
fn takes(server: &GatewayServer) -> Option<&'static str> {
    let passed = matches!(server.body.text("tls.mode"), Some("PASSTHROUGH" | "AUTO_PASSTHROUGH"));
    match server.protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" | "HTTP_PROXY" => Some("http"),
        "HTTPS" if passed => Some("tls"),
        "HTTPS" => Some("http"),
        "TLS" if passed => Some("tls"),
        "TLS" | "TCP" | "MONGO" | "MYSQL" | "REDIS" => Some("tcp"),
        _ => None,
    }
}

/// The protocol before the last edit, or the one that the routes are for, where that needs nothing else.
fn declare(fact: &Fact<'_>, place: &str) -> Option<Remedy> {
    let before = applied(&fact.gateway.object, place).and_then(|old| old.as_str().map(str::to_owned));
    let plain = fact.server.body.at("tls").is_none_or(|tls| tls.text("mode").is_none());
    let wanted = match before.filter(|old| *old != fact.server.protocol) {
        Some(old) => old,
        None if fact.has.contains("http") && plain && fact.takes == "tcp" => "HTTP".to_owned(),
        None if fact.has.contains("http") && fact.takes == "tcp" => "HTTPS".to_owned(),
        None if fact.has.contains("tcp") && plain => "TCP".to_owned(),
        None => return None,
    };
    Remedy::patch(
        &fact.gateway.object,
        &json!([{"op": "replace", "path": pointer(place), "value": wanted}]),
        format!("Set the protocol of port {} to {wanted}: the routes are attached", fact.server.port),
    )
}
