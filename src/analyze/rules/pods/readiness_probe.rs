//! POD108.

use crate::model::json::json;

use super::common::{self, Group, seconds};
use super::probe::{Answer, Probe};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::event::Event;
use crate::model::log::{LogLine, LogStream};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, ContainerState, ContainerStatus, Pod, is_proxy_container};

crate::rule! {
    /// A container runs and its readiness probe fails: its pod takes no traffic.
    ///
    /// ## What it detects
    /// A running container that is not ready for longer than its readiness probe leaves it, and how the probe fails: a path that
    /// does not exist, a port on which nothing listens, no answer in time, or an application that says it is not ready.
    /// ## Why it matters
    /// The pod is taken out of its Services. When no pod is left, callers are refused or get `503 UH no_healthy_upstream`.
    /// ## Evidence
    /// The `Unhealthy` events, the probe, the container's status, lines of the application's log about the probe's path, and what a
    /// rollout changed of the probe.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the failures; ask the probe's path and port from within the pod.
    /// ## How to fix
    /// Set path and port to those on which the application answers; give a slow answer more time. Where the application itself says
    /// that it is not ready, the reason lies behind it.
    /// ## False positives
    /// A container that has just started, one that crashes or is killed (other rules say so), and single failures of a pod that is
    /// ready.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/>
    ReadinessProbe {
        code: "POD108", name: "readiness-probe-failing", family: Workload, severity: Error,
        needs: [Status], aliases: [],
    }
}

/// A container that runs and is not ready.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    probe: Probe,
    failure: Option<&'a Event>,
    answer: Answer,
    /// A line of the application's log that answers the probe's path with 404.
    line: Option<(&'a LogStream, &'a LogLine)>,
    /// Whether the mesh's agent asks the probe in the kubelet's place.
    rewritten: bool,
    /// Since when it is not ready.
    since: Option<jiff::Timestamp>,
}

/// A container of a workload that is not ready.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for ReadinessProbe {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        common::groups(snapshot, |pod| unready(snapshot, pod)).into_iter().map(Fact).collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let group = &fact.0;
        let container = &group.container;
        let told =
            group.cases.iter().find(|(_, case)| case.answer != Answer::Unknown).or_else(|| group.first());
        let Some((pod, case)) = told else {
            return Finding::new(Self::META, group.owner.clone(), &[container]);
        };
        let answer = case.answer;
        let template = group.container().or_else(|| pod.template.container(container));
        // What a person wrote, not what an injector made of it.
        let written = template.and_then(|c| Probe::read(c, "readinessProbe"));
        let probe = written.as_ref().unwrap_or(&case.probe);
        let agent = case.rewritten && matches!(answer, Answer::Refused | Answer::Reset);
        let port = template.filter(|_| !agent).and_then(|c| right_port(c, probe, answer));
        let former = probe.former(group, snapshot);
        let changed = group.rollout(snapshot).is_some_and(|c| {
            c.differences.iter().any(|d| d.path.contains(&format!("[name={container}].readinessProbe")))
        });
        let cause = !agent && (answer.is_setting() || port.is_some() || changed);
        let field = match answer {
            _ if agent => "readinessProbe".to_owned(),
            Answer::NotFound | Answer::Denied => "readinessProbe.httpGet.path".to_owned(),
            Answer::Refused => format!("readinessProbe.{}.port", probe.kind),
            Answer::Timeout => "readinessProbe.timeoutSeconds".to_owned(),
            Answer::NoProgram => "readinessProbe.exec.command".to_owned(),
            _ => "readinessProbe".to_owned(),
        };
        let why = if agent {
            "the proxy beside it does not answer".to_owned()
        } else {
            answer.meaning(Some(probe))
        };
        let mut message = format!(
            "Container {container} runs in {} of {} and is not ready: {why}",
            group.share(),
            group.owner
        );
        if let Some((wrong, right)) = port.as_ref().map(|right| (&probe.port, right)) {
            message += &format!(". The probe asks port {wrong}, and the container serves on {right}");
        }
        if changed && let Some(rollout) = group.rollout(snapshot) {
            message += &format!(
                ". The rollout of {} changed the probe ({})",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message += if group.all_down() {
            ". No pod of the workload is ready, so its Services have nobody to send requests to."
        } else {
            ". Other pods take its traffic."
        };
        let events: Vec<_> = group
            .cases
            .iter()
            .filter_map(|(_, case)| case.failure)
            .take(3)
            .map(common::event_evidence)
            .collect();
        let raise = (answer == Answer::Timeout).then(|| {
            let timeout = (probe.timeout * 5.0).max(5.0) as i64;
            probe.set(group, "timeoutSeconds", json!(timeout), format!("Raise timeoutSeconds of the readinessProbe from {} to {timeout} while the reason for the slow answer is looked for", probe.timeout))
        });
        let (raise, undo) = (raise.flatten(), group.undo_rollout(snapshot, ""));
        // A probe that came with the rollout was never answered in time.
        let (first, second) = if changed { (undo, raise) } else { (raise, undo) };
        let finding = Finding::new(Self::META, group.owner.field(group.container_field(&field)), &[container])
            .title(format!("{}: {} not ready, readiness probe of {container} fails: {why}", group.owner, common::plural(group.cases.len(), "pod")))
            .message(message)
            .mechanism(answer.mechanism("readiness probe failing"))
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(if cause { Role::Cause } else { Role::Symptom }, Confidence::Observed)
            .evidences(events)
            .evidence(Evidence::object(&group.owner.field(group.container_field("readinessProbe")), probe.to_string()))
            .evidences(group.cases.iter().take(2).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .evidences(case.line.map(|(stream, line)| {
                Evidence::new("Log", format!("Pod {}/{}, container {}", stream.namespace, stream.pod, stream.container), format!("answers {} with 404", probe.path))
                    .excerpt(&line.text)
                    .at(line.time)
            }))
            .onset(group.cases.iter().filter_map(|(_, case)| case.since).min())
            .maybe_remedy(former)
            .maybe_remedy(port.and_then(|right| {
                let value = right.parse::<i64>().map_or_else(|_| json!(right), |n| json!(n));
                probe.set(group, &format!("{}.port", probe.kind), value, format!("Set the port of the readinessProbe to {right}, on which the container serves"))
            }))
            .maybe_remedy(probe.path_that_works(group, answer).and_then(|path| {
                probe.set(group, "httpGet.path", json!(path), format!("Set httpGet.path of the readinessProbe to {path}, which another probe of the container asks with success"))
            }))
            .maybe_remedy(first)
            .maybe_remedy(second)
            .remedy(ask(pod, container, probe, answer))
            .prevention(Prevention::alert(
                "Alert when ready pods are missing",
                format!("kube_deployment_status_replicas_available{{namespace=\"{ns}\",deployment=\"{name}\"}} < kube_deployment_spec_replicas{{namespace=\"{ns}\",deployment=\"{name}\"}}", ns = group.owner.namespace, name = group.owner.name),
            ))
            .prevention(Prevention::of("Test", "Start the image in the pipeline and ask every probe's path and port of its template once"));
        common::with_effects(
            finding,
            group,
            snapshot,
            &["UH", "LH", "refused", "timeout", "5xx", "no_healthy_upstream"],
        )
    }
}

/// The containers of a pod that run, are not ready, and that no other rule explains.
fn unready<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    for (container, status) in pod.containers() {
        let ContainerState::Running { since: started } = &status.state else { continue };
        if pod.ended() || status.ready || is_proxy_container(&container.name) {
            continue;
        }
        let Some(probe) = Probe::read(container, "readinessProbe") else { continue };
        // Ready follows after a first success: what the figures leave it, and a period more.
        let patience = probe.initial_delay + probe.period * probe.failure_threshold.max(2.0) + probe.period;
        let waited = started.map(|at| common::seconds_between(at, snapshot.now));
        if waited.is_some_and(|s| s < patience)
            || common::killed_by_probe(snapshot, pod, &container.name).is_some()
        {
            continue;
        }
        // Before the startup probe has passed the others are not asked.
        if Probe::read(container, "startupProbe").is_some() && !status.started {
            continue;
        }
        let lately = |e: &&Event| e.last.is_none_or(|at| started.is_none_or(|s| at >= s));
        let failure = common::container_events(snapshot, pod, &container.name, "Unhealthy")
            .filter(|e| e.message.starts_with("Readiness probe"))
            .filter(lately)
            .last();
        let line = not_found_line(snapshot, pod, container, &probe);
        let answer = failure.map_or(if line.is_some() { Answer::NotFound } else { Answer::Unknown }, |e| {
            Answer::of(&e.message)
        });
        let since = pod.condition("Ready").filter(|c| c.status == "False").and_then(|c| c.since);
        let since = since.into_iter().chain(failure.and_then(|e| e.first)).min();
        out.push((
            container.name.clone(),
            Case {
                status,
                probe,
                failure,
                answer,
                line,
                rewritten: super::probe::rewritten(container),
                since,
            },
        ));
    }
    out
}

