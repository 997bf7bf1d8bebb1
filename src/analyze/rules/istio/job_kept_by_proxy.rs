//! ISTIO142.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::BTreeMap;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer, quote, scope};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerRole, ContainerState, Pod, is_proxy_container};

crate::rule! {
    /// A Job never completes, because its proxy goes on running.
    ///
    /// ## What it detects
    /// A pod of a Job all of whose own containers have ended well while an injected proxy still runs beside them.
    /// ## Why it matters
    /// The Job counts as active for ever: the next run of its CronJob is skipped, and pods pile up.
    /// ## Evidence
    /// The states of the containers: the application `Completed`, the proxy `running`.
    /// ## How to confirm
    /// `kubectl get pod` shows `1/2 NotReady`.
    /// ## How to fix
    /// Native sidecars, which end with the application; or leave the proxy out; or end it over its admin port.
    /// ## False positives
    /// The seconds between the end of the application and that of a proxy which is told to end.
    /// ## References
    /// <https://istio.io/latest/blog/2023/native-sidecars/>
    JobKeptByProxy {
        code: "ISTIO142", name: "job-kept-by-proxy", family: Mesh, severity: Warning,
        needs: [Status], aliases: [],
    }
}

/// A proxy that is told to end needs no longer than this, in seconds.
const GRACE_S: i64 = 60;

/// A Job whose pods hang.
#[derive(Debug)]
pub struct Fact<'a> {
    /// The Job, or the CronJob that made it.
    owner: ObjectRef,
    job: ObjectRef,
    pods: Vec<&'a Pod>,
    proxy: &'a str,
    finished: Timestamp,
}

impl Check for JobKeptByProxy {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: BTreeMap<ObjectRef, Fact<'a>> = BTreeMap::new();
        for pod in
            snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace()) && !pod.ended())
        {
            let Some(job) = pod.object.owners.first().filter(|owner| owner.kind == "Job") else { continue };
            let Some((proxy, finished)) = kept(pod) else { continue };
            if snapshot.now.as_second() - finished.as_second() < GRACE_S {
                continue;
            }
            let owner = snapshot.owner(pod);
            out.entry(owner.clone())
                .or_insert_with(|| Fact { owner, job: job.clone(), pods: vec![], proxy, finished })
                .pods
                .push(pod);
        }
        out.into_values().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let workload = snapshot.workload(&fact.owner);
        let (label, value) = match fact.proxy {
            "linkerd-proxy" => ("linkerd.io/inject", "disabled"),
            "consul-dataplane" => ("consul.hashicorp.com/connect-inject", "false"),
            _ => ("sidecar.istio.io/inject", "false"),
        };
        // Istio reads a label, the others an annotation.
        let kind = if fact.proxy == "istio-proxy" { "labels" } else { "annotations" };
        let subject = workload.map_or(fact.owner.clone(), |w| {
            w.reference().field(w.template_path(&format!("metadata.{kind}")))
        });
        let waits = (snapshot.now.as_second() - fact.finished.as_second()) / 60;
        let pod = fact.pods.first().map(|pod| pod.object.reference.clone()).unwrap_or_default();
        let mut finding = Finding::new(Self::META, subject.clone(), &[&fact.job.name])
            .title(format!("{} never completes: its work is done, and {} runs on", fact.owner, fact.proxy))
            .message(format!(
                "All containers of {} pods of {} but {} have ended with exit code 0, the last at {}, {waits} min ago. An ordinary sidecar does not end with them, so the Job stays active.",
                fact.pods.len(), fact.owner, fact.proxy, text::clock(fact.finished)
            ))
            .mechanism("Job kept running by its sidecar proxy")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Observed)
            .onset(Some(fact.finished))
            .evidences(fact.pods.iter().take(3).map(|pod| Evidence::object(&pod.object.reference, format!("application Completed, {} running", fact.proxy)).at(Some(fact.finished))))
            .effect(Effect::pods(&fact.owner));
        if let Some(workload) = workload.filter(|w| w.reference().kind == "CronJob") {
            let metadata = workload.template_path("metadata");
            let base = pointer(&format!("{metadata}.{kind}"));
            let body = &workload.object.body;
            let operations = if body.pointer(&base).is_some() {
                json!([{"op": "add", "path": format!("{base}/{}", crate::analyze::remedy::pointer_segment(label)), "value": value}])
            } else if body.pointer(&pointer(&metadata)).is_some() {
                json!([{"op": "add", "path": base, "value": {label: value}}])
            } else {
                json!([{"op": "add", "path": pointer(&metadata), "value": {kind: {label: value}}}])
            };
            finding = finding.maybe_remedy(
                Remedy::patch(
                    &workload.object,
                    &operations,
                    format!("Set {label} to {value}: the next run has no proxy"),
                )
                .map(|remedy| remedy.risk(Risk::Medium)),
            );
        }
        let end = match fact.proxy {
            "istio-proxy" => Some(format!(
                "kubectl {}exec {} -c istio-proxy -- pilot-agent request POST quitquitquit",
                scope(&pod),
                quote(&pod.name)
            )),
            _ => None,
        };
        finding
            .remedies(end.map(|command| Remedy::lasting("End the proxy of the pod that hangs: the Job then completes", vec![command], "a Job that has completed stays complete")))
            .remedy(Remedy::manual("Run the mesh with native sidecars (Kubernetes 1.29 and later): they end with the application"))
            .prevention(Prevention::alert("Alert on Jobs that are active for hours", "kube_job_status_active > 0 and on (namespace, job_name) (time() - kube_job_status_start_time) > 21600"))
    }
}

/// The proxy that keeps a pod, and when its last other container ended.
fn kept(pod: &Pod) -> Option<(&str, Timestamp)> {
    let (mut proxy, mut finished) = (None, None::<Timestamp>);
    for (container, status) in pod.containers().filter(|(c, _)| c.role == ContainerRole::Main) {
        match &status.state {
            ContainerState::Running { .. } if is_proxy_container(&container.name) => {
                proxy = Some(container.name.as_str())
            }
            ContainerState::Terminated(end) if end.exit_code == 0 => {
                finished = finished.into_iter().chain(end.finished).max()
            }
            _ => return None,
        }
    }
    proxy.zip(finished)
}
