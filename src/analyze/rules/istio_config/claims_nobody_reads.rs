//! ISTIO211.

use super::support::Carriers;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::gateway;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Gateway, VirtualService};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route asks for a claim of a token, and nothing at its gateway reads tokens.
    ///
    /// ## What it detects
    /// A VirtualService at a Gateway whose match has a header `@request.auth.claims…`, while no RequestAuthentication
    /// is for the pods that serve the Gateway: none of their namespace or of the root namespace with a selector that
    /// they carry, none attached to them.
    /// ## Why it matters
    /// The claims are known only where a RequestAuthentication has checked the token. Without it the match never
    /// holds, and requests go on to the next route or get 404.
    /// ## Evidence
    /// The match, the Gateway, its pods, and the RequestAuthentications that were looked at.
    /// ## How to confirm
    /// `istioctl proxy-config listener GATEWAY-POD -o json | grep jwt_authn` is empty.
    /// ## How to fix
    /// Add a RequestAuthentication for the gateway's pods.
    /// ## False positives
    /// Gateways whose pods were not part of what was read.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/security/authentication/jwt-route/>
    ClaimsNobodyReads {
        code: "ISTIO211", name: "claims-nobody-reads", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0149"],
    }
}

const CLAIM: &str = "@request.auth.claims";

/// A match by a claim that nobody reads.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a VirtualService,
    gateway: &'a Gateway,
    path: String,
    header: String,
    /// One of the pods, or the workload, that serve the Gateway.
    server: &'a Object,
}

impl Check for ClaimsNobodyReads {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let carriers = Carriers::of(snapshot);
        let mut out = vec![];
        for service in &snapshot.istio.virtual_services {
            let Some((path, header)) = claim(service) else { continue };
            for name in service.gateways.iter().filter(|name| *name != "mesh") {
                let Some(gateway) = gateway(snapshot, name, service.object.namespace()) else { continue };
                let server = snapshot.pods.iter().map(|pod| (&pod.object, &pod.object.labels));
                let server = server.chain(snapshot.workloads.iter().map(|w| (&w.object, &w.template.labels)));
                let mut serving = server.filter(|(_, labels)| {
                    !gateway.selector.is_empty()
                        && gateway.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
                });
                let unread = serving.find(|(object, _)| !reads(snapshot, &carriers, object));
                if let Some((server, _)) = unread {
                    out.push(Fact { service, gateway, path: path.clone(), header: header.clone(), server });
                }
            }
        }
        out.retain(|fact| snapshot.in_scope(fact.service.object.namespace()));
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.service.reference();
        let (subject, gateway) = (own.field(&fact.path), &fact.gateway.object.reference);
        let header = text::plain(&fact.header, 60);
        Finding::new(Self::META, subject.clone(), &[&gateway.name])
            .title(format!("{own} routes by {header}, and nothing at {gateway} reads tokens"))
            .message(format!(
                "A claim is known only behind a RequestAuthentication, and none is for {}, which serves {gateway}. The match never holds.",
                fact.server.reference
            ))
            .mechanism("claim based routing without RequestAuthentication")
            .role(Role::Context, Confidence::Configured)
            .related(gateway.clone())
            .evidence(Evidence::object(&subject, format!("matches {header}")))
            .evidence(Evidence::object(&fact.server.reference, "no RequestAuthentication is for it"))
            .remedy(Remedy::manual(format!("Add a RequestAuthentication in namespace {} for the pods of {gateway}", fact.server.namespace())))
            .prevention(Prevention::of("Test", "Ask once with a token and once without: the two must reach different routes"))
    }
}

fn claim(service: &VirtualService) -> Option<(String, String)> {
    service.routes.iter().find_map(|route| {
        route.matches().iter().enumerate().find_map(|(index, entry)| {
            ["headers", "withoutHeaders"].iter().find_map(|field| {
                let header = entry.map(field)?.keys().find(|key| {
                    key.get(..CLAIM.len()).is_some_and(|head| head.eq_ignore_ascii_case(CLAIM))
                })?;
                Some((format!("{}.match[{index}].{field}[{header}]", route.path), header.to_string()))
            })
        })
    })
}

/// Whether some RequestAuthentication is for a pod, or for the pods of a workload.
fn reads(snapshot: &Snapshot, carriers: &Carriers<'_>, server: &Object) -> bool {
    let policies = snapshot.istio.request_authentications.iter().map(|policy| &policy.object);
    policies
        .filter(|policy| {
            policy.namespace() == server.namespace() || policy.namespace() == snapshot.istio.root_namespace
        })
        .any(|policy| {
            let selector = policy.body.text_map("spec.selector.matchLabels");
            let attached =
                policy.body.at("spec.targetRef").is_some() || !policy.body.list("spec.targetRefs").is_empty();
            attached
                || carriers
                    .selected(server.namespace(), &selector)
                    .any(|object| object.reference.same_object(&server.reference))
        })
}
