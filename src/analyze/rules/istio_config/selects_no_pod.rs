//! ISTIO206.

use crate::model::json::json;

use super::support::{Carriers, labels_text, of_istio};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A policy or Sidecar selects pods that are not there.
    ///
    /// ## What it detects
    /// AuthorizationPolicies, RequestAuthentications, PeerAuthentications, Sidecars, Telemetries, WasmPlugins and
    /// EnvoyFilters whose selector no pod and no template of pods carries, in a namespace that has some. In the root
    /// namespace a selector reaches pods of that namespace alone, except for an AuthorizationPolicy and its like,
    /// which reach all.
    /// ## Why it matters
    /// What is meant to be denied is allowed, what is meant to be limited is not: the object is accepted, and nothing
    /// of it is in force.
    /// ## Evidence
    /// The selector, and the label values that pods do carry.
    /// ## How to confirm
    /// `kubectl get pods -n NAMESPACE -l KEY=VALUE` is empty.
    /// ## How to fix
    /// Correct the label, or delete the object.
    /// ## False positives
    /// A workload that is scaled from time to time and whose template is not part of what was read.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/type/workload-selector/>
    SelectsNoPod {
        code: "ISTIO206", name: "selects-no-pod", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0101", "IST0127", "KIA0004"],
    }
}

const KINDS: &[(&str, &str)] = &[
    ("AuthorizationPolicy", "spec.selector.matchLabels"),
    ("RequestAuthentication", "spec.selector.matchLabels"),
    ("PeerAuthentication", "spec.selector.matchLabels"),
    ("Telemetry", "spec.selector.matchLabels"),
    ("WasmPlugin", "spec.selector.matchLabels"),
    ("Sidecar", "spec.workloadSelector.labels"),
    ("EnvoyFilter", "spec.workloadSelector.labels"),
];

/// A selector that nothing carries.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: &'static str,
    selector: Labels,
    /// The label that is nearly right: its key, and a value that pods carry.
    near: Option<(String, String)>,
}

impl Check for SelectsNoPod {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let carriers = Carriers::of(snapshot);
        let root = &snapshot.istio.root_namespace;
        let mut out = vec![];
        for (kind, path) in KINDS {
            for object in of_istio(snapshot, kind).filter(|object| object.namespace() != root) {
                let selector = object.body.text_map(path);
                let beside = carriers.beside(object.namespace());
                if selector.is_empty()
                    || beside.is_empty()
                    || carriers.selected(object.namespace(), &selector).next().is_some()
                {
                    continue;
                }
                // One label alone keeps the others from matching: what do the pods carry there?
                let near = selector.iter().find_map(|(key, value)| {
                    let values = beside.iter().filter_map(|(_, labels)| labels.get(key));
                    nearest(value, values).map(|near| (key.to_owned(), near.to_owned()))
                });
                out.push(Fact { object, path, selector, near });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let shown = text::plain(&labels_text(&fact.selector), 80);
        let subject = own.field(fact.path);
        let fix = fact.near.as_ref().and_then(|(key, near)| {
            let path = format!("{}/{}", pointer(fact.path), pointer_segment(key));
            let operations = json!([{"op": "replace", "path": path, "value": near}]);
            Remedy::patch(
                fact.object,
                &operations,
                format!("Select {}={}, which pods carry", text::plain(key, 60), text::plain(near, 60)),
            )
        });
        Finding::new(Self::META, subject.clone(), &[&shown])
            .title(format!("{own} selects {shown}, which no pod carries"))
            .message(format!(
                "Namespace {} has pods or templates of pods, and none of them carries {shown}. {own} is in force for nobody.",
                own.namespace
            ))
            .mechanism("selector matches no workload")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("selects {shown}")))
            .maybe_remedy(fix)
            .remedy(Remedy::delete(fact.object, "Delete it, if what it was for is gone"))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
