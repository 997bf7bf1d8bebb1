//! POD101.

use regex::Regex;
use std::sync::LazyLock;

use super::common::{self, Group, seconds};
use super::last_words::{LastWords, last_words};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk};
use crate::analyze::rule::{Check, Declared};
use crate::model::change::ChangeKind;
use crate::model::event::Event;
use crate::model::fields::Fields;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{
    ContainerRole, ContainerState, ContainerStatus, Pod, Termination, is_proxy_container,
};

crate::rule! {
    /// A container ends again and again, and the kubelet waits longer before each new start.
    ///
    /// ## What it detects
    /// A main container or native sidecar that waits in `CrashLoopBackOff`, has just ended once more, has ended at least three
    /// times and the last time a few minutes ago, or came with a rollout, has ended with an error and is not ready since. Containers that the kernel killed for memory (POD102) or that the kubelet killed
    /// for a probe (POD107) are left to those rules.
    /// ## Why it matters
    /// Between two starts nothing listens: callers are refused, or find no ready endpoint. The pauses grow to five minutes.
    /// ## Evidence
    /// The container's status (reason, restarts, last exit code, lifetime), the kubelet's BackOff events, and the last error in the
    /// log of the previous instance.
    /// ## How to confirm
    /// `kubectl logs POD -c CONTAINER --previous` shows what the application said before it ended.
    /// ## How to fix
    /// By exit code: 1 and 2 are the application's own error, which its log names; 126 and 127 are a command that cannot be run or
    /// does not exist; 128 is a start that the runtime refused; 134 and 139 are an abort and a segmentation fault in the program;
    /// 135 is memory that is not there; 137 is a kill from outside; 143 a polite request to end; 255 is unknown; 0 means that the program does not stay. Where it began with a
    /// rollout, go back to the revision before. Where the kubelet ended it because its postStart hook failed, the exit code says
    /// nothing: the hook is what to correct.
    /// ## False positives
    /// A few restarts at the start of a pod whose dependency was not up yet: they end by themselves and are not reported.
    /// ## References
    /// <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>
    CrashLoop {
        code: "POD101", name: "crash-loop", family: Workload, severity: Error,
        needs: [Status], aliases: ["K8S-CRASHLOOP"],
    }
}

/// How a container ended, as its exit code tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// 0: it has done its work.
    Success,
    /// 126: the file is there and cannot be run.
    NotExecutable,
    /// 127: no such command.
    NotFound,
    /// 128, or a reason of the runtime: it never ran.
    NotStarted,
    /// 134: it gave up itself.
    Abort,
    /// 135: a file that it had mapped into memory became shorter, or a page of memory is broken.
    Bus,
    /// 255, or a status that nobody knows.
    Unknown,
    /// Its program was built for another architecture.
    Architecture,
    /// 139: it touched memory that is not its own.
    Segfault,
    /// 137 without the kernel's memory killer.
    Killed,
    /// 143.
    Asked,
    /// Anything else: the application's own error.
    Failure,
}

impl End {
    fn of(end: &Termination) -> Self {
        if end.message.contains("exec format error") {
            return End::Architecture;
        }
        if end.reason == "ContainerStatusUnknown" {
            return End::Unknown;
        }
        if matches!(end.reason.as_str(), "StartError" | "ContainerCannotRun" | "RunContainerError") {
            let missing = ["executable file not found", "no such file or directory"];
            let found = missing.iter().any(|text| end.message.contains(text));
            return match end.exit_code {
                _ if found => End::NotFound,
                127 => End::NotFound,
                126 => End::NotExecutable,
                _ if end.message.contains("permission denied") => End::NotExecutable,
                _ => End::NotStarted,
            };
        }
        match end.exit_code {
            0 => End::Success,
            126 => End::NotExecutable,
            127 => End::NotFound,
            128 => End::NotStarted,
            134 => End::Abort,
            135 => End::Bus,
            255 => End::Unknown,
            137 => End::Killed,
            139 => End::Segfault,
            143 => End::Asked,
            _ => End::Failure,
        }
    }

