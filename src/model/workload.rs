//! Pods and what owns them.

use crate::model::json::Value;
use jiff::Timestamp;
use std::sync::Arc;

use super::fields::Fields;
use super::mesh::part::Part;
use super::object::{Object, ObjectRef};
use super::selector::{Labels, Selector};

pub use super::container::{
    ConfigReference, Container, ContainerPort, ContainerRole, ContainerState, ContainerStatus, EnvSource,
    EnvVar, Termination, is_proxy_container, quantity,
};
use super::container::{read_container, read_status};

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
    pub annotations: Labels,
    /// All containers: init containers first, in order.
    pub containers: Vec<Container>,
    /// `spec.serviceAccountName`; `default` where it is absent.
    pub service_account: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// The pod's spec.
    pub spec: Part,
}

/// Where a body has what pods are made of.
struct Place {
    metadata: &'static str,
    spec: &'static str,
    init_containers: &'static str,
    containers: &'static str,
}

/// In a pod.
const POD: Place = Place {
    metadata: "metadata",
    spec: "spec",
    init_containers: "spec.initContainers",
    containers: "spec.containers",
};

/// In what makes pods.
const TEMPLATE: Place = Place {
    metadata: "spec.template.metadata",
    spec: "spec.template.spec",
    init_containers: "spec.template.spec.initContainers",
    containers: "spec.template.spec.containers",
};

/// In what makes jobs.
const JOB_TEMPLATE: Place = Place {
    metadata: "spec.jobTemplate.spec.template.metadata",
    spec: "spec.jobTemplate.spec.template.spec",
    init_containers: "spec.jobTemplate.spec.template.spec.initContainers",
    containers: "spec.jobTemplate.spec.template.spec.containers",
};

impl PodTemplate {
    /// Reads `metadata` and `spec` of a pod.
    pub fn read(pod: &Arc<Value>) -> Self {
        PodTemplate::read_at(pod, &POD)
    }

    fn read_at(body: &Arc<Value>, place: &Place) -> Self {
        let spec = Part::field(body, place.spec);
        let metadata = Part::field(body, place.metadata);
        let mut containers = vec![];
        for (list, main) in [(place.init_containers, false), (place.containers, true)] {
            for (index, entry) in body.list(list).iter().enumerate() {
                let role = match (main, entry.text("restartPolicy")) {
                    (true, _) => ContainerRole::Main,
                    (false, Some("Always")) => ContainerRole::NativeSidecar,
                    (false, _) => ContainerRole::Init,
                };
                containers.push(read_container(Part::of(body, list, index), role, index));
            }
        }
        PodTemplate {
            labels: metadata.text_map("labels"),
            annotations: metadata.text_map("annotations"),
            containers,
            service_account: spec.text("serviceAccountName").unwrap_or("default").to_owned(),
            host_network: spec.flag("hostNetwork"),
            spec,
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
            let body: &Value = &container.body;
            for (index, entry) in body.list("env").iter().enumerate() {
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
            for (index, entry) in body.list("envFrom").iter().enumerate() {
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

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
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
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
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

/// Something that makes pods: a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
#[derive(Debug, Clone)]
pub struct Workload {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
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
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = Arc::clone(&object.body);
        let place = if object.reference.kind == "CronJob" { &JOB_TEMPLATE } else { &TEMPLATE };
        let template = PodTemplate::read_at(&body, place);
        let selector = match body.at("spec.selector") {
            Some(selector) if object.reference.kind == "ReplicationController" => Selector::labels(
                selector
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(k, v)| Some((k.to_string(), v.as_str()?.to_owned())))
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
    use crate::model::json::json;

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
