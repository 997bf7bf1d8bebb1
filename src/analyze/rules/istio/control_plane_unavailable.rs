//! ISTIO135.

use jiff::Timestamp;
use std::collections::BTreeSet;

use super::support::{Said, of_proxy, said, services_of};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

crate::rule! {
    /// The mesh's control plane is away, and proxies work with what they knew last.
    ///
    /// ## What it detects
    /// The control plane has no ready pod, and proxies log that they cannot reach it or that they never got a configuration.
    /// ## Why it matters
    /// Running proxies keep their last configuration: new endpoints and routes do not arrive, so calls go to pods that are gone.
    /// New pods never become ready. Certificates are not renewed.
    /// ## Evidence
    /// Ready pods of the control plane, `gRPC config stream` closed or `config not received` in logs of proxies, pods that wait.
    /// ## How to confirm
    /// `istioctl proxy-status`, pods and log of the control plane.
    /// ## How to fix
    /// Bring the control plane back; more memory, CPU or replicas where it was killed or too slow.
    /// ## False positives
    /// Proxies renew their stream about every half hour and log it; that alone says nothing.
    /// ## References
    /// <https://istio.io/latest/docs/ops/diagnostic-tools/proxy-cmd/>
    ControlPlaneUnavailable {
        code: "ISTIO135", name: "control-plane-unavailable", family: Mesh, severity: Error,
        needs: [Status, Istio], aliases: [],
    }
}

/// What proxies say that cannot reach it.
const CUT_OFF: &[&str] = &[
    "gRPC config stream",
    "onfig not received",
    "ailed to connect to upstream XDS",
    "upstream terminated with unexpected error",
];

/// A control plane that is away.
#[derive(Debug)]
pub struct Fact<'a> {
    workload: &'a Workload,
    pods: usize,
    /// Workloads whose proxies say so.
    cut_off: Vec<(ObjectRef, Said)>,
    /// Workloads whose new pods wait for a configuration.
    waiting: BTreeSet<ObjectRef>,
    restarts: i64,
    /// When the last of its pods stopped being ready.
    since: Option<Timestamp>,
}

impl Check for ControlPlaneUnavailable {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let is_plane = |w: &&Workload| {
            w.object.owners.is_empty()
                && w.template.container("discovery").is_some()
                && w.template.labels.get("app").is_some_and(|app| app == "istiod")
        };
        let planes: Vec<&Workload> = snapshot.workloads.iter().filter(is_plane).collect();
        let ready = |w: &Workload| {
            let pods = snapshot.pods_of(w.reference()).filter(|pod| pod.ready()).count() as i64;
            w.status_count("readyReplicas").unwrap_or(0).max(pods)
        };
        // Of several revisions one that is left may serve: which proxies are whose is not known here.
        if planes.is_empty() || planes.iter().any(|w| ready(w) > 0 || w.object.body.get("status").is_none()) {
            return vec![];
        }
        let cut_off: Vec<(ObjectRef, Said)> =
            said(snapshot, |log| of_proxy(log) && snapshot.in_scope(&log.namespace), CUT_OFF)
                .into_iter()
                .collect();
        let waits = |text: &str| text.contains("onfig not received");
        let waiting = cut_off.iter().filter(|(_, said)| waits(&said.text)).map(|(w, _)| w.clone()).collect();
        let facts = planes.first().copied().filter(|_| !cut_off.is_empty()).map(|workload| {
            let pods: Vec<_> = snapshot.pods_of(workload.reference()).collect();
            let statuses = pods.iter().filter_map(|pod| pod.status("discovery"));
            Fact {
                workload,
                restarts: statuses.map(|status| status.restarts).sum(),
                since: pods.iter().filter_map(|pod| pod.condition("Ready").and_then(|c| c.since)).max(),
                pods: pods.len(),
                cut_off,
                waiting,
            }
        });
        facts.into_iter().collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let own = fact.workload.reference();
        let subject = match fact.workload.replicas {
            Some(0) => own.field("spec.replicas"),
            _ => own.clone(),
        };
        let lines: u64 = fact.cut_off.iter().map(|(_, said)| said.count).sum();
        let state = match fact.workload.replicas {
            Some(0) => "it is scaled to zero".to_owned(),
            _ => format!(
                "no pod of {} is ready, {}",
                fact.pods,
                text::several(fact.restarts.unsigned_abs(), "restart")
            ),
        };
        let waiting = if fact.waiting.is_empty() {
            String::new()
        } else {
            let names: Vec<&str> = fact.waiting.iter().take(3).map(|w| w.name.as_str()).collect();
            format!(
                " New pods of {} never got a configuration and cannot become ready.",
                text::plain(&names.join(", "), 100)
            )
        };
        let first = fact.cut_off.iter().filter_map(|(_, said)| said.first).min();
        let look = vec![
            format!("kubectl -n {} describe pods -l app=istiod", quote(&own.namespace)),
            format!(
                "kubectl -n {} logs deployment/{} --previous --tail=100",
                quote(&own.namespace),
                quote(&own.name)
            ),
        ];
        let remedy = match fact.workload.replicas {
            Some(0) => Remedy::scale(own, 0, 2, format!("Scale {own} to 2 replicas")),
            _ => Remedy::commands("See why the control plane does not become ready", look, vec![]),
        };
        Finding::new(Self::META, subject, &[])
            .title(format!("The control plane {own} is away: {state}"))
            .message(format!(
                "{own} is away: {state}. Proxies of {} logged {} that they cannot reach it. They go on with what they knew last: endpoints, routes and certificates grow old.{waiting}",
                text::several(fact.cut_off.len() as u64, "workload"),
                text::times(lines)
            ))
            .mechanism("control plane down: proxies without updates, stale endpoints")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .onset(fact.since.into_iter().chain(first).min())
            .evidence(Evidence::object(own, state).at(fact.since))
            .evidences(fact.cut_off.iter().take(3).map(|(workload, said)| said.evidence(format!("istio-proxy of {workload}"))))
            .effects(fact.waiting.iter().map(Effect::pods))
            .effects(fact.cut_off.iter().map(|(workload, _)| Effect::calls(workload)))
            .effects(fact.waiting.iter().flat_map(|w| services_of(snapshot, w)).collect::<Vec<_>>().iter().map(|s| Effect::requests(s, &["UH", "refused", "5xx"])))
            .remedy(remedy)
            .prevention(Prevention::alert("Alert when no control plane is ready", "sum(kube_deployment_status_replicas_ready{deployment=~\"istiod.*\"}) < 1"))
            .prevention(Prevention::alert("Alert when updates take long", "histogram_quantile(0.99, sum by (le) (rate(pilot_proxy_convergence_time_bucket[5m]))) > 10"))
    }
}
