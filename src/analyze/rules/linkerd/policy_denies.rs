//! LINKERD102.

use crate::model::json::json;
use std::collections::{BTreeMap, BTreeSet};

use super::lines::{Call, calls};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::{Said, annotate, services_of, since};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::Selector;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Linkerd's policy refuses requests: no policy admits the client, or no route of the Server fits.
    ///
    /// ## What it detects
    /// `unauthorized request`, `request denied`, the same of connections, or `no route found for request` in the callee's proxy, with the Server
    /// that selects its pods and the policies that refer to it.
    /// ## Why it matters
    /// A Server denies whatever no policy admits, so making one closes a port that was open before.
    /// ## Evidence
    /// The lines, the Servers of the workload, the AuthorizationPolicies and ServerAuthorizations that refer to them.
    /// ## How to confirm
    /// `linkerd viz authz deployment/NAME`; a client without a proxy has no identity.
    /// ## How to fix
    /// An AuthorizationPolicy for the Server that admits the client's identity; a route for the path (probes as well).
    /// ## False positives
    /// Clients that are not meant to come in.
    /// ## References
    /// <https://linkerd.io/2-edge/reference/authorization-policy/>
    LinkerdPolicyDenies {
        code: "LINKERD102", name: "linkerd-policy-denies", family: Mesh, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A workload whose proxy refuses.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: ObjectRef,
    said: Said,
    /// No route of the Server fits, where a client is not the question.
    no_route: bool,
    servers: Vec<&'a Object>,
    /// What admits clients to one of the Servers, or routes for it.
    admitting: Vec<&'a Object>,
    /// The identities that were refused, as far as the lines name them.
    identities: BTreeSet<String>,
}

impl Check for LinkerdPolicyDenies {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(ObjectRef, bool), (Said, BTreeSet<String>)> = BTreeMap::new();
        for Call { workload, pod, at, line, outbound, .. } in calls(
            snapshot,
            &[
                "nauthorized request",
                "nauthorized connection",
                "equest denied",
                "onnection denied",
                "no route found for request",
            ],
        ) {
            if !outbound {
                let (said, identities) =
                    found.entry((workload, line.contains("no route found"))).or_default();
                said.add(pod, at, line);
                if identities.len() < MAX_IDENTITIES {
                    identities.extend(identity(line).map(str::to_owned));
                }
            }
        }
        found
            .into_iter()
            .map(|((workload, no_route), (said, identities))| {
                let servers = servers(snapshot, &workload);
                let admitting = admitting(snapshot, &servers, no_route);
                Fact { workload, said, no_route, servers, admitting, identities }
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let services = services_of(snapshot, &fact.workload);
        let server = fact.servers.first().map(|server| &server.reference);
        let subject = match (fact.admitting.first(), server) {
            (Some(policy), _) => policy.reference.field("spec"),
            (None, Some(server)) => server.field("spec"),
            (None, None) => {
                fact.workload.field("metadata.annotations[config.linkerd.io/default-inbound-policy]")
            }
        };
        let (what, why) = match (fact.no_route, server, fact.admitting.is_empty()) {
            (true, Some(server), _) => (
                "finds no route for requests",
                format!("{server} has routes, and none of them fits what is asked for"),
            ),
            (true, None, _) => {
                ("finds no route for requests", "no Server was seen that selects it".to_owned())
            }
            (false, Some(server), true) => (
                "refuses clients",
                format!("{server} selects it, and no policy refers to that Server: it admits nobody"),
            ),
            (false, Some(server), false) => {
                ("refuses clients", format!("the policies for {server} do not admit them"))
            }
            (false, None, _) => {
                ("refuses clients", "no Server selects it, so the default inbound policy decides".to_owned())
            }
        };
        let names: Vec<String> =
            fact.admitting.iter().take(3).map(|object| object.reference.to_string()).collect();
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.workload.name, what])
            .title(format!("Linkerd's policy {what} of {}: {why}", fact.workload))
            .message(format!(
                "The proxy of {} {what}{}, {} times: {why}. {}",
                fact.workload,
                since(fact.said.first),
                text::number(fact.said.count),
                if names.is_empty() {
                    String::new()
                } else {
                    format!("In question: {}.", text::plain(&names.join(", "), 160))
                }
            ))
            .mechanism(if fact.no_route {
                "policy route not found: 404"
            } else {
                "policy denied: 403 unauthorized"
            })
            .severity(Severity::Error)
            .role(Role::Cause, if server.is_some() { Confidence::Observed } else { Confidence::Configured })
            .service(services.first().cloned())
            .onset(fact.said.first)
            .evidence(Evidence::object(&subject, why))
            .evidence(fact.said.evidence(format!("linkerd-proxy of {}", fact.workload)))
            .effects(services.iter().map(|service| {
                Effect::requests(
                    service,
                    if fact.no_route { &["404", "4xx"] } else { &["rbac", "403", "4xx"] },
                )
            }));
        for object in fact
            .servers
            .iter()
            .chain(&fact.admitting)
            .filter(|object| !object.reference.same_object(&subject))
            .take(4)
        {
            finding = finding.related(object.reference.clone());
        }
        finding
            .maybe_remedy(admit(fact, snapshot))
            .remedy(Remedy::commands(
                "See Servers, policies and routes of the namespace, and admit the client's identity",
                vec![format!(
                    "kubectl -n {} get servers,authorizationpolicies.policy.linkerd.io,httproutes -o yaml",
                    quote(&fact.workload.namespace)
                )],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert on requests that policy refuses",
                "sum by (namespace, deployment, srv_name) (rate(inbound_http_authz_deny_total[5m])) > 0",
            ))
    }
}

