//! What rules about settings share: a container ends at its start and its last words name a setting.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::Meta;
use crate::analyze::rules::pods::common::{self, Group};
use crate::analyze::rules::pods::crash_loop;
use crate::model::log::LogStream;
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

/// A setting that an application names before it ends.
#[derive(Debug)]
pub(super) struct Case<'a> {
    /// The setting.
    pub setting: String,
    /// The line that names it.
    pub line: &'a str,
    stream: &'a LogStream,
    time: Option<Timestamp>,
    since: Option<Timestamp>,
}

/// The settings that the crashing containers of a pod name, each by the last of so many lines that does: those before the
/// restart, else those of now.
pub(super) fn cases<'a>(
    snapshot: &'a Snapshot,
    pod: &'a Pod,
    look_back: usize,
    named: impl Fn(&str, &str) -> Option<String>,
) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    for (container, status) in crash_loop::crashing(snapshot, pod) {
        let find = |previous: bool| {
            let stream = snapshot.log(pod.object.namespace(), pod.object.name(), &container, previous)?;
            let lines = stream.lines.get(stream.lines.len().saturating_sub(look_back)..)?;
            lines.iter().rev().find_map(|line| Some((stream, line, named(&container, &line.text)?)))
        };
        let Some((stream, line, setting)) = find(true).or_else(|| find(false)) else { continue };
        let since = common::first_restart(snapshot, pod, status);
        out.push((container, Case { setting, stream, line: &line.text, time: line.time, since }));
    }
    out
}

/// What one rule has to say of such a container.
#[derive(Debug)]
pub(super) struct Telling<'t> {
    /// The ConfigMap that is to be changed, with the key in it.
    pub map: Option<(&'t Object, &'t str)>,
    /// The container's field that is to be changed where there is no such ConfigMap, and that is related where there is one.
    pub env: ObjectRef,
    /// Title, message and mechanism.
    pub words: [String; 3],
    /// What the line says.
    pub says: String,
    /// Fixes in the ConfigMap or the template, the best first; a rollout that is undone comes before them.
    pub fixes: Vec<Remedy>,
    /// How a pipeline would have found it.
    pub test: String,
}

/// The place of a setting in words.
pub(super) fn place(map: Option<&Object>) -> String {
    map.map_or_else(|| "its environment".to_owned(), |map| map.reference.to_string())
}

/// A remedy in a ConfigMap that pods read at their start: it takes a restart.
pub(super) fn again(owner: &ObjectRef, remedy: Remedy) -> Remedy {
    if matches!(owner.kind.as_str(), "Deployment" | "StatefulSet" | "DaemonSet") {
        remedy.then(common::restart_command(owner))
    } else {
        remedy
    }
}

/// The finding: an empty one where the group is.
pub(super) fn tell(
    meta: &'static Meta,
    group: &Group<'_, Case<'_>>,
    snapshot: &Snapshot,
    telling: Telling<'_>,
) -> Finding {
    let Some((pod, case)) = group.first() else {
        return Finding::new(meta, group.owner.clone(), &[]);
    };
    let (setting, container) = (&case.setting, &group.container);
    let [title, mut message, mechanism] = telling.words;
    let edited = telling.map.and_then(|(map, _)| snapshot.last_change_before(&map.reference, snapshot.now));
    if let Some(change) = edited {
        message += &format!(" The ConfigMap was last edited at {}.", common::clock(change.time));
    }
    message += if group.all_down() {
        " No pod of the workload serves."
    } else {
        " Pods that started before still serve."
    };
    let subject = telling
        .map
        .map_or_else(|| telling.env.clone(), |(map, key)| map.reference.field(format!("data.{key}")));
    let mut finding = Finding::new(meta, subject, &[&group.owner.kind, &group.owner.name, container])
        .title(title)
        .message(message)
        .mechanism(mechanism)
        .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
        .role(Role::Cause, Confidence::Observed)
        .evidence(
            Evidence::new(
                "Log",
                format!("Pod {}/{}, container {container}", case.stream.namespace, case.stream.pod),
                telling.says,
            )
            .excerpt(case.line)
            .at(case.time),
        )
        .evidences(pod.status(container).map(|status| common::container_evidence(pod, status)))
        .onset(group.cases.iter().filter_map(|(_, case)| case.since).min());
    if telling.map.is_some() {
        finding = finding.related(telling.env);
    }
    finding = finding
        .maybe_remedy(group.undo_rollout(snapshot, setting))
        .remedies(telling.fixes)
        .prevention(Prevention::of("Test", telling.test))
        .prevention(Prevention::alert(
            "Alert when a container restarts again and again",
            format!(
                "increase(kube_pod_container_status_restarts_total{{{},container=\"{container}\"}}[10m]) > 2",
                common::pod_matcher(&group.owner)
            ),
        ))
        .effect(Effect::calls(&group.owner));
    common::with_effects(finding, group, snapshot, common::DOWN)
}
