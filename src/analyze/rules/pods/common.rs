//! What the rules about pods, rollouts and their configuration share: pods grouped by who made them, and words for them.

use jiff::Timestamp;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::analyze::finding::{Effect, Evidence, Finding};
use crate::analyze::remedy::{Remedy, pointer, quote, resource, scope};
use crate::model::change::{Change, ChangeKind};
use crate::model::event::Event;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, ContainerRole, ContainerState, ContainerStatus, Pod, Workload};

/// How callers see a Service none of whose pods answers: without endpoints, refused, reset or timed out.
pub(crate) const DOWN: &[&str] =
    &["UH", "UF", "UC", "URX", "LH", "refused", "reset", "timeout", "5xx", "no_healthy_upstream"];

/// The pods of one workload that show the same trouble.
#[derive(Debug)]
pub(crate) struct Group<'a, T> {
    /// What the pods belong to, at the top.
    pub owner: ObjectRef,
    /// The same with its template, where it was seen.
    pub workload: Option<&'a Workload>,
    /// The container that the trouble is about; empty where it is about the pod.
    pub container: String,
    /// The pods and what was seen of each: at least one.
    pub cases: Vec<(&'a Pod, T)>,
    /// Pods of the workload that have not ended and are not going away.
    pub alive: usize,
    /// Those of them that are ready.
    pub ready: usize,
}

/// Looks at every pod whose namespace is wanted, and groups what `look` finds by workload and container.
pub(crate) fn groups<'a, T>(
    snapshot: &'a Snapshot,
    mut look: impl FnMut(&'a Pod) -> Vec<(String, T)>,
) -> Vec<Group<'a, T>> {
    let mut found: BTreeMap<(ObjectRef, String), Vec<(&'a Pod, T)>> = BTreeMap::new();
    let mut counts: BTreeMap<ObjectRef, (usize, usize)> = BTreeMap::new();
    for pod in snapshot.pods.iter().filter(|pod| snapshot.in_scope(pod.object.namespace())) {
        if pod.object.deleted.is_some() {
            continue;
        }
        let owner = snapshot.owner(pod);
        if !pod.ended() {
            let count = counts.entry(owner.clone()).or_default();
            count.0 += 1;
            count.1 += usize::from(pod.ready());
        }
        for (container, case) in look(pod) {
            found.entry((owner.clone(), container)).or_default().push((pod, case));
        }
    }
    let workloads = workloads_by_name(snapshot);
    found
        .into_iter()
        .map(|((owner, container), cases)| {
            let (alive, ready) = counts.get(&owner).copied().unwrap_or_default();
            let workload = workloads.get(&name_of(&owner)).copied();
            let owner = workload.map_or(owner, |w| w.reference().clone());
            Group { workload, owner, container, cases, alive, ready }
        })
        .collect()
}

type Name = (String, String, String);

fn name_of(reference: &ObjectRef) -> Name {
    (reference.kind.clone(), reference.namespace.clone(), reference.name.clone())
}

/// Workloads by kind, namespace and name.
pub(crate) fn workloads_by_name(snapshot: &Snapshot) -> BTreeMap<Name, &Workload> {
    snapshot.workloads.iter().map(|w| (name_of(w.reference()), w)).collect()
}

impl<'a, T> Group<'a, T> {
    /// The first pod and what was seen of it.
    pub(crate) fn first(&self) -> Option<&(&'a Pod, T)> {
        self.cases.first()
    }

