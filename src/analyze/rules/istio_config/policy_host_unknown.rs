//! ISTIO233.

use crate::model::json::json;

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{Hosts, server_host, unread};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{full_host, host_matches, service_of_host};
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An AuthorizationPolicy has a rule for the host name of no Service.
    ///
    /// ## What it detects
    /// Entries of `hosts` and `notHosts` without a wildcard that have the form of a Service's name, in a namespace
    /// whose Services were seen, and are no Service, no ServiceEntry, and no host of a Gateway or of a route.
    /// ## Why it matters
    /// The rule compares the request's Host header with the name, letter by letter. Nobody calls a Service that does
    /// not exist by its name, so the rule matches no request: what it allows is denied, what it denies is let in.
    /// ## Evidence
    /// The entry, and the Service that is nearly called so.
    /// ## How to confirm
    /// `kubectl get service -A`; the proxy's log at level `rbac:debug` shows the host that it compares.
    /// ## How to fix
    /// Name a host that callers use, with and without the port and the domain where they do both.
    /// ## False positives
    /// Clients that send a Host header of their own choice.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Operation>
    PolicyHostUnknown {
        code: "ISTIO233", name: "policy-host-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0104"],
    }
}

/// A host that nobody has.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    written: &'a str,
    near: Option<String>,
}

impl Check for PolicyHostUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        if unread(snapshot, "serviceentries") {
            return vec![];
        }
        let hosts = Hosts::new(snapshot);
        let mut out = vec![];
        for policy in &snapshot.istio.authorization_policies {
            let own = &policy.object;
            if !asked_about(snapshot, own) {
                continue;
            }
            for (path, written) in listed(own) {
                let host = written.split_once(':').map_or(written, |(host, _)| host);
                // A name without a dot is beside the callee, and a policy of the root namespace is for all of them.
                let everywhere = !host.contains('.') && own.namespace() == snapshot.istio.root_namespace;
                if host.contains('*') || everywhere || !is_unknown(snapshot, &hosts, host, own.namespace()) {
                    continue;
                }
                let near = hosts.near(host, own.namespace());
                out.push(Fact { object: own, path, written, near });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let host = text::plain(fact.written, 80);
        let fix = fact.near.as_ref().and_then(|near| {
            let operations = json!([{"op": "replace", "path": pointer(&fact.path), "value": near}]);
            Remedy::patch(fact.object, &operations, format!("Name host {}", text::plain(near, 80)))
        });
        Finding::new(Self::META, subject.clone(), &[&host])
            .title(format!("{own} has a rule for host {host}, which does not exist"))
            .message(format!(
                "No Service, ServiceEntry, Gateway or route has the name {host}. The rule compares it with the Host header of requests: it matches none."
            ))
            .mechanism("AuthorizationPolicy with an unknown host")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("names {host}")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual("Name a host that callers use, or remove the entry"))
            .prevention(Prevention::of("Test", "After each change ask once for the host that the rule is for"))
    }
}

/// The hosts of a policy's operations, and where each stands.
fn listed(object: &Object) -> Vec<(String, &str)> {
    let mut out = vec![];
    for (rule, entry) in object.body.list("spec.rules").iter().enumerate() {
        for (to, target) in entry.list("to").iter().enumerate() {
            for field in ["hosts", "notHosts"] {
                for (at, host) in target.list(&format!("operation.{field}")).iter().enumerate() {
                    let path = format!("spec.rules[{rule}].to[{to}].operation.{field}[{at}]");
                    out.extend(host.as_str().map(|host| (path, host)));
                }
            }
        }
    }
    out
}

/// Whether a host has the form of a Service of a namespace that was seen, and nothing has that name.
fn is_unknown(snapshot: &Snapshot, hosts: &Hosts<'_>, host: &str, own: &str) -> bool {
    let full = full_host(host, own);
    let Some((namespace, _)) = service_of_host(&full) else { return false };
    if !hosts.missing(host, own, &namespace) {
        return false;
    }
    let covers = |pattern: &str| host_matches(pattern, host) || host_matches(pattern, &full);
    let routes = |host: &str| snapshot.istio.virtual_services_for(host).next().is_some();
    let routed = routes(&full) || routes(host);
    let served = snapshot.istio.gateways.iter().any(|gateway| {
        let owner = gateway.object.namespace();
        let mut names = gateway.servers.iter().flat_map(|server| &server.hosts);
        names.any(|name| *name != "*" && server_host(name, owner, owner).is_some_and(covers))
    });
    let api = &snapshot.gateway_api;
    !routed
        && !served
        && !api.routes.iter().any(|route| route.hostnames.iter().any(|name| covers(name)))
        && !api
            .gateways
            .iter()
            .any(|gateway| gateway.listeners.iter().any(|l| !l.hostname.is_empty() && covers(&l.hostname)))
}
