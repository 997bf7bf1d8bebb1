//! ISTIO236.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A WorkloadGroup names a ServiceAccount that does not exist.
    ///
    /// ## What it detects
    /// `spec.template.serviceAccount` of a WorkloadGroup, in a namespace that has ServiceAccounts, and none of that
    /// name.
    /// ## Why it matters
    /// Machines that join by the group get their identity with a token of that ServiceAccount. There is no token to be
    /// had for one that does not exist, so none of them joins.
    /// ## Evidence
    /// The field, and the ServiceAccount that is nearly called so.
    /// ## How to confirm
    /// `kubectl -n NAMESPACE get serviceaccount NAME` answers NotFound; `istioctl x workload entry configure` fails.
    /// ## How to fix
    /// Make the ServiceAccount, or name one that exists.
    /// ## False positives
    /// One that is made later.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/workload-group/>
    WorkloadGroupAccountUnknown {
        code: "ISTIO236", name: "workload-group-account-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA1701"],
    }
}

const PATH: &str = "spec.template.serviceAccount";

/// A group whose machines get no identity.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    account: &'a str,
    near: Option<String>,
}

impl Check for WorkloadGroupAccountUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut accounts: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for account in snapshot.objects_of("ServiceAccount") {
            accounts.entry(account.namespace()).or_default().push(account.name());
        }
        let groups = of_istio(snapshot, "WorkloadGroup");
        groups
            .filter_map(|object| {
                let account = object.body.text(PATH).filter(|name| !matches!(*name, "" | "default"))?;
                let beside = accounts.get(object.namespace())?;
                let near = nearest(account, beside.iter().copied()).map(str::to_owned);
                (!beside.contains(&account)).then_some(Fact { object, account, near })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(PATH);
        let account = text::plain(fact.account, 63);
        let fix = fact.near.as_ref().and_then(|near| {
            let operations = json!([{"op": "replace", "path": pointer(PATH), "value": near}]);
            Remedy::patch(fact.object, &operations, format!("Name ServiceAccount {}", text::plain(near, 63)))
        });
        Finding::new(Self::META, subject.clone(), &[&account])
            .title(format!("{own} names ServiceAccount {account}, which does not exist"))
            .message(format!(
                "Namespace {} has other ServiceAccounts and none called {account}. Machines of the group get no token and do not join the mesh.",
                own.namespace
            ))
            .mechanism("WorkloadGroup with an unknown ServiceAccount")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("names {account}")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual(format!("Make ServiceAccount {account} in namespace {}", own.namespace)))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
