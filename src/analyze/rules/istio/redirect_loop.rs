//! ISTIO116.

use crate::model::json::json;

use super::hosts::gateway_services;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::{Seen, outcomes};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Gateway, GatewayServer};
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Gateway redirects to HTTPS what already came over HTTPS.
    ///
    /// ## What it detects
    /// A server with `httpsRedirect` whose port also receives what a load balancer has decrypted: the gateway's Service leads
    /// its port 443 to the plaintext listener.
    /// ## Why it matters
    /// The client is sent to the address that it asked for, until it gives up: too many redirects.
    /// ## Evidence
    /// `httpsRedirect` of the server, ports and annotations of the gateway's Service, answers of 301 in the gateway's log.
    /// ## How to confirm
    /// `curl -sI https://HOST` answers 301 with the same address.
    /// ## How to fix
    /// Take `httpsRedirect` away and let the load balancer redirect, or let it pass TLS through.
    /// ## False positives
    /// A load balancer whose X-Forwarded-Proto the gateway trusts (`numTrustedProxies`); this rule is silent about it.
    /// ## References
    /// <https://istio.io/latest/docs/ops/common-problems/network-issues/>
    RedirectLoop {
        code: "ISTIO116", name: "redirect-loop", family: Gateway, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// A server that redirects in a circle.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    server: &'a GatewayServer,
    service: &'a Service,
    seen: Seen,
    /// All requests that the gateway got.
    requests: u64,
    behind: Vec<ServiceName>,
}

impl Check for RedirectLoop {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let trusted = snapshot.istio.mesh_config.int("defaultConfig.gatewayTopology.numTrustedProxies");
        if trusted.is_some_and(|n| n > 0) {
            return vec![];
        }
        let mut out = vec![];
        for gateway in &snapshot.istio.gateways {
            for server in gateway.servers.iter().filter(|server| server.body.flag("tls.httpsRedirect")) {
                let services = gateway_services(snapshot, gateway);
                let service = services
                    .iter()
                    .filter_map(|name| snapshot.service(name))
                    .find(|s| decrypted(s, server.port));
                let Some(service) = service else { continue };
                let own = snapshot.traffic.iter().filter(|edge| {
                    let workload = snapshot.workload(&edge.workload);
                    workload
                        .is_some_and(|w| service.selects_labels(&edge.workload.namespace, &w.template.labels))
                });
                let requests = own.clone().map(|edge| edge.requests).sum();
                let seen = outcomes(own, |_, outcome| outcome.code == 301 && outcome.upstreams.is_empty());
                let behind = snapshot
                    .istio
                    .virtual_services
                    .iter()
                    .filter(|vs| {
                        vs.gateways.iter().any(|name| {
                            super::hosts::gateway_name(name, vs.object.namespace())
                                == (gateway.object.namespace(), gateway.object.name())
                        })
                    })
                    .filter_map(|vs| super::hosts::service_of(snapshot, vs))
                    .collect();
                out.push(Fact { gateway, server, service, seen, requests, behind });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.gateway.object;
        let path = format!("{}.tls.httpsRedirect", fact.server.path);
        let subject = object.reference.field(&path);
        let mostly = fact.seen.count >= 10 && fact.seen.count * 2 >= fact.requests;
        let seen = if fact.seen.any() {
            format!(
                " The gateway answered {} with 301 itself.",
                text::share(fact.seen.count, fact.requests, "requests")
            )
        } else {
            String::new()
        };
        let name = fact.service.service_name();
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{} redirects to HTTPS what its load balancer has decrypted: an endless loop", object.reference))
            .message(format!(
                "The server on port {} redirects plain HTTP to HTTPS, and Service {name} leads port 443 to that same listener: what arrives there was HTTPS at the load balancer, and the answer is the address that was asked for.{seen}",
                fact.server.port
            ))
            .mechanism("redirect loop: httpsRedirect behind a load balancer that terminates TLS")
            .severity(if mostly { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if mostly { Confidence::Observed } else { Confidence::Configured })
            .service(Some(name.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, "httpsRedirect true"))
            .evidence(Evidence::object(fact.service.reference(), "port 443 leads to the listener for plain HTTP"))
            .evidences(fact.seen.evidence.clone())
            .effect(Effect::requests(&name, &["301", "redirect"]))
            .effects(fact.behind.iter().map(|service| Effect::requests(service, &["301", "redirect"])))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "replace", "path": pointer(&path), "value": false}]),
                "Set httpsRedirect to false and let the load balancer redirect its port 80",
            ))
            .prevention(Prevention::alert(
                "Alert when a gateway answers mostly with redirects",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_code=\"301\"}[5m])) / sum by (source_workload) (rate(istio_requests_total{reporter=\"source\"}[5m])) > 0.5",
            ))
            .prevention(Prevention::of("Test", "Ask for the public address over HTTPS once after each change: the answer is no 301 to itself"))
    }
}

/// Whether a Service leads its port 443 to the listener for plain HTTP, or says that its load balancer decrypts.
fn decrypted(service: &Service, plain: i64) -> bool {
    let Some(secure) = service.port(443) else { return false };
    let same = service.ports.iter().any(|port| {
        port.number != 443 && (port.number == plain || port.number == 80) && port.target == secure.target
    });
    let annotation = |name: &str| service.object.annotations.get(name);
    let certificate = annotation("service.beta.kubernetes.io/aws-load-balancer-ssl-cert").is_some();
    let backend = annotation("service.beta.kubernetes.io/aws-load-balancer-backend-protocol");
    same || (certificate && backend == Some("http"))
}
