//! POD107.

use crate::model::json::{Value, json};

use super::common::{self, Group, seconds};
use super::probe::{Answer, Probe};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::service::app_listens_on_localhost::listening;
use crate::analyze::rules::service::listens_elsewhere::other_port;
use crate::model::container::ContainerState;
use crate::model::event::Event;
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Container, ContainerStatus, Pod, Termination, is_proxy_container};

crate::rule! {
    /// The kubelet kills a container because its liveness or startup probe fails.
    ///
    /// ## What it detects
    /// A container that the kubelet killed with the words `failed liveness probe` or `failed startup probe`, and why the probe fails:
    /// the application needs longer to start than the probe leaves it, nothing answers on that path or port, the answer comes too
    /// late, or the application says that it is not well.
    /// ## Why it matters
    /// The kill helps nobody: the application starts from the beginning, and where it needs longer than the probe allows it never
    /// comes up at all.
    /// ## Evidence
    /// The events `Killing` and `Unhealthy`, the probe's figures (initialDelaySeconds + periodSeconds × failureThreshold), how long the
    /// container lived, and whether it was ever ready.
    /// ## How to confirm
    /// `kubectl describe pod POD` shows the failures and the kills one after the other.
    /// ## How to fix
    /// For a slow start a startupProbe, which holds the liveness probe back until the application is up; for a wrong path or port the
    /// right one; for answers that come late a longer timeoutSeconds. A liveness probe must not depend on other services.
    /// ## False positives
    /// Failures of the probe while a container is ending for another reason are not reported: only a kill for the probe counts.
    /// ## References
    /// <https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/>
    LivenessProbe {
        code: "POD107", name: "liveness-probe-failing", family: Workload, severity: Error,
        needs: [Events, Status], aliases: ["K8S-PROBE"],
    }
}

/// A container that was killed for a probe.
#[derive(Debug)]
pub struct Case<'a> {
    status: &'a ContainerStatus,
    /// `liveness` or `startup`.
    which: &'static str,
    kill: &'a Event,
    failure: Option<&'a Event>,
    answer: Answer,
    /// Whether the container had been up before the probe failed.
    was_up: bool,
    /// Whether the mesh's agent asks the probe in the kubelet's place.
    rewritten: bool,
    /// Whether that agent's container was away when the probe failed: then the probe says nothing of the application.
    agent_away: bool,
    /// Whether it says itself that it listens where the probe does not ask, for its own pod alone or on another port: then it has
    /// started.
    listens_elsewhere: bool,
}

/// A container of a workload that is killed for a probe.
#[derive(Debug)]
pub struct Fact<'a>(Group<'a, Case<'a>>);

impl Check for LivenessProbe {
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
        let name = if case.which == "startup" { "startupProbe" } else { "livenessProbe" };
        let template = group.container().or_else(|| pod.template.container(container));
        let probe = template.and_then(|c| Probe::read(c, name));
        let port = probe.as_ref().and_then(|probe| probe.port_that_serves(group, case.answer));
        let slow_start = case.slow_start() && port.is_none();
        let allowed = probe.as_ref().map(Probe::allowed_seconds);
        let lived = case.status.latest_end().and_then(Termination::lifetime);
        let kills = case.kill.count;
        let why = match (slow_start, case.answer) {
            (true, _) => match allowed {
                Some(s) => format!("the probe leaves it {} to start, and it needs longer", seconds(s)),
                None => "it needs longer to start than the probe leaves it".to_owned(),
            },
            _ if case.agent_away => {
                "the mesh's agent asks it, whose container istio-proxy was not running".to_owned()
            }
            (_, answer) => answer.meaning(probe.as_ref()),
        };
        let mut message = format!(
            "The kubelet has killed container {container} in {} of {} {} for its {} probe: {why}",
            group.share(),
            group.owner,
            if kills == 1 { "once".to_owned() } else { format!("{kills} times") },
            case.which
        );
        if let Some(lived) = lived {
            message += &format!(". The last instance lived for {}", seconds(lived));
            if slow_start {
                message += " and was never ready: each kill makes it start from the beginning";
            }
        }
        if let Some(rollout) = group.rollout(snapshot) {
            message += &format!(
                ". These pods came with the rollout of {}, which changed {}",
                common::clock(rollout.time),
                common::differences(rollout)
            );
        }
        message += ".";
        let mechanism = if port.is_some() {
            format!(
                "{} probe asks a port that nothing listens on (wrong port, connection refused)",
                case.which
            )
        } else if slow_start {
            "liveness probe kills the container before it has started (slow start)".to_owned()
        } else {
            case.answer.mechanism("liveness probe failing")
        };
        // What a probe says of a container that was up asks for the reason why the application got worse.
        let cause = (slow_start || port.is_some() || case.answer.is_setting())
            && !case.listens_elsewhere
            && !case.agent_away;
        let role = if cause { Role::Cause } else { Role::Symptom };
        let finding = Finding::new(Self::META, group.owner.field(group.container_field(name)), &[container])
            .title(format!("{}: {} probe kills {container}, {} restarts: {}", group.owner, case.which, case.status.restarts, if slow_start { "slow start" } else { why.as_str() }))
            .message(message)
            .mechanism(mechanism)
            .severity(if group.all_down() { Severity::Critical } else { Severity::Error })
            .role(role, Confidence::Observed)
            .evidence(common::event_evidence(case.kill))
            .evidences(case.failure.map(common::event_evidence))
            .evidences(probe.as_ref().map(|probe| Evidence::object(&group.owner.field(group.container_field(name)), probe.to_string())))
            .evidences(group.cases.iter().take(2).map(|(pod, case)| common::container_evidence(pod, case.status)))
            .onset(group.cases.iter().flat_map(|(_, case)| case.failure.and_then(|e| e.first).into_iter().chain(case.kill.first)).min())
            .remedies(remedies(group, case, probe.as_ref(), lived))
            .maybe_remedy(probe.as_ref().and_then(|probe| probe.former(group, snapshot)))
            .maybe_remedy(group.undo_rollout(snapshot, ""))
            .prevention(Prevention::alert(
                "Alert when liveness probes fail",
                format!("increase(prober_probe_total{{{},probe_type=\"Liveness\",result=\"failed\"}}[10m]) > 0", common::pod_matcher(&group.owner)),
            ))
            .prevention(Prevention::of("Probe", "Give every application that needs more than a few seconds to start a startupProbe, and let the liveness probe look at the process alone"))
            .effect(Effect::calls(&group.owner));
        common::with_effects(finding, group, snapshot, common::DOWN)
    }
}

