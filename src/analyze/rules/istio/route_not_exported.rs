//! ISTIO166.

use crate::model::json::json;

use super::hosts::{self, gateway, no_route, service_of};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::since;
use crate::analyze::rules::seen::{self, Seen};
use crate::analyze::traffic::text;
use crate::analyze::twin::probe::picks;
use crate::model::mesh::istio::VirtualService;
use crate::model::snapshot::Snapshot;
use std::collections::BTreeSet;

crate::rule! {
    /// A VirtualService is bound to a gateway whose namespace it is not exported to.
    ///
    /// ## What it detects
    /// A VirtualService with an `exportTo` that leaves out the namespace in which the pods of a Gateway run that it is bound to.
    /// ## Why it matters
    /// The gateway never sees its routes and answers `404 NR route_not_found`, while both objects look right.
    /// ## Evidence
    /// `spec.exportTo`, the namespace of the gateway's pods, and requests for the hosts without a route in their access logs.
    /// ## How to confirm
    /// `istioctl proxy-config routes GATEWAY-POD` does not list the host.
    /// ## How to fix
    /// Add the gateway's namespace to `exportTo`, or remove the field.
    /// ## False positives
    /// None known: the control plane keeps what is not exported from every proxy of other namespaces.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#VirtualService>
    RouteNotExported {
        code: "ISTIO166", name: "route-not-exported-to-gateway", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: [],
    }
}

/// A VirtualService that its gateway does not see.
#[derive(Debug)]
pub struct Fact<'a> {
    route: &'a VirtualService,
    /// Where the gateway's pods are.
    namespace: String,
    seen: Seen,
}

impl Check for RouteNotExported {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for route in &snapshot.istio.virtual_services {
            let exported = &route.export_to;
            let own = route.object.namespace();
            if exported.is_empty() || !seen::configured(own) {
                continue;
            }
            let open = |namespace: &str| {
                exported.iter().any(|to| match to.as_str() {
                    "*" => true,
                    "." => namespace == own,
                    to => to == namespace,
                })
            };
            let bound = route.gateways.iter().filter_map(|name| gateway(snapshot, name, own));
            let selectors: Vec<_> = bound.map(|gateway| &gateway.selector).collect();
            let serving: BTreeSet<&str> = snapshot
                .workloads
                .iter()
                .filter(|w| selectors.iter().any(|selector| picks(selector, &w.template.labels)))
                .map(|w| w.object.namespace())
                .collect();
            if let Some(namespace) = serving.into_iter().find(|namespace| !open(namespace)) {
                let seen = no_route(snapshot, route);
                out.push(Fact { route, namespace: namespace.to_owned(), seen });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let (object, reference) = (&fact.route.object, fact.route.reference());
        let field = reference.field("spec.exportTo");
        let names = fact.route.export_to.iter().map(|to| if to == "." { "its own namespace" } else { to });
        let to = text::plain(&names.collect::<Vec<_>>().join(", "), 60);
        let observed = fact.seen.any();
        let figures = observed.then(|| {
            format!(
                " {} for its hosts were answered with 404 NR{}.",
                text::several(fact.seen.count, "request"),
                since(fact.seen.onset)
            )
        });
        let mut wider = fact.route.export_to.clone();
        wider.push(fact.namespace.clone());
        Finding::new(Self::META, field.clone(), &[&fact.namespace])
            .title(format!("{reference} is exported to {to}, and its gateway runs in {}", fact.namespace))
            .message(format!(
                "{reference} is bound to a gateway whose pods run in namespace {}, and exportTo shows it to {to} alone: the gateway has no route for {}.{}",
                fact.namespace,
                text::plain(&fact.route.hosts.join(", "), 90),
                figures.unwrap_or_default()
            ))
            .mechanism("exportTo: the VirtualService is not exported to the gateway's namespace, route not found (404 NR)")
            .severity(if observed || !snapshot.runs() { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(service_of(snapshot, fact.route))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&field, format!("exports to {to}")))
            .evidences(fact.seen.evidence.clone())
            .effects(hosts::ingress_effects(snapshot, fact.route))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "replace", "path": "/spec/exportTo", "value": wider}]),
                format!("Add {} to exportTo of {reference}: its gateway sees the routes", fact.namespace),
            ))
            .maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "remove", "path": "/spec/exportTo"}]),
                format!("Remove exportTo from {reference}: every namespace sees it"),
            ))
            .prevention(Prevention::of("Test", "In the pipeline: a VirtualService that is bound to a gateway is exported to the gateway's namespace (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when a gateway has no route",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_code=\"404\",response_flags=\"NR\"}[1m])) > 0",
            ))
    }
}
