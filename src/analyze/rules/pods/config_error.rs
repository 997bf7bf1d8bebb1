//! POD104.

use crate::model::json::json;

use super::common::{self, Group};
use super::missing;
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{ContainerState, ContainerStatus, Pod};

crate::rule! {
    /// The kubelet cannot make a container from its specification.
    ///
    /// ## What it detects
    /// A container that waits in `CreateContainerConfigError`, `CreateContainerError`, `PreStartHookError` or `PostStartHookError`,
    /// and which field the kubelet's message is about. Where it is a ConfigMap, a Secret or a key of one that is missing, this is
    /// only how it is felt: the rules CONFIG101 to CONFIG103 name the cause.
    /// ## Why it matters
    /// The container never starts, and the kubelet tries again for ever.
    /// ## Evidence
    /// The waiting reason and message of the container, and the kubelet's `Failed` events.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the message under the container.
    /// ## How to fix
    /// Correct the field that the message names: the security context of an image that runs as root, a command that neither image nor
    /// template has, a subPath that does not exist, a hook that fails, a seccomp profile that its node does not have (put the file on
    /// every node, or take `RuntimeDefault`).
    /// ## False positives
    /// A container that was made at the second attempt is not reported: it does not wait any more.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>
    ContainerConfigError {
        code: "POD104", name: "container-config-error", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// Which field the kubelet complains about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A ConfigMap, a Secret or a key is missing.
    Configuration,
    /// `runAsNonRoot` and an image that runs as root, or as a user whose number is not known.
    NonRoot,
    /// `runAsNonRoot` and a template that says `runAsUser: 0`.
    Root,
    /// Neither the template nor the image has a command.
    Command,
    /// A mount: subPath or mount path.
    Mount,
    /// A lifecycle hook.
    Hook,
    /// A seccomp profile that the node does not have.
    Seccomp,
    /// Something else.
    Other,
}

impl Field {
    fn of(reason: &str, message: &str) -> Self {
        let text = message.to_ascii_lowercase();
        match () {
            () if missing::parse(message).is_some() => Field::Configuration,
            () if text.contains("runasuser breaks non-root") => Field::Root,
            () if text.contains("runasnonroot")
                || text.contains("non-root")
                || text.contains("non-numeric user") =>
            {
                Field::NonRoot
            }
            () if text.contains("no command specified") => Field::Command,
            () if text.contains("seccomp profile") => Field::Seccomp,
            () if text.contains("subpath") || text.contains("mount") => Field::Mount,
            () if reason.ends_with("HookError") => Field::Hook,
            () => Field::Other,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Field::Configuration => "a ConfigMap, Secret or key is missing",
            Field::NonRoot => "runAsNonRoot is set and the image runs as root or as a user without a number",
            Field::Root => "runAsNonRoot is set and runAsUser says 0, which is root",
            Field::Command => "neither the template nor the image says which command to run",
            Field::Mount => "a volume cannot be mounted where the template says",
            Field::Hook => "its lifecycle hook fails",
            Field::Seccomp => "its node cannot load the seccomp profile that its security context names",
            Field::Other => "the kubelet's message names the reason",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Configuration => "env",
            Field::NonRoot => "securityContext.runAsNonRoot",
            Field::Root => "securityContext.runAsUser",
            Field::Command => "command",
            Field::Mount => "volumeMounts",
            Field::Hook => "lifecycle",
            Field::Seccomp => "securityContext.seccompProfile",
            Field::Other => "",
        }
    }
}

/// A container of one pod that cannot be made.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    reason: &'a str,
    field: Field,
}

