//! ISTIO106.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::near::{applied, nearest};
use crate::analyze::rules::seen::{self, Seen};
use crate::model::mesh::istio::{Gateway, VirtualService, full_host, hosts_overlap};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A VirtualService is bound to a Gateway that does not admit its hosts.
    ///
    /// ## What it detects
    /// A host of a VirtualService that no server of a Gateway it is bound to covers, patterns and the namespaces before hosts
    /// taken into account.
    /// ## Why it matters
    /// Routes exist only for hosts that both objects name: the gateway answers `404 NR route_not_found` to all others.
    /// ## Evidence
    /// The hosts on both sides; access-log records of the gateway with the flag `NR` and the host that was asked for.
    /// ## How to confirm
    /// `istioctl proxy-config routes GATEWAY-POD` does not list the host.
    /// ## How to fix
    /// Make the hosts agree: the side that does not name what clients ask for is wrong.
    /// ## False positives
    /// A VirtualService that is bound to `mesh` as well and has one host for each: a Service's name that the gateway does not
    /// admit is information only.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0132/>
    GatewayHostMismatch {
        code: "ISTIO106", name: "gateway-host-mismatch", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0132"],
    }
}

/// A host that the gateway does not admit.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    index: usize,
    host: &'a String,
    gateway: &'a Gateway,
    /// No host of the VirtualService is served at this gateway.
    alone: bool,
    /// A Service's name in a VirtualService that is bound to the mesh as well.
    meant_for_mesh: bool,
    /// What clients asked for and did not get is what the gateway names: then the VirtualService is wrong.
    gateway_right: bool,
    seen: Seen,
}

