//! POD102.

use crate::model::json::json;

use super::common::{self, Group, bytes, seconds};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::platform::node_out_of_memory;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerStatus, Pod, Termination, is_proxy_container};

crate::rule! {
    /// The kernel killed a container because it used more memory than its limit.
    ///
    /// ## What it detects
    /// A container of the application whose latest end has the reason `OOMKilled`, whatever its exit code (a native sidecar reports
    /// 0), in the time that is looked at. Where its memory was measured it says whether the use grew steadily, as a leak does, or
    /// jumped, as too small a limit shows.
    /// ## Why it matters
    /// Requests in flight are cut, and nothing listens until the next start; with a leak it comes back for as long as there is load.
    /// ## Evidence
    /// The termination in the container's status, its memory limit, and the series `container_memory_working_set_bytes`.
    /// ## How to confirm
    /// `kubectl get pod POD -o jsonpath='{.status.containerStatuses[*].lastState.terminated.reason}'` says `OOMKilled`.
    /// ## How to fix
    /// Raise the limit to what the container needs at its peak and a quarter more, tell the runtime its share of it (`GOMEMLIMIT`,
    /// `-XX:MaxRAMPercentage`, `--max-old-space-size`), or stop the leak; where it began with a rollout, go back.
    /// ## False positives
    /// Exit code 137 alone is no proof, and this rule never takes it for one. An old kill of a container that has run well since is
    /// not reported, nor one whose node as a whole ran out of memory (PLAT115).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
    OutOfMemory {
        code: "POD102", name: "out-of-memory", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-OOM"],
    }
}

/// How the use of memory grew in one life of the container.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Growth {
    /// Bytes at the beginning and at the peak.
    from: f64,
    to: f64,
    /// Seconds in between.
    seconds: f64,
    /// Measured points in between.
    points: usize,
    /// Whether it rose from point to point: nothing was ever given back.
    steady: bool,
}

/// One container that was killed.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    end: &'a Termination,
    growth: Option<Growth>,
}

