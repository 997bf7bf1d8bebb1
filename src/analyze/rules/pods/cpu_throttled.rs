//! POD111.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::common::{self, Group, cores};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::model::change::{Change, ChangeKind};
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::workload::{Pod, is_proxy_container, quantity};

crate::rule! {
    /// A container is held back by its CPU limit for much of the time.
    ///
    /// ## What it detects
    /// A container of which more than a quarter of the scheduler's periods (100 ms each) were throttled for at least a minute (half
    /// of that where the rollout that its pods came with set the limit), and when that began.
    /// ## Why it matters
    /// A throttled container stands still until the next period begins: requests take longer by tens or hundreds of milliseconds
    /// though its average use of CPU looks harmless, probes time out, and its callers run into their timeouts.
    /// ## Evidence
    /// `container_cpu_cfs_throttled_periods_total` against `container_cpu_cfs_periods_total`, the CPU limit, and readiness probes that
    /// timed out meanwhile.
    /// ## How to confirm
    /// `rate(container_cpu_cfs_throttled_periods_total[5m]) / rate(container_cpu_cfs_periods_total[5m])` for the container.
    /// ## How to fix
    /// Raise the CPU limit or remove it (requests alone protect the neighbours), and tell the runtime how many CPUs it has
    /// (`GOMAXPROCS`, `-XX:ActiveProcessorCount`).
    /// ## False positives
    /// A batch program without callers may be throttled for as long as it likes; a start that takes all CPU for a moment is not
    /// reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#how-pods-with-resource-limits-are-run>
    CpuThrottled {
        code: "POD111", name: "cpu-throttled", family: Workload, severity: Warning,
        needs: [Metrics], aliases: ["K8S-THROTTLE"],
    }
}

/// The throttling of one container of one pod.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Throttled periods and all periods, from its beginning on.
    throttled: f64,
    periods: f64,
    /// When it began, in Unix seconds.
    since: f64,
    /// Readiness or liveness probes that timed out since.
    timeouts: i64,
}

/// A container of a workload that is throttled.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case>);

/// From this share of throttled periods on requests are felt to be slow, and from that one on all of them.
const TELLING: f64 = 0.25;
const SEVERE: f64 = 0.5;
/// Fewer periods than those of a minute are a burst.
const MIN_PERIODS: f64 = 300.0;
const MIN_SECONDS: f64 = 60.0;
/// Where a rollout has just set the limit, half of that is enough.
const LOWERED: f64 = 0.5;

