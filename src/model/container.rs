//! Containers: what they are made of, and what the kubelet says of them.

use crate::model::json::Value;
use jiff::Timestamp;

use super::fields::Fields;
use super::mesh::part::Part;

/// What a container is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContainerRole {
    /// In `spec.containers`.
    Main,
    /// In `spec.initContainers`: must end before the next one starts.
    Init,
    /// In `spec.initContainers` with `restartPolicy: Always`: runs beside the main containers.
    NativeSidecar,
}

/// A port that a container declares. Declaring one opens nothing: an absent port proves nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPort {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its number.
    pub number: i64,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

/// Where an environment variable's value, or a whole set of them, comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvSource {
    /// Written out in the pod's template.
    Literal(String),
    /// A key of a ConfigMap.
    ConfigMapKey {
        /// The ConfigMap's name.
        name: String,
        /// The key.
        key: String,
        /// Whether the pod may start without it.
        optional: bool,
    },
    /// A key of a Secret.
    SecretKey {
        /// The Secret's name.
        name: String,
        /// The key.
        key: String,
        /// Whether the pod may start without it.
        optional: bool,
    },
    /// The downward API, or something newer.
    Other,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub source: EnvSource,
}

/// A reference of a pod's template to a whole ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigReference {
    /// `ConfigMap` or `Secret`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Keys that must be there; empty means the object alone.
    pub keys: Vec<String>,
    /// Whether the pod may start without it.
    pub optional: bool,
    /// Where the reference stands, from `spec` of the pod: `spec.volumes[1]`.
    pub path: String,
}

/// A container as the template has it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// What it is there for.
    pub role: ContainerRole,
    /// Its index in its own list, for field paths.
    pub index: usize,
    /// Its image.
    pub image: String,
    /// The ports it declares.
    pub ports: Vec<ContainerPort>,
    /// Its environment.
    pub env: Vec<EnvVar>,
    /// All of it.
    pub body: Part,
}

impl Container {
    /// The list it stands in and its place there: `containers[0]`.
    pub fn path(&self) -> String {
        let list = if self.role == ContainerRole::Main { "containers" } else { "initContainers" };
        format!("{list}[{}]", self.index)
    }

    /// A probe: `livenessProbe`, `readinessProbe` or `startupProbe`.
    pub fn probe(&self, name: &str) -> Option<&Value> {
        self.body.child(name)
    }

    /// A limit or request as a number: bytes for `memory`, cores for `cpu`. `which` is `limits` or `requests`.
    pub fn resource(&self, which: &str, name: &str) -> Option<f64> {
        self.body.text(&format!("resources.{which}.{name}")).and_then(quantity)
    }
}

/// Reads a Kubernetes quantity (`100m`, `1.5`, `128Mi`, `1G`) as a number. `None` where it is none.
pub fn quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let scale = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        // Decimal exponents: `1e3`, `2E6`.
        other => return format!("{number}{other}").parse().ok(),
    };
    Some(number.parse::<f64>().ok()? * scale)
}

/// `state` or `lastState` of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// No status yet.
    #[default]
    Unknown,
    /// `waiting`.
    Waiting {
        /// `CrashLoopBackOff`, `ImagePullBackOff`, …
        reason: String,
        /// The kubelet's words.
        message: String,
    },
    /// `running`.
    Running {
        /// Since when.
        since: Option<Timestamp>,
    },
    /// `terminated`.
    Terminated(Termination),
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Termination {
    /// Its exit code.
    pub exit_code: i64,
    /// The signal that ended it, where the runtime says so.
    pub signal: Option<i64>,
    /// `OOMKilled`, `Error`, `Completed`, …
    pub reason: String,
    /// The runtime's words, or what the container wrote as its termination message.
    pub message: String,
    /// When it started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
}

impl Termination {
    /// Whether the kernel killed it for memory. A native sidecar reports `OOMKilled` with exit code 0, and exit code
    /// 137 alone is no proof of it.
    pub fn out_of_memory(&self) -> bool {
        self.reason == "OOMKilled"
    }

    /// How long it lived, in seconds.
    pub fn lifetime(&self) -> Option<f64> {
        let started = self.started.filter(|at| at.as_second() > 0)?;
        Some((self.finished?.as_millisecond() - started.as_millisecond()) as f64 / 1000.0)
    }
}

