//! ISTIO141.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::BTreeSet;

use super::support::{parts, since};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::fields::Fields;
use crate::model::network::{Service, ServiceName};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{Reporter, address};
use crate::model::workload::Workload;

crate::rule! {
    /// Requests are sent to pods that have already ended.
    ///
    /// ## What it detects
    /// Connections that fail, all of them to addresses that no pod of the Service has any more, close to the time at which pods
    /// of its workload were ended; the pods that are left answer.
    /// ## Why it matters
    /// Every rollout and every scale-in costs requests, because a pod stops before all proxies have heard of it.
    /// ## Evidence
    /// The endpoints of the failing requests, the addresses of the pods, the kubelet's `Killing` events.
    /// ## How to confirm
    /// Failures begin and end with rollouts; the upstream address belongs to a pod that is gone.
    /// ## How to fix
    /// A `preStop` hook that waits some seconds, so that the pod serves until its callers know; `terminationDrainDuration` for
    /// the proxy; `terminationGracePeriodSeconds` above both.
    /// ## False positives
    /// A node that was lost: its pods never get to say goodbye.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination>
    CallsToEndedPods {
        code: "ISTIO141", name: "calls-to-ended-pods", family: Traffic, severity: Warning,
        needs: [Status, AccessLogs], aliases: [],
    }
}

/// Failures this many seconds around the end of a pod belong to it: the grace period's default, and as much again.
const AROUND_S: i64 = 60;
/// How long a pod serves on after it was told to end.
const WAIT_S: i64 = 10;

/// Requests to pods that are gone.
#[derive(Debug)]
pub struct Fact<'a> {
    group: Failures,
    service: ServiceName,
    workload: &'a Workload,
    /// Addresses that failed.
    gone: BTreeSet<String>,
    /// Pods that were ended, with when.
    ended: Vec<(String, Timestamp)>,
}

impl Check for CallsToEndedPods {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let ways = [Way::Refused, Way::ConnectTimeout, Way::ConnectionFailed, Way::UpstreamClosed];
        all(snapshot, |way| ways.contains(&way))
            .into_iter()
            .filter(|group| group.callee.reporter == Reporter::Source && group.severity().is_some())
            .filter_map(|group| ended(snapshot, group))
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = &fact.service.name;
        let own = fact.workload.reference();
        let path = fact.workload.template_path("spec.containers[0].lifecycle.preStop");
        let subject = own.field(&path);
        let figures = text::share(fact.group.count, fact.group.requests, "requests");
        let pods: Vec<String> = fact
            .ended
            .iter()
            .take(3)
            .map(|(pod, at)| format!("{} at {}", text::plain(pod, 63), text::clock(*at)))
            .collect();
        let hosts: Vec<String> = fact.gone.iter().take(3).map(|host| text::plain(host, 48)).collect();
        Finding::new(Self::META, subject.clone(), &[name])
            .title(format!("Pods of {own} end while they are still called: {figures} to {name} went to ended pods"))
            .message(format!(
                "{figures} to {name} failed{}, all of them at addresses that no pod has any more ({}), within {AROUND_S} s of the end of {}. The pods stop as soon as they are told to; callers' proxies hear of it seconds later.",
                since(fact.group.onset),
                hosts.join(", "),
                pods.join(", ")
            ))
            .mechanism("shutdown race: requests to terminating pods, no preStop")
            .severity(fact.group.severity().unwrap_or(Severity::Warning).min(Severity::Warning))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .onset(fact.group.onset)
            .evidence(Evidence::object(&subject, "no preStop hook"))
            .evidences(fact.ended.iter().take(3).map(|(pod, at)| Evidence::new("Event", format!("Pod {}/{pod}", own.namespace), "Killing").at(Some(*at))))
            .evidences(parts(&fact.group))
            .effect(Effect::requests(&fact.service, fact.group.way.words()))
            .maybe_remedy(wait(fact.workload))
            .prevention(Prevention::alert(
                "Alert when connections to a Service fail",
                format!("sum(rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*(UF|UC).*\",destination_service_name=\"{}\"}}[2m])) > 0", text::plain(name, 63)),
            ))
            .prevention(Prevention::of("Test", "A rollout under load in the delivery pipeline: no request fails"))
    }
}

fn ended<'a>(snapshot: &'a Snapshot, group: Failures) -> Option<Fact<'a>> {
    let service = group.callee.service.clone()?;
    let known: &Service = snapshot.service(&service)?;
    let onset = group.onset?.as_second();
    let last = group.last?.as_second();
    let hosts = group.upstreams();
    let total: u64 = hosts.values().sum();
    let alive =
        |host: &str| snapshot.pod_by_ip(address(host)).is_some_and(|pod| pod.object.deleted.is_none());
    let gone: BTreeSet<String> =
        hosts.keys().filter(|host| !alive(host)).map(|host| (*host).to_owned()).collect();
    let at_gone: u64 = hosts.iter().filter(|(host, _)| gone.contains(**host)).map(|(_, n)| n).sum();
    // Nine of ten: a lone failure of another kind is no argument.
    if total == 0 || at_gone * 10 < total * 9 || !snapshot.pods_behind(known).any(|pod| pod.ready()) {
        return None;
    }
    let workload = snapshot.workloads_behind(known).next()?;
    let container = workload.template.application_containers().next()?;
    if container.index != 0 || container.body.at("lifecycle.preStop").is_some() {
        return None;
    }
    let near = |at: &Timestamp| at.as_second() >= onset - AROUND_S && at.as_second() <= last + AROUND_S;
    let mine = |pod: &str| {
        snapshot.pod(&service.namespace, pod).map_or_else(
            || pod.starts_with(&format!("{}-", workload.object.name())),
            |known| snapshot.owner(known).same_object(workload.reference()),
        )
    };
    let mut ended: Vec<(String, Timestamp)> = snapshot
        .events
        .iter()
        .filter(|event| {
            event.reason == "Killing"
                && event.about.kind == "Pod"
                && event.about.namespace == service.namespace
                && mine(&event.about.name)
        })
        // A pod that is still there had one container restarted.
        .filter(|event| {
            snapshot.pod(&service.namespace, &event.about.name).is_none_or(|pod| pod.object.deleted.is_some())
        })
        .filter_map(|event| Some((event.about.name.clone(), event.last.filter(near)?)))
        .collect();
    ended.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    ended.dedup_by(|a, b| a.0 == b.0);
    (!ended.is_empty()).then_some(Fact { group, service, workload, gone, ended })
}

/// A hook that waits, and a grace period above it.
fn wait(workload: &Workload) -> Option<Remedy> {
    let path = pointer(&workload.template_path("spec.containers[0].lifecycle"));
    let lifecycle = workload.object.body.pointer(&path).cloned();
    let hook = json!({"sleep": {"seconds": WAIT_S}});
    let operation = match lifecycle {
        Some(known) if known.is_object() => {
            json!([{"op": "add", "path": format!("{path}/preStop"), "value": hook}])
        }
        _ => json!([{"op": "add", "path": path, "value": {"preStop": hook}}]),
    };
    let summary = format!(
        "Add a preStop hook that waits {WAIT_S} s (sleep is built in from Kubernetes 1.30 on; before, exec it)"
    );
    Some(Remedy::patch(&workload.object, &operation, summary)?.risk(Risk::Medium))
}
