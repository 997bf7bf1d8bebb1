//! POD106.

use crate::model::json::{Value, json};
use regex::Regex;
use std::sync::LazyLock;

use super::common::{self, Group};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

crate::rule! {
    /// The kubelet threw pods off their node.
    ///
    /// ## What it detects
    /// Pods that ended with the reason `Evicted` in the time that is looked at, told apart by what ran short: the node's memory, disk
    /// or process numbers, or the pod's own limit of ephemeral storage.
    /// ## Why it matters
    /// The pod is gone at once with what it was doing. Its replacement meets the same shortage, on this node or the next.
    /// ## Evidence
    /// The pod's status with the kubelet's message, its requests against its use, and the node's conditions.
    /// ## How to confirm
    /// `kubectl get pods --field-selector=status.phase=Failed` lists them; `kubectl describe node NODE` shows the pressure.
    /// ## How to fix
    /// Request what the containers really use (a pod above its request is the first to go), bound what they write, and give the node
    /// room.
    /// ## False positives
    /// Evicted pods stay in the list for days: those from before the time that is looked at are not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/>
    Evicted {
        code: "POD106", name: "evicted", family: Workload, severity: Warning,
        needs: [Status], aliases: ["K8S-EVICT"],
    }
}

/// What ran short.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Shortage {
    /// Something of the node's: `memory`, `ephemeral-storage`, `pids`, …
    Node(String),
    /// The pod's or a container's own limit of ephemeral storage.
    OwnStorage,
    /// A volume `emptyDir` that outgrew its limit.
    EmptyDir(String),
    /// Something else.
    Other,
}

impl Shortage {
    fn of(message: &str) -> Self {
        static NODE: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"low on resource: ([a-z\-]+)").ok());
        static EMPTY: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r#"EmptyDir volume "([^"]+)" exceeds"#).ok());
        let first = |r: &Option<Regex>| Some(r.as_ref()?.captures(message)?.get(1)?.as_str().to_owned());
        if let Some(resource) = first(&NODE) {
            return Shortage::Node(resource);
        }
        if let Some(volume) = first(&EMPTY) {
            return Shortage::EmptyDir(volume);
        }
        if message.contains("ephemeral local storage usage exceeds")
            || message.contains("exceeded its local ephemeral storage limit")
        {
            return Shortage::OwnStorage;
        }
        let pressure =
            |word: &str| message.contains(&format!("{word}Pressure")).then(|| word.to_ascii_lowercase());
        ["Memory", "Disk", "PID"].into_iter().find_map(pressure).map_or(Shortage::Other, Shortage::Node)
    }

    fn meaning(&self, node: &str) -> String {
        match self {
            Shortage::Node(resource) => format!("node {node} ran low on {resource}"),
            Shortage::OwnStorage => "they wrote more than their limit of ephemeral storage".to_owned(),
            Shortage::EmptyDir(volume) => format!("volume {volume} (emptyDir) outgrew its sizeLimit"),
            Shortage::Other => "the kubelet's message names the reason".to_owned(),
        }
    }
}

/// An evicted pod.
#[derive(Debug)]
pub struct Case {
    shortage: Shortage,
    at: Option<jiff::Timestamp>,
    /// The container that used most, as the message says it.
    container: Option<String>,
}

/// Evicted pods of a workload.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case>);