    /// What it means, in a sentence that goes on from "exit code N".
    fn meaning(self) -> &'static str {
        match self {
            End::Success => {
                "the program does its work and ends, and the restart policy starts it again: a server is expected to stay"
            }
            End::NotExecutable => {
                "the command exists in the image and cannot be executed: no permission, a directory, or another architecture"
            }
            End::NotFound => "the command does not exist in the image",
            End::NotStarted => {
                "the container runtime refused to start it: its command, working directory or security settings do not fit the image"
            }
            End::Abort => {
                "the program aborted itself (SIGABRT): a failed assertion, or a runtime that gave up"
            }
            End::Bus => {
                "the program crashed on memory that is not there (SIGBUS): a file that it had mapped was cut, or a volume behind it is full"
            }
            End::Unknown => {
                "nobody knows how it ended: its node or its runtime was restarted under it, or the program itself gave a status out of range"
            }
            End::Architecture => "its program was built for another architecture than the node's",
            End::Segfault => "the program crashed on an invalid memory access (SIGSEGV)",
            End::Killed => {
                "something killed it (SIGKILL), and the kernel's memory killer is not named as the one: it did not end in its grace period, or its node ended it"
            }
            End::Asked => "it was asked to end (SIGTERM) and did",
            End::Failure => "the application ended itself with an error, which its log names",
        }
    }

    fn is_command(self) -> bool {
        matches!(self, End::NotExecutable | End::NotFound | End::NotStarted | End::Architecture)
    }
}

/// The crashes of one container of one pod.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    end: Option<&'a Termination>,
    /// The event by which the kubelet says that its postStart hook failed.
    hook: Option<&'a Event>,
}