/// A container of a workload that cannot be made.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for ContainerConfigError {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, waiting).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let Some((pod, case)) = group.first() else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let role = if case.field == Field::Configuration { Role::Symptom } else { Role::Cause };
        let path = field_path(group, case.field);
        let events: Vec<_> = common::container_events(snapshot, pod, container, "Failed").take(2).collect();
        let created = group.cases.iter().filter_map(|(pod, _)| pod.object.created).min();
        let finding = Finding::new(Self::META, group.owner.field(path.trim_end_matches('.')), &[container])
            .title(format!("{}: container cannot be made ({}): {}", group.owner, case.reason, case.field.meaning()))
            .message(format!(
                "The kubelet cannot make container {container} in {} of {}: {}. It tries again without end and nothing changes until the specification does{}",
                group.share(),
                group.owner,
                case.field.meaning(),
                if group.all_down() { "; no pod of the workload serves." } else { "; older pods still serve." }
            ))
            .mechanism(format!("container config error: {}", case.field.meaning()))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(role, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(events.iter().map(|e| common::event_evidence(e)))
            .onset(events.iter().filter_map(|e| e.first).min().or(created))
            .maybe_remedy(by_field(case.field, group))
            .maybe_remedy(group.undo_rollout(snapshot, ""))
            .maybe_remedy(default_profile(case.field, group))
            .maybe_remedy(user_of_the_image(case.field, group))
            .remedy(Remedy::commands("Read the kubelet's message and correct the field that it names", vec![common::describe_command(&pod.object.reference)], vec![]))
            .prevention(Prevention::alert(
                "Alert when a container cannot be made",
                format!("max_over_time(kube_pod_container_status_waiting_reason{{{},reason=~\"CreateContainer.*\"}}[5m]) >= 1", common::pod_matcher(&group.owner)),
            ));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

/// The containers of a pod that cannot be made.
fn waiting(pod: &Pod) -> Vec<(String, Case<'_>)> {
    let mut out = vec![];
    for (_, status) in common::statuses(pod) {
        let ContainerState::Waiting { reason, message } = &status.state else { continue };
        let known = [
            "CreateContainerConfigError",
            "CreateContainerError",
            "PreStartHookError",
            "PreCreateHookError",
            "PostStartHookError",
        ];
        if known.contains(&reason.as_str()) {
            out.push((status.name.clone(), Case { status, reason, field: Field::of(reason, message) }));
        }
    }
    out
}

/// Where the field stands: the container's own security context decides before that of its pod.
fn field_path(group: &Group<'_, Case<'_>>, field: Field) -> String {
    let own = || group.container().is_some_and(|c| c.body.at(field.name()).is_some());
    if matches!(field, Field::Seccomp | Field::Root) && !own() {
        return group.pod_field(field.name());
    }
    group.container_field(field.name())
}

/// The user that the image names in place of root.
fn user_of_the_image(field: Field, group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let workload = group.workload.filter(|_| field == Field::Root)?;
    let operation = json!([{"op": "remove", "path": pointer(&field_path(group, field))}]);
    let summary = format!(
        "Remove runAsUser 0: container {} then runs as the user that its image names",
        group.container
    );
    Some(Remedy::patch(&workload.object, &operation, summary)?.risk(Risk::Medium))
}

/// The profile of the container runtime in place of one that the node does not have.
fn default_profile(field: Field, group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let workload = group.workload.filter(|_| field == Field::Seccomp)?;
    let path = pointer(&field_path(group, field));
    let operation = json!([{"op": "replace", "path": path, "value": {"type": "RuntimeDefault"}}]);
    let summary = format!(
        "Take the runtime's own profile for container {}: seccompProfile RuntimeDefault is on every node",
        group.container
    );
    Some(Remedy::patch(&workload.object, &operation, summary)?.risk(Risk::Medium))
}

/// The change of the field that heals it, where the message alone decides it.
fn by_field(field: Field, group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    if field != Field::NonRoot {
        return None;
    }
    let context = group.container()?.body.at("securityContext");
    // A user with a number above that of any user of a base image.
    const USER: i64 = 10_001;
    let summary = format!(
        "Let container {} run as user {USER}: runAsNonRoot is then satisfied, if the image works as that user",
        group.container
    );
    let op = if context.and_then(|c| c.at("runAsUser")).is_some() { "replace" } else { "add" };
    if context.is_some() {
        group.patch_container(&[(op, "securityContext.runAsUser", json!(USER))], summary)
    } else {
        group.patch_container(&[("add", "securityContext", json!({"runAsUser": USER}))], summary)
    }
}
