//! ISTIO225.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::support::asked_about;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::near::nearest;
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A namespace is named that does not exist.
    ///
    /// ## What it detects
    /// Names in `exportTo`, in `namespaces` and `notNamespaces` of AuthorizationPolicies, and in `from` of
    /// ReferenceGrants, that no Namespace has, where Namespaces were seen.
    /// ## Why it matters
    /// What is exported to it nobody sees; what is allowed from it nobody is allowed; what is denied from it is
    /// denied to nobody.
    /// ## Evidence
    /// The field, and a namespace of nearly the same name.
    /// ## How to confirm
    /// `kubectl get namespaces`.
    /// ## How to fix
    /// Correct the name.
    /// ## False positives
    /// A namespace of another cluster of the mesh, or one that is made later.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/security/authorization-policy/#Source>
    NamespaceUnknown {
        code: "ISTIO225", name: "namespace-unknown", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0101", "KIA0005", "KIA0101", "KIA1601"],
    }
}

const EXPORTING: &[&str] = &["VirtualService", "DestinationRule", "ServiceEntry"];

/// A name that no namespace has.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    path: String,
    name: &'a str,
    near: Option<&'a str>,
}

impl Check for NamespaceUnknown {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        // Where only some were asked for, the others are not unknown.
        let known: BTreeSet<&str> = snapshot.objects_of("Namespace").map(Object::name).collect();
        if known.len() < 2 || snapshot.target.is_some() {
            return vec![];
        }
        let mut named: Vec<(&'a Object, String, &'a str)> = vec![];
        for object in EXPORTING.iter().flat_map(|kind| snapshot.objects_of(kind)) {
            for (index, scope) in object.body.list("spec.exportTo").iter().enumerate() {
                let scope = scope.as_str().filter(|scope| !matches!(*scope, "" | "." | "*" | "~"));
                named.extend(scope.map(|scope| (object, format!("spec.exportTo[{index}]"), scope)));
            }
        }
        for object in snapshot.objects_of("AuthorizationPolicy") {
            for (rule, entry) in object.body.list("spec.rules").iter().enumerate() {
                for (from, source) in entry.list("from").iter().enumerate() {
                    for field in ["namespaces", "notNamespaces"] {
                        for (at, name) in source.list(&format!("source.{field}")).iter().enumerate() {
                            let path = format!("spec.rules[{rule}].from[{from}].source.{field}[{at}]");
                            named.extend(name.as_str().map(|name| (object, path, name)));
                        }
                    }
                }
            }
        }
        for object in snapshot.objects_of("ReferenceGrant") {
            for (index, from) in object.body.list("spec.from").iter().enumerate() {
                named.extend(
                    from.text("namespace")
                        .map(|name| (object, format!("spec.from[{index}].namespace"), name)),
                );
            }
        }
        named
            .into_iter()
            .filter(|(object, _, name)| asked_about(snapshot, object) && !exists(&known, name))
            .map(|(object, path, name)| Fact {
                object,
                path,
                name,
                near: nearest(name, known.iter().copied()),
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        let subject = own.field(&fact.path);
        let name = text::plain(fact.name, 63);
        let fix = fact.near.and_then(|near| {
            let operations = json!([{"op": "replace", "path": pointer(&fact.path), "value": near}]);
            Remedy::patch(fact.object, &operations, format!("Name namespace {near}"))
        });
        Finding::new(Self::META, subject.clone(), &[&name])
            .title(format!("{own} names namespace {name}, which does not exist"))
            .message(format!("No Namespace is called {name}. What {own} says of it is for nobody."))
            .mechanism("unknown namespace")
            .role(Role::Context, Confidence::Possible)
            .evidence(Evidence::object(&subject, format!("names {name}")))
            .maybe_remedy(fix)
            .remedy(Remedy::manual("Correct the name, or remove it if the namespace is gone"))
            .prevention(Prevention::of(
                "Test",
                "Run meshscope analyze --fail-on warning over all manifests before they are applied",
            ))
    }
}

/// A name, `prefix*` or `*suffix`.
fn exists(known: &BTreeSet<&str>, name: &str) -> bool {
    match (name.strip_prefix('*'), name.strip_suffix('*')) {
        (Some(suffix), _) => known.iter().any(|known| known.ends_with(suffix)),
        (None, Some(prefix)) => known.iter().any(|known| known.starts_with(prefix)),
        (None, None) => known.contains(name),
    }
}