/// The Servers that select a workload's pods.
fn servers<'a>(snapshot: &'a Snapshot, workload: &ObjectRef) -> Vec<&'a Object> {
    let labels = snapshot.workload(workload).map(|w| &w.template.labels);
    let selects = |server: &&Object| {
        let selector = server.body.at("spec.podSelector").map(Selector::read);
        server.namespace() == workload.namespace
            && selector.zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
    };
    snapshot
        .objects_of("Server")
        .filter(|server| server.reference.group() == "policy.linkerd.io")
        .filter(selects)
        .collect()
}

/// What refers to one of these Servers: policies, or routes.
fn admitting<'a>(snapshot: &'a Snapshot, servers: &[&Object], routes: bool) -> Vec<&'a Object> {
    let names: BTreeSet<&str> = servers.iter().map(|server| server.name()).collect();
    let kinds: &[&'static str] = if routes {
        &["policy.linkerd.io/HTTPRoute", "HTTPRoute", "GRPCRoute"]
    } else {
        &["policy.linkerd.io/AuthorizationPolicy", "ServerAuthorization"]
    };
    let refers = |object: &&Object| {
        let own = [object.body.at("spec.targetRef"), object.body.at("spec.server")].into_iter().flatten();
        let parents =
            object.body.list("spec.parentRefs").iter().filter(|parent| parent.text("kind") == Some("Server"));
        let beside = servers.first().is_some_and(|server| server.namespace() == object.namespace());
        beside
            && own.chain(parents).any(|target| target.text("name").is_some_and(|name| names.contains(name)))
    };
    kinds.iter().flat_map(|kind| snapshot.objects_of(kind)).filter(refers).collect()
}

/// The identity of a client in a line of a proxy: `default.shop.serviceaccount.identity.linkerd.cluster.local`.
fn identity(line: &str) -> Option<&str> {
    let at = line.find(".serviceaccount.identity.")?;
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let begin = line.get(..at)?.rfind(|c| !part(c)).map_or(0, |i| i + 1);
    let rest = line.get(begin..)?;
    let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
    rest.get(..end)
}

/// Admits the identities that were refused: in the authentication that a policy for the Server asks for, by a policy where
/// there is none, or by the default where no Server is in question.
fn admit(fact: &Fact<'_>, snapshot: &Snapshot) -> Option<Remedy> {
    if fact.no_route || fact.identities.is_empty() {
        return None;
    }
    let Some(server) = fact.servers.first() else {
        const DEFAULT: &str = "config.linkerd.io/default-inbound-policy";
        let workload = snapshot.workload(&fact.workload)?;
        let denies = workload.template.annotations.get(DEFAULT).is_some_and(|value| value == "deny");
        return denies.then(|| {
            annotate(
                workload,
                DEFAULT,
                "all-authenticated",
                "Admit clients with an identity of the mesh by default; the pods are replaced",
            )
        })?;
    };
    let asked = fact.admitting.iter().flat_map(|policy| policy.body.list("spec.requiredAuthenticationRefs"));
    let names =
        asked.filter(|r| r.text("kind") == Some("MeshTLSAuthentication")).filter_map(|r| r.text("name"));
    let known =
        names.filter_map(|name| snapshot.object("MeshTLSAuthentication", server.namespace(), name)).next();
    if let Some(authentication) = known {
        let listed = authentication.body.texts("spec.identities");
        let new: Vec<&String> =
            fact.identities.iter().filter(|identity| !listed.contains(identity)).collect();
        if new.is_empty() || listed.is_empty() {
            return None;
        }
        let operations: Vec<_> = new
            .iter()
            .map(|identity| json!({"op": "add", "path": "/spec/identities/-", "value": identity}))
            .collect();
        let summary = format!(
            "Add {} to {}",
            text::several(new.len() as u64, "identity").replace("identitys", "identities"),
            authentication.reference
        );
        return Some(Remedy::patch(authentication, &json!(operations), summary)?.risk(Risk::High));
    }
    if !fact.admitting.is_empty() {
        return None;
    }
    let name = format!("{}-clients", server.name());
    let identities: Vec<&String> = fact.identities.iter().collect();
    let authentication = json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "MeshTLSAuthentication",
        "metadata": {"name": name, "namespace": server.namespace()}, "spec": {"identities": identities}
    });
    let policy = json!({
        "apiVersion": "policy.linkerd.io/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": server.namespace()},
        "spec": {
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": server.name()},
            "requiredAuthenticationRefs": [{"group": "policy.linkerd.io", "kind": "MeshTLSAuthentication", "name": name}]
        }
    });
    let remedy = Remedy::create(
        vec![authentication, policy],
        format!("Admit the identities that were refused to {}: no policy admits anybody", server.reference),
    );
    Some(remedy.risk(Risk::High))
}

/// Identities of refused clients that are kept; more is a port that the whole mesh calls.
const MAX_IDENTITIES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_in_a_line() {
        let line = r#"Request denied server=ns client.tls=Some(Established { client_id: Some(ClientId(Dns(Name("default.shop.serviceaccount.identity.linkerd.cluster.local")))) })"#;
        assert_eq!(identity(line), Some("default.shop.serviceaccount.identity.linkerd.cluster.local"));
        assert_eq!(identity("no tls"), None);
    }
}