    /// The container as the workload's template has it, else as the pod has it.
    pub(crate) fn container(&self) -> Option<&'a Container> {
        let templates = self.workload.map(|w| &w.template).into_iter();
        let mut templates = templates.chain(self.cases.first().map(|(pod, _)| &pod.template));
        templates.find_map(|template| template.container(&self.container))
    }

    /// The path of a field of the container, from the workload's own root: `spec.template.spec.containers[0].image`.
    pub(crate) fn container_field(&self, rest: &str) -> String {
        let path = self.container().map_or_else(|| "containers".to_owned(), Container::path);
        self.pod_field(&format!("{path}.{rest}"))
    }

    /// The path of a field of the pod's spec, from the workload's own root.
    pub(crate) fn pod_field(&self, rest: &str) -> String {
        match (self.workload, self.owner.kind.as_str()) {
            (Some(workload), _) => workload.template_path(&format!("spec.{rest}")),
            (None, "Pod") => format!("spec.{rest}"),
            (None, _) => format!("spec.template.spec.{rest}"),
        }
    }

    /// The Services in front of these pods, the one named after the workload first.
    pub(crate) fn services(&self, snapshot: &Snapshot) -> Vec<ServiceName> {
        let mut out: Vec<ServiceName> = match (self.workload, self.cases.first()) {
            (Some(workload), _) => snapshot.services_before(workload).map(Service::service_name).collect(),
            (None, Some((pod, _))) => snapshot.services_before_pod(pod).map(Service::service_name).collect(),
            (None, None) => vec![],
        };
        out.sort_by_key(|service| (service.name != self.owner.name, service.clone()));
        out
    }

    /// The effects of pods that do not run: the workload's pods, and requests to each Service in front of them.
    pub(crate) fn effects(&self, snapshot: &Snapshot, flags: &[&str]) -> Vec<Effect> {
        let mut out = vec![Effect::pods(&self.owner)];
        out.extend(self.services(snapshot).iter().map(|service| Effect::requests(service, flags)));
        out
    }

    /// `2 of 3 pods`, counting pods that have ended only where all have.
    pub(crate) fn share(&self) -> String {
        let pods = self.cases.len();
        plural_of(pods, self.alive.max(pods), "pod")
    }

    /// Whether no pod of the workload serves at all.
    pub(crate) fn all_down(&self) -> bool {
        self.ready == 0
    }

    /// The newest rollout of the workload that is not later than its youngest pod here: what these pods came with.
    pub(crate) fn rollout<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Change> {
        let youngest = self.cases.iter().filter_map(|(pod, _)| pod.object.created).max();
        let oldest = self.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        snapshot
            .changes
            .iter()
            .rev()
            .find(|c| c.kind == ChangeKind::Rollout && c.subject.same_object(&self.owner))
            // Pods that are older than the rollout run what was there before it.
            .filter(|c| oldest.is_none_or(|at| at.as_second() + 2 >= c.time.as_second()))
            .filter(|c| youngest.is_none_or(|at| at.as_second() + 2 >= c.time.as_second()))
    }

    /// The value that a field of the template had before the rollout that these pods came with. `suffix` is the end of a
    /// difference's path, such as `containers[name=app].image`.
    pub(crate) fn before(&self, snapshot: &Snapshot, suffix: &str) -> Option<(String, Timestamp)> {
        let rollout = self.rollout(snapshot)?;
        let difference = rollout.differences.iter().find(|d| d.path.ends_with(suffix))?;
        Some((difference.before.clone(), rollout.time))
    }

    /// Takes the rollout back that these pods came with, where there was one that changed anything under `within` (the empty
    /// text: anything at all).
    pub(crate) fn undo_rollout(&self, snapshot: &Snapshot, within: &str) -> Option<Remedy> {
        let rollout = self.rollout(snapshot)?;
        let fields: Vec<_> = rollout.differences.iter().filter(|d| d.path.contains(within)).collect();
        if fields.is_empty()
            || !matches!(self.owner.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet")
        {
            return None;
        }
        Some(Remedy::undo_rollout(
            &self.owner,
            format!(
                "Go back to the revision before {}: it differs in {}",
                clock(rollout.time),
                differences(rollout)
            ),
        ))
    }

    /// A patch of the container in the workload's template: `(operation, field below the container, value)`.
    pub(crate) fn patch_container(
        &self,
        operations: &[(&str, &str, crate::model::json::Value)],
        summary: impl Into<String>,
    ) -> Option<Remedy> {
        let workload = self.workload?;
        workload.template.container(&self.container)?;
        let operations: Vec<_> = operations
            .iter()
            .map(|(op, rest, value)| operation(op, &self.container_field(rest), value))
            .collect();
        Remedy::patch(&workload.object, &crate::model::json::Value::from(operations), summary)
    }
}

/// Takes back the last rollout of a workload, where it changed anything under `within` (the empty text: anything at all).
pub(crate) fn undo_last_rollout(snapshot: &Snapshot, owner: &ObjectRef, within: &str) -> Option<Remedy> {
    let last = |c: &&Change| c.kind == ChangeKind::Rollout && c.subject.same_object(owner);
    let rollout = snapshot.changes.iter().rev().find(last)?;
    if !rollout.differences.iter().any(|d| d.path.contains(within)) {
        return None;
    }
    Some(Remedy::undo_rollout(
        owner,
        format!(
            "Go back to the revision before {}: it differs in {}",
            clock(rollout.time),
            differences(rollout)
        ),
    ))
}

