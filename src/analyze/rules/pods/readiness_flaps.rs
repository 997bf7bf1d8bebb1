//! POD118.

use crate::model::json::json;
use jiff::Timestamp;
use std::collections::BTreeMap;

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;
use crate::model::workload::{ContainerState, Pod};

crate::rule! {
    /// Pods are ready and not ready by turns, without restarting.
    ///
    /// ## What it detects
    /// A pod that became not ready at least twice in the time that is looked at while its containers ran on: by
    /// `kube_pod_status_ready`, or by failures of its readiness probe long after its start together with a `Ready` condition that
    /// changed since. Why, by the probe's words: the application says that it is not ready, no answer in time, or nothing listens. And
    /// whether all replicas do so together.
    /// ## Why it matters
    /// Each turn takes the pod out of its Services and puts it back: callers lose connections, and the pods that stay get its load.
    /// Where all turn at once nobody is left.
    /// ## Evidence
    /// Events `Unhealthy`, turns of `kube_pod_status_ready`, and when each replica turned.
    /// ## How to confirm
    /// `changes(kube_pod_status_ready{condition="true"}[15m])`, and `kubectl get pods -w`.
    /// ## How to fix
    /// Where no answer comes in time give the probe more (`timeoutSeconds`, 3 s and more) and look at the CPU limit. Where the
    /// application answers that it is not ready, let the probe look at the process itself and not at what it depends on.
    /// ## False positives
    /// A rollout and a restart make a pod ready once; a single failure takes nobody out (`failureThreshold`).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/>
    ReadinessFlaps {
        code: "POD118", name: "readiness-flapping", family: Workload, severity: Warning,
        needs: [Status], aliases: ["SVC-READY-FLAP"],
    }
}

/// So many turns from ready to not ready are a habit.
const MIN_TURNS: usize = 2;
/// Failures of the probe in the events, where no series counts turns: two times the usual threshold.
const MIN_FAILURES: i64 = 6;
/// Failures so soon after a start belong to it, in seconds.
const START_SECONDS: f64 = 60.0;
/// Replicas that turn within so many seconds do so together.
const TOGETHER: f64 = 45.0;

/// How the probe fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Says,
    Late,
    Refused,
    Unknown,
}

/// One pod that turns.
#[derive(Debug)]
pub struct Case<'a> {
    /// When it became not ready, as a series shows.
    turns: Vec<f64>,
    event: Option<&'a Event>,
    how: How,
}