impl Check for Evicted {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| {
            evicted(snapshot, pod).map(|case| (String::new(), case)).into_iter().collect()
        })
        .into_iter()
        .map(Fact)
        .collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let latest = group.cases.iter().max_by_key(|(_, case)| case.at);
        let Some((pod, case)) = latest else { return Finding::new(Self::META, group.owner.clone(), &[]) };
        let wanted = group.workload.and_then(|w| w.replicas).unwrap_or(1).max(0) as usize;
        let short = group.ready < wanted;
        let why = case.shortage.meaning(&pod.node);
        let container = case.container.clone().or_else(|| {
            let all = group.workload.map_or(&pod.template, |w| &w.template);
            all.application_containers().next().map(|c| c.name.clone())
        });
        let field = match &case.shortage {
            Shortage::Node(resource) if resource == "memory" => "resources.requests.memory",
            Shortage::Node(_) | Shortage::Other => "resources",
            Shortage::OwnStorage => "resources.limits.ephemeral-storage",
            Shortage::EmptyDir(_) => "",
        };
        let template = group.workload.map_or(&pod.template, |w| &w.template);
        let index = container.as_ref().and_then(|name| template.container(name));
        let path = match (&case.shortage, index) {
            (Shortage::EmptyDir(volume), _) => {
                let at = template
                    .spec
                    .list("volumes")
                    .iter()
                    .position(|v| v.text("name") == Some(volume))
                    .unwrap_or(0);
                group.pod_field(&format!("volumes[{at}].emptyDir.sizeLimit"))
            }
            (_, Some(container)) => group.pod_field(&format!("{}.{field}", container.path())),
            (_, None) => group.pod_field("containers"),
        };
        let node = ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Node", "", &pod.node) };
        let mut finding = Finding::new(Self::META, group.owner.field(path.clone()), &[])
            .title(format!("{}: {} evicted: {why}", group.owner, common::plural(group.cases.len(), "pod")))
            .message(format!(
                "The kubelet ended {} of {}: {why}. {} of {wanted} wanted pods are ready now.",
                common::plural(group.cases.len(), "pod"),
                group.owner,
                group.ready
            ))
            .mechanism("evicted: a resource ran short on the node or in the pod")
            .severity(if short { Severity::Error } else { Severity::Warning })
            .role(Role::Cause, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| {
                Evidence::new(
                    "Object",
                    pod.object.reference.to_string(),
                    format!("Failed, reason {}, on node {}", pod.reason, pod.node),
                )
                .excerpt(&pod.message)
                .at(case.at)
            }))
            .onset(group.cases.iter().filter_map(|(_, case)| case.at).min());
        if matches!(case.shortage, Shortage::Node(_)) && !pod.node.is_empty() {
            finding = finding.related(node.clone());
        }
        let finding = finding
            .maybe_remedy(by_shortage(case, group, index.map(|c| c.name.as_str())))
            .remedy(Remedy::commands(
                match &case.shortage {
                    Shortage::Node(resource) => format!("Find out who uses up the {resource} of node {}, and give the node room", pod.node),
                    _ => "Find out what the containers write, and bound it (log rotation, a cache with a limit)".to_owned(),
                },
                vec![common::describe_command(if pod.node.is_empty() { &pod.object.reference } else { &node })],
                vec![],
            ))
            .prevention(Prevention::alert(
                "Alert on evictions",
                format!("sum(kube_pod_status_reason{{{},reason=\"Evicted\"}}) > 0", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Setting", "Request the memory and ephemeral storage that the containers really use: pods above their requests are evicted first"));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// A pod that was evicted in the time that is looked at.
fn evicted(snapshot: &Snapshot, pod: &Pod) -> Option<Case> {
    static USER: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"Container (\S+) (?:was using|exceeded)").ok());
    if pod.reason != "Evicted" || pod.phase != "Failed" {
        return None;
    }
    let event = snapshot.events_about(&pod.object.reference).find(|e| e.reason == "Evicted");
    let ends = pod.statuses.iter().filter_map(|s| s.latest_end()?.finished).max();
    let target = pod.condition("DisruptionTarget").and_then(|c| c.since);
    let at = event
        .and_then(|e| e.first)
        .or(target)
        .or(ends)
        .or_else(|| pod.condition("Ready").and_then(|c| c.since));
    if !common::recent(snapshot, at) {
        return None;
    }
    let message =
        if pod.message.is_empty() { event.map_or("", |e| e.message.as_str()) } else { &pod.message };
    let container =
        USER.as_ref().and_then(|r| r.captures(message)).and_then(|c| Some(c.get(1)?.as_str().to_owned()));
    Some(Case { shortage: Shortage::of(message), at, container })
}

/// The change of the template that the shortage asks for.
fn by_shortage(case: &Case, group: &Group<'_, Case>, container: Option<&str>) -> Option<Remedy> {
    let workload = group.workload?;
    match &case.shortage {
        Shortage::Node(resource) if resource == "memory" => {
            let container = workload.template.container(container?)?;
            let limit = container.body.text("resources.limits.memory")?;
            let path = group.pod_field(&format!("{}.resources.requests", container.path()));
            let operation = match container.body.at("resources.requests") {
                Some(requests) => {
                    let op = if requests.at("memory").is_some() { "replace" } else { "add" };
                    common::operation(op, &format!("{path}.memory"), &json!(limit))
                }
                None => common::operation("add", &path, &json!({"memory": limit})),
            };
            Remedy::patch(
                &workload.object,
                &Value::from(vec![operation]),
                format!(
                    "Request as much memory as the limit allows ({limit}): the pod is then among the last to be evicted"
                ),
            )
        }
        Shortage::EmptyDir(volume) => {
            let volumes = workload.template.spec.list("volumes");
            let at = volumes.iter().position(|v| v.text("name") == Some(volume))?;
            let size =
                volumes.get(at)?.text("emptyDir.sizeLimit").and_then(crate::model::workload::quantity)?;
            let next = common::bytes(size * 2.0);
            let path = group.pod_field(&format!("volumes[{at}].emptyDir.sizeLimit"));
            Remedy::patch(
                &workload.object,
                &Value::from(vec![common::operation("replace", &path, &json!(next))]),
                format!("Raise sizeLimit of the emptyDir {volume} to {next}"),
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_short() {
        assert_eq!(
            Shortage::of(
                "The node was low on resource: memory. Threshold quantity: 100Mi, available: 20Mi. Container app was using 1Gi, request is 0"
            ),
            Shortage::Node("memory".into())
        );
        assert_eq!(
            Shortage::of("Usage of EmptyDir volume \"cache\" exceeds the limit \"1Gi\"."),
            Shortage::EmptyDir("cache".into())
        );
        assert_eq!(
            Shortage::of("Pod ephemeral local storage usage exceeds the total limit of containers 1Gi."),
            Shortage::OwnStorage
        );
        assert_eq!(
            Shortage::of("Pod The node had condition: [MemoryPressure]. "),
            Shortage::Node("memory".into())
        );
    }
}
