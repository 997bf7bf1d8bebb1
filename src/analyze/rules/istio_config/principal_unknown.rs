//! ISTIO230.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An AuthorizationPolicy names the ServiceAccount of nobody.
    ///
    /// ## What it detects
    /// Entries of `principals` and `notPrincipals` of the form `DOMAIN/ns/NAMESPACE/sa/NAME`, without a wildcard and
    /// in the mesh's own trust domain, and of `serviceAccounts` and `notServiceAccounts`, whose namespace has
    /// ServiceAccounts, none of that name, and no pod that runs as it.
    /// ## Why it matters
    /// A rule for an identity that nobody has matches no request: what it allows is denied, and what it denies is
    /// allowed.
    /// ## Evidence
    /// The entry, and the ServiceAccount that is nearly called so.
    /// ## How to confirm
    /// `kubectl -n NAMESPACE get serviceaccount NAME` answers NotFound.
    /// ## How to fix
    /// Name the ServiceAccount that the callers' pods run as.
    /// ## False positives
    /// A principal of another cluster of the mesh, whose namespace of the same name has ServiceAccounts of its own.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Source>
    PrincipalUnknown {
        code: "ISTIO230", name: "principal-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA0106"],
    }
}

/// A principal that nobody has.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    principal: &'a str,
    namespace: &'a str,
    account: &'a str,
    near: Option<String>,
}

impl Check for PrincipalUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let accounts: BTreeSet<(&str, &str)> = snapshot
            .objects_of("ServiceAccount")
            .map(|account| (account.namespace(), account.name()))
            .collect();
        if accounts.is_empty() {
            return vec![];
        }
        let templates =
            snapshot.workloads.iter().map(|workload| (workload.object.namespace(), &workload.template));
        let templates =
            templates.chain(snapshot.pods.iter().map(|pod| (pod.object.namespace(), &pod.template)));
        let used: BTreeSet<(&str, &str)> =
            templates.map(|(namespace, template)| (namespace, template.service_account.as_str())).collect();
        let domain = snapshot
            .istio
            .mesh_config
            .text("trustDomain")
            .filter(|d| !d.is_empty())
            .unwrap_or("cluster.local");
        let mut out = vec![];
        for policy in
            snapshot.istio.authorization_policies.iter().filter(|p| snapshot.in_scope(p.object.namespace()))
        {
            for (path, principal) in principals(&policy.object) {
                let Some((namespace, account)) = identity(principal, domain, policy.object.namespace())
                else {
                    continue;
                };
                let beside = accounts.iter().filter(|(own, _)| *own == namespace);
                let names: BTreeSet<&str> = beside.map(|(_, name)| *name).collect();
                if names.is_empty()
                    || account == "default"
                    || names.contains(account)
                    || used.contains(&(namespace, account))
                {
                    continue;
                }
                let near = nearest(account, names).map(str::to_owned);
                out.push(Fact { object: &policy.object, path, principal, namespace, account, near });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let (namespace, account) = (text::plain(fact.namespace, 60), text::plain(fact.account, 60));
        let fix = fact.near.as_ref().and_then(|near| {
            let head = fact.principal.strip_suffix(fact.account)?;
            let operations =
                json!([{"op": "replace", "path": pointer(&fact.path), "value": format!("{head}{near}")}]);
            Remedy::patch(
                fact.object,
                &operations,
                format!("Name ServiceAccount {namespace}/{}", text::plain(near, 60)),
            )
        });
        Finding::new(Self::META, subject.clone(), &[&namespace, &account])
            .title(format!("{own} names ServiceAccount {namespace}/{account}, which does not exist"))
            .message(format!(
                "Namespace {namespace} has other ServiceAccounts and none called {account}, and no pod runs as it. The rule matches no caller."
            ))
            .mechanism("AuthorizationPolicy with an unknown principal")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("names {namespace}/{account}")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual("Name the ServiceAccount that the callers' pods run as"))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}

/// All identities that a policy names, and where each stands.
fn principals(object: &Object) -> Vec<(String, &str)> {
    let mut out = vec![];
    for (rule, entry) in object.body.list("spec.rules").iter().enumerate() {
        for (from, source) in entry.list("from").iter().enumerate() {
            for field in ["principals", "notPrincipals", "serviceAccounts", "notServiceAccounts"] {
                for (at, principal) in source.list(&format!("source.{field}")).iter().enumerate() {
                    let path = format!("spec.rules[{rule}].from[{from}].source.{field}[{at}]");
                    out.extend(principal.as_str().map(|principal| (path, principal)));
                }
            }
        }
    }
    out
}

/// Namespace and ServiceAccount of an identity of this trust domain that has no wildcard: `DOMAIN/ns/NAMESPACE/sa/NAME`,
/// `NAMESPACE/NAME`, or a name beside the policy.
fn identity<'a>(text: &'a str, domain: &str, own: &'a str) -> Option<(&'a str, &'a str)> {
    if text.contains('*') {
        return None;
    }
    let found = if text.contains("/ns/") {
        let rest = text.strip_prefix(domain).or_else(|| text.strip_prefix("cluster.local"))?;
        rest.strip_prefix("/ns/")?.split_once("/sa/")?
    } else {
        text.split_once('/').unwrap_or((own, text))
    };
    (!found.0.is_empty() && !found.1.is_empty() && !found.1.contains('/')).then_some(found)
}
