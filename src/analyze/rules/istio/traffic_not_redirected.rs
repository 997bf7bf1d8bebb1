//! ISTIO138.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::support::services_of;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerState, Pod};

crate::rule! {
    /// Pods started before the mesh's network plug-in was ready on their node.
    ///
    /// ## What it detects
    /// The init container `istio-validation` that fails (exit code 126), or pods with the label
    /// `cni.istio.io/uninitialized`: their traffic is not redirected to the proxy, and they do not start.
    /// ## Why it matters
    /// It hits every pod that is placed on a new node in the first moments, and does not heal by itself where the repair is off.
    /// ## Evidence
    /// State and exit code of `istio-validation`, the node, and the plug-in's pod on that node.
    /// ## How to confirm
    /// `kubectl get pods -o wide -l k8s-app=istio-cni-node` and the log of `istio-validation`.
    /// ## How to fix
    /// Delete the pods once the plug-in is ready; let it repair them (`repair.deletePods`) or taint new nodes until it is.
    /// ## False positives
    /// None known: the container exists only to say so.
    /// ## References
    /// <https://istio.io/latest/docs/setup/additional-setup/cni/>
    TrafficNotRedirected {
        code: "ISTIO138", name: "traffic-not-redirected", family: Mesh, severity: Error,
        needs: [Status, Istio], aliases: [],
    }
}

/// Pods of one workload that were not set up.
#[derive(Debug)]
pub struct Fact<'a> {
    owner: ObjectRef,
    pods: Vec<&'a Pod>,
    exit_code: Option<i64>,
    first: Option<Timestamp>,
    /// The plug-in's workload, and whether its pod on the first node is ready; `None` where it was not seen.
    plugin: Option<(ObjectRef, bool)>,
}

impl Check for TrafficNotRedirected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<ObjectRef, Fact<'a>> = BTreeMap::new();
        for pod in
            snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace()) && !pod.ended())
        {
            let Some((exit_code, first)) = failing(pod) else { continue };
            let owner = snapshot.owner(pod);
            let plugin = plugin_on(snapshot, &pod.node);
            let fact =
                out.entry(owner.clone()).or_insert(Fact { owner, pods: vec![], exit_code, first, plugin });
            fact.pods.push(pod);
            fact.first = fact.first.into_iter().chain(first).min();
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let names: Vec<&str> = fact.pods.iter().map(|pod| pod.object.name()).collect();
        let node = text::plain(&fact.pods.first().map(|pod| pod.node.clone()).unwrap_or_default(), 63);
        let subject = match &fact.plugin {
            Some((plugin, _)) => plugin.clone(),
            None => fact.owner.clone(),
        };
        let state = match &fact.plugin {
            Some((plugin, true)) => format!("{plugin} is ready there by now: new pods start."),
            Some((plugin, false)) => format!("{plugin} is not ready there."),
            None => "The plug-in's own pod was not seen.".to_owned(),
        };
        let code = fact.exit_code.map(|code| format!(" (exit code {code})")).unwrap_or_default();
        let services = services_of(snapshot, &fact.owner);
        Finding::new(Self::META, subject.clone(), &[&fact.owner.name])
            .title(format!("{}: {} on node {node} cannot start, because traffic is not redirected to the proxy", fact.owner, text::several(fact.pods.len() as u64, "pod")))
            .message(format!(
                "istio-validation fails{code} in {} pods of {}: their traffic is not redirected to the proxy, because they were made before the mesh's network plug-in was ready on node {node}. {state}",
                fact.pods.len(), fact.owner
            ))
            .mechanism("CNI race: traffic not redirected, istio-validation fails")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(services.first().cloned())
            .onset(fact.first)
            .evidences(fact.pods.iter().take(3).map(|pod| Evidence::object(&pod.object.reference, format!("istio-validation failed{code} on node {node}")).at(fact.first)))
            .effect(Effect::pods(&fact.owner))
            .effects(services.iter().map(|service| Effect::requests(service, &["UH", "UF", "5xx", "refused"])))
            .related(fact.owner.clone())
            .remedy(Remedy::lasting(
                "Delete the pods: their workload makes new ones, which are set up",
                vec![format!("kubectl {}delete pod {}", scope(&fact.pods.first().map(|p| p.object.reference.clone()).unwrap_or_default()), names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(" "))],
                "a deleted pod stays deleted, and its workload has made another",
            ).risk(Risk::Low))
            .prevention(Prevention::alert("Alert when the plug-in is not ready on a node", "min(istio_cni_install_ready) < 1"))
            .prevention(Prevention::of("Setting", "Taint new nodes until the plug-in is ready (taint.enabled of the control plane), or let it repair pods"))
    }
}

/// Exit code and time of a validation that failed.
fn failing(pod: &Pod) -> Option<(Option<i64>, Option<Timestamp>)> {
    let status = pod.status("istio-validation");
    let end = status.and_then(|status| status.latest_end()).filter(|end| end.exit_code != 0);
    let passed =
        status.is_some_and(|s| matches!(&s.state, ContainerState::Terminated(end) if end.exit_code == 0));
    if passed || pod.ready() {
        return None;
    }
    match end {
        Some(end) => Some((Some(end.exit_code), end.finished)),
        None => pod
            .object
            .labels
            .get("cni.istio.io/uninitialized")
            .filter(|v| *v == "true")
            .map(|_| (None, pod.object.created)),
    }
}

/// The plug-in's workload, and whether its pod on a node is ready.
fn plugin_on(snapshot: &Snapshot, node: &str) -> Option<(ObjectRef, bool)> {
    let pod = snapshot.pods.iter().find(|pod| {
        pod.node == node && pod.object.labels.get("k8s-app").is_some_and(|app| app == "istio-cni-node")
    })?;
    Some((snapshot.owner(pod), pod.ready()))
}
