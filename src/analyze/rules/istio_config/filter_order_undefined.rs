//! ISTIO208.

use crate::model::json::{Value, json};
use std::collections::BTreeMap;

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An EnvoyFilter changes what another EnvoyFilter adds, and nothing says which comes first.
    ///
    /// ## What it detects
    /// Patches with a relative operation (`INSERT_BEFORE`, `INSERT_AFTER`, `REMOVE`, `REPLACE`, `MERGE`) on a filter
    /// that another EnvoyFilter adds for the same kind of place, where neither sets `priority`.
    /// ## Why it matters
    /// EnvoyFilters are applied in the order of priority, then age. Recreated in another order, as a delivery tool or
    /// a restore does, the patch finds nothing to change and is skipped.
    /// ## Evidence
    /// The patch, and the EnvoyFilter that adds what it changes.
    /// ## How to confirm
    /// `istioctl proxy-config listener POD -o json` shows whether the filter is there, changed or not.
    /// ## How to fix
    /// Give the one that changes a higher `priority` than the one that adds.
    /// ## False positives
    /// Both were made in the right order, and nobody ever recreates them.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/envoy-filter/>
    FilterOrderUndefined {
        code: "ISTIO208", name: "filter-order-undefined", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["IST0151", "IST0155"],
    }
}

const RELATIVE: &[&str] = &["INSERT_BEFORE", "INSERT_AFTER", "REMOVE", "REPLACE", "MERGE"];
const ADDING: &[&str] = &["ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"];

/// A patch that depends on another EnvoyFilter.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    index: usize,
    operation: &'a str,
    filter: String,
    adds: &'a Object,
}

impl Check for FilterOrderUndefined {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        // By the place and the name of what is added.
        let mut added: BTreeMap<(String, String), Vec<&'a Object>> = BTreeMap::new();
        for object in of_istio(snapshot, "EnvoyFilter") {
            for patch in object.body.list("spec.configPatches") {
                let name = patch.string("patch.value.name");
                if ADDING.contains(&patch.string("patch.operation").as_str()) && !name.is_empty() {
                    added.entry((patch.string("applyTo"), name)).or_default().push(object);
                }
            }
        }
        let mut out = vec![];
        for object in of_istio(snapshot, "EnvoyFilter")
            .filter(|object| object.body.int("spec.priority").unwrap_or(0) == 0)
        {
            for (index, patch) in object.body.list("spec.configPatches").iter().enumerate() {
                let Some(operation) = patch.text("patch.operation").filter(|o| RELATIVE.contains(o)) else {
                    continue;
                };
                let Some(filter) = matched(patch) else { continue };
                let adders = added.get(&(patch.string("applyTo"), filter.clone()));
                let other = adders.into_iter().flatten().find(|adds| {
                    !adds.reference.same_object(&object.reference)
                        && adds.body.int("spec.priority").unwrap_or(0) == 0
                });
                out.extend(other.map(|adds| Fact { object, index, operation, filter, adds }));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (own, adds) = (&fact.object.reference, &fact.adds.reference);
        let subject = own.field("spec.priority");
        let filter = text::plain(&fact.filter, 80);
        let place = own.field(format!("spec.configPatches[{}].patch", fact.index));
        Finding::new(Self::META, subject, &[&filter, &fact.index.to_string()])
            .title(format!("{own} changes filter {filter}, which {adds} adds, and nothing orders the two"))
            .message(format!(
                "Operation {} of {own} needs filter {filter}, which {adds} brings. Both have priority 0, so the older one is applied first: made again in another order, the change is left out.",
                fact.operation
            ))
            .mechanism("EnvoyFilter order undefined")
            .role(Role::Context, Confidence::Possible)
            .related(adds.clone())
            .evidence(Evidence::object(&place, format!("{} on {filter}", fact.operation)))
            .evidence(Evidence::object(adds, format!("adds {filter}, priority 0")))
            .maybe_remedy(Remedy::patch(fact.object, &json!([{"op": "add", "path": "/spec/priority", "value": 10}]), "Set spec.priority above that of the one that adds"))
            .prevention(Prevention::of("Policy", "An admission policy that asks for priority in EnvoyFilters with relative operations"))
    }
}

/// The name of the filter, route or cluster that a patch looks for.
fn matched(patch: &Value) -> Option<String> {
    let places = [
        "match.listener.filterChain.filter.subFilter.name",
        "match.listener.filterChain.filter.name",
        "match.cluster.name",
        "match.routeConfiguration.vhost.name",
    ];
    places.iter().find_map(|place| patch.text(place)).map(str::to_owned)
}