/// A container of a workload that crashes.
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for CrashLoop {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| looping(snapshot, pod)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let Some((pod, case)) = group.cases.iter().max_by_key(|(_, case)| case.status.restarts) else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let hook = group.cases.iter().find_map(|(_, case)| case.hook);
        let end = case.end.map(End::of).filter(|_| hook.is_none());
        let words = last_words(snapshot, pod, case.status);
        let said = words.as_ref().is_some_and(|w| w.error);
        let named = words.as_ref().filter(|w| w.error).and_then(|w| missing_thing(w.text));
        let code = match (hook, case.end) {
            (Some(_), _) => " because its postStart hook fails".to_owned(),
            (None, Some(end)) => format!(" with exit code {}", end.exit_code),
            (None, None) => String::new(),
        };
        let lifetime = case.end.and_then(Termination::lifetime);
        let after = lifetime.map(|s| format!(", {} after its start", seconds(s))).unwrap_or_default();
        let restarts = case.status.restarts;
        let mut message =
            format!("{} of {} cannot keep container {container} running", group.share(), group.owner);
        if hook.is_some() {
            message += ": its postStart hook fails, and the kubelet ends a container whose hook failed, however well it runs";
        }
        if let Some(end) = end {
            message += &format!(": {}", end.meaning());
        }
        if lifetime.is_some_and(|s| s < 5.0) && end == Some(End::Failure) {
            message += ". It ends within seconds of its start: what it reads when it starts decides, its configuration before its load";
        }
        if let Some(thing) = named {
            message += &format!(". Its log says that {}", thing.what);
        }
        if let Some(rollout) = group.rollout(snapshot) {
            message += &format!(
                ". These pods came with the rollout of {}, which changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message += if group.all_down() { ". No pod of it serves." } else { ". Other pods of it serve." };
        // What the runtime or the log itself names is the cause; everything else asks why the application gave up.
        let cause = hook.is_some()
            || end.is_some_and(|e| e.is_command() || e == End::Success)
            || named.is_some_and(|thing| !thing.asks);
        let role = if cause { Role::Cause } else { Role::Symptom };
        let field = match end {
            _ if hook.is_some() => group.container_field("lifecycle.postStart"),
            Some(End::Architecture) => group.container_field("image"),
            Some(e) if e.is_command() || e == End::Success => group.container_field("command"),
            _ => group.pod_field(&group.container().map_or_else(|| "containers".to_owned(), |c| c.path())),
        };
        let mechanism = match (&named, end) {
            _ if hook.is_some() => "crash loop: the postStart hook fails and the kubelet ends the container",
            (Some(thing), _) => thing.mechanism,
            (_, Some(End::NotFound)) => "crash loop: command not found",
            (_, Some(End::Architecture)) => {
                "crash loop: exec format error, the image is built for another architecture"
            }
            (_, Some(End::NotExecutable)) => "crash loop: the container's command cannot be executed",
            (_, Some(e)) if e.is_command() => "crash loop: the container cannot be started",
            (_, Some(End::Success)) => "crash loop: the program ends with success",
            (_, Some(End::Failure)) => "crash loop: application error, exception",
            (_, None) if said => "crash loop: application error, exception",
            _ => "crash loop",
        };
        let finding = Finding::new(Self::META, group.owner.field(field), &[container])
            .title(match end {
                Some(e) if e.is_command() => {
                    let why = match e {
                        End::NotFound => "its command is not in the image",
                        End::NotExecutable => "its command cannot be executed",
                        End::Architecture => "its image is built for another architecture",
                        _ => "the runtime cannot start it",
                    };
                    format!("{}: crash loop, {restarts} restarts: container {container} does not start: {why}", group.owner)
                }
                _ => format!("{}: crash loop, {restarts} restarts: container {container} ends{code}{after}", group.owner),
            })
            .message(message)
            .mechanism(mechanism)
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(role, Confidence::Observed)
            .evidences(group.cases.iter().take(3).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(words.as_ref().map(LastWords::evidence))
            .evidences(common::container_events(snapshot, pod, container, "BackOff").next().map(common::event_evidence))
            .onset(group.cases.iter().filter_map(|(pod, case)| common::first_restart(snapshot, pod, case.status)).min())
            .evidences(hook.map(common::event_evidence))
            .maybe_remedy(group.undo_rollout(snapshot, ""))
            .maybe_remedy(hook.and_then(|_| drop_hook(group)))
            .maybe_remedy(end.filter(|e| e.is_command() && *e != End::Architecture).and_then(|_| drop_command(group)))
            .remedy(read_log(pod, container, end))
            .prevention(Prevention::alert(
                "Alert when a container restarts again and again",
                format!("increase(kube_pod_container_status_restarts_total{{{},container=\"{container}\"}}[10m]) > 2", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Test", "Start the new image with the real configuration in the pipeline before it is rolled out; keep maxUnavailable at 0 so that a revision that crashes replaces nothing"));
        let finding = finding.effect(Effect::calls(&group.owner));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

impl std::fmt::Debug for Fact<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} container {}: {} pods", self.0.owner, self.0.container, self.0.cases.len())
    }
}

/// A container that ended at least so often, and the last time so short a time ago, keeps ending.
const MANY_RESTARTS: i64 = 3;
const LATELY_SECONDS: f64 = 600.0;

/// The containers of a pod that crash and that no other rule explains.
fn looping<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    if pod.ended() {
        return out;
    }
    for (role, status) in common::statuses(pod) {
        if role == ContainerRole::Init || is_proxy_container(&status.name) {
            continue;
        }
        let end = status.latest_end();
        let waits =
            matches!(status.waiting_reason(), "CrashLoopBackOff" | "RunContainerError" | "StartError");
        let ended_now = matches!(status.state, ContainerState::Terminated(_)) && status.restarts > 0;
        let lately = end
            .and_then(|end| end.finished)
            .is_some_and(|at| common::seconds_between(at, snapshot.now) < LATELY_SECONDS);
        let fresh = !status.ready && lately && end.is_some_and(gave_up) && rolled_out(snapshot, pod);
        if !(waits || ended_now || fresh || (status.restarts >= MANY_RESTARTS && lately)) {
            continue;
        }
        if end.is_some_and(Termination::out_of_memory)
            || common::killed_by_probe(snapshot, pod, &status.name).is_some()
        {
            continue;
        }
        let hook = common::container_events(snapshot, pod, &status.name, "FailedPostStartHook")
            .find(|event| !event.container.is_empty() || pod.template.application_containers().count() == 1);
        out.push((status.name.clone(), Case { status, end, hook }));
    }
    out
}

/// Whether a container ended by its own fault: not with success, and not because somebody asked or killed it.
fn gave_up(end: &Termination) -> bool {
    !matches!(End::of(end), End::Success | End::Asked | End::Killed | End::Unknown)
}

/// Whether a pod came with a rollout: there was a revision before it, so that what it depends on is up, and a first crash is
/// no matter of who starts first.
fn rolled_out(snapshot: &Snapshot, pod: &Pod) -> bool {
    let owner = snapshot.owner(pod);
    let last = snapshot
        .changes
        .iter()
        .rev()
        .find(|c| c.kind == ChangeKind::Rollout && c.subject.same_object(&owner));
    last.zip(pod.object.created).is_some_and(|(change, made)| made.as_second() + 2 >= change.time.as_second())
}

/// The crashing containers of a pod, for rules that know more about why.
pub(crate) fn crashing<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, &'a ContainerStatus)> {
    looping(snapshot, pod).into_iter().map(|(name, case)| (name, case.status)).collect()
}

/// What a line of a log says is wrong.
#[derive(Debug, Clone, Copy)]
struct Thing {
    /// In a clause.
    what: &'static str,
    /// In the words that somebody would search for.
    mechanism: &'static str,
    /// Whether another rule says more about it: then this is what asks for that.
    asks: bool,
}

/// What a line of a log says is wrong, in our words, where it is something other than a setting (those are CONFIG104's).
fn missing_thing(line: &str) -> Option<Thing> {
    static THINGS: LazyLock<Vec<(Regex, Thing)>> = LazyLock::new(|| {
        let things = [
            (
                r"(?i)no module named|cannot find module|modulenotfounderror|classnotfoundexception|noclassdeffounderror|error while loading shared libraries|cannot load such file",
                "a module or library that it needs is not in its image",
                "crash loop: a module or library is missing",
                false,
            ),
            (
                r"(?i)no such file or directory|filenotfoundexception|filenotfounderror|enoent|could not find file",
                "a file that it needs does not exist",
                "crash loop: no such file or directory",
                false,
            ),
            (
                r"(?i)permission denied|eacces|read-only file system|erofs",
                "it is not allowed to read or write a file that it needs",
                "crash loop: permission denied, or a read-only file system",
                false,
            ),
            (
                r"(?i)address already in use|eaddrinuse",
                "the port that it wants to listen on is taken: two processes of the pod listen on the same port",
                "crash loop: address already in use",
                false,
            ),
            (
                r"(?i)exec format error",
                "its program was built for another architecture",
                "crash loop: exec format error, the image is built for another architecture",
                false,
            ),
            (
                r"(?i)(?:unknown|unrecognized|invalid|unsupported) (?:flag|option|argument|command)|flag provided but not defined",
                "it does not know one of the arguments that it is given",
                "crash loop: unknown flag or argument",
                false,
            ),
            (
                r"(?i)syntax error|unexpected token|(?:yaml|json|toml|config\w*).{0,40}(?:parse|unmarshal|invalid|malformed)|(?:parse|unmarshal)\w* .{0,40}(?:yaml|json|toml|config)",
                "it cannot parse a file that it is given",
                "crash loop: syntax error in a script or a configuration file",
                false,
            ),
            (
                r"(?i)certificate has expired|cert\w* .*expir",
                "a certificate that it uses has expired",
                "crash loop: the program gives up over an expired certificate",
                true,
            ),
        ];
        let read = |(pattern, what, mechanism, asks): (&str, _, _, _)| {
            Some((Regex::new(pattern).ok()?, Thing { what, mechanism, asks }))
        };
        things.into_iter().filter_map(read).collect()
    });
    THINGS.iter().find(|(pattern, _)| pattern.is_match(line)).map(|(_, thing)| *thing)
}

/// Start without the hook.
fn drop_hook(group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    group.container()?.body.at("lifecycle.postStart")?;
    let summary = format!(
        "Remove lifecycle.postStart of container {}, or correct its command: what it runs must be in the image and end with 0",
        group.container
    );
    let remedy = group
        .patch_container(&[("remove", "lifecycle.postStart", crate::model::json::Value::Null)], summary)?;
    Some(remedy.risk(Risk::Medium))
}

/// Run what the image itself is built to run.
fn drop_command(group: &Group<'_, Case<'_>>) -> Option<Remedy> {
    let body = &group.container()?.body;
    body.get("command")?;
    let remedy = group.patch_container(
        &[("remove", "command", crate::model::json::Value::Null)],
        format!("Remove the command of container {} so that the image's own entry point runs, or correct its path", group.container),
    )?;
    Some(remedy.risk(Risk::Medium))
}

/// Look at what it said, and act on it.
fn read_log(pod: &Pod, container: &str, end: Option<End>) -> Remedy {
    let summary = match end {
        Some(End::Success) => {
            "Read what it did before it ended: a server needs a command that stays in the foreground, a batch program a Job instead of this workload"
        }
        Some(End::Killed) => {
            "Read its last lines and the events of its node: find out who sent SIGKILL before anything is changed"
        }
        Some(End::Architecture) => {
            "Build the image for the architecture of the nodes, or select nodes of its architecture (nodeSelector kubernetes.io/arch)"
        }
        Some(e) if e.is_command() => {
            "Compare command, args and workingDir with what the image holds, and read the runtime's message"
        }
        _ => "Read the log of the instance that ended and correct what it names",
    };
    Remedy::commands(
        summary,
        vec![common::logs_command(pod, container, true), common::describe_command(&pod.object.reference)],
        vec![],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(reason: &str, exit_code: i64, message: &str) -> End {
        End::of(&Termination {
            reason: reason.into(),
            exit_code,
            message: message.into(),
            ..Termination::default()
        })
    }

    #[test]
    fn what_a_log_says_is_told_apart() {
        let said = |line: &str| missing_thing(line).map(|thing| (thing.mechanism, thing.asks));
        assert_eq!(
            said("open /etc/a: no such file or directory"),
            Some(("crash loop: no such file or directory", false))
        );
        assert_eq!(
            said("ModuleNotFoundError: No module named 'a'").unwrap().0,
            "crash loop: a module or library is missing"
        );
        assert!(said("CertError: certificate expired on 2024-08-03").unwrap().1, "APP119 says which");
        assert_eq!(said("RuntimeError: no table"), None);
    }

    #[test]
    fn exit_codes_and_the_runtimes_words() {
        assert_eq!(end("Error", 1, ""), End::Failure);
        assert_eq!(end("Completed", 0, ""), End::Success);
        assert_eq!(end("Error", 137, ""), End::Killed);
        assert_eq!(
            end("StartError", 128, "exec: \"srv\": executable file not found in $PATH"),
            End::NotFound
        );
        assert_eq!(end("StartError", 128, "mkdir /x: operation not permitted"), End::NotStarted);
        assert_eq!(end("Error", 139, ""), End::Segfault);
        assert_eq!(end("Error", 135, ""), End::Bus);
        assert_eq!(end("Error", 134, ""), End::Abort);
        assert_eq!(end("Error", 143, ""), End::Asked);
        assert_eq!(end("Error", 126, ""), End::NotExecutable);
        assert_eq!(end("Error", 127, ""), End::NotFound);
        assert_eq!(end("ContainerCannotRun", 128, "x"), End::NotStarted);
        assert_eq!(end("ContainerStatusUnknown", 137, ""), End::Unknown);
        assert_eq!(end("Error", 255, ""), End::Unknown);
        assert_eq!(end("StartError", 128, "exec /app: exec format error"), End::Architecture);
    }

    #[test]
    fn a_line_that_names_what_is_missing() {
        assert!(
            missing_thing("FileNotFoundError: [Errno 2] No such file or directory: '/etc/app.yaml'")
                .is_some()
        );
        assert!(missing_thing("ModuleNotFoundError: No module named 'flask'").is_some());
        assert!(missing_thing("connection refused").is_none());
    }
}
