//! AMBIENT104.

use std::collections::BTreeMap;

use super::enrolment;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// Running pods that are to be in ambient mode are not taken over by ztunnel.
    ///
    /// ## What it detects
    /// Pods that run without a sidecar where the label `istio.io/dataplane-mode: ambient` holds, and that lack the annotation
    /// `ambient.istio.io/redirection: enabled` which the network plug-in sets, while pods that have it were seen.
    /// ## Why it matters
    /// Their traffic goes in plaintext past ztunnel: no mutual TLS, no policy; where mutual TLS is demanded their calls are
    /// refused.
    /// ## Evidence
    /// The annotation of the pods, and whether ztunnel and the network plug-in are ready.
    /// ## How to confirm
    /// `istioctl ztunnel-config workload` shows protocol TCP for the pods; logs of `istio-cni-node` on their nodes.
    /// ## How to fix
    /// Let ztunnel and `istio-cni-node` be ready on the node, and restart the pods.
    /// ## False positives
    /// Pods in their node's network are left out, and so is a cluster where no pod shows the annotation at all.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/verify-mtls-enabled/>
    NotRedirected {
        code: "AMBIENT104", name: "not-redirected", family: Mesh, severity: Warning, needs: [Objects, Status],
        aliases: [],
    }
}

/// What the network plug-in writes onto a pod whose traffic it redirects.
const REDIRECTION: &str = "ambient.istio.io/redirection";

/// Pods of one workload.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    pods: Vec<&'a Pod>,
    /// DaemonSets of the mesh that are not ready everywhere.
    down: Vec<ObjectRef>,
}

impl Check for NotRedirected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let redirected = |pod: &Pod| pod.object.annotations.get(REDIRECTION).is_some_and(|v| v == "enabled");
        if !snapshot.pods.iter().any(redirected) {
            return vec![];
        }
        let mut out: BTreeMap<ObjectRef, Vec<&'a Pod>> = BTreeMap::new();
        for pod in
            snapshot.pods.iter().filter(|p| configured(p.object.namespace()) && p.has_status() && !p.ended())
        {
            let namespace = pod.object.namespace();
            if enrolment::is_ambient(snapshot, namespace, &pod.template)
                && !redirected(pod)
                && !pod.ips.is_empty()
            {
                out.entry(snapshot.owner(pod)).or_default().push(pod);
            }
        }
        let mesh = snapshot.workloads.iter().filter(|w| {
            w.reference().kind == "DaemonSet" && matches!(w.object.name(), "ztunnel" | "istio-cni-node")
        });
        let down: Vec<ObjectRef> = mesh
            .filter(|w| {
                use crate::model::fields::Fields;
                let number = |field: &str| w.object.body.int(&format!("status.{field}"));
                matches!((number("numberReady"), number("desiredNumberScheduled")), (Some(ready), Some(all)) if ready < all)
            })
            .map(|w| w.reference().clone())
            .collect();
        out.into_iter().map(|(owner, pods)| Fact { owner, pods, down: down.clone() }).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let names: Vec<&str> = fact.pods.iter().map(|p| p.object.name()).take(4).collect();
        let down = match fact.down.as_slice() {
            [] => String::new(),
            some => format!(
                " {} not ready on every node.",
                some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
                    + if some.len() == 1 { " is" } else { " are" }
            ),
        };
        let services: Vec<_> = fact
            .pods
            .first()
            .map(|pod| snapshot.services_before_pod(pod).map(|s| s.service_name()).collect())
            .unwrap_or_default();
        let restart = matches!(fact.owner.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet");
        let mut finding = Finding::new(Self::META, fact.owner.field("metadata.annotations"), &[])
            .title(format!("{} pods of {} are in ambient mode by label, and ztunnel does not carry them", fact.pods.len(), fact.owner))
            .message(format!(
                "{} ({}) run where {}=ambient holds, without the annotation {REDIRECTION}=enabled that others have. Their traffic goes past ztunnel in plaintext.{down}",
                fact.owner,
                names.join(", "),
                enrolment::MODE
            ))
            .mechanism("ambient: pods not redirected to ztunnel (network plug-in)")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .evidences(fact.pods.iter().take(4).map(|pod| {
                Evidence::object(&pod.object.reference.field("metadata.annotations"), format!("has no {REDIRECTION}"))
            }))
            .effects(services.iter().map(|service| Effect::requests(service, &["reset", "tls"])))
            .effect(Effect::calls(&fact.owner))
            .prevention(Prevention::alert("Alert when ztunnel is not ready on a node", "kube_daemonset_status_number_ready{daemonset=\"ztunnel\"} < kube_daemonset_status_desired_number_scheduled"));
        finding.related.extend(fact.down.iter().cloned());
        if restart {
            finding = finding.remedy(Remedy::commands(
                "Restart the pods once ztunnel and the network plug-in are ready",
                vec![format!(
                    "kubectl {}rollout restart {}/{}",
                    crate::analyze::remedy::scope(&fact.owner),
                    crate::analyze::remedy::resource(&fact.owner),
                    crate::analyze::remedy::quote(&fact.owner.name)
                )],
                vec![],
            ));
        }
        finding
    }
}
