//! Pods, their containers, and what owns them.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields::Fields;
use super::object::{Object, ObjectRef};
use super::selector::{Labels, Selector};

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
    pub body: Arc<Value>,
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
        Some((self.finished?.as_millisecond() - self.started?.as_millisecond()) as f64 / 1000.0)
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

/// A condition of any object's status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When `status` last changed.
    pub since: Option<Timestamp>,
}

/// Reads a list of conditions.
pub fn conditions(list: &[Value]) -> Vec<Condition> {
    list.iter()
        .map(|entry| Condition {
            kind: entry.string("type"),
            status: entry.string("status"),
            reason: entry.string("reason"),
            message: entry.string("message"),
            since: entry.time("lastTransitionTime"),
        })
        .collect()
}

/// What a pod is made from: a pod's own spec, or the template of what makes pods.
#[derive(Debug, Clone)]
pub struct PodTemplate {
    /// Labels of the pods.
    pub labels: Labels,
    /// Annotations of the pods.
    pub annotations: BTreeMap<String, String>,
    /// All containers: init containers first, in order.
    pub containers: Vec<Container>,
    /// `spec.serviceAccountName`; `default` where it is absent.
    pub service_account: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// The pod's spec.
    pub spec: Arc<Value>,
}

impl PodTemplate {
    /// Reads `metadata` and `spec` of a pod or of a template.
    pub fn read(template: &Value) -> Self {
        let spec = template.at("spec").cloned().unwrap_or(Value::Null);
        let mut containers = vec![];
        for (list, main) in [("initContainers", false), ("containers", true)] {
            for (index, entry) in spec.list(list).iter().enumerate() {
                let role = match (main, entry.text("restartPolicy")) {
                    (true, _) => ContainerRole::Main,
                    (false, Some("Always")) => ContainerRole::NativeSidecar,
                    (false, _) => ContainerRole::Init,
                };
                containers.push(read_container(entry, role, index));
            }
        }
        PodTemplate {
            labels: template.text_map("metadata.labels"),
            annotations: template.text_map("metadata.annotations"),
            containers,
            service_account: spec.text("serviceAccountName").unwrap_or("default").to_owned(),
            host_network: spec.flag("hostNetwork"),
            spec: Arc::new(spec),
        }
    }

    /// A container by its name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Whether a container of this name is there, main or native sidecar.
    pub fn has_running_container(&self, name: &str) -> bool {
        self.containers.iter().any(|c| c.name == name && c.role != ContainerRole::Init)
    }

    /// The containers that are the application's own: not an injected proxy.
    pub fn application_containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| c.role == ContainerRole::Main && !is_proxy_container(&c.name))
    }

    /// Everything that the pod takes from ConfigMaps and Secrets.
    pub fn config_references(&self) -> Vec<ConfigReference> {
        let mut out = vec![];
        for container in &self.containers {
            for (index, entry) in container.body.list("env").iter().enumerate() {
                for (kind, field) in
                    [("ConfigMap", "valueFrom.configMapKeyRef"), ("Secret", "valueFrom.secretKeyRef")]
                {
                    if let Some(source) = entry.at(field) {
                        out.push(ConfigReference {
                            kind,
                            name: source.string("name"),
                            keys: vec![source.string("key")],
                            optional: source.flag("optional"),
                            path: format!("spec.{}.env[{index}].{field}", container.path()),
                        });
                    }
                }
            }
            for (index, entry) in container.body.list("envFrom").iter().enumerate() {
                for (kind, field) in [("ConfigMap", "configMapRef"), ("Secret", "secretRef")] {
                    if let Some(source) = entry.at(field) {
                        out.push(ConfigReference {
                            kind,
                            name: source.string("name"),
                            keys: vec![],
                            optional: source.flag("optional"),
                            path: format!("spec.{}.envFrom[{index}].{field}", container.path()),
                        });
                    }
                }
            }
        }
        for (index, volume) in self.spec.list("volumes").iter().enumerate() {
            for (kind, field, name) in
                [("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")]
            {
                if let Some(source) = volume.at(field) {
                    out.push(ConfigReference {
                        kind,
                        name: source.string(name),
                        keys: source.list("items").iter().map(|item| item.string("key")).collect(),
                        optional: source.flag("optional"),
                        path: format!("spec.volumes[{index}].{field}"),
                    });
                }
            }
        }
        out.retain(|reference| !reference.name.is_empty());
        out
    }
}

/// Whether a container is a service mesh's proxy, by the names that the injectors of Istio, Linkerd and Consul give.
pub fn is_proxy_container(name: &str) -> bool {
    matches!(name, "istio-proxy" | "linkerd-proxy" | "consul-dataplane" | "envoy-sidecar")
}

fn read_container(entry: &Value, role: ContainerRole, index: usize) -> Container {
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
        body: Arc::new(entry.clone()),
    }
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// What names it, who edited it, when it was made.
    pub object: Object,
    /// What it is made of.
    pub template: PodTemplate,
    /// `status.phase`; empty where there is no status.
    pub phase: String,
    /// `status.reason`: `Evicted`, `NodeLost`, …
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// Its addresses.
    pub ips: Vec<String>,
    /// The node it runs on; empty where it was not placed.
    pub node: String,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What the kubelet says of its containers, init containers included.
    pub statuses: Vec<ContainerStatus>,
}

