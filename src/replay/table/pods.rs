//! Pods: the STATUS column is a judgement over phase, conditions and every container's state.

use crate::model::json::{Value, json};
use jiff::Timestamp;

use super::{Printer, age, created, name, or_none};
use crate::model::fields::Fields;

pub(super) const PODS: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Ready", "string", 0),
        ("Status", "string", 0),
        ("Restarts", "string", 0),
        ("Age", "string", 0),
        ("IP", "string", 1),
        ("Node", "string", 1),
        ("Nominated Node", "string", 1),
        ("Readiness Gates", "string", 1),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, age::since(Some(at), now))
        }
        _ => summary.restarts.to_string(),
    };
    let gates = pod.list("spec.readinessGates");
    let open =
        gates.iter().filter(|gate| condition(pod, &gate.string("conditionType")) == Some("True")).count();
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        created(pod, now),
        or_none(pod.text("status.podIP").unwrap_or_default()),
        or_none(pod.text("spec.nodeName").unwrap_or_default()),
        or_none(pod.text("status.nominatedNodeName").unwrap_or_default()),
        if gates.is_empty() { json!("<none>") } else { json!(format!("{open}/{}", gates.len())) },
    ]
}

fn condition<'a>(pod: &'a Value, of: &str) -> Option<&'a str> {
    pod.list("status.conditions").iter().find(|c| c.text("type") == Some(of))?.text("status")
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Why a container is not running: the reason in a terminated state, else its signal or exit code.
fn terminated(state: &Value) -> String {
    if let Some(reason) = state.text("reason").filter(|reason| !reason.is_empty()) {
        return reason.to_owned();
    }
    match state.int("signal").unwrap_or_default() {
        0 => format!("ExitCode:{}", state.int("exitCode").unwrap_or_default()),
        signal => format!("Signal:{signal}"),
    }
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let sidecar = |of: &str| {
            let containers = pod.list("spec.initContainers");
            let found = containers.iter().find(|container| container.text("name") == Some(of));
            found.is_some_and(|container| container.text("restartPolicy") == Some("Always"))
        };
        let init_containers = pod.list("spec.initContainers");
        let sidecars = init_containers.iter().filter(|c| sidecar(&c.string("name"))).count();
        let mut summary = Summary {
            reason: pod
                .text("status.reason")
                .filter(|r| !r.is_empty())
                .map_or(pod.string("status.phase"), str::to_owned),
            ready: 0,
            total: pod.list("spec.containers").len() + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let gated =
            |c: &Value| c.text("type") == Some("PodScheduled") && c.text("reason") == Some("SchedulingGated");
        if pod.list("status.conditions").iter().any(gated) {
            summary.reason = "SchedulingGated".to_owned();
        }
        let (initializing, of_sidecars, sidecar_restart) = summary.init(pod, init_containers.len(), &sidecar);
        if !initializing || condition(pod, "Initialized") == Some("True") {
            summary.restarts = of_sidecars;
            summary.last_restart = sidecar_restart;
            summary.running(pod);
        }
        let done = matches!(pod.text("status.phase"), Some("Succeeded" | "Failed"));
        if pod.at("metadata.deletionTimestamp").is_some() {
            if pod.text("status.reason") == Some("NodeLost") {
                summary.reason = "Unknown".to_owned();
            } else if !done {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Init containers. Returns whether they are still at it, and what restarts the sidecars among them had.
    fn init(
        &mut self,
        pod: &Value,
        count: usize,
        sidecar: &dyn Fn(&str) -> bool,
    ) -> (bool, i64, Option<Timestamp>) {
        let (mut of_sidecars, mut sidecar_restart) = (0, None);
        for (index, status) in pod.list("status.initContainerStatuses").iter().enumerate() {
            let restarts = status.int("restartCount").unwrap_or_default();
            let restarted = status.time("lastState.terminated.finishedAt");
            let is_sidecar = sidecar(&status.string("name"));
            self.restarts += restarts;
            self.last_restart = self.last_restart.max(restarted);
            if is_sidecar {
                of_sidecars += restarts;
                sidecar_restart = sidecar_restart.max(restarted);
            }
            if let Some(state) = status.at("state.terminated") {
                if state.int("exitCode") == Some(0) {
                    continue;
                }
                self.reason = format!("Init:{}", terminated(state));
                return (true, of_sidecars, sidecar_restart);
            }
            if is_sidecar && status.flag("started") {
                self.ready += usize::from(status.flag("ready"));
                continue;
            }
            self.reason = match status.text("state.waiting.reason") {
                Some(reason) if !reason.is_empty() && reason != "PodInitializing" => format!("Init:{reason}"),
                _ => format!("Init:{index}/{count}"),
            };
            return (true, of_sidecars, sidecar_restart);
        }
        (false, of_sidecars, sidecar_restart)
    }

    fn running(&mut self, pod: &Value) {
        let mut has_running = false;
        for status in pod.list("status.containerStatuses").iter().rev() {
            self.restarts += status.int("restartCount").unwrap_or_default();
            self.last_restart = self.last_restart.max(status.time("lastState.terminated.finishedAt"));
            let waiting = status.text("state.waiting.reason").filter(|reason| !reason.is_empty());
            if let Some(reason) = waiting {
                self.reason = reason.to_owned();
            } else if let Some(state) = status.at("state.terminated") {
                self.reason = terminated(state);
            } else if status.flag("ready") && status.at("state.running").is_some() {
                has_running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && has_running {
            let ready = condition(pod, "Ready") == Some("True");
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}
