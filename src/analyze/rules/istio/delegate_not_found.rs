//! ISTIO119.

use crate::model::json::json;

use super::hosts::{Hosts, ingress_effects, no_route, service_of};
use super::support::served_before;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::rules::seen::configured;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route delegates to a VirtualService that does not exist, or that is no delegate.
    ///
    /// ## What it detects
    /// `delegate` of a route that names a VirtualService which is not there, or which has hosts of its own.
    /// ## Why it matters
    /// istiod leaves such a route out without a word: its paths fall to a later route, or to 404.
    /// ## Evidence
    /// The field, and the VirtualServices of that namespace.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD` lacks the route.
    /// ## How to fix
    /// Name the VirtualService that exists; a delegate has neither hosts nor gateways.
    /// ## False positives
    /// A delegate that is delivered later by another team.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/virtual-service/#Delegate>
    DelegateNotFound {
        code: "ISTIO119", name: "delegate-not-found", family: Mesh, severity: Error,
        needs: [Istio], aliases: ["IST0101"],
    }
}

/// A delegation into nothing.
#[derive(Debug)]
pub struct Fact<'a> {
    virtual_service: &'a VirtualService,
    route: &'a Route,
    name: String,
    namespace: String,
    /// Whether it exists and has hosts of its own.
    has_hosts: bool,
    near: Option<String>,
}

impl Check for DelegateNotFound {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hosts = Hosts::new(snapshot);
        let all = &snapshot.istio.virtual_services;
        let mut out = vec![];
        for virtual_service in all.iter().filter(|vs| configured(vs.object.namespace())) {
            let own = virtual_service.object.namespace();
            for route in &virtual_service.routes {
                let Some(name) = route.body.text("delegate.name") else { continue };
                let namespace =
                    route.body.text("delegate.namespace").filter(|ns| !ns.is_empty()).unwrap_or(own);
                let beside = || all.iter().filter(|vs| vs.object.namespace() == namespace);
                let found = beside().find(|vs| vs.object.name() == name);
                // A namespace of which nothing was read proves nothing.
                let known = namespace == own || hosts.seen(namespace) || beside().next().is_some();
                let has_hosts = found.is_some_and(|vs| !vs.hosts.is_empty());
                if !known || (found.is_some() && !has_hosts) {
                    continue;
                }
                let candidates = beside().filter(|vs| vs.hosts.is_empty()).map(|vs| vs.object.name());
                let near = nearest(name, candidates).map(str::to_owned);
                out.push(Fact {
                    virtual_service,
                    route,
                    name: name.to_owned(),
                    namespace: namespace.to_owned(),
                    has_hosts,
                    near,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let object = &fact.virtual_service.object;
        let subject = object.reference.field(format!("{}.delegate", fact.route.path));
        let target =
            format!("VirtualService {}/{}", text::plain(&fact.namespace, 63), text::plain(&fact.name, 63));
        let what = if fact.has_hosts { "has hosts of its own and is no delegate" } else { "does not exist" };
        let seen = no_route(snapshot, fact.virtual_service);
        let mut finding = Finding::new(Self::META, subject.clone(), &[&target])
            .title(format!("{} delegates {} to {target}, which {what}", object.reference, fact.route.path))
            .message(format!("{} hands its requests to {target}, which {what}: istiod leaves the route out, and its requests fall to a later route or to 404.", subject))
            .mechanism("delegate VirtualService not found: route not built (404 NR)")
            .severity(if seen.any() { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, if seen.any() { Confidence::Observed } else { Confidence::Configured })
            .service(service_of(snapshot, fact.virtual_service))
            .onset(seen.onset)
            .evidence(Evidence::object(&subject, format!("delegate {target}")))
            .evidences(seen.evidence)
            .effects(ingress_effects(snapshot, fact.virtual_service));
        if let Some(near) = &fact.near {
            finding = finding.maybe_remedy(Remedy::patch(
                object,
                &json!([{"op": "replace", "path": pointer(&format!("{}.delegate.name", fact.route.path)), "value": near}]),
                format!("Set delegate.name to {}, which exists", text::plain(near, 63)),
            ));
        }
        finding.maybe_remedy(sent_again(snapshot, fact)).maybe_remedy(dropped(fact)).prevention(
            Prevention::alert(
                "Alert on requests without a route",
                "sum(rate(istio_requests_total{response_flags=~\".*NR.*\"}[5m])) > 0",
            ),
        )
    }
}

/// Sends requests where they went before, where the delegate's absence leaves them without a route.
fn sent_again(snapshot: &Snapshot, fact: &Fact<'_>) -> Option<Remedy> {
    let (service, port) = served_before(snapshot, fact.virtual_service)?;
    let host = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
    let path = pointer(&fact.route.path);
    let operations = json!([
        {"op": "remove", "path": format!("{path}/delegate")},
        {"op": "add", "path": format!("{path}/route"), "value": [{"destination": {"host": host, "port": {"number": port}}}]},
    ]);
    let summary = format!(
        "Replace the delegate of {} by a route to Service {service}, which got these requests before",
        fact.route.path
    );
    Remedy::patch(&fact.virtual_service.object, &operations, summary).map(|remedy| remedy.risk(Risk::Medium))
}

/// Leaves the route out, where others are left.
fn dropped(fact: &Fact<'_>) -> Option<Remedy> {
    if fact.virtual_service.routes.len() < 2 {
        return None;
    }
    Remedy::patch(
        &fact.virtual_service.object,
        &json!([{"op": "remove", "path": pointer(&fact.route.path)}]),
        format!("Remove {}: its requests then fall to the routes after it", fact.route.path),
    )
    .map(|remedy| remedy.risk(Risk::Medium))
}
