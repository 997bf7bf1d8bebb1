//! ISTIO202.

use super::support::{asked_about, of_istio};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::istioctl::annotation_table;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A field or annotation that Istio will stop reading, or already ignores.
    ///
    /// ## What it detects
    /// VirtualServices with `fault.delay.percent`, Sidecars with `outboundTrafficPolicy.egressProxy`, tracing by a
    /// Lightstep provider, definitions of kinds that Istio removed, and annotations marked deprecated.
    /// ## Why it matters
    /// It works until an upgrade, and then does nothing without a word: an old access rule that nobody reads any more
    /// lets everybody in.
    /// ## Evidence
    /// The field or annotation, and what takes its place.
    /// ## How to confirm
    /// `istioctl analyze` names the same (IST0002, IST0135).
    /// ## How to fix
    /// Write what takes its place before the next upgrade.
    /// ## False positives
    /// A manifest that is kept for an old control plane on purpose.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/analysis/ist0002/>
    SettingOnItsWayOut {
        code: "ISTIO202", name: "setting-on-its-way-out", family: Mesh, severity: Info,
        needs: [Istio], aliases: ["IST0002", "IST0135", "IST0136"],
    }
}

/// Kinds of `rbac.istio.io` that went with Istio 1.6.
const REMOVED: &[&str] = &["ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding"];
const INJECT: &str = "sidecar.istio.io/inject";

/// A setting that goes.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    field: String,
    what: String,
    instead: &'static str,
}

impl Check for SettingOnItsWayOut {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for object in of_istio(snapshot, "VirtualService") {
            for (index, route) in object.body.list("spec.http").iter().enumerate() {
                if route.int("fault.delay.percent").is_some_and(|percent| percent > 0) {
                    let field = format!("spec.http[{index}].fault.delay.percent");
                    out.push(Fact {
                        object,
                        field,
                        what: "fault.delay.percent".into(),
                        instead: "write fault.delay.percentage.value",
                    });
                }
            }
        }
        for object in of_istio(snapshot, "Sidecar") {
            if object.body.at("spec.outboundTrafficPolicy.egressProxy").is_some() {
                let field = "spec.outboundTrafficPolicy.egressProxy".to_owned();
                out.push(Fact {
                    object,
                    field,
                    what: "outboundTrafficPolicy.egressProxy".into(),
                    instead: "remove it: Istio ignores it",
                });
            }
        }
        let providers = snapshot.istio.mesh_config.list("extensionProviders").iter();
        let lightstep: Vec<String> =
            providers.filter(|p| p.at("lightstep").is_some()).map(|p| p.string("name")).collect();
        for object in of_istio(snapshot, "Telemetry") {
            for (index, tracing) in object.body.list("spec.tracing").iter().enumerate() {
                if tracing.list("providers").iter().any(|p| lightstep.contains(&p.string("name"))) {
                    let field = format!("spec.tracing[{index}].providers");
                    out.push(Fact {
                        object,
                        field,
                        what: "the Lightstep provider".into(),
                        instead: "send the spans by an opentelemetry provider",
                    });
                }
            }
        }
        for object in snapshot.objects_of("CustomResourceDefinition") {
            let kind = object.body.string("spec.names.kind");
            if object.body.text("spec.group") == Some("rbac.istio.io") && REMOVED.contains(&kind.as_str()) {
                let what = format!("kind {} of rbac.istio.io", text::plain(&kind, 40));
                out.push(Fact {
                    object,
                    field: "spec.group".into(),
                    what,
                    instead: "write AuthorizationPolicies, and delete the definition",
                });
            }
        }
        out.extend(annotations(snapshot));
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let subject = fact.object.reference.field(&fact.field);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{} uses {}, which Istio drops", fact.object.reference, fact.what))
            .message(format!("{} is deprecated in Istio: {}.", fact.what, fact.instead))
            .mechanism("deprecated Istio setting")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("{} is set", fact.what)))
            .remedy(Remedy::manual(format!("In {}: {}", fact.object.reference, fact.instead)))
            .prevention(Prevention::of(
                "Test",
                "Run meshscope analyze over the manifests with each upgrade of Istio",
            ))
    }
}

/// Deprecated annotations. The one for injection is fine beside the label that takes its place.
fn annotations(snapshot: &Snapshot) -> Vec<Fact<'_>> {
    let kinds = ["Namespace", "Service", "Pod"].iter().chain(Workload::KINDS);
    let objects = kinds.flat_map(|kind| snapshot.objects_of(kind));
    let own = objects.filter(|object| object.owners.is_empty() && asked_about(snapshot, object));
    own.flat_map(|object| object.annotations.keys().map(move |name| (object, name)))
        .filter(|(object, name)| {
            annotation_table::find(name).is_some_and(|known| known.deprecated)
                && !(*name == INJECT && object.labels.contains_key(INJECT))
        })
        .map(|(object, name)| Fact {
            object,
            field: format!("metadata.annotations[{name}]"),
            what: format!("annotation {name}"),
            instead: if name == INJECT {
                "use the label of the same name"
            } else {
                "see the list of annotations of your Istio"
            },
        })
        .collect()
}