/// One operation of a JSON patch at a field path.
pub(crate) fn operation(
    op: &str,
    path: &str,
    value: &crate::model::json::Value,
) -> crate::model::json::Value {
    match op {
        "remove" => crate::model::json::json!({"op": op, "path": pointer(path)}),
        _ => crate::model::json::json!({"op": op, "path": pointer(path), "value": value}),
    }
}

/// The fields that a rollout changed, the telling ones first: at most three, and how many more.
pub(crate) fn differences(rollout: &Change) -> String {
    // A container that is new differs in everything it has: its name alone says it.
    let new = |path: &str| {
        let (at, _) = path.split_once("ontainers[name=")?;
        let end = path.get(at.len()..)?.find(']')? + at.len() + 1;
        let prefix = path.get(..end)?;
        let own = || rollout.differences.iter().filter(|d| d.path.starts_with(prefix));
        (own().all(|d| d.before.is_empty())
            && own().any(|d| d.path.ends_with(".name") && d.path.len() == end + 5))
        .then(|| short_path(prefix))
    };
    let mut names: Vec<String> = rollout
        .differences
        .iter()
        .map(|d| new(&d.path).map_or_else(|| short_path(&d.path), |name| format!("{name} (new)")))
        .collect();
    names.sort_by_key(|name| !(name.contains("image") || name.contains("env ")));
    names.dedup();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    if names.is_empty() {
        return "nothing in their template".to_owned();
    }
    let list = names.join(", ");
    if more > 0 { format!("{list} and {more} more") } else { list }
}

/// `spec.template.spec.containers[name=app].env[name=MODE].value` as one says it: `env MODE of container app`.
pub(crate) fn short_path(path: &str) -> String {
    static CONTAINER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?:c|initC)ontainers\[name=([^\]]+)\](?:\.(.*))?$").ok());
    static ENV: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^env\[name=([^\]]+)\]").ok());
    let rest = path.strip_prefix("spec.template.").unwrap_or(path);
    let Some(found) = CONTAINER.as_ref().and_then(|r| r.captures(rest)) else {
        let rest = rest.strip_prefix("spec.").unwrap_or(rest);
        return match rest.strip_prefix("volumes[name=").and_then(|volume| volume.split_once(']')) {
            Some((volume, _)) => format!("volume {volume}"),
            None => rest.to_owned(),
        };
    };
    let (name, field) = (found.get(1).map_or("", |m| m.as_str()), found.get(2).map_or("", |m| m.as_str()));
    match ENV.as_ref().and_then(|r| r.captures(field)).and_then(|c| c.get(1)) {
        Some(variable) => format!("env {} of container {name}", variable.as_str()),
        None if field.is_empty() => format!("container {name}"),
        None if field.starts_with("volumeMounts[") => format!("volumeMounts of container {name}"),
        None => format!("{field} of container {name}"),
    }
}

/// `1 of 3 pods`, `1 of 1 pod`.
pub(crate) fn plural_of(some: usize, all: usize, noun: &str) -> String {
    format!("{some} of {}", plural(all, noun))
}

/// `1 pod`, `2 pods`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A time as it stands in messages: `2026-11-21T10:00:00Z`, whole seconds.
pub(crate) fn clock(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// Seconds as one says them: `0.3 s`, `42 s`, `7 min`, `3 h`.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{:.1} s", v.max(0.0)),
        v if v < 180.0 => format!("{v:.0} s"),
        v if v < 3.0 * 3600.0 => format!("{:.0} min", v / 60.0),
        v => format!("{:.0} h", v / 3600.0),
    }
}

/// Bytes as Kubernetes writes them: `96Mi`, `1.5Gi`.
pub(crate) fn bytes(value: f64) -> String {
    let (scale, unit) = match value {
        v if v >= 1_073_741_824.0 => (1_073_741_824.0, "Gi"),
        v if v >= 1_048_576.0 => (1_048_576.0, "Mi"),
        v if v >= 1024.0 => (1024.0, "Ki"),
        _ => (1.0, ""),
    };
    let number = value / scale;
    if (number - number.round()).abs() < 0.05 {
        format!("{:.0}{unit}", number.round())
    } else {
        format!("{number:.1}{unit}")
    }
}

