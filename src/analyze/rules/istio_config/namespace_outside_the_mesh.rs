//! ISTIO204.

use crate::model::json::json;
use std::collections::BTreeSet;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::{Snapshot, is_system_namespace};
use crate::model::workload::PodTemplate;

crate::rule! {
    /// A namespace with applications says nothing about the mesh that others are in.
    ///
    /// ## What it detects
    /// A Namespace without any label for injection or ambient mode, whose workloads have no proxy and no label of
    /// their own, while other namespaces of the cluster are in the mesh. Where the injector is on by default it is
    /// said that the namespace depends on that.
    /// ## Why it matters
    /// Requests from there carry no identity: STRICT peers cut them, routes do not apply to them, and no telemetry is
    /// written.
    /// ## Evidence
    /// The Namespace's labels, its workloads, and how many other namespaces are in the mesh.
    /// ## How to confirm
    /// `kubectl get namespace -L istio-injection,istio.io/rev,istio.io/dataplane-mode`.
    /// ## How to fix
    /// Label it `istio-injection=enabled` (or with the revision, or for ambient) and restart its workloads; or
    /// `istio-injection=disabled`, which says that it is meant.
    /// ## False positives
    /// A namespace that is meant to stay outside: the label that says so silences this.
    /// ## References
    /// <https://istio.io/latest/docs/setup/additional-setup/sidecar-injection/>
    NamespaceOutsideTheMesh {
        code: "ISTIO204", name: "namespace-outside-the-mesh", family: Mesh, severity: Info,
        needs: [Objects, Istio], aliases: ["IST0102", "IST0148"],
    }
}

const LABELS: &[&str] = &["istio-injection", "istio.io/rev", "istio.io/dataplane-mode"];
const INJECT: &str = "sidecar.istio.io/inject";

/// A Namespace that nobody decided about.
#[derive(Debug)]
pub struct Fact<'a> {
    namespace: &'a Object,
    workloads: usize,
    /// Namespaces that are in the mesh.
    others: usize,
    by_default: bool,
}

impl Check for NamespaceOutsideTheMesh {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let labelled = |namespace: &Object| LABELS.iter().any(|label| namespace.labels.contains_key(label));
        let inside: BTreeSet<&str> = snapshot
            .objects_of("Namespace")
            .filter(|namespace| {
                let on =
                    |label: &str, value: &str| namespace.labels.get(label).is_some_and(|own| own == value);
                on("istio-injection", "enabled")
                    || on("istio.io/dataplane-mode", "ambient")
                    || namespace.labels.contains_key("istio.io/rev")
            })
            .map(Object::name)
            .collect();
        let by_default = snapshot.objects_of("ConfigMap").any(|map| {
            let values = map
                .body
                .text("data.values")
                .and_then(|text| serde_json::from_str::<crate::model::json::Value>(text).ok());
            map.name().starts_with("istio-sidecar-injector")
                && values
                    .is_some_and(|values| values.flag("sidecarInjectorWebhook.enableNamespacesByDefault"))
        });
        if inside.is_empty() && !by_default {
            return vec![];
        }
        let asked = snapshot
            .objects_of("Namespace")
            .filter(|n| !is_system_namespace(n.name()) && snapshot.in_scope(n.name()) && !labelled(n));
        asked
            .filter_map(|namespace| {
                let own = snapshot
                    .workloads
                    .iter()
                    .filter(|w| w.object.namespace() == namespace.name() && w.object.owners.is_empty());
                let undecided = own.filter(|w| undecided(&w.template)).count();
                let fact = Fact { namespace, workloads: undecided, others: inside.len(), by_default };
                (undecided > 0).then_some(fact)
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.namespace.reference;
        let subject = own.field("metadata.labels");
        let (title, message) = if fact.by_default {
            (
                format!("{own} is in the mesh only because the injector is on by default"),
                format!(
                    "No label of {own} says anything about injection. The injector takes such namespaces in; another installation would not."
                ),
            )
        } else {
            (
                format!(
                    "{own} is outside of the mesh: no label decides, {} workloads have no proxy",
                    fact.workloads
                ),
                format!(
                    "{} other namespaces are in the mesh. {own} has no label about it, so its {} workloads call without an identity.",
                    fact.others, fact.workloads
                ),
            )
        };
        let operations = if fact.namespace.labels.is_empty() {
            json!([{"op": "add", "path": "/metadata/labels", "value": {"istio-injection": "enabled"}}])
        } else {
            json!([{"op": "add", "path": "/metadata/labels/istio-injection", "value": "enabled"}])
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(title)
            .message(message)
            .mechanism("namespace not injected")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(
                &subject,
                "none of istio-injection, istio.io/rev and istio.io/dataplane-mode",
            ))
            .maybe_remedy(Remedy::patch(
                fact.namespace,
                &operations,
                "Say that it is in the mesh, then restart its workloads",
            ))
            .prevention(Prevention::of(
                "Policy",
                "An admission policy that asks for the decision on each new Namespace",
            ))
    }
}

/// Whether a template neither has a proxy nor says anything about one.
fn undecided(template: &PodTemplate) -> bool {
    let says = [&template.labels, &template.annotations].iter().any(|map| map.contains_key(INJECT));
    let revision = template.labels.contains_key("istio.io/rev");
    !says && !revision && !template.host_network && template.container("istio-proxy").is_none()
}
