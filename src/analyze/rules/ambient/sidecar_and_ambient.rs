//! AMBIENT103.

use crate::model::json::json;

use super::enrolment::{self, MODE};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Something asks for a sidecar and for ambient mode at once.
    ///
    /// ## What it detects
    /// A namespace with `istio-injection: enabled` or `istio.io/rev` and `istio.io/dataplane-mode: ambient`; and a workload
    /// whose own labels ask for ambient mode while its pods have a sidecar, or ask for one.
    /// ## Why it matters
    /// The sidecar wins: ztunnel leaves such pods alone. What is configured for ambient mode (waypoints, policies by
    /// `targetRefs`) does not hold for them, and nobody sees it in the labels.
    /// ## Evidence
    /// The labels.
    /// ## How to confirm
    /// `istioctl ztunnel-config workload` shows protocol TCP instead of HBONE for the pods.
    /// ## How to fix
    /// Remove the label of the mode that is not meant, and restart the pods.
    /// ## False positives
    /// Pods with a sidecar by their own label in an ambient namespace are meant that way, and not reported.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/add-workloads/>
    SidecarAndAmbient {
        code: "AMBIENT103", name: "sidecar-and-ambient", family: Mesh, severity: Warning, needs: [Objects],
        aliases: ["KIA1311", "KIA1314", "KIA1315", "KIA1316"],
    }
}

/// An object with both.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// Where the ambient label stands.
    path: String,
    /// What asks for a sidecar.
    by: String,
}

impl Check for SidecarAndAmbient {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for space in snapshot.objects_of("Namespace").filter(|n| configured(n.name())) {
            let labels = &space.labels;
            if !enrolment::namespace_is_ambient(snapshot, space.name()) {
                continue;
            }
            let by = if labels.get("istio-injection").is_some_and(|v| v == "enabled") {
                "istio-injection=enabled".to_owned()
            } else if let Some(revision) =
                labels.get("istio.io/rev").filter(|_| !labels.contains_key("istio-injection"))
            {
                // The revision may as well say which waypoint's control plane is meant; without any sidecar it is that.
                let sidecars = snapshot
                    .pods
                    .iter()
                    .any(|p| p.object.namespace() == space.name() && snapshot.has_istio_proxy(p));
                if !sidecars {
                    continue;
                }
                format!("istio.io/rev={revision}")
            } else {
                continue;
            };
            out.push(Fact { object: space, path: format!("metadata.labels[{MODE}]"), by });
        }
        for workload in snapshot
            .workloads
            .iter()
            .filter(|w| w.object.owners.is_empty() && configured(w.object.namespace()))
        {
            let template = &workload.template;
            if template.labels.get(MODE).is_none_or(|mode| mode != "ambient") {
                continue;
            }
            let by = if template.has_running_container("istio-proxy") {
                "a container istio-proxy".to_owned()
            } else if template.labels.get("sidecar.istio.io/inject").is_some_and(|v| v == "true") {
                "sidecar.istio.io/inject=true".to_owned()
            } else {
                continue;
            };
            out.push(Fact {
                object: &workload.object,
                path: format!("spec.template.metadata.labels[{MODE}]"),
                by,
            });
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let subject = reference.field(&fact.path);
        let base =
            if reference.kind == "Namespace" { "/metadata/labels" } else { "/spec/template/metadata/labels" };
        let at = format!("{base}/{}", pointer_segment(MODE));
        Finding::new(Self::META, subject.clone(), &[&fact.by])
            .title(format!("{reference} asks for ambient mode and for a sidecar ({})", fact.by))
            .message(format!(
                "{reference} has {MODE}=ambient and {}. The sidecar wins, and ztunnel leaves the pods alone: what is configured for ambient mode does not hold for them.",
                fact.by
            ))
            .mechanism("ambient and sidecar injection at once")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .evidence(Evidence::object(&subject, format!("ambient, beside {}", fact.by)))
            .maybe_remedy(Remedy::patch(fact.object, &json!([{"op": "remove", "path": at}]), format!("Remove {MODE}, where the sidecar is meant")))
            .prevention(Prevention::of("Policy", "An admission policy that refuses both labels on one object"))
    }
}
