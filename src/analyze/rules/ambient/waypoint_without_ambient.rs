//! AMBIENT106.

use std::collections::BTreeSet;

use super::enrolment::{self, MODE, WAYPOINT};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::seen::configured;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// A waypoint is named for pods that are not in ambient mode.
    ///
    /// ## What it detects
    /// The label `istio.io/use-waypoint` on a workload's pods, or on a namespace, where the namespace was seen and
    /// neither it nor the pods are in ambient mode.
    /// ## Why it matters
    /// It is ztunnel that hands connections to a waypoint. Connections from pods that are not in ambient mode go
    /// straight to where they are sent: the waypoint's rules do not hold for them.
    /// ## Evidence
    /// The label, and the one that is missing beside it.
    /// ## How to confirm
    /// `istioctl ztunnel-config workload` shows protocol TCP for the pods, not HBONE.
    /// ## How to fix
    /// Put the namespace or the pods into ambient mode, or take the label away.
    /// ## False positives
    /// Services are left out: callers in ambient mode use a Service's waypoint, wherever its pods are.
    /// ## References
    /// <https://istio.io/latest/docs/ambient/usage/waypoint/>
    WaypointWithoutAmbient {
        code: "AMBIENT106", name: "waypoint-without-ambient", family: Mesh, severity: Warning, needs: [Objects],
        aliases: ["KIA1312"],
    }
}

/// A label that asks for a waypoint in vain.
#[derive(Debug)]
pub struct Fact {
    object: ObjectRef,
    path: String,
    namespace: String,
}

impl Check for WaypointWithoutAmbient {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let namespaces: BTreeSet<&str> =
            snapshot.objects_of("Namespace").map(|object| object.name()).collect();
        let own = |workload: &&Workload| workload.object.owners.is_empty();
        let within = |workload: &Workload| {
            enrolment::is_ambient(snapshot, workload.object.namespace(), &workload.template)
        };
        let inside: BTreeSet<&str> =
            snapshot.workloads.iter().filter(|w| within(w)).map(|w| w.object.namespace()).collect();
        let asks = |value: Option<&str>| value.is_some_and(|name| name != "none");
        let of_workloads = snapshot.workloads.iter().filter(own).filter(|workload| {
            let namespace = workload.object.namespace();
            asks(workload.template.labels.get(WAYPOINT))
                && namespaces.contains(namespace)
                && configured(namespace)
                && !enrolment::is_labelled(snapshot, namespace, &workload.template.labels)
        });
        let of_workloads = of_workloads.map(|workload| Fact {
            object: workload.reference().clone(),
            path: workload.template_path(&format!("metadata.labels[{WAYPOINT}]")),
            namespace: workload.object.namespace().to_owned(),
        });
        let of_namespaces = snapshot.objects_of("Namespace").filter(|object| {
            let name = object.name();
            asks(object.labels.get(WAYPOINT))
                && configured(name)
                && !enrolment::namespace_is_ambient(snapshot, name)
                && !inside.contains(name)
        });
        let of_namespaces = of_namespaces.map(|object| Fact {
            object: object.reference.clone(),
            path: format!("metadata.labels[{WAYPOINT}]"),
            namespace: object.name().to_owned(),
        });
        of_workloads.chain(of_namespaces).collect()
    }

    fn describe(&self, fact: &Fact, _: &Snapshot) -> Finding {
        let own = &fact.object;
        let subject = own.field(&fact.path);
        let namespace = quote(&fact.namespace);
        Finding::new(Self::META, subject.clone(), &[])
            .title(format!("{own} names a waypoint and is not in ambient mode"))
            .message(format!(
                "ztunnel hands connections to a waypoint, for pods in ambient mode alone. Neither the pods nor namespace {} have the label {MODE}=ambient.",
                fact.namespace
            ))
            .mechanism("ambient: use-waypoint label without dataplane-mode=ambient")
            .role(Role::Context, Confidence::Configured)
            .evidence(Evidence::object(&subject, "names a waypoint"))
            .evidence(Evidence::object(
                &ObjectRef::new("Namespace", "", &fact.namespace).field(format!("metadata.labels[{MODE}]")),
                "is not ambient",
            ))
            .remedy(Remedy::commands(
                format!("Put namespace {} into ambient mode", fact.namespace),
                vec![format!("kubectl label namespace {namespace} {MODE}=ambient")],
                vec![format!("kubectl label namespace {namespace} {MODE}-")],
            ))
            .prevention(Prevention::of("Policy", "A namespace with use-waypoint has dataplane-mode, too: an admission policy"))
    }
}
