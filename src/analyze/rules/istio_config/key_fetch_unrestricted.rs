//! ISTIO218.

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// The control plane fetches tokens' keys from any address that a RequestAuthentication names.
    ///
    /// ## What it detects
    /// A RequestAuthentication with a `jwksUri` beside an istiod whose container has no `BLOCKED_CIDRS_IN_JWKS_URIS`.
    /// ## Why it matters
    /// Who may write a RequestAuthentication in one namespace makes istiod ask any address it can reach: the cloud's
    /// metadata server, internal admin ports.
    /// ## Evidence
    /// The Deployment of istiod, and the RequestAuthentications.
    /// ## How to confirm
    /// `kubectl -n istio-system get deploy istiod -o yaml | grep BLOCKED_CIDRS`.
    /// ## How to fix
    /// Set it to the ranges that no key is served from: `169.254.0.0/16`, and internal ones as far as no key server
    /// stands there.
    /// ## False positives
    /// A cluster in which only its operators may write RequestAuthentications.
    /// ## References
    /// <https://istio.io/latest/docs/ops/best-practices/security/>
    KeyFetchUnrestricted {
        code: "ISTIO218", name: "key-fetch-unrestricted", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["IST0175"],
    }
}

const SETTING: &str = "BLOCKED_CIDRS_IN_JWKS_URIS";

/// A control plane that asks anybody.
#[derive(Debug)]
pub struct Fact<'a> {
    istiod: &'a Workload,
    container: String,
    asking: Vec<&'a Object>,
}

impl Check for KeyFetchUnrestricted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let policies = snapshot.istio.request_authentications.iter().map(|policy| &*policy.object);
        let fetched = |policy: &&Object| {
            policy.body.list("spec.jwtRules").iter().any(|rule| rule.at("jwksUri").is_some())
        };
        let asking: Vec<&Object> = policies.filter(fetched).collect();
        if asking.is_empty() {
            return vec![];
        }
        let control_planes = snapshot.workloads.iter().filter(|workload| {
            workload.object.owners.is_empty()
                && workload.object.labels.get("app").is_some_and(|app| app == "istiod")
                && asked_about(snapshot, &workload.object)
        });
        control_planes
            .filter_map(|istiod| {
                let set = istiod.template.containers.iter().flat_map(|container| container.body.list("env"));
                let set = set
                    .into_iter()
                    .any(|entry| entry.text("name") == Some(SETTING) && !entry.string("value").is_empty());
                let container = istiod.template.containers.first()?.path();
                (!set).then(|| Fact { istiod, container, asking: asking.clone() })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.istiod.reference();
        let subject = own.field(fact.istiod.template_path(&format!("spec.{}.env", fact.container)));
        let scope = crate::analyze::remedy::scope(own);
        let resource =
            format!("{}/{}", crate::analyze::remedy::resource(own), crate::analyze::remedy::quote(&own.name));
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} fetches tokens' keys from any address: {} RequestAuthentications name one", fact.asking.len()))
            .message(format!(
                "{SETTING} is not set on {own}. Whoever is allowed to write a RequestAuthentication decides which address the control plane asks, the metadata server of the cloud included."
            ))
            .mechanism("unrestricted fetch of JSON Web Key Sets")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("no {SETTING}")))
            .evidences(fact.asking.iter().take(3).map(|policy| Evidence::object(&policy.reference, "names a jwksUri")))
            .remedy(Remedy::commands(
                "Keep it from link-local addresses, which no key is served from",
                vec![format!("kubectl {scope}set env {resource} {SETTING}=169.254.0.0/16,fe80::/10")],
                vec![format!("kubectl {scope}set env {resource} {SETTING}-")],
            ))
            .prevention(Prevention::of("Policy", "Let only those who run the mesh write RequestAuthentications"))
    }
}