impl Case<'_> {
    /// Nothing listened yet (or it said that it is not ready), and the container had never been up.
    fn slow_start(&self) -> bool {
        // Behind a mesh's rewritten probe a port that nothing listens on is a server error of the proxy's agent.
        let early =
            matches!(self.answer, Answer::Refused | Answer::Unavailable | Answer::Timeout | Answer::Unknown)
                || (self.rewritten && self.answer == Answer::ServerError);
        !self.was_up && early && !self.listens_elsewhere && !self.agent_away
    }
}

/// A proxy that ended this many seconds before a probe was seen to fail was still away, or starting, when it was asked: the kubelet waits 10 s before it
/// starts a container again, and a proxy takes a few more until it answers.
const AGENT_RETURNS: f64 = 30.0;

/// Whether the proxy's container does not run, or ended since the probe began to fail.
fn proxy_away(pod: &Pod, failure: Option<&Event>) -> bool {
    let Some(proxy) = pod.containers().find_map(|(c, status)| is_proxy_container(&c.name).then_some(status))
    else {
        return false;
    };
    let since = failure.and_then(|event| event.first.or(event.last));
    let ended = proxy.latest_end().and_then(|end| end.finished);
    let lately =
        since.zip(ended).is_some_and(|(since, ended)| common::seconds_between(ended, since) < AGENT_RETURNS);
    matches!(proxy.state, ContainerState::Waiting { .. } | ContainerState::Terminated(_)) || lately
}

/// A kill that is older than this, in a container that has run well since, is over.
const OVER_SECONDS: f64 = 1800.0;

fn killed<'a>(snapshot: &'a Snapshot, pod: &'a Pod) -> Vec<(String, Case<'a>)> {
    let mut out = vec![];
    if pod.ended() {
        return out;
    }
    for (container, status) in pod.containers() {
        if is_proxy_container(&container.name) {
            continue;
        }
        let Some((which, kill)) = common::killed_by_probe(snapshot, pod, &container.name) else { continue };
        let ago = kill.last.map(|at| common::seconds_between(at, snapshot.now)).unwrap_or(0.0);
        if status.ready && ago > OVER_SECONDS {
            continue;
        }
        let word = if which == "startup" { "Startup probe" } else { "Liveness probe" };
        let failure = common::container_events(snapshot, pod, &container.name, "Unhealthy")
            .find(|e| e.message.starts_with(word));
        let answer = failure.map_or(Answer::Unknown, |e| Answer::of(&e.message));
        let rewritten = super::probe::rewritten(container);
        out.push((
            container.name.clone(),
            Case {
                status,
                which,
                kill,
                failure,
                answer,
                was_up: was_up(snapshot, pod, status),
                rewritten,
                agent_away: rewritten && proxy_away(pod, failure),
                listens_elsewhere: listens_elsewhere(snapshot, pod, container),
            },
        ));
    }
    out
}