impl Check for GatewayHostMismatch {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for virtual_service in &snapshot.istio.virtual_services {
            let namespace = virtual_service.object.namespace();
            if !seen::configured(namespace) {
                continue;
            }
            let mesh = virtual_service.gateways.iter().any(|g| g == "mesh");
            for gateway in
                virtual_service.gateways.iter().filter_map(|g| hosts::gateway(snapshot, g, namespace))
            {
                let admitted: Vec<&str> = gateway
                    .servers
                    .iter()
                    .flat_map(|server| &server.hosts)
                    .filter_map(|host| hosts::server_host(host, gateway.object.namespace(), namespace))
                    .collect();
                let covered = |host: &String| {
                    let full = full_host(host, namespace);
                    admitted.iter().any(|open| hosts_overlap(open, &full) || hosts_overlap(open, host))
                };
                let alone = !virtual_service.hosts.iter().any(covered);
                for (index, host) in
                    virtual_service.hosts.iter().enumerate().filter(|(_, host)| !covered(host))
                {
                    let seen =
                        if alone { hosts::no_route(snapshot, virtual_service) } else { Seen::default() };
                    let refused = if alone && !seen.any() {
                        asked_of_gateway(snapshot, gateway, &admitted)
                    } else {
                        Seen::default()
                    };
                    out.push(Fact {
                        virtual_service,
                        index,
                        host,
                        gateway,
                        alone,
                        meant_for_mesh: mesh && (!host.contains('.') || host.contains(".svc")),
                        gateway_right: refused.any(),
                        seen: seen.and(refused),
                    });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.virtual_service.reference();
        let gateway = &fact.gateway.object.reference;
        let written: Vec<&str> =
            fact.gateway.servers.iter().flat_map(|s| &s.hosts).map(String::as_str).collect();
        let observed = fact.seen.any();
        let (place, value) = server_place(fact);
        let vs_field = reference.field("spec.hosts");
        let gateway_field = gateway.field(place.rsplit_once('[').map_or(place.as_str(), |(field, _)| field));
        let vs_changed = applied(&fact.virtual_service.object, "spec.hosts")
            .is_some_and(|old| old != json!(fact.virtual_service.hosts));
        let blame_gateway = !fact.gateway_right && !vs_changed && (observed || gateway_changed(fact));
        let (subject, related): (ObjectRef, ObjectRef) =
            if blame_gateway { (gateway_field, vs_field) } else { (vs_field, gateway_field) };
        let severity = match (observed, fact.meant_for_mesh, fact.alone && !snapshot.runs()) {
            (true, _, _) => Severity::Error,
            (false, true, _) => Severity::Info,
            (false, false, true) => Severity::Error,
            (false, false, false) => Severity::Warning,
        };
        let role = if fact.meant_for_mesh && !observed { Role::Context } else { Role::Cause };
        let seen_words = if observed {
            format!(" {} requests were answered with 404 NR route_not_found.", fact.seen.count)
        } else {
            String::new()
        };
        let fix_gateway = Remedy::patch(
            &fact.gateway.object,
            &value,
            format!("Let hosts of {gateway} admit {}", fact.host),
        );
        let fix_route = vs_host(fact, &written).and_then(|host| {
            Remedy::patch(
                &fact.virtual_service.object,
                &json!([{"op": "replace", "path": format!("/spec/hosts/{}", fact.index), "value": host}]),
                format!("Let hosts of {reference} name {host}, which the gateway admits"),
            )
        });
        let (first, second) = if blame_gateway { (fix_gateway, fix_route) } else { (fix_route, fix_gateway) };
        Finding::new(Self::META, subject, &[fact.host, &gateway.namespace, &gateway.name])
            .title(format!("{gateway} does not admit {} of {reference}: it admits {}", fact.host, written.join(", ")))
            .message(format!(
                "{reference} is bound to {gateway} and speaks for {}; the gateway's servers admit {}. Only hosts that both name have routes.{seen_words}",
                fact.host, written.join(", ")
            ))
            .mechanism("gateway host mismatch: the Gateway's hosts do not cover the VirtualService's host, route not found")
            .severity(severity)
            .role(role, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(hosts::service_of(snapshot, fact.virtual_service))
            .related(related)
            .evidence(Evidence::object(&reference.field(format!("spec.hosts[{}]", fact.index)), format!("host {}", fact.host)))
            .evidence(Evidence::object(&gateway.field("spec.servers"), format!("admits {}", written.join(", "))))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .effects(if role == Role::Cause { hosts::ingress_effects(snapshot, fact.virtual_service) } else { vec![] })
            .maybe_remedy(first)
            .maybe_remedy(second)
            .prevention(Prevention::of("Test", "In the pipeline: every host of a VirtualService is covered by its Gateways (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when a gateway has no route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_code=\"404\",response_flags=\"NR\"}[1m])) > 0",
            ))
    }
}

/// Requests without a route for hosts that the gateway itself names.
fn asked_of_gateway(snapshot: &Snapshot, gateway: &Gateway, admitted: &[&str]) -> Seen {
    let exact: Vec<&&str> = admitted.iter().filter(|host| !host.contains('*')).collect();
    let served = hosts::gateway_services(snapshot, gateway);
    let edges = snapshot
        .traffic
        .iter()
        .filter(|edge| snapshot.graph.services_of(&edge.workload).any(|service| served.contains(service)));
    seen::outcomes(edges, |edge, outcome| {
        let mut asked = outcome.authorities.keys().map(String::as_str).chain([edge.authority.as_str()]);
        outcome.has_flag("NR")
            && !outcome.connection
            && asked
                .any(|host| exact.iter().any(|open| host.rsplit_once(':').map_or(host, |(h, _)| h) == **open))
    })
}

fn gateway_changed(fact: &Fact<'_>) -> bool {
    fact.gateway.servers.iter().any(|server| {
        applied(&fact.gateway.object, &format!("{}.hosts", server.path))
            .is_some_and(|old| old != json!(server.hosts))
    })
}

/// Where the gateway would admit the host, and the patch that does it: the host that was edited, or is nearest; else a
/// further one in the first server.
fn server_place(fact: &Fact<'_>) -> (String, crate::model::json::Value) {
    let all: Vec<(String, &str)> = fact
        .gateway
        .servers
        .iter()
        .flat_map(|s| {
            s.hosts.iter().enumerate().map(|(i, host)| (format!("{}.hosts[{i}]", s.path), host.as_str()))
        })
        .collect();
    let bare = |host: &str| host.rsplit_once('/').map_or(host.to_owned(), |(_, bare)| bare.to_owned());
    let edited = all.iter().find(|(path, host)| {
        applied(&fact.gateway.object, path).is_some_and(|old| {
            old != json!(host) && old.as_str().is_some_and(|old| hosts_overlap(&bare(old), fact.host))
        })
    });
    let near = || {
        let names: Vec<String> = all.iter().map(|(_, host)| bare(host)).collect();
        let near = nearest(fact.host, names.iter().map(String::as_str))?.to_owned();
        all.iter().find(|(_, host)| bare(host) == near)
    };
    match edited.or_else(near) {
        Some((path, host)) => {
            let value = match host.split_once('/') {
                Some((namespace, _)) => format!("{namespace}/{}", fact.host),
                None => fact.host.clone(),
            };
            (path.clone(), json!([{"op": "replace", "path": pointer(path), "value": value}]))
        }
        None => {
            let path = "spec.servers[0].hosts[0]".to_owned();
            (path, json!([{"op": "add", "path": "/spec/servers/0/hosts/-", "value": fact.host}]))
        }
    }
}

/// The host that the VirtualService should name: what the gateway admits, where that is one exact name or a near one.
fn vs_host(fact: &Fact<'_>, written: &[&str]) -> Option<String> {
    let exact: Vec<&str> = written
        .iter()
        .map(|h| h.rsplit_once('/').map_or(*h, |(_, bare)| bare))
        .filter(|h| !h.contains('*'))
        .collect();
    nearest(fact.host, exact.iter().copied())
        .or_else(|| exact.first().copied().filter(|_| exact.len() == 1))
        .map(str::to_owned)
}