impl Pod {
    /// Reads a pod.
    pub fn read(object: Object) -> Self {
        let body = Arc::clone(&object.body);
        let mut ips = body.list("status.podIPs").iter().map(|ip| ip.string("ip")).collect::<Vec<_>>();
        if let Some(ip) = body.text("status.podIP")
            && !ips.iter().any(|known| known == ip)
        {
            ips.push(ip.to_owned());
        }
        let statuses = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
        Pod {
            template: PodTemplate::read(&body),
            phase: body.string("status.phase"),
            reason: body.string("status.reason"),
            message: body.string("status.message"),
            ips,
            node: body.string("spec.nodeName"),
            conditions: conditions(body.list("status.conditions")),
            statuses: statuses
                .iter()
                .flat_map(|list| body.list(&format!("status.{list}")))
                .map(read_status)
                .collect(),
            object,
        }
    }

    /// Whether its status was seen at all: manifests have none, and a missing status is no failure.
    pub fn has_status(&self) -> bool {
        !self.phase.is_empty() || !self.conditions.is_empty() || !self.statuses.is_empty()
    }

    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether its `Ready` condition is true and it is not going away.
    pub fn ready(&self) -> bool {
        self.object.deleted.is_none() && self.condition("Ready").is_some_and(|c| c.status == "True")
    }

    /// Whether it has ended for good (a finished job's pod, an evicted pod).
    pub fn ended(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The status of a container by its name.
    pub fn status(&self, container: &str) -> Option<&ContainerStatus> {
        self.statuses.iter().find(|status| status.name == container)
    }

    /// Each container with its status, where there is one.
    pub fn containers(&self) -> impl Iterator<Item = (&Container, &ContainerStatus)> {
        self.template
            .containers
            .iter()
            .filter_map(|container| Some((container, self.status(&container.name)?)))
    }
}

fn read_status(entry: &Value) -> ContainerStatus {
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

/// Something that makes pods: a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What names it, who edited it, when it was made.
    pub object: Object,
    /// What its pods are made of.
    pub template: PodTemplate,
    /// Which pods it counts as its own.
    pub selector: Selector,
    /// `spec.replicas`; `None` for kinds that have none, 1 where a Deployment says nothing.
    pub replicas: Option<i64>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

impl Workload {
    /// The kinds that are read as workloads.
    pub const KINDS: &[&str] = &[
        "Deployment",
        "StatefulSet",
        "DaemonSet",
        "ReplicaSet",
        "Job",
        "CronJob",
        "ReplicationController",
        "Rollout",
    ];

    /// Reads one of [`Workload::KINDS`].
    pub fn read(object: Object) -> Self {
        let body = Arc::clone(&object.body);
        let template = if object.reference.kind == "CronJob" {
            "spec.jobTemplate.spec.template"
        } else {
            "spec.template"
        };
        let template = PodTemplate::read(body.at(template).unwrap_or(&Value::Null));
        let selector = match body.at("spec.selector") {
            Some(selector) if object.reference.kind == "ReplicationController" => Selector::labels(
                selector
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
                    .collect(),
            ),
            Some(selector) => Selector::read(selector),
            None => Selector::labels(template.labels.clone()),
        };
        let scales = matches!(
            object.reference.kind.as_str(),
            "Deployment" | "StatefulSet" | "ReplicaSet" | "ReplicationController" | "Rollout"
        );
        Workload {
            template,
            selector,
            replicas: if scales { Some(body.int("spec.replicas").unwrap_or(1)) } else { None },
            conditions: conditions(body.list("status.conditions")),
            object,
        }
    }

    /// What names it.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// A number of its status, such as `readyReplicas`; `None` where it has no status at all.
    pub fn status_count(&self, field: &str) -> Option<i64> {
        let status = self.object.body.at("status")?;
        Some(status.int(field).unwrap_or(0))
    }

    /// The path of a field of its pods' template, whatever its kind: `spec.template.` and what follows.
    pub fn template_path(&self, rest: &str) -> String {
        let prefix = if self.reference().kind == "CronJob" {
            "spec.jobTemplate.spec.template"
        } else {
            "spec.template"
        };
        format!("{prefix}.{rest}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        assert_eq!(quantity("100m"), Some(0.1));
        assert_eq!(quantity("128Mi"), Some(134_217_728.0));
        assert_eq!(quantity("1e3"), Some(1000.0));
        assert_eq!(quantity("2"), Some(2.0));
        assert_eq!(quantity("Mi"), None);
    }

    #[test]
    fn a_native_sidecar_is_told_from_an_init_container() {
        let pod = Pod::read(
            Object::read(json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {
                "initContainers": [{"name": "istio-proxy", "restartPolicy": "Always"}, {"name": "setup"}],
                "containers": [{"name": "app"}]},
                "status": {"initContainerStatuses": [{"name": "istio-proxy", "ready": true,
                    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 0}}}]}}))
            .unwrap(),
        );
        assert!(pod.template.has_running_container("istio-proxy"));
        assert!(!pod.template.has_running_container("setup"));
        assert!(pod.status("istio-proxy").unwrap().last.as_ref().unwrap().out_of_memory());
    }
}