/// Cores as Kubernetes writes them: `40m`, `2`.
pub(crate) fn cores(value: f64) -> String {
    if (value - value.round()).abs() < 1e-9 && value >= 1.0 {
        format!("{value:.0}")
    } else {
        format!("{:.0}m", value * 1000.0)
    }
}

/// Seconds from one instant to another.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_millisecond() - from.as_millisecond()) as f64 / 1000.0
}

/// Whether an instant lies in what is looked at: the window with an hour before it, as long as events live.
pub(crate) fn recent(snapshot: &Snapshot, at: Option<Timestamp>) -> bool {
    const BEFORE: i64 = 3600;
    let start = snapshot.window.map_or(snapshot.now, |w| w.start.min(snapshot.now));
    at.is_none_or(|at| at.as_second() >= start.as_second() - BEFORE)
}

/// What the kubelet says of a container, in our words.
pub(crate) fn container_evidence(pod: &Pod, status: &ContainerStatus) -> Evidence {
    let mut parts = vec![];
    match &status.state {
        ContainerState::Waiting { reason, .. } if !reason.is_empty() => {
            parts.push(format!("waits: {reason}"))
        }
        ContainerState::Waiting { .. } => parts.push("waits".to_owned()),
        ContainerState::Running { since } => parts.push(match since {
            Some(at) => format!("runs since {}{}", clock(*at), if status.ready { "" } else { ", not ready" }),
            None => "runs".to_owned(),
        }),
        ContainerState::Terminated(_) => parts.push("has ended".to_owned()),
        ContainerState::Unknown => {}
    }
    parts.push(format!("{} restarts", status.restarts));
    if let Some(end) = status.latest_end() {
        let after = end.lifetime().map(|s| format!(" after {}", seconds(s))).unwrap_or_default();
        let reason = if end.reason.is_empty() { "Terminated" } else { &end.reason };
        parts.push(format!("last end: {reason}, exit code {}{after}", end.exit_code));
    }
    let message = match &status.state {
        ContainerState::Waiting { message, .. } => message.as_str(),
        _ => status.latest_end().map_or("", |end| end.message.as_str()),
    };
    let at = status.latest_end().and_then(|end| end.finished);
    Evidence::new("Object", format!("{}, container {}", pod.object.reference, status.name), parts.join("; "))
        .excerpt(message)
        .at(at)
}

/// An event as evidence.
pub(crate) fn event_evidence(event: &Event) -> Evidence {
    let times = if event.count > 1 { format!("{} times", event.count) } else { "once".to_owned() };
    let who = if event.reporter.is_empty() { String::new() } else { format!(" by {}", event.reporter) };
    Evidence::new("Event", event.about.to_string(), format!("{}{who}, {times}", event.reason))
        .excerpt(&event.message)
        .at(event.first)
}

/// Events of one reason about a pod, and about this container where they name one.
pub(crate) fn container_events<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    container: &'a str,
    reason: &'a str,
) -> impl Iterator<Item = &'a Event> {
    snapshot
        .events_about(&pod.object.reference)
        .filter(move |e| e.reason == reason && (e.container.is_empty() || e.container == container))
}

/// The event by which the kubelet killed a container for a probe (`liveness` or `startup`).
pub(crate) fn killed_by_probe<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    container: &'a str,
) -> Option<(&'static str, &'a Event)> {
    container_events(snapshot, pod, container, "Killing").find_map(|event| {
        let probe = ["liveness", "startup"]
            .into_iter()
            .find(|probe| event.message.contains(&format!("failed {probe} probe")))?;
        // Without a field path the message itself names the container.
        (!event.container.is_empty() || event.message.contains(container)).then_some((probe, event))
    })
}

/// Every status of a pod with the container's role. What was seen without its specification counts as a main container.
pub(crate) fn statuses(pod: &Pod) -> impl Iterator<Item = (ContainerRole, &ContainerStatus)> {
    pod.statuses.iter().map(|status| {
        let role =
            pod.template.container(&status.name).map_or(ContainerRole::Main, |container| container.role);
        (role, status)
    })
}

/// Whether a container is one that serves: main, or a native sidecar; not an init container that must end.
pub(crate) fn serves(container: &Container) -> bool {
    container.role != ContainerRole::Init
}

/// A pod that became unready so shortly after it was made has never been ready.
const NEVER_UP_SECONDS: f64 = 10.0;