impl Check for CpuThrottled {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let throttled = by_container(snapshot, "container_cpu_cfs_throttled_periods_total");
        let periods = by_container(snapshot, "container_cpu_cfs_periods_total");
        let set: Vec<&Change> = snapshot
            .changes
            .iter()
            .filter(|c| c.kind == ChangeKind::Rollout)
            .filter(|c| c.differences.iter().any(|d| d.path.ends_with(".resources.limits.cpu")))
            .collect();
        common::groups(snapshot, |pod| {
            let mut out = vec![];
            let owner = snapshot.owner(pod);
            let lowered = set.iter().any(|c| {
                c.subject.same_object(&owner)
                    && pod.object.created.is_some_and(|at| at.as_second() + 2 >= c.time.as_second())
            });
            let enough = if lowered { LOWERED } else { 1.0 };
            for container in
                pod.template.containers.iter().filter(|c| common::serves(c) && !is_proxy_container(&c.name))
            {
                let key = (pod.object.namespace(), pod.object.name(), container.name.as_str());
                let (Some(throttled), Some(periods)) = (throttled.get(&key), periods.get(&key)) else {
                    continue;
                };
                let found = throttled.iter().find_map(|t| {
                    periods
                        .iter()
                        .filter(|p| p.label("id") == t.label("id"))
                        .find_map(|p| phase(t, p, enough))
                });
                if let Some((since, throttled, periods)) = found {
                    // Throttled from its first measurement on: from its start on.
                    let first = throttled_from(&key, snapshot);
                    let made =
                        pod.object.created.map(time::to_unix).filter(|_| first.is_some_and(|at| at >= since));
                    let since = made.map_or(since, |at| at.min(since));
                    let timeouts = timeouts(snapshot, pod, since);
                    out.push((container.name.clone(), Case { throttled, periods, since, timeouts }));
                }
            }
            out
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let worst = group.cases.iter().max_by(|(_, a), (_, b)| a.share().total_cmp(&b.share()));
        let Some((pod, case)) = worst else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let limit = group.container().and_then(|c| c.resource("limits", "cpu"));
        let of_limit = limit.map_or("its CPU limit".to_owned(), |l| format!("its CPU limit of {}", cores(l)));
        let percent = case.share() * 100.0;
        let timeouts: i64 = group.cases.iter().map(|(_, case)| case.timeouts).sum();
        let since = group.cases.iter().map(|(_, case)| case.since).fold(f64::INFINITY, f64::min);
        let onset = time::from_unix(since);
        let mut message = format!(
            "Container {container} of {} stood still in {:.0} of {:.0} scheduler periods ({percent:.0} %) because it had used up {of_limit}",
            group.owner, case.throttled, case.periods
        );
        if timeouts > 0 {
            message += &format!("; {timeouts} probes of its pods timed out meanwhile");
        }
        if let Some(rollout) =
            group.rollout(snapshot).filter(|c| c.differences.iter().any(|d| d.path.contains("resources")))
        {
            message += &format!(
                ". The rollout of {} changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message += ". Every request that meets a used-up period waits for the next one, so answers come late and callers run into their timeouts.";
        let severe = case.share() >= SEVERE || timeouts > 0;
        let finding = Finding::new(Self::META, group.owner.field(group.container_field("resources.limits.cpu")), &[container])
            .title(format!("{}: container {container} is throttled in {percent:.0} % of its CPU periods at {of_limit}", group.owner))
            .message(message)
            .mechanism("CPU throttling: the CPU limit is too low (throttled, slow answers)")
            .severity(if severe { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .evidence(
                Evidence::new(
                    "Metric",
                    format!("container_cpu_cfs_throttled_periods_total of {}, container {container}", pod.object.reference),
                    format!("{:.0} of {:.0} periods throttled ({percent:.1} %)", case.throttled, case.periods),
                )
                .at(onset),
            )
            .evidences(limit.map(|l| Evidence::object(&group.owner.field(group.container_field("resources.limits.cpu")), cores(l))))
            .onset(onset)
            .maybe_remedy(former(group, snapshot))
            .maybe_remedy(raise(group, limit, case.share()))
            .maybe_remedy(remove(group, limit))
            .prevention(Prevention::alert(
                "Alert when a container is throttled",
                format!(
                    "sum by (pod, container) (increase(container_cpu_cfs_throttled_periods_total{{{m},container=\"{container}\"}}[5m])) / sum by (pod, container) (increase(container_cpu_cfs_periods_total{{{m},container=\"{container}\"}}[5m])) > 0.25",
                    m = common::pod_matcher(&group.owner)
                ),
            ))
            .prevention(Prevention::of("Setting", "Give services a CPU request and no CPU limit, and tell the runtime how many CPUs it has"));
        common::with_effects(finding, group, snapshot, &["slow", "UT", "timeout", "DC", "504"])
    }
}

impl Case {
    fn share(&self) -> f64 {
        if self.periods > 0.0 { self.throttled / self.periods } else { 0.0 }
    }
}

/// Namespace, pod and container.
pub type Key<'a> = (&'a str, &'a str, &'a str);

/// The series of a name by container.
pub fn by_container<'a>(snapshot: &'a Snapshot, name: &'a str) -> BTreeMap<Key<'a>, Vec<&'a Series>> {
    let mut out: BTreeMap<Key<'a>, Vec<&'a Series>> = BTreeMap::new();
    for series in snapshot.series_named(name) {
        out.entry((series.label("namespace"), series.label("pod"), series.label("container")))
            .or_default()
            .push(series);
    }
    out
}

/// The phase of throttling that a pair of counters ends in: its beginning, its throttled periods and all of its periods.
/// `None` where it is none that lasts, or one that is over; `enough` is the share of the usual length that is asked for.
pub fn phase(throttled: &Series, periods: &Series, enough: f64) -> Option<(f64, f64, f64)> {
    let all: BTreeMap<i64, f64> = periods.points.iter().map(|(t, v)| (t.round() as i64, *v)).collect();
    let steps = throttled.points.iter().zip(throttled.points.iter().skip(1)).filter_map(|(a, b)| {
        let grown = all.get(&(b.0.round() as i64))? - all.get(&(a.0.round() as i64))?;
        let held = b.1 - a.1;
        (grown > 0.0 && held >= 0.0).then_some((a.0, b.0, held, grown))
    });
    let (mut from, mut to, mut held_sum, mut grown_sum) = (f64::NAN, f64::NAN, 0.0, 0.0);
    let mut calm = 0;
    for (start, end, held, grown) in steps {
        if held / grown > TELLING {
            if from.is_nan() || calm >= 4 {
                (from, held_sum, grown_sum) = (start, 0.0, 0.0);
            }
            to = end;
            calm = 0;
        } else {
            calm += 1;
        }
        if !from.is_nan() {
            held_sum += held;
            grown_sum += grown;
        }
    }
    let lasts = to - from >= enough * MIN_SECONDS
        && grown_sum >= enough * MIN_PERIODS
        && held_sum / grown_sum > TELLING;
    (lasts && calm < 4).then_some((from, held_sum, grown_sum))
}

/// When a container was measured first.
fn throttled_from(key: &Key<'_>, snapshot: &Snapshot) -> Option<f64> {
    snapshot
        .series_named("container_cpu_cfs_throttled_periods_total")
        .filter(|s| (s.label("namespace"), s.label("pod"), s.label("container")) == *key)
        .filter_map(|s| s.points.first())
        .map(|(at, _)| *at)
        .reduce(f64::min)
}

/// Probes of a pod that timed out since an instant.
fn timeouts(snapshot: &Snapshot, pod: &Pod, since: f64) -> i64 {
    let since = time::from_unix(since);
    snapshot
        .events_about(&pod.object.reference)
        .filter(|e| {
            e.reason == "Unhealthy"
                && (e.message.contains("deadline exceeded") || e.message.contains("timed out"))
        })
        .filter(|e| e.last >= since)
        .map(|e| e.count)
        .sum()
}

/// The limit of before, where a rollout lowered it or brought it in.
fn former(group: &Group<'_, Case>, snapshot: &Snapshot) -> Option<Remedy> {
    let (before, at) = group.before(snapshot, &format!("[name={}].resources.limits.cpu", group.container))?;
    let at = common::clock(at);
    if before.is_empty() {
        return group.patch_container(
            &[("remove", "resources.limits.cpu", crate::model::json::Value::Null)],
            format!(
                "Remove the CPU limit of container {} again: there was none before {at}",
                group.container
            ),
        );
    }
    let now = group.container()?.resource("limits", "cpu")?;
    if quantity(&before)? <= now {
        return None;
    }
    group.patch_container(
        &[("replace", "resources.limits.cpu", json!(before))],
        format!("Set the CPU limit back to {before}, as it was before {at}"),
    )
}

/// A limit with room: what it got is what it needs less the share that it stood still.
fn raise(group: &Group<'_, Case>, limit: Option<f64>, share: f64) -> Option<Remedy> {
    let limit = limit?;
    let factor = (2.0 / (1.0 - share).max(0.2)).ceil();
    let next = cores((limit * factor).max(0.1));
    group.patch_container(
        &[("replace", "resources.limits.cpu", json!(next))],
        format!("Raise the CPU limit of container {} from {} to {next}", group.container, cores(limit)),
    )
}

/// No limit at all.
fn remove(group: &Group<'_, Case>, limit: Option<f64>) -> Option<Remedy> {
    limit?;
    let remedy = group.patch_container(
        &[("remove", "resources.limits.cpu", crate::model::json::Value::Null)],
        format!(
            "Remove the CPU limit of container {}: its request still guards its neighbours",
            group.container
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(step: impl Fn(usize) -> f64) -> Series {
        let mut value = 0.0;
        let points = (0..20).map(|i| {
            value += step(i);
            (i as f64 * 15.0, value)
        });
        Series { name: "s".into(), labels: BTreeMap::new(), points: points.collect() }
    }

    #[test]
    fn a_phase_of_throttling_and_where_it_begins() {
        let periods = series(|_| 150.0);
        let (since, held, all) = phase(&series(|i| if i >= 8 { 120.0 } else { 1.0 }), &periods, 1.0).unwrap();
        assert_eq!(since, 105.0);
        assert!(held / all > 0.7);
        let short = series(|i| if i >= 17 { 140.0 } else { 0.0 });
        assert!(phase(&short, &periods, 1.0).is_none() && phase(&short, &periods, LOWERED).is_some());
        assert!(phase(&series(|_| 10.0), &periods, 1.0).is_none());
        assert!(phase(&series(|i| if i < 6 { 120.0 } else { 1.0 }), &periods, 1.0).is_none(), "it is over");
        assert!(phase(&series(|i| if i == 19 { 140.0 } else { 0.0 }), &periods, 1.0).is_none(), "a burst");
    }
}
