//! ISTIO229.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::mesh::istio::Policy;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Sidecar in the root namespace has a workload selector.
    ///
    /// ## What it detects
    /// A Sidecar in the mesh's root namespace with `workloadSelector`.
    /// ## Why it matters
    /// There a Sidecar is the default of all namespaces, and a selector is not supported: it applies to pods of the
    /// root namespace alone, and the mesh has no default.
    /// ## Evidence
    /// The selector.
    /// ## How to confirm
    /// `istioctl proxy-config clusters POD` still lists every host of the mesh.
    /// ## How to fix
    /// Remove the selector, or move the Sidecar to the namespace that it is for.
    /// ## False positives
    /// A Sidecar that is meant for the control plane's own pods.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/sidecar/>
    MeshWideSidecarWithSelector {
        code: "ISTIO229", name: "mesh-wide-sidecar-with-selector", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["KIA1006"],
    }
}

/// A default that is none.
#[derive(Debug)]
pub struct Fact<'a> {
    sidecar: &'a Policy,
}

impl Check for MeshWideSidecarWithSelector {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let root = &snapshot.istio.root_namespace;
        let own = snapshot.istio.sidecars.iter().filter(|sidecar| sidecar.object.namespace() == root);
        own.filter(|sidecar| !sidecar.selector.is_empty()).map(|sidecar| Fact { sidecar }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = &fact.sidecar.object.reference;
        let subject = own.field("spec.workloadSelector");
        let root = &snapshot.istio.root_namespace;
        let operations = json!([{"op": "remove", "path": "/spec/workloadSelector"}]);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} stands in the root namespace and selects workloads: it is no default for the mesh"))
            .message(format!(
                "In {root} a Sidecar without a selector is the default of all namespaces. With one it is for pods of {root} alone."
            ))
            .mechanism("mesh-wide Sidecar with a workload selector")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, "has a workload selector"))
            .maybe_remedy(Remedy::patch(&fact.sidecar.object, &operations, "Make it the default of the mesh"))
            .remedy(Remedy::manual("Or move it to the namespace whose pods it is for"))
            .prevention(Prevention::of("Test", "Run meshscope analyze --fail-on warning over manifests before they are applied"))
    }
}
