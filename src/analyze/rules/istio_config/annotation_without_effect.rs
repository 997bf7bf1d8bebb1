//! ISTIO201.

use crate::model::json::json;

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::istioctl::annotation_table::{self, Annotation};
use crate::analyze::istioctl::annotation_values;
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// An annotation of Istio's does nothing: it is on the wrong object, unknown, or its value cannot be.
    ///
    /// ## What it detects
    /// An annotation whose domain is Istio's, on a Namespace, Service, pod or workload, that Istio does not know,
    /// that belongs on another kind, or whose value Istio refuses. The commonest is a pod's annotation on the
    /// Deployment instead of its template.
    /// ## Why it matters
    /// Nobody tells: the object is accepted, and the setting stays what it was. A proxy keeps its limits, its ports
    /// and its log level.
    /// ## Evidence
    /// The annotation, the kinds it belongs on, and what its value would have to be.
    /// ## How to confirm
    /// `kubectl get pod POD -o jsonpath='{.metadata.annotations}'` shows what the injector saw.
    /// ## How to fix
    /// Move it to where it belongs (for a workload `spec.template.metadata.annotations`), or correct its name or
    /// value.
    /// ## False positives
    /// An annotation of a newer Istio than the one whose list this is, of 1.31.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/annotations/>
    AnnotationWithoutEffect {
        code: "ISTIO201", name: "annotation-without-effect", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0107", "IST0108", "IST0125"],
    }
}

/// Kinds whose annotations are looked at, besides those that make pods.
const KINDS: &[&str] = &["Namespace", "Service", "Pod"];

/// Written by Istio itself, on whatever it made.
const OWN: &[&str] = &["istio.io/rev"];

/// What is wrong with an annotation.
#[derive(Debug)]
enum Wrong {
    /// Istio has none of this name; the one that is nearly called so.
    Unknown(Option<&'static str>),
    /// It belongs elsewhere.
    Misplaced(&'static Annotation),
    /// Its value cannot be, and why.
    Value(String),
}

/// An annotation that does nothing.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    name: &'a str,
    value: &'a str,
    wrong: Wrong,
}

impl Check for AnnotationWithoutEffect {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let kinds = KINDS.iter().chain(Workload::KINDS);
        let objects = kinds.flat_map(|kind| snapshot.objects_of(kind)).filter(|o| asked_about(snapshot, o));
        // Pods that something made have their annotations from its template, and from the injector.
        let own = objects.filter(|object| object.owners.is_empty());
        own.flat_map(|object| object.annotations.iter().map(move |(name, value)| (object, name, value)))
            .filter_map(|(object, name, value)| {
                let wrong = wrong(object, name, value)?;
                Some(Fact { object, name, value, wrong })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let Fact { object, name, value, .. } = fact;
        let subject = object.reference.field(format!("metadata.annotations[{name}]"));
        let (shown, own) = (text::plain(name, 80), &object.reference);
        let finding =
            Finding::new(Self::META, subject.clone(), &[]).role(Role::Context, Confidence::Configured);
        let at = format!("/metadata/annotations/{}", pointer_segment(name));
        let finding = match &fact.wrong {
            Wrong::Unknown(near) => {
                let fix = near.and_then(|near| {
                    let new = format!("/metadata/annotations/{}", pointer_segment(near));
                    let operations =
                        json!([{"op": "remove", "path": at}, {"op": "add", "path": new, "value": value}]);
                    Remedy::patch(object, &operations, format!("Name it {near}"))
                });
                finding
                    .title(format!("{own} has annotation {shown}, which Istio does not know"))
                    .message("Istio reads no annotation of this name, so it changes nothing.")
                    .maybe_remedy(fix)
            }
            Wrong::Misplaced(known) => {
                let template = Workload::KINDS.contains(&own.kind.as_str()) && known.on.contains(&"Pod");
                let fix = template.then(|| {
                    let operations = json!([{"op": "remove", "path": at}]);
                    let patch = json!({"spec": {"template": {"metadata": {"annotations": {*name: *value}}}}});
                    let merge = format!(
                        "kubectl {}patch {}/{} --type=merge -p {}",
                        crate::analyze::remedy::scope(own),
                        crate::analyze::remedy::resource(own),
                        crate::analyze::remedy::quote(&own.name),
                        crate::analyze::remedy::quote(&patch.to_string())
                    );
                    Remedy::patch(object, &operations, "Move it to spec.template.metadata.annotations")
                        .map(|remedy| remedy.then(merge))
                });
                finding
                    .title(format!(
                        "{own} has annotation {shown}, which only counts on {}",
                        known.on.join(", ")
                    ))
                    .message(format!(
                        "Istio reads {shown} on {}. On {own} it changes nothing.",
                        known.on.join(", ")
                    ))
                    .maybe_remedy(fix.flatten())
            }
            Wrong::Value(why) => finding
                .title(format!("Annotation {shown} of {own} has a value that Istio refuses"))
                .message(format!(
                    "{}. Injection of such a pod fails, or the setting is left out.",
                    text::plain(why, 160)
                )),
        };
        finding
            .mechanism("Istio annotation without effect")
            .evidence(Evidence::object(&subject, "the annotation as it is written").excerpt(value))
            .prevention(Prevention::of(
                "Test",
                "Run meshscope analyze --fail-on warning over manifests before they are applied",
            ))
    }
}

fn wrong(object: &Object, name: &str, value: &str) -> Option<Wrong> {
    let domain =
        name.split('/').next().filter(|domain| *domain == "istio.io" || domain.ends_with(".istio.io"))?;
    if OWN.contains(&name) {
        return None;
    }
    let Some(known) = annotation_table::find(name) else {
        let same_domain = annotation_table::ANNOTATIONS.iter().map(|known| known.name);
        let near = nearest(name, same_domain.filter(|known| known.split('/').next() == Some(domain)));
        return Some(Wrong::Unknown(near));
    };
    if known.on.contains(&"Any") {
        return None;
    }
    if !known.on.contains(&object.reference.kind.as_str()) {
        return Some(Wrong::Misplaced(known));
    }
    annotation_values::check(name, value).err().map(Wrong::Value)
}
