//! ISTIO237.

use std::collections::BTreeMap;

use super::support::{labels_text, of_istio};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two WorkloadGroups give their machines the same labels.
    ///
    /// ## What it detects
    /// WorkloadGroups of one namespace whose `spec.metadata.labels` are equal and not empty.
    /// ## Why it matters
    /// Services, subsets and policies tell machines apart by labels alone. Those of both groups are one to them: what
    /// is meant for one group is done to both.
    /// ## Evidence
    /// Both groups and the labels.
    /// ## How to confirm
    /// `kubectl get workloadentry --show-labels`.
    /// ## How to fix
    /// Give each group a label of its own, or make one of them.
    /// ## False positives
    /// Groups that differ in their ServiceAccount or network alone and are one service on purpose.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/workload-group/>
    WorkloadGroupsAlike {
        code: "ISTIO237", name: "workload-groups-alike", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["KIA1702"],
    }
}

const PATH: &str = "spec.metadata.labels";

/// A group that cannot be told from an earlier one.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    other: &'a Object,
    labels: Labels,
}

impl Check for WorkloadGroupsAlike {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut first: BTreeMap<(&str, Labels), &Object> = BTreeMap::new();
        let mut out = vec![];
        for object in of_istio(snapshot, "WorkloadGroup") {
            let labels = object.body.text_map(PATH);
            if labels.is_empty() {
                continue;
            }
            match first.get(&(object.namespace(), labels.clone())) {
                Some(other) => out.push(Fact { object, other, labels }),
                None => {
                    first.insert((object.namespace(), labels), object);
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, other) = (&fact.object.reference, &fact.other.reference);
        let subject = own.field(PATH);
        let labels = text::plain(&labels_text(&fact.labels), 120);
        Finding::new(Self::META, subject.clone(), &[&other.name])
            .title(format!("{own} and {other} give their machines the same labels"))
            .message(format!(
                "Machines of both carry {labels}. Services, subsets and policies select by labels, and cannot tell one group from the other."
            ))
            .mechanism("WorkloadGroups with equal labels")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, labels.clone()))
            .evidence(Evidence::object(&other.field(PATH), labels))
            .related(other.field(PATH))
            .remedy(Remedy::manual("Give each group a label that the other lacks"))
            .prevention(Prevention::of("Policy", "A WorkloadGroup's labels are its own: an admission policy"))
    }
}
