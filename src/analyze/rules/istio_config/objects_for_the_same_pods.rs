//! ISTIO205.

use std::collections::{BTreeMap, BTreeSet};

use super::support::{Carriers, of_istio};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Two Sidecars, Telemetries or PeerAuthentications are for the same pods, and only one of them counts.
    ///
    /// ## What it detects
    /// Of the kinds Sidecar, Telemetry and PeerAuthentication, of which one alone applies to a pod at each level:
    /// several without a selector in one namespace, or several with selectors that the same pods, or templates of
    /// pods, carry.
    /// ## Why it matters
    /// Istio takes one of them, the oldest, and says nothing of the others: a change in the wrong one has no effect,
    /// and after deleting the right one another set of rules is in force.
    /// ## Evidence
    /// The objects, and a pod or workload that both select.
    /// ## How to confirm
    /// `istioctl analyze` reports the same; `istioctl proxy-config all POD` shows which one is in force.
    /// ## How to fix
    /// Merge them into one, or give them selectors that exclude each other.
    /// ## False positives
    /// A change-over in which the new one is applied before the old one is deleted.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/sidecar/>
    /// <https://istio.io/latest/docs/reference/config/telemetry/>
    ObjectsForTheSamePods {
        code: "ISTIO205", name: "objects-for-the-same-pods", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0110", "IST0111", "IST0159", "IST0160", "KIA0002", "KIA0003"],
    }
}

/// Kinds of which one applies to a pod, and where each has its selector.
const KINDS: &[(&str, &str)] = &[
    ("Sidecar", "spec.workloadSelector.labels"),
    ("Telemetry", "spec.selector.matchLabels"),
    ("PeerAuthentication", "spec.selector.matchLabels"),
];

/// Objects of one kind that apply to the same pods; the first is the one that counts.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// The one that is older.
    counts: &'a Object,
    /// What both select; `None` where both are for the whole namespace.
    both: Option<ObjectRef>,
    selector: &'static str,
}

impl Check for ObjectsForTheSamePods {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let carriers = Carriers::of(snapshot);
        let mut out = vec![];
        for (kind, selector) in KINDS {
            let mut whole: BTreeMap<&str, Vec<&'a Object>> = BTreeMap::new();
            let mut of_carrier: BTreeMap<&ObjectRef, Vec<&'a Object>> = BTreeMap::new();
            for object in of_istio(snapshot, kind).filter(|object| targets(object).is_none()) {
                let labels: Labels = object.body.text_map(selector);
                if labels.is_empty() {
                    whole.entry(object.namespace()).or_default().push(object);
                    continue;
                }
                for carrier in carriers.selected(object.namespace(), &labels) {
                    of_carrier.entry(&carrier.reference).or_default().push(object);
                }
            }
            let groups = whole.into_values().map(|group| (None, group));
            let groups = groups.chain(of_carrier.into_iter().map(|(carrier, group)| (Some(carrier), group)));
            let mut said = BTreeSet::new();
            for (both, mut group) in groups.filter(|(_, group)| group.len() > 1) {
                group.sort_by_key(|object| (object.created.is_none(), object.created, &object.reference));
                let Some((counts, others)) = group.split_first() else { continue };
                for object in others {
                    if said.insert((&object.reference, &counts.reference)) {
                        out.push(Fact { object, counts, both: both.cloned(), selector });
                    }
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, other) = (&fact.object.reference, &fact.counts.reference);
        let subject = own.field(fact.selector);
        let whom = match &fact.both {
            Some(both) => format!("{both}"),
            None => format!("all pods of namespace {}", own.namespace),
        };
        let order =
            if fact.counts.created.is_some() { "The oldest of them counts" } else { "One of them counts" };
        Finding::new(Self::META, subject.clone(), &[&other.name])
            .title(format!("{own} and {other} are for the same pods, and only one of them counts"))
            .message(format!(
                "Both are for {whom}. Of one kind Istio applies a single object to a pod at each level. {order}; what the other says is left out."
            ))
            .mechanism("several objects for the same workload")
            .role(Role::Context, Confidence::Configured)
            .related(other.clone())
            .evidence(Evidence::object(&subject, format!("selects {whom}")))
            .evidence(Evidence::object(&other.field(fact.selector), format!("selects {whom}")))
            .remedy(Remedy::delete(fact.object, format!("Merge it into {other}, then delete it")))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}

/// What an object is attached to instead of selecting pods.
fn targets(object: &Object) -> Option<()> {
    let named = object.body.at("spec.targetRef").is_some() || !object.body.list("spec.targetRefs").is_empty();
    named.then_some(())
}
