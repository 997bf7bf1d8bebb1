//! ISTIO234.

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::Service;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// An AuthorizationPolicy asks who calls, where mutual TLS is switched off.
    ///
    /// ## What it detects
    /// `principals`, `namespaces`, `serviceAccounts`, their opposites, and conditions on `source.principal` or
    /// `source.namespace`, in a policy for workloads (gateways left out) whose PeerAuthentication mode is `DISABLE`.
    /// ## Why it matters
    /// The caller's identity stands in its certificate. Without mutual TLS there is none: no caller is one of those
    /// listed, and every caller is none of them. What the rule allows is refused (403), what it denies is let in.
    /// ## Evidence
    /// The clause, and the PeerAuthentication that says `DISABLE`.
    /// ## How to confirm
    /// `istioctl x describe pod POD` shows the mode; the proxy logs `rbac_access_denied_matched_policy[none]`.
    /// ## How to fix
    /// Set the mode to `PERMISSIVE` or `STRICT`, or write the rule without identities.
    /// ## False positives
    /// A port of these workloads with mutual TLS of its own (`portLevelMtls`) that alone is called.
    /// ## References
    /// <https://istio.io/latest/docs/concepts/security/#dependency-on-mutual-tls>
    IdentityWithoutMtls {
        code: "ISTIO234", name: "identity-without-mutual-tls", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0105"],
    }
}

const SOURCE: &[&str] =
    &["principals", "notPrincipals", "namespaces", "notNamespaces", "serviceAccounts", "notServiceAccounts"];
const KEYS: &[&str] = &["source.principal", "source.namespace", "source.serviceAccount"];

/// A clause that no caller can fit.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    workload: &'a Workload,
    more: usize,
    /// The PeerAuthentication's field.
    peer: ObjectRef,
}

impl Check for IdentityWithoutMtls {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let istio = &snapshot.istio;
        let off = |policy: &Policy| policy.object.body.text("spec.mtls.mode") == Some("DISABLE");
        if !istio.peer_authentications.iter().any(off) {
            return vec![];
        }
        let plain: Vec<(&Workload, ObjectRef)> = snapshot
            .workloads
            .iter()
            .filter(|workload| workload.object.owners.is_empty() && !is_gateway(workload))
            .filter_map(|workload| {
                let labels = &workload.template.labels;
                let (mode, peer) = istio.peer_mode(workload.object.namespace(), labels, None);
                Some((workload, peer.filter(|_| mode == "DISABLE")?))
            })
            .collect();
        let mut out = vec![];
        for policy in istio.authorization_policies.iter().filter(|p| asked_about(snapshot, &p.object)) {
            let Some(path) = identity_clause(&policy.object) else { continue };
            let mut reached = plain.iter().filter(|(workload, _)| {
                let labels = &workload.template.labels;
                policy.applies_to(workload.object.namespace(), labels, &istio.root_namespace)
            });
            if let Some((workload, peer)) = reached.next() {
                let more = reached.count();
                out.push(Fact { object: &policy.object, path, workload, more, peer: peer.clone() });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let workload = fact.workload.reference();
        let more = if fact.more == 0 { String::new() } else { format!(" and {} more", fact.more) };
        let peer = ObjectRef { field_path: String::new(), ..fact.peer.clone() };
        let denies = fact.object.body.text("spec.action") == Some("DENY");
        let (result, refuses) = match (denies, fact.path.contains(".not")) {
            (true, false) => ("nobody is denied by it", false),
            (true, true) => ("it denies every caller", true),
            (false, false) => ("it allows nobody", true),
            (false, true) => ("it allows every caller", false),
        };
        let services = snapshot.services_before(fact.workload).map(Service::service_name);
        let services = services.filter(|_| refuses).collect::<Vec<_>>();
        Finding::new(Self::META, subject.clone(), &[&workload.namespace, &workload.name])
            .title(format!("{own} asks who calls {workload}{more}, where mutual TLS is off: {result}"))
            .message(format!(
                "A caller's identity comes with mutual TLS, and {peer} switches it off for {workload}{more}. No caller has an identity there, so the rule holds for other requests than it names: {result}."
            ))
            .mechanism("AuthorizationPolicy with an identity, without mutual TLS (PeerAuthentication DISABLE)")
            .role(Role::Cause, Confidence::Configured)
            .service(services.first().cloned())
            .evidence(Evidence::object(&subject, "needs the caller's identity"))
            .evidence(Evidence::object(&fact.peer, "DISABLE"))
            .effects(services.iter().map(|service| Effect::requests(service, &["rbac", "403"])))
            .related(fact.peer.clone())
            .maybe_remedy(permissive(snapshot, &fact.peer))
            .remedy(Remedy::manual("Write the rule without identities, or turn mutual TLS on for these workloads"))
            .prevention(Prevention::of("Test", "After each change ask once as a caller that the rule allows, and once as another"))
    }
}

/// Turns mutual TLS on, for those who speak it.
fn permissive(snapshot: &Snapshot, peer: &ObjectRef) -> Option<Remedy> {
    let object = snapshot.object("PeerAuthentication", &peer.namespace, &peer.name)?;
    let operations =
        crate::model::json::json!([{"op": "replace", "path": "/spec/mtls/mode", "value": "PERMISSIVE"}]);
    Remedy::patch(
        object,
        &operations,
        "Set spec.mtls.mode to PERMISSIVE: mutual TLS for callers that have a proxy",
    )
}

/// The first clause of a policy that needs an identity.
fn identity_clause(policy: &Object) -> Option<String> {
    policy.body.list("spec.rules").iter().enumerate().find_map(|(rule, entry)| {
        let from = entry.list("from").iter().enumerate().find_map(|(from, source)| {
            let field = SOURCE.iter().find(|field| !source.list(&format!("source.{field}")).is_empty())?;
            Some(format!("spec.rules[{rule}].from[{from}].source.{field}"))
        });
        from.or_else(|| {
            let mut when = entry.list("when").iter();
            let at = when.position(|entry| KEYS.contains(&entry.text("key").unwrap_or_default()))?;
            Some(format!("spec.rules[{rule}].when[{at}].key"))
        })
    })
}

/// Whether its pods are a proxy and nothing else: PeerAuthentications say nothing about gateways.
fn is_gateway(workload: &Workload) -> bool {
    workload.template.containers.iter().all(|container| container.name == "istio-proxy")
}
