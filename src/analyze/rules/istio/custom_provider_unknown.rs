//! ISTIO122.

use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::Policy;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An AuthorizationPolicy with action CUSTOM names a provider that the mesh does not have.
    ///
    /// ## What it detects
    /// `spec.provider.name` that is none of `meshConfig.extensionProviders`, or requests that were denied with
    /// `deny-due-to-bad-CUSTOM-action`.
    /// ## Why it matters
    /// Istio fails closed: everything that the policy covers is denied with `403 RBAC: access denied`.
    /// ## Evidence
    /// The name against the list of providers; the details in the callee's access log, which name provider and policy.
    /// ## How to confirm
    /// `kubectl -n istio-system get configmap istio -o yaml` lists `extensionProviders`.
    /// ## How to fix
    /// Correct the name, declare the provider in MeshConfig, or take the policy out.
    /// ## False positives
    /// A MeshConfig that was read before the provider was declared.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/security/authorization/authz-custom/>
    CustomProviderUnknown {
        code: "ISTIO122", name: "custom-provider-unknown", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// A policy whose provider is not there.
#[derive(Debug)]
pub struct Fact<'a> {
    policy: &'a Policy,
    provider: String,
    /// Names of the providers that are there; `None` where MeshConfig is not known.
    known: Option<Vec<String>>,
    services: BTreeSet<ServiceName>,
    /// Denials that name this policy.
    seen: Vec<Failures>,
}

impl Check for CustomProviderUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let denied = failures(snapshot, Way::Rbac);
        let config = &snapshot.istio.mesh_config;
        let known: Option<Vec<String>> = config
            .is_object()
            .then(|| config.list("extensionProviders").iter().map(|entry| entry.string("name")).collect());
        let policies = snapshot.istio.authorization_policies.iter();
        policies
            .filter(|policy| policy.object.body.text("spec.action") == Some("CUSTOM"))
            .filter_map(|policy| {
                let provider = policy.object.body.string("spec.provider.name");
                let mark = format!("policy[{}]", policy.object.name());
                let namespace = format!("ns[{}]", policy.object.namespace());
                let names_it = |details: &str| {
                    details.contains("bad-CUSTOM-action")
                        && details.contains(&mark)
                        && details.contains(&namespace)
                };
                let seen: Vec<Failures> = denied
                    .iter()
                    .filter(|group| group.parts.iter().any(|part| names_it(&part.details)))
                    .cloned()
                    .collect();
                let absent = known.as_ref().is_some_and(|known| !known.contains(&provider));
                (absent || !seen.is_empty()).then(|| Fact {
                    services: covered(snapshot, policy)
                        .chain(seen.iter().filter_map(|g| g.callee.service.clone()))
                        .collect(),
                    policy,
                    provider,
                    known: known.clone(),
                    seen,
                })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.policy.object;
        let subject = object.reference.field("spec.provider.name");
        let provider = text::plain(&fact.provider, 60);
        let listed = match &fact.known {
            Some(known) if known.is_empty() => "MeshConfig declares no providers".to_owned(),
            Some(known) => format!("MeshConfig declares {}", text::plain(&known.join(", "), 160)),
            None => "MeshConfig was not seen".to_owned(),
        };
        let top = fact.seen.iter().max_by_key(|group| group.count);
        let observed = top.map_or(String::new(), |group| {
            format!(
                " {} to {} were denied for it.",
                text::share(group.count, group.requests, "requests"),
                group.name()
            )
        });
        let severity = top.and_then(Failures::severity).unwrap_or(Severity::Warning);
        let confidence = if fact.seen.is_empty() { Confidence::Configured } else { Confidence::Observed };
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.provider])
            .title(format!("{} asks provider \"{provider}\", which the mesh does not have: it denies everything", object.reference))
            .message(format!("Action CUSTOM hands the decision to a provider of MeshConfig; {listed}. A provider that is not there denies all that the policy covers.{observed}"))
            .mechanism("CUSTOM authorization provider unknown: denied, RBAC access denied")
            .severity(severity)
            .role(Role::Cause, confidence)
            .service(top.and_then(|g| g.callee.service.clone()).or_else(|| fact.services.first().cloned()))
            .onset(fact.seen.iter().filter_map(|g| g.onset).min())
            .evidence(Evidence::object(&subject, format!("provider \"{provider}\"; {listed}")))
            .evidences(fact.seen.iter().filter_map(|group| {
                let part = group.parts.first()?;
                Some(Evidence::new("AccessLog", format!("istio-proxy of {}", part.workload), format!("{} requests denied", text::number(group.count))).at(part.first).excerpt(&part.details))
            }))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["rbac"])));
        if let Some(near) = fact.known.iter().flatten().find(|known| close(known, &fact.provider)) {
            finding = finding.maybe_remedy(Remedy::patch(
                object,
                &crate::model::json::json!([{"op": "replace", "path": pointer("spec.provider.name"), "value": near}]),
                format!("Set spec.provider.name to \"{near}\", which MeshConfig declares"),
            ));
        }
        finding
            .remedy(
                Remedy::delete(object, "Delete the AuthorizationPolicy until its provider is declared: the external check no longer happens")
                    .risk(Risk::High),
            )
            .remedy(Remedy::manual(format!(
                "Declare provider \"{provider}\" in meshConfig.extensionProviders (envoyExtAuthzHttp or envoyExtAuthzGrpc with service and port)"
            )))
            .prevention(Prevention::of("Test", "In the pipeline: every provider that an AuthorizationPolicy names is declared in MeshConfig"))
    }
}

/// Whether two names differ only in case, separators or an ending.
fn close(a: &str, b: &str) -> bool {
    let bare =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    let (a, b) = (bare(a), bare(b));
    a.len() >= 4 && b.len() >= 4 && (a.starts_with(&b) || b.starts_with(&a))
}

/// The Services in front of the workloads that a policy covers.
fn covered<'a>(snapshot: &'a Snapshot, policy: &'a Policy) -> impl Iterator<Item = ServiceName> + 'a {
    let root = &snapshot.istio.root_namespace;
    let covers = move |service: &&crate::model::network::Service| {
        snapshot
            .workloads_behind(service)
            .any(|w| policy.applies_to(w.object.namespace(), &w.template.labels, root))
            || snapshot
                .pods_behind(service)
                .any(|pod| policy.applies_to(pod.object.namespace(), &pod.template.labels, root))
    };
    snapshot.services.iter().filter(covers).map(crate::model::network::Service::service_name)
}