/// What the kubelet says of a container.
#[derive(Debug, Clone, Default)]
pub struct ContainerStatus {
    /// The container's name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether its startup probe has passed.
    pub started: bool,
    /// How often it was restarted.
    pub restarts: i64,
    /// Its state now.
    pub state: ContainerState,
    /// How its previous instance ended.
    pub last: Option<Termination>,
}

impl ContainerStatus {
    /// The most recent end of it: that of the current instance if it has ended, else that of the one before.
    pub fn latest_end(&self) -> Option<&Termination> {
        match &self.state {
            ContainerState::Terminated(end) => Some(end),
            _ => self.last.as_ref(),
        }
    }

    /// Why it waits; empty where it does not.
    pub fn waiting_reason(&self) -> &str {
        match &self.state {
            ContainerState::Waiting { reason, .. } => reason,
            _ => "",
        }
    }
}

/// Whether a container is a service mesh's proxy, by the names that the injectors of Istio, Linkerd and Consul give.
pub fn is_proxy_container(name: &str) -> bool {
    matches!(name, "istio-proxy" | "linkerd-proxy" | "consul-dataplane" | "envoy-sidecar")
}

pub(super) fn read_container(body: Part, role: ContainerRole, index: usize) -> Container {
    let entry: &Value = &body;
    let ports = entry.list("ports").iter().filter_map(|port| {
        Some(ContainerPort {
            name: port.string("name"),
            number: port.int("containerPort")?,
            protocol: port.text("protocol").unwrap_or("TCP").to_owned(),
        })
    });
    let env = entry.list("env").iter().map(|var| {
        let source = if let Some(source) = var.at("valueFrom.configMapKeyRef") {
            EnvSource::ConfigMapKey {
                name: source.string("name"),
                key: source.string("key"),
                optional: source.flag("optional"),
            }
        } else if let Some(source) = var.at("valueFrom.secretKeyRef") {
            EnvSource::SecretKey {
                name: source.string("name"),
                key: source.string("key"),
                optional: source.flag("optional"),
            }
        } else if var.at("valueFrom").is_some() {
            EnvSource::Other
        } else {
            EnvSource::Literal(var.string("value"))
        };
        EnvVar { name: var.string("name"), source }
    });
    Container {
        name: entry.string("name"),
        role,
        index,
        image: entry.string("image"),
        ports: ports.collect(),
        env: env.collect(),
        body,
    }
}

pub(super) fn read_status(entry: &Value) -> ContainerStatus {
    let state = if let Some(waiting) = entry.at("state.waiting") {
        ContainerState::Waiting { reason: waiting.string("reason"), message: waiting.string("message") }
    } else if let Some(running) = entry.at("state.running") {
        ContainerState::Running { since: running.time("startedAt") }
    } else if let Some(end) = entry.at("state.terminated") {
        ContainerState::Terminated(read_termination(end))
    } else {
        ContainerState::Unknown
    };
    ContainerStatus {
        name: entry.string("name"),
        ready: entry.flag("ready"),
        started: entry.flag("started"),
        restarts: entry.int("restartCount").unwrap_or(0),
        state,
        last: entry.at("lastState.terminated").map(read_termination),
    }
}

fn read_termination(end: &Value) -> Termination {
    Termination {
        exit_code: end.int("exitCode").unwrap_or(0),
        signal: end.int("signal"),
        reason: end.string("reason"),
        message: end.string("message"),
        started: end.time("startedAt"),
        finished: end.time("finishedAt"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        assert_eq!(quantity("100m"), Some(0.1));
        assert_eq!(quantity("128Mi"), Some(134_217_728.0));
        assert_eq!(quantity("1e3"), Some(1000.0));
        assert_eq!(quantity("2"), Some(2.0));
        assert_eq!(quantity("Mi"), None);
    }

    #[test]
    fn a_container_that_never_started_has_no_lifetime() {
        let finished = "2026-11-21T10:00:03Z".parse::<Timestamp>().ok();
        let end =
            |started: Timestamp| Termination { started: Some(started), finished, ..Termination::default() };
        // Runtimes report the beginning of the epoch for it.
        assert_eq!(end(Timestamp::UNIX_EPOCH).lifetime(), None);
        assert_eq!(end("2026-11-21T10:00:00Z".parse().unwrap()).lifetime(), Some(3.0));
    }
}
