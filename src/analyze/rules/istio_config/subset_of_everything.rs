//! ISTIO231.

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts::{Hosts, Known};
use crate::analyze::traffic::text;
use crate::model::mesh::istio::{DestinationRule, Subset};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A subset has no labels, so it is all pods of the host.
    ///
    /// ## What it detects
    /// A subset without labels beside one that has some, in a DestinationRule for a Service of the cluster.
    /// ## Why it matters
    /// A route to that subset goes to all versions, the new one included: a split of 90 to 10 is none.
    /// ## Evidence
    /// The subset.
    /// ## How to confirm
    /// `istioctl proxy-config endpoints POD --cluster "outbound|PORT|SUBSET|HOST"` lists all pods.
    /// ## How to fix
    /// Give it the labels of its version.
    /// ## False positives
    /// A subset that carries a traffic policy for all pods on purpose.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#Subset>
    SubsetOfEverything {
        code: "ISTIO231", name: "subset-of-everything", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["KIA0209"],
    }
}

/// A subset that selects nothing away.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    subset: &'a Subset,
}

impl Check for SubsetOfEverything {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hosts = Hosts::new(snapshot);
        let mut out = vec![];
        for rule in
            snapshot.istio.destination_rules.iter().filter(|rule| snapshot.in_scope(rule.object.namespace()))
        {
            let split = rule.subsets.iter().any(|subset| !subset.labels.is_empty());
            if split && matches!(hosts.look_up(&rule.host, rule.object.namespace()), Known::Service(_)) {
                let bare = rule.subsets.iter().filter(|subset| subset.labels.is_empty());
                out.extend(bare.map(|subset| Fact { rule, subset }));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = fact.rule.reference();
        let subject = own.field(&fact.subset.path);
        let (name, host) = (text::plain(&fact.subset.name, 60), text::plain(&fact.rule.host, 60));
        Finding::new(Self::META, subject.clone(), &[&name])
            .title(format!("Subset {name} of {own} has no labels: it is all pods of {host}"))
            .message(format!(
                "Other subsets of {host} select pods by labels. {name} selects none away, so requests to it reach pods of those, too."
            ))
            .mechanism("subset without labels")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, "no labels"))
            .remedy(Remedy::manual(format!("Give subset {name} the labels of its version")))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