/// The pods of a workload that turn.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for ReadinessFlaps {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let turns = turns(snapshot);
        common::groups(snapshot, |pod| {
            let Some(case) = flapping(snapshot, pod, &turns) else { return vec![] };
            let probed = pod
                .template
                .containers
                .iter()
                .find(|c| common::serves(c) && c.probe("readinessProbe").is_some());
            let container = case.event.map(|e| e.container.clone()).filter(|name| !name.is_empty());
            let name = container.or_else(|| probed.map(|c| c.name.clone())).unwrap_or_default();
            vec![(name, case)]
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let told = group.cases.iter().find(|(_, case)| case.how != How::Unknown).or_else(|| group.first());
        let Some((_, case)) = told else { return Finding::new(Self::META, group.owner.clone(), &[]) };
        let why = match case.how {
            How::Says => "the application answers its readiness probe with an error",
            How::Late => "its readiness probe gets no answer in time",
            How::Refused => "nothing listens when its readiness probe asks",
            How::Unknown => "its readiness probe fails by turns",
        };
        let together = together(group);
        let most = group.cases.iter().map(|(_, case)| case.turns.len()).max().unwrap_or_default();
        let count = if most >= MIN_TURNS {
            format!("{most} times")
        } else {
            let failures = group
                .cases
                .iter()
                .filter_map(|(_, case)| case.event)
                .map(|e| e.count)
                .max()
                .unwrap_or_default();
            format!("with {failures} failed probes")
        };
        let mut message =
            format!("{} of {} became not ready {count} while they ran on: {why}", group.share(), group.owner);
        if together {
            message +=
                ". All of them turn within the same seconds, so what turns them is something that they share";
        }
        message.push('.');
        let field = match case.how {
            How::Late => "readinessProbe.timeoutSeconds",
            _ => "readinessProbe",
        };
        let events =
            group.cases.iter().filter_map(|(_, case)| case.event).take(3).map(common::event_evidence);
        let turned =
            group.cases.iter().filter(|(_, case)| !case.turns.is_empty()).take(3).map(|(pod, case)| {
                let first = case.turns.first().copied().and_then(from_unix);
                Evidence::new(
                    "Metric",
                    format!("kube_pod_status_ready of {}", pod.object.reference),
                    format!("became not ready {} times", case.turns.len()),
                )
                .at(first)
            });
        let onset: Option<Timestamp> = group
            .cases
            .iter()
            .flat_map(|(_, case)| {
                case.turns
                    .first()
                    .copied()
                    .and_then(from_unix)
                    .into_iter()
                    .chain(case.event.and_then(|e| e.first))
            })
            .min();
        let finding = Finding::new(Self::META, group.owner.field(group.container_field(field)), &[&group.container])
            .title(format!("{}: {} are ready and not ready by turns: {why}", group.owner, group.share()))
            .message(message)
            .mechanism("readiness flapping")
            .severity(if together && group.cases.len() > 1 { Severity::Error } else { Severity::Warning })
            .role(Role::Symptom, Confidence::Observed)
            .evidences(events)
            .evidences(turned)
            .onset(onset)
            .maybe_remedy((case.how == How::Late).then(|| more_time(group)).flatten())
            .remedy(Remedy::manual(if together {
                "Let the readiness probe look at the process itself: a dependency in it takes all replicas out at once"
            } else {
                "Ask the probe's path and port from within the pod while it is busy, and see what it waits for"
            }))
            .prevention(Prevention::alert(
                "Alert when pods turn",
                format!("changes(kube_pod_status_ready{{{},condition=\"true\"}}[15m]) > 4", common::pod_matcher(&group.owner)),
            ));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// When pods became not ready, by namespace and name.
fn turns(snapshot: &Snapshot) -> BTreeMap<(&str, &str), Vec<f64>> {
    let mut out: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let ready = |s: &&Series| s.name == "kube_pod_status_ready" && s.label("condition") == "true";
    for series in snapshot.series.iter().filter(ready) {
        let falls =
            series.points.iter().zip(series.points.iter().skip(1)).filter(|(a, b)| a.1 >= 1.0 && b.1 < 1.0);
        out.entry((series.label("namespace"), series.label("pod")))
            .or_default()
            .extend(falls.map(|(_, b)| b.0));
    }
    out
}

/// What shows that a pod turns, where it does and its containers run on.
fn flapping<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    turns: &BTreeMap<(&str, &str), Vec<f64>>,
) -> Option<Case<'a>> {
    if pod.ended() {
        return None;
    }
    let started = pod
        .containers()
        .filter(|(container, _)| common::serves(container))
        .map(|(_, status)| match &status.state {
            ContainerState::Running { since } => *since,
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    let started = started.into_iter().max()?;
    let after =
        |at: Option<Timestamp>| at.is_some_and(|at| common::seconds_between(started, at) > START_SECONDS);
    let event = snapshot
        .events_about(&pod.object.reference)
        .filter(|e| {
            e.reason == "Unhealthy"
                && e.message.starts_with("Readiness probe")
                && after(e.last)
                && common::recent(snapshot, e.last)
        })
        .max_by_key(|e| e.count);
    let turns: Vec<f64> = turns
        .get(&(pod.object.namespace(), pod.object.name()))
        .into_iter()
        .flatten()
        .copied()
        .filter(|at| after(from_unix(*at)))
        .collect();
    // Without a series: it fails often, long after its start, and was ready and is, or is just now not.
    let condition = pod.condition("Ready")?;
    let by_events = event
        .is_some_and(|e| e.count >= MIN_FAILURES && after(condition.since) && condition.status == "True");
    if turns.len() < MIN_TURNS && !by_events {
        return None;
    }
    Some(Case { how: event.map_or(How::Unknown, |e| how(&e.message)), turns, event })
}

/// How a probe fails, by the kubelet's words.
fn how(message: &str) -> How {
    let lower = message.to_ascii_lowercase();
    if lower.contains("statuscode: 5") || lower.contains("not_serving") {
        How::Says
    } else if lower.contains("deadline exceeded")
        || lower.contains("timed out")
        || lower.contains("i/o timeout")
    {
        How::Late
    } else if lower.contains("refused") {
        How::Refused
    } else {
        How::Unknown
    }
}

/// Whether several pods, and all of the workload's, turned within the same seconds.
fn together(group: &Group<'_, Case<'_>>) -> bool {
    let firsts: Vec<f64> = group
        .cases
        .iter()
        .filter_map(|(_, case)| {
            let by_event = || case.event.and_then(|e| e.first).map(crate::model::time::to_unix);
            case.turns.first().copied().or_else(by_event)
        })
        .collect();
    let (low, high) =
        (firsts.iter().copied().fold(f64::INFINITY, f64::min), firsts.iter().copied().fold(0.0, f64::max));
    firsts.len() > 1 && firsts.len() >= group.alive && high - low <= TOGETHER
}

/// Three seconds for an answer, where the probe leaves it less.
fn more_time(group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let probe = super::probe::Probe::read(group.container()?, "readinessProbe")?;
    if probe.timeout >= 3.0 {
        return None;
    }
    probe.set(
        group,
        "timeoutSeconds",
        json!(3),
        format!("Give the readiness probe 3 s for an answer instead of {:.0} s", probe.timeout),
    )
}
