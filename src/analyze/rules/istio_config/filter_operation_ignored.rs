//! ISTIO209.

use crate::model::json::json;

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An EnvoyFilter uses an operation that does nothing where it is applied.
    ///
    /// ## What it detects
    /// `ADD` or `REMOVE` of a `ROUTE_CONFIGURATION` or `HTTP_ROUTE`, and `REPLACE` of anything but filters and
    /// virtual hosts.
    /// ## Why it matters
    /// Istio accepts the object and leaves the patch out: a limit or header that was tested once on another place is
    /// not there.
    /// ## Evidence
    /// The patch with its `applyTo` and operation.
    /// ## How to confirm
    /// `istioctl proxy-config route POD -o json` does not show what the patch says.
    /// ## How to fix
    /// Use `MERGE`, or apply to what the operation is for: a virtual host is where routes are added.
    /// ## False positives
    /// None: the list of what each operation works on is Istio's own.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/envoy-filter/#EnvoyFilter-Patch-Operation>
    FilterOperationIgnored {
        code: "ISTIO209", name: "filter-operation-ignored", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0152", "IST0153", "IST0154"],
    }
}

/// Whether Istio leaves the operation out for what it applies to.
fn ignored(apply_to: &str, operation: &str) -> bool {
    match operation {
        "ADD" | "REMOVE" => matches!(apply_to, "ROUTE_CONFIGURATION" | "HTTP_ROUTE"),
        "REPLACE" => !matches!(apply_to, "NETWORK_FILTER" | "HTTP_FILTER" | "VIRTUAL_HOST"),
        _ => false,
    }
}

/// A patch that does nothing.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    index: usize,
    apply_to: &'a str,
    operation: &'a str,
}

impl Check for FilterOperationIgnored {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let filters = of_istio(snapshot, "EnvoyFilter");
        let patches = filters.flat_map(|object| {
            object
                .body
                .list("spec.configPatches")
                .iter()
                .enumerate()
                .map(move |(index, patch)| (object, index, patch))
        });
        patches
            .filter_map(|(object, index, patch)| {
                let (apply_to, operation) = (patch.text("applyTo")?, patch.text("patch.operation")?);
                ignored(apply_to, operation).then_some(Fact { object, index, apply_to, operation })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(format!("spec.configPatches[{}].patch.operation", fact.index));
        let apply_to = text::plain(fact.apply_to, 40);
        let path = format!("/spec/configPatches/{}/patch/operation", fact.index);
        let fix = (fact.operation == "REPLACE").then(|| {
            Remedy::patch(
                fact.object,
                &json!([{"op": "replace", "path": path, "value": "MERGE"}]),
                "Use MERGE, which works on it",
            )
        });
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} has operation {} for {apply_to}, which Istio leaves out", fact.operation))
            .message(format!(
                "Istio does not apply operation {} to {apply_to}: this patch changes no proxy.",
                fact.operation
            ))
            .mechanism("EnvoyFilter operation ignored")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("applyTo {apply_to}, operation {}", fact.operation)))
            .maybe_remedy(fix.flatten())
            .remedy(Remedy::manual("Apply to what the operation is for: routes are added to a VIRTUAL_HOST"))
            .prevention(Prevention::of(
                "Test",
                "After each change look for its words in istioctl proxy-config all POD -o json",
            ))
    }
}