/// When a container was first seen to restart: the first growth of its restart counter, else the first event of a back-off or
/// a kill, else the end of the instance before.
pub(crate) fn first_restart(snapshot: &Snapshot, pod: &Pod, status: &ContainerStatus) -> Option<Timestamp> {
    let events = snapshot
        .events_about(&pod.object.reference)
        .filter(|e| matches!(e.reason.as_str(), "BackOff" | "Killing"))
        .filter(|e| e.container == status.name && !e.message.contains("pulling"))
        .filter_map(|e| e.first);
    let counted = snapshot
        .series_named("kube_pod_container_status_restarts_total")
        .filter(|s| {
            s.label("pod") == pod.object.name()
                && s.label("namespace") == pod.object.namespace()
                && s.label("container") == status.name
        })
        .filter_map(|s| {
            let grown = s.points.iter().zip(s.points.iter().skip(1)).find(|(a, b)| b.1 > a.1)?;
            crate::model::time::from_unix(grown.1.0)
        });
    let ends = status.latest_end().and_then(|end| end.finished);
    // Not ready since it was made: it has never been up.
    let never_up =
        pod.condition("Ready").filter(|c| c.status == "False").and_then(|c| c.since).zip(pod.object.created);
    let never_up = never_up
        .filter(|(since, made)| seconds_between(*made, *since) < NEVER_UP_SECONDS)
        .map(|(_, made)| made);
    // The first crash lies before each of them; the earliest is the nearest to it.
    events.chain(counted).chain(ends).chain(never_up).min()
}

/// `kubectl -n NS logs POD -c CONTAINER --previous`, a command that only looks.
pub(crate) fn logs_command(pod: &Pod, container: &str, previous: bool) -> String {
    let r = &pod.object.reference;
    let previous = if previous { " --previous" } else { "" };
    format!("kubectl {}logs {} -c {}{previous} --tail=100", scope(r), quote(&r.name), quote(container))
}

/// `kubectl -n NS describe KIND NAME`, a command that only looks.
pub(crate) fn describe_command(r: &ObjectRef) -> String {
    format!("kubectl {}describe {} {}", scope(r), resource(r), quote(&r.name))
}

/// `kubectl -n NS delete KIND NAME`, of a pod that its owner makes anew.
pub(crate) fn delete_command(r: &ObjectRef) -> String {
    format!("kubectl {}delete {} {}", scope(r), resource(r), quote(&r.name))
}

/// `kubectl -n NS rollout restart KIND/NAME`.
pub(crate) fn restart_command(r: &ObjectRef) -> String {
    format!("kubectl {}rollout restart {}/{}", scope(r), resource(r), quote(&r.name))
}

/// The names of pods as a PromQL matcher: those that a workload makes.
pub(crate) fn pod_matcher(owner: &ObjectRef) -> String {
    let name = regex::escape(&owner.name).replace('\\', "\\\\");
    let rest = if owner.kind == "Pod" { "" } else { "-.*" };
    format!("namespace=\"{}\",pod=~\"{name}{rest}\"", owner.namespace)
}

/// The first Service of a group goes to the finding, with all its effects.
pub(crate) fn with_effects<T>(
    finding: Finding,
    group: &Group<'_, T>,
    snapshot: &Snapshot,
    flags: &[&str],
) -> Finding {
    finding.service(group.services(snapshot).into_iter().next()).effects(group.effects(snapshot, flags))
}

/// Text of a waiting container and of the events about its pod: where the kubelet says what is missing.
pub(crate) fn kubelet_words<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    reasons: &'a [&'a str],
) -> impl Iterator<Item = &'a Event> {
    snapshot.events_about(&pod.object.reference).filter(move |e| reasons.contains(&e.reason.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_said_shortly() {
        assert_eq!(
            short_path("spec.template.spec.containers[name=app].env[name=MODE].value"),
            "env MODE of container app"
        );
        assert_eq!(short_path("spec.template.spec.containers[name=app].image"), "image of container app");
        assert_eq!(short_path("spec.template.spec.nodeSelector.disk"), "nodeSelector.disk");
    }

    #[test]
    fn figures_are_written_as_kubernetes_has_them() {
        assert_eq!(bytes(96.0 * 1_048_576.0), "96Mi");
        assert_eq!(bytes(1.5 * 1_073_741_824.0), "1.5Gi");
        assert_eq!(seconds(0.31), "0.3 s");
    }
}
