//! POD112.

use crate::model::json::json;

use super::common::{self, Group, bytes};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::workload::{Pod, Termination, is_proxy_container};
use std::collections::BTreeMap;

crate::rule! {
    /// The kernel kills processes inside a container for memory, and the container itself lives on.
    ///
    /// ## What it detects
    /// A container whose counter of kills for memory grew while neither of its last ends was one: the kernel killed a child of its main
    /// process, such as a worker.
    /// ## Why it matters
    /// Kubernetes sees no restart and no `OOMKilled`. Whatever the killed process had at hand is lost: requests are reset or answered
    /// with 502 by the main process, and jobs vanish.
    /// ## Evidence
    /// `container_oom_events_total` and the container's memory limit.
    /// ## How to confirm
    /// `increase(container_oom_events_total[15m])` for the container; the node's kernel log names the process.
    /// ## How to fix
    /// Run fewer workers in one container, bound the memory of each, or raise the limit.
    /// ## False positives
    /// A container that was killed as a whole is reported as that (POD102).
    /// ## References
    /// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/>
    KilledInside {
        code: "POD112", name: "process-killed-for-memory", family: Workload, severity: Error,
        needs: [Metrics], aliases: ["K8S-OOM"],
    }
}

/// The kills in one container.
#[derive(Debug)]
pub struct Case {
    kills: f64,
    since: Option<jiff::Timestamp>,
}

/// A container of a workload in which processes are killed.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case>);

impl Check for KilledInside {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut counted: BTreeMap<(&str, &str, &str), (f64, Option<f64>)> = BTreeMap::new();
        for series in snapshot.series_named("container_oom_events_total") {
            let key = (series.label("namespace"), series.label("pod"), series.label("container"));
            let entry = counted.entry(key).or_default();
            entry.0 += series.total_increase().unwrap_or(0.0);
            let grown = series.points.iter().zip(series.points.iter().skip(1)).find(|(a, b)| b.1 > a.1);
            entry.1 = grown.map(|(_, b)| b.0).into_iter().chain(entry.1).reduce(f64::min);
        }
        counted.retain(|_, (kills, _)| *kills >= 1.0);
        common::groups(snapshot, |pod| inside(pod, &counted)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let kills: f64 = group.cases.iter().map(|(_, case)| case.kills).sum();
        let limit = group.container().and_then(|c| c.resource("limits", "memory"));
        let of_limit =
            limit.map_or_else(|| "its node's memory".to_owned(), |l| format!("its limit of {}", bytes(l)));
        let since = group.cases.iter().filter_map(|(_, case)| case.since).min();
        let field = group.container_field("resources.limits.memory");
        let finding = Finding::new(Self::META, group.owner.field(&field), &[container])
            .title(format!("{}: {kills:.0} processes in container {container} killed for memory", group.owner))
            .message(format!(
                "The kernel killed {kills:.0} processes inside container {container} in {} because the container had used up {of_limit}. Its main process lives on, so nothing restarts and no status says so; what the killed processes were working on is lost.",
                group.share()
            ))
            .mechanism("out of memory: processes inside the container are killed, the container is not restarted")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| {
                let place = format!("container_oom_events_total of {}, container {container}", pod.object.reference);
                Evidence::new("Metric", place, format!("{:.0} kills", case.kills)).at(case.since)
            }))
            .evidences(limit.map(|l| Evidence::object(&group.owner.field(&field), bytes(l))))
            .onset(since)
            .maybe_remedy(limit.and_then(|limit| {
                let next = bytes((limit * 1.5 / 1_048_576.0).ceil() * 1_048_576.0);
                group.patch_container(
                    &[("replace", "resources.limits.memory", json!(next))],
                    format!("Raise the memory limit of container {container} from {} to {next}", bytes(limit)),
                )
            }))
            .maybe_remedy(group.undo_rollout(snapshot, ""))
            .remedy(Remedy::manual("Run fewer workers in one container (and more pods), or bound the memory of each worker"))
            .prevention(Prevention::alert(
                "Alert when the kernel kills processes of a container",
                format!("increase(container_oom_events_total{{{},container=\"{container}\"}}[15m]) > 0", common::pod_matcher(&group.owner)),
            ));
        common::with_effects(finding, group, snapshot, &["UC", "reset", "5xx", "502", "timeout"])
    }
}

/// The containers of a pod in which something was killed, and that were not killed themselves.
fn inside(pod: &Pod, counted: &BTreeMap<(&str, &str, &str), (f64, Option<f64>)>) -> Vec<(String, Case)> {
    let mut out = vec![];
    for (_, status) in common::statuses(pod).filter(|(_, status)| !is_proxy_container(&status.name)) {
        let key = (pod.object.namespace(), pod.object.name(), status.name.as_str());
        let Some((kills, since)) = counted.get(&key) else { continue };
        let whole = status.latest_end().is_some_and(Termination::out_of_memory)
            || status.last.as_ref().is_some_and(Termination::out_of_memory);
        if !whole && status.restarts == 0 {
            out.push((status.name.clone(), Case { kills: *kills, since: since.and_then(time::from_unix) }));
        }
    }
    out
}