/// Whether the log of a container says that it serves one of its ports on the loopback address alone, or another port.
fn listens_elsewhere(snapshot: &Snapshot, pod: &Pod, container: &Container) -> bool {
    let Some(workload) = snapshot.workload(&snapshot.owner(pod)) else { return false };
    container.ports.iter().any(|port| {
        listening(snapshot, workload, port.number).is_some()
            || other_port(snapshot, workload, port.number).is_some()
    })
}

/// Whether a container was ever up: it is ready now, it was counted as ready, or its last instance lived much longer than the
/// probe's patience.
fn was_up(snapshot: &Snapshot, pod: &Pod, status: &ContainerStatus) -> bool {
    if status.ready {
        return true;
    }
    let counted = snapshot.series_named("kube_pod_container_status_ready").any(|s| {
        s.label("pod") == pod.object.name()
            && s.label("namespace") == pod.object.namespace()
            && s.label("container") == status.name
            && s.max().unwrap_or(0.0) > 0.0
    });
    let patience = pod
        .template
        .container(&status.name)
        .and_then(|c| Probe::read(c, "livenessProbe"))
        .map_or(60.0, |probe| probe.allowed_seconds());
    let lived = status.latest_end().and_then(Termination::lifetime);
    counted || lived.is_some_and(|s| s > patience * 2.0 + 60.0)
}

/// What to do, the best first.
fn remedies(
    group: &Group<'_, Case<'_>>,
    case: &Case<'_>,
    probe: Option<&Probe>,
    lived: Option<f64>,
) -> Vec<Remedy> {
    if case.agent_away {
        return vec![Remedy::manual(
            "See why the container istio-proxy of these pods ends (kubectl describe pod): the probe is answered again once it runs",
        )];
    }
    let Some(probe) = probe else {
        return vec![Remedy::manual(
            "Give the application longer to start: a startupProbe on the same endpoint as the liveness probe",
        )];
    };
    let mut out = vec![];
    if let Some(port) = probe.port_that_serves(group, case.answer) {
        let shown = port.as_str().map_or_else(|| port.to_string(), str::to_owned);
        return probe
            .set(
                group,
                &format!("{}.port", probe.kind),
                port,
                format!("Set the port of the {} to {shown}, which the container declares", probe.name),
            )
            .into_iter()
            .collect();
    }
    if case.slow_start() && case.which == "liveness" {
        // Four times what it had was not enough; two minutes suffice for most runtimes.
        const PERIOD: f64 = 5.0;
        let patience = (probe.allowed_seconds().max(lived.unwrap_or(0.0)) * 4.0).max(120.0);
        let threshold = (patience / PERIOD).ceil() as i64;
        let mut startup = probe.handler();
        if let Some(map) = startup.as_object_mut() {
            map.insert("periodSeconds".to_owned(), json!(PERIOD as i64));
            map.insert("failureThreshold".to_owned(), json!(threshold));
        }
        out.extend(group.patch_container(
            &[("add", "startupProbe", startup)],
            format!("Add a startupProbe on the same endpoint: it gives the application {} to start, and the liveness probe begins after it", seconds(PERIOD * threshold as f64)),
        ));
    }
    if case.slow_start() && case.which == "startup" {
        let threshold = (probe.failure_threshold * 4.0).ceil() as i64;
        out.extend(probe.set(
            group,
            "failureThreshold",
            json!(threshold),
            format!(
                "Raise failureThreshold of the startupProbe to {threshold}: {} to start instead of {}",
                seconds(probe.period * threshold as f64),
                seconds(probe.allowed_seconds())
            ),
        ));
    }
    if case.answer == Answer::Timeout {
        let timeout = (probe.timeout * 5.0).max(5.0) as i64;
        out.extend(probe.set(
            group,
            "timeoutSeconds",
            json!(timeout),
            format!(
                "Raise timeoutSeconds of the probe from {} to {timeout}: its answer comes late, not never",
                probe.timeout
            ),
        ));
    }
    if let Some(path) = probe.path_that_works(group, case.answer) {
        out.extend(probe.set(
            group,
            "httpGet.path",
            Value::from(path.clone()),
            format!(
                "Set the path of the probe to {path}, where the other probe of the container is answered"
            ),
        ));
    }
    if matches!(case.answer, Answer::Unavailable | Answer::ServerError) && case.was_up {
        out.push(Remedy::manual("Take whatever depends on other services out of the endpoint that the liveness probe asks: a restart does not heal a dependency"));
    }
    out
}
