//! ISTIO213.

use super::support::of_istio;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// A Sidecar is for pods that have no sidecar, because the mesh is ambient there.
    ///
    /// ## What it detects
    /// A Sidecar without a selector in a namespace with `istio.io/dataplane-mode: ambient` and no label for sidecars,
    /// or one whose selected pods are all redirected to their node's proxy.
    /// ## Why it matters
    /// What a Sidecar limits (the hosts that a proxy knows, its outbound policy) is not in force: ztunnel knows no
    /// Sidecar.
    /// ## Evidence
    /// The Sidecar, and the label of the namespace or the annotation of the pods.
    /// ## How to confirm
    /// `istioctl ztunnel-config workload` lists the pods as HBONE.
    /// ## How to fix
    /// Delete it; limit who may call whom with an AuthorizationPolicy, and what leaves the cluster with a
    /// ServiceEntry behind a waypoint.
    /// ## False positives
    /// A namespace in which some workloads keep a sidecar by a label of their own: they are looked for and silence
    /// this.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/migrate/>
    SidecarWhereNoneRuns {
        code: "ISTIO213", name: "sidecar-where-none-runs", family: Mesh, severity: Warning,
        needs: [Istio], aliases: ["IST0167"],
    }
}

/// A Sidecar that is in force nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    object: &'a Object,
    /// Pods that it would be for.
    pods: usize,
}

impl Check for SidecarWhereNoneRuns {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        of_istio(snapshot, "Sidecar")
            .filter_map(|object| {
                let selector = object.body.text_map("spec.workloadSelector.labels");
                let own = snapshot.pods.iter().filter(|pod| {
                    pod.object.namespace() == object.namespace()
                        && selector.iter().all(|(key, value)| pod.object.labels.get(key) == Some(value))
                });
                let pods: Vec<&Pod> = own.collect();
                let sidecars = pods.iter().any(|pod| snapshot.has_istio_proxy(pod));
                let ambient = if selector.is_empty() {
                    snapshot.object("Namespace", "", object.namespace()).is_some_and(is_ambient)
                } else {
                    !pods.is_empty() && pods.iter().all(|pod| redirected(pod))
                };
                (ambient && !sidecars).then_some(Fact { object, pods: pods.len() })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let own = &fact.object.reference;
        Finding::new(Self::META, own.clone(), &[])
            .title(format!("{own} is for pods without a sidecar: the mesh is ambient there"))
            .message(format!(
                "Namespace {} is in the ambient mesh, and none of the {} pods that {own} is for has a sidecar. Nothing of it is in force.",
                own.namespace, fact.pods
            ))
            .mechanism("Sidecar in an ambient namespace")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(own, format!("{} pods, none with a sidecar", fact.pods)))
            .remedy(Remedy::delete(fact.object, "Delete it; who may call whom is for an AuthorizationPolicy to say"))
            .prevention(Prevention::of("Policy", "An admission policy that refuses Sidecars in namespaces with dataplane-mode ambient"))
    }
}

fn is_ambient(namespace: &Object) -> bool {
    let label = |name: &str| namespace.labels.get(name).unwrap_or("");
    label("istio.io/dataplane-mode") == "ambient"
        && label("istio-injection") != "enabled"
        && label("istio.io/rev").is_empty()
}

fn redirected(pod: &Pod) -> bool {
    pod.object.annotations.get("ambient.istio.io/redirection").is_some_and(|value| value == "enabled")
}