/// The last line in which the application itself answers the probe's path with 404.
fn not_found_line<'a>(
    snapshot: &'a Snapshot,
    pod: &Pod,
    container: &Container,
    probe: &Probe,
) -> Option<(&'a LogStream, &'a LogLine)> {
    if probe.path.len() < 2 {
        return None;
    }
    let stream = snapshot.log(pod.object.namespace(), pod.object.name(), &container.name, false)?;
    const LOOK_BACK: usize = 500;
    let lines = stream.lines.get(stream.lines.len().saturating_sub(LOOK_BACK)..)?;
    let says = |line: &&LogLine| {
        line.text.contains(&probe.path)
            && line.text.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "404")
    };
    lines.iter().rev().find(says).map(|line| (stream, line))
}

/// The port on which the container serves, where the probe asks another one and is refused: that of its other probe, or its
/// only declared port.
fn right_port(container: &Container, probe: &Probe, answer: Answer) -> Option<String> {
    if answer != Answer::Refused || probe.port.is_empty() {
        return None;
    }
    let other =
        Probe::read(container, "livenessProbe").filter(|p| p.number.is_some() && p.number != probe.number);
    if let Some(other) = other {
        return Some(other.port);
    }
    let declared = container.ports.iter().any(|p| Some(p.number) == probe.number || p.name == probe.port);
    match container.ports.as_slice() {
        [only] if !declared => {
            Some(if only.name.is_empty() { only.number.to_string() } else { only.name.clone() })
        }
        _ => None,
    }
}

/// Ask it as the kubelet does.
fn ask(pod: &Pod, container: &str, probe: &Probe, answer: Answer) -> Remedy {
    let summary = match answer {
        Answer::Unavailable | Answer::ServerError => {
            "Read in the application's log why it says that it is not ready: the reason lies in it or in what it depends on"
        }
        Answer::Timeout => {
            "Find out what keeps the application from answering in time: CPU throttling, a pool that is used up, a dependency that it waits for"
        }
        Answer::Refused => "Read in the application's log on which address and port it listens",
        _ => "Read the application's log and compare it with the probe",
    };
    let period = seconds(probe.period);
    Remedy::commands(
        format!("{summary} (it is asked every {period})"),
        vec![common::logs_command(pod, container, false), common::describe_command(&pod.object.reference)],
        vec![],
    )
}