/// A container of a workload that is killed for memory.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for OutOfMemory {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| killed(snapshot, pod)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let Some((pod, case)) = group.cases.iter().max_by_key(|(_, case)| case.status.restarts) else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let limit = limit(pod, container);
        let of_limit =
            limit.map_or("no limit of its own".to_owned(), |limit| format!("its limit of {}", bytes(limit)));
        let mut message = format!(
            "The kernel killed container {container} in {} when it reached {of_limit}",
            group.share()
        );
        if let Some(life) = case.end.lifetime() {
            message += &format!("; the last time it had lived for {}", seconds(life));
        }
        let leak = case.growth.filter(|g| g.steady);
        let usual = usual(snapshot, group).filter(|u| limit.is_none_or(|l| *u < l * MUCH_LESS));
        let outgrows = leak.is_some() || usual.is_some();
        if let Some(growth) = case.growth {
            let (from, to, time) = (bytes(growth.from), bytes(growth.to), seconds(growth.seconds));
            message += &match (leak, usual) {
                (Some(_), _) => format!(
                    ". Its memory only ever grew, from {from} to {to} in {time}, and begins anew with each start: it keeps what it should give back (a memory leak), so a higher limit only buys time"
                ),
                (None, Some(_)) => format!(". Its memory grew from {from} to {to} in {time}"),
                (None, None) => format!(
                    ". Its memory rose from {from} to {to} within {time}: the limit is too small for what it does"
                ),
            };
        }
        if let Some(usual) = usual {
            message += &format!(
                ". Pods of the revision before used {} at most under the same limit: what the new revision does differently eats the memory, and a higher limit only buys time",
                bytes(usual)
            );
        }
        if limit.is_none() {
            message += ". Without a limit it was the node that ran out of memory, and this container is the victim that the kernel chose";
        }
        if let Some(rollout) = group.rollout(snapshot) {
            message += &format!(
                ". These pods came with the rollout of {}, which changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message += ".";
        let mechanism = if outgrows {
            "out of memory (OOM): memory leak, it grows up to the limit"
        } else {
            "out of memory (OOM): memory limit reached"
        };
        let finding = Finding::new(Self::META, group.owner.field(group.container_field("resources.limits.memory")), &[container])
            .title(format!("{}: {container} is killed out of memory at {of_limit}, {} restarts", group.owner, case.status.restarts))
            .message(message)
            .mechanism(mechanism)
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(Role::Cause, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(case.growth.map(|g| {
                Evidence::new(
                    "Metric",
                    format!("container_memory_working_set_bytes of {}, container {container}", pod.object.reference),
                    format!("{} → {} in {}, {} points, {}", bytes(g.from), bytes(g.to), seconds(g.seconds), g.points, if g.steady { "never falling" } else { "with falls or at once" }),
                )
            }))
            .onset(group.cases.iter().filter_map(|(pod, case)| common::first_restart(snapshot, pod, case.status)).min())
            .maybe_remedy(outgrows.then(|| group.undo_rollout(snapshot, "")).flatten())
            .maybe_remedy(former_limit(group, snapshot))
            .maybe_remedy(raise_limit(group, limit, outgrows))
            .maybe_remedy((!outgrows).then(|| group.undo_rollout(snapshot, "")).flatten())
            .remedy(Remedy::manual("Tell the runtime how much memory it has: GOMEMLIMIT, -XX:MaxRAMPercentage=75 or --max-old-space-size below the memory limit"))
            .prevention(Prevention::alert(
                "Alert before the memory limit is reached",
                format!(
                    "max by (pod, container) (container_memory_working_set_bytes{{{m},container=\"{container}\"}}) / max by (pod, container) (kube_pod_container_resource_limits{{{m},container=\"{container}\",resource=\"memory\"}}) > 0.9",
                    m = common::pod_matcher(&group.owner)
                ),
            ))
            .prevention(Prevention::of("Test", "A soak test under steady load in the pipeline: memory at its end must not lie far above memory after the first minutes"))
            .effect(Effect::calls(&group.owner));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// The containers of a pod that were killed for memory in the time that is looked at.
fn killed<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    for (_, status) in common::statuses(pod) {
        let Some(end) = status.latest_end().filter(|end| end.out_of_memory()) else { continue };
        // Its node as a whole ran out of memory: the container is a victim, and its limit is not the reason.
        let about_node = crate::model::object::ObjectRef::new("Node", "", &pod.node);
        let of_node: Vec<_> =
            snapshot.events_about(&about_node).filter(|e| e.reason == "SystemOOM").collect();
        if node_out_of_memory::at(&of_node, end) {
            continue;
        }
        if is_proxy_container(&status.name) || (pod.ended() && !common::recent(snapshot, end.finished)) {
            continue;
        }
        let waits = status.waiting_reason() == "CrashLoopBackOff";
        if !waits && !common::recent(snapshot, end.finished) {
            continue;
        }
        out.push((status.name.clone(), Case { status, end, growth: growth(snapshot, pod, &status.name) }));
    }
    out
}

/// The limit that counts: the container's own, else the pod's.
fn limit(pod: &Pod, container: &str) -> Option<f64> {
    use crate::model::fields::Fields;
    let own = pod.template.container(container).and_then(|c| c.resource("limits", "memory"));
    own.or_else(|| {
        pod.template.spec.text("resources.limits.memory").and_then(crate::model::workload::quantity)
    })
}

/// What pods of the revision before used is telling below this share of the limit.
const MUCH_LESS: f64 = 0.5;

/// The most that pods of another revision of the workload used: pods of its name that are not among those that were killed and
/// that were measured before the first of these was made.
fn usual(snapshot: &Snapshot, group: &Group<'_, Case<'_>>) -> Option<f64> {
    let prefix = format!("{}-", group.owner.name);
    let hashes: Vec<&str> =
        group.cases.iter().filter_map(|(pod, _)| pod.object.labels.get("pod-template-hash")).collect();
    // A pod's name is that of its owner, the template's hash and five letters: another Deployment may begin alike.
    let other = |pod: &str| {
        let mut parts = pod.strip_prefix(&prefix)?.split('-');
        let (hash, end) = (parts.next()?, parts.next());
        (parts.next().is_none() && end.is_some() && !hashes.contains(&hash)).then_some(())
    };
    if hashes.is_empty() {
        return None;
    }
    snapshot
        .series_named("container_memory_working_set_bytes")
        .filter(|s| s.label("namespace") == group.owner.namespace && s.label("container") == group.container)
        .filter(|s| other(s.label("pod")).is_some())
        .filter_map(Series::max)
        .reduce(f64::max)
}

/// The growth of memory in the life of the container in which it used most.
fn growth(snapshot: &Snapshot, pod: &Pod, container: &str) -> Option<Growth> {
    let own = snapshot.series_named("container_memory_working_set_bytes").filter(|s| {
        s.label("pod") == pod.object.name()
            && s.label("namespace") == pod.object.namespace()
            && s.label("container") == container
    });
    own.filter_map(of_series).max_by(|a, b| (a.to - a.from).total_cmp(&(b.to - b.from)))
}

/// The steepest life in one series. A fall by more than half is a new start; equal values at the end are a series that has
/// gone stale.
fn of_series(series: &Series) -> Option<Growth> {
    let mut best: Option<Growth> = None;
    let mut life: Vec<(f64, f64)> = vec![];
    let mut close = |life: &mut Vec<(f64, f64)>| {
        while let [.., a, b] = life.as_slice()
            && a.1 == b.1
        {
            life.pop();
        }
        let found = of_life(life);
        if found.is_some_and(|f| best.is_none_or(|b| f.to - f.from > b.to - b.from)) {
            best = found;
        }
        life.clear();
    };
    for point in &series.points {
        if life.last().is_some_and(|last| point.1 < last.1 / 2.0) {
            close(&mut life);
        }
        life.push(*point);
    }
    close(&mut life);
    best
}

/// A rise below this share of the peak says nothing.
const TELLING_RISE: f64 = 0.3;

fn of_life(life: &[(f64, f64)]) -> Option<Growth> {
    let (first, last) = (life.first()?, life.iter().max_by(|a, b| a.1.total_cmp(&b.1))?);
    let rise = last.1 - first.1;
    if life.len() < 2 || rise < last.1 * TELLING_RISE {
        return None;
    }
    let steps: Vec<f64> = life.iter().zip(life.iter().skip(1)).map(|(a, b)| b.1 - a.1).collect();
    // One step that makes up most of the rise is a jump, not a growth.
    let largest = steps.iter().copied().fold(0.0, f64::max);
    let steady =
        steps.len() >= 4 && steps.iter().all(|step| *step >= -0.02 * last.1) && largest <= 0.6 * rise;
    Some(Growth { from: first.1, to: last.1, seconds: last.0 - first.0, points: life.len(), steady })
}

/// The limit of before, where the rollout lowered it.
fn former_limit(group: &Group<'_, Case<'_>>, snapshot: &Snapshot) -> Option<Remedy> {
    let suffix = format!("[name={}].resources.limits.memory", group.container);
    let (before, at) = group.before(snapshot, &suffix)?;
    let old = crate::model::workload::quantity(&before)?;
    let now = group.container()?.resource("limits", "memory")?;
    if old <= now {
        return None;
    }
    group.patch_container(
        &[("replace", "resources.limits.memory", json!(before))],
        format!("Set the memory limit back to {before}, as it was before {}", common::clock(at)),
    )
}

/// Twice the limit.
fn raise_limit(group: &Group<'_, Case<'_>>, limit: Option<f64>, leak: bool) -> Option<Remedy> {
    let limit = limit?;
    let next = bytes((limit * 2.0 / 1_048_576.0).ceil() * 1_048_576.0);
    let own = group.container()?.resource("limits", "memory").is_some();
    let why = if leak { "buys time until the leak is fixed" } else { "gives it room for its peak" };
    let operation = if own { "replace" } else { return None };
    group.patch_container(
        &[(operation, "resources.limits.memory", json!(next))],
        format!(
            "Raise the memory limit of container {} from {} to {next}: {why}",
            group.container,
            bytes(limit)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "m".into(), labels: std::collections::BTreeMap::new(), points: points.to_vec() }
    }

    #[test]
    fn a_leak_grows_steadily_and_a_spike_jumps() {
        let leak: Vec<_> = (0..10).map(|i| (f64::from(i) * 15.0, 20.0 + 8.0 * f64::from(i))).collect();
        assert!(of_series(&series(&leak)).unwrap().steady);
        let spike = [(0.0, 20.0), (15.0, 21.0), (30.0, 20.0), (45.0, 90.0), (60.0, 91.0)];
        assert!(!of_series(&series(&spike)).unwrap().steady);
        let flat: Vec<_> = (0..10).map(|i| (f64::from(i), 50.0)).collect();
        assert_eq!(of_series(&series(&flat)), None);
    }

    #[test]
    fn a_restart_begins_a_new_life() {
        let lives = [(0.0, 10.0), (1.0, 30.0), (2.0, 60.0), (3.0, 95.0), (4.0, 12.0), (5.0, 20.0)];
        let growth = of_series(&series(&lives)).unwrap();
        assert_eq!((growth.from, growth.to, growth.points), (10.0, 95.0, 4));
    }
}
