//! Services, the endpoints behind them, and NetworkPolicies.

use crate::model::json::Value;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::fields::Fields;
use super::object::{Object, ObjectRef};
use super::selector::{Labels, Selector};
use super::workload::{ContainerRole, Pod, PodTemplate};

/// Names a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceName {
    /// Namespace and name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ServiceName { namespace: namespace.into(), name: name.into() }
    }

    /// The Service object that it names.
    pub fn reference(&self) -> ObjectRef {
        ObjectRef { api_version: "v1".to_owned(), ..ObjectRef::new("Service", &self.namespace, &self.name) }
    }
}

impl std::fmt::Display for ServiceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a Service's port points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(i64),
    /// The name of a container's port.
    Name(String),
}

impl std::fmt::Display for TargetPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TargetPort::Number(number) => write!(f, "{number}"),
            TargetPort::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// How a port's traffic is read, as Istio and the Gateway API derive it from `appProtocol` or the port's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 in plaintext.
    Http2,
    /// gRPC.
    Grpc,
    /// TLS of which the proxy sees only the server name.
    Tls,
    /// Bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// A known protocol that is neither HTTP nor plain TCP (`mongo`, `mysql`, `redis`): routed as TCP.
    OtherTcp,
    /// Nothing says: the proxy looks at the first bytes.
    Unknown,
}

impl Protocol {
    /// From `appProtocol`, else from a port's name: the part before the first `-`, whatever its case.
    pub fn of(app_protocol: &str, name: &str, transport: &str) -> Self {
        if transport == "UDP" {
            return Protocol::Udp;
        }
        let word =
            if app_protocol.is_empty() { name.split('-').next().unwrap_or_default() } else { app_protocol };
        let lower = word.to_ascii_lowercase();
        if name.to_ascii_lowercase().starts_with("grpc-web") && app_protocol.is_empty() {
            return Protocol::Grpc;
        }
        match lower.as_str() {
            "http" | "kubernetes.io/ws" | "ws" => Protocol::Http,
            "http2" | "kubernetes.io/h2c" | "h2c" => Protocol::Http2,
            "grpc" | "grpc-web" => Protocol::Grpc,
            "https" | "tls" | "wss" | "kubernetes.io/wss" => Protocol::Tls,
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "mongo" | "mysql" | "redis" | "mongodb" | "postgres" | "postgresql" => Protocol::OtherTcp,
            _ => Protocol::Unknown,
        }
    }

    /// Whether a proxy routes it by HTTP headers.
    pub fn is_http(self) -> bool {
        matches!(self, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
    }
}

/// One port of a Service.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// Its number.
    pub number: i64,
    /// What it points at; its own number where it says nothing.
    pub target: TargetPort,
    /// `TCP`, `UDP` or `SCTP`.
    pub transport: String,
    /// `appProtocol`; empty where absent.
    pub app_protocol: String,
}

impl ServicePort {
    /// The number on which pods of a template are called for it: `None` where its name is none of their ports.
    pub fn on(&self, template: &PodTemplate) -> Option<i64> {
        match &self.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let running = template.containers.iter().filter(|c| c.role != ContainerRole::Init);
                let mut ports = running.flat_map(|c| &c.ports);
                ports.find(|p| &p.name == name && p.protocol == self.transport).map(|p| p.number)
            }
        }
    }

    /// How its traffic is read.
    pub fn protocol(&self) -> Protocol {
        Protocol::of(&self.app_protocol, &self.name, &self.transport)
    }
}

/// A Service.
#[derive(Debug, Clone)]
pub struct Service {
    /// What names it, who edited it, when it was made.
    pub object: Arc<Object>,
    /// `spec.type`; `ClusterIP` where absent.
    pub kind: String,
    /// `spec.clusterIP`; `None` for a headless one.
    pub cluster_ip: String,
    /// All its addresses inside the cluster.
    pub cluster_ips: Vec<String>,
    /// `spec.externalName`.
    pub external_name: String,
    /// `spec.selector`. Empty means that somebody else writes its endpoints.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Reads a Service.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = &object.body;
        let ports = body.list("spec.ports").iter().filter_map(|port| {
            let number = port.int("port")?;
            let target = match port.at("targetPort") {
                Some(Value::Number(n)) => TargetPort::Number(n.as_i64().unwrap_or(number)),
                Some(Value::String(text)) => {
                    text.parse().map_or_else(|_| TargetPort::Name(text.to_string()), TargetPort::Number)
                }
                _ => TargetPort::Number(number),
            };
            Some(ServicePort {
                name: port.string("name"),
                number,
                target,
                transport: port.text("protocol").unwrap_or("TCP").to_owned(),
                app_protocol: port.string("appProtocol"),
            })
        });
        let mut cluster_ips = body.texts("spec.clusterIPs");
        let cluster_ip = body.string("spec.clusterIP");
        if cluster_ips.is_empty() && !cluster_ip.is_empty() {
            cluster_ips.push(cluster_ip.clone());
        }
        Service {
            kind: body.text("spec.type").unwrap_or("ClusterIP").to_owned(),
            cluster_ip,
            cluster_ips,
            external_name: body.string("spec.externalName"),
            selector: body.text_map("spec.selector"),
            ports: ports.collect(),
            object,
        }
    }

    /// Whether pods stand behind it because their labels fit: not where it stands for another name, nor where somebody else writes
    /// its endpoints.
    pub fn has_selector(&self) -> bool {
        self.kind != "ExternalName" && !self.selector.is_empty()
    }

    /// What names it.
    pub fn reference(&self) -> &ObjectRef {
        &self.object.reference
    }

    /// Its name and namespace.
    pub fn service_name(&self) -> ServiceName {
        ServiceName::new(self.object.namespace(), self.object.name())
    }

    /// Whether it has no address of its own.
    pub fn headless(&self) -> bool {
        self.cluster_ip == "None"
    }

    /// Whether its selector picks this pod: same namespace, a selector that is not empty, all labels there.
    pub fn selects(&self, pod: &Pod) -> bool {
        self.selects_labels(pod.object.namespace(), &pod.template.labels)
    }

    /// The same for a template's labels in a namespace.
    pub fn selects_labels(&self, namespace: &str, labels: &Labels) -> bool {
        !self.selector.is_empty()
            && self.object.namespace() == namespace
            && self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// A port by its number.
    pub fn port(&self, number: i64) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }

    /// The number on which a pod is called for a port: `None` where the name is none of the pod's ports.
    pub fn pod_port(&self, port: &ServicePort, pod: &Pod) -> Option<i64> {
        port.on(&pod.template)
    }
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it takes traffic; absent counts as ready, as the API says.
    pub ready: bool,
    /// Whether it is going away.
    pub terminating: bool,
    /// The pod behind it; empty where it is none.
    pub pod: String,
}

/// An EndpointSlice, or the older Endpoints object in the same form.
#[derive(Debug, Clone)]
pub struct EndpointSlice {
    /// What names it.
    pub object: Arc<Object>,
    /// The Service it belongs to.
    pub service: String,
    /// Port names and numbers.
    pub ports: Vec<(String, i64)>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// Reads an EndpointSlice.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = &object.body;
        let ports =
            body.list("ports").iter().filter_map(|p| Some((p.string("name"), p.int("port")?))).collect();
        let endpoints = body.list("endpoints").iter().map(|entry| Endpoint {
            addresses: entry.texts("addresses"),
            ready: entry.at("conditions.ready").and_then(Value::as_bool).unwrap_or(true),
            terminating: entry.flag("conditions.terminating"),
            pod: if entry.text("targetRef.kind") == Some("Pod") {
                entry.string("targetRef.name")
            } else {
                String::new()
            },
        });
        EndpointSlice {
            service: object.labels.get("kubernetes.io/service-name").map(str::to_owned).unwrap_or_default(),
            ports,
            endpoints: endpoints.collect(),
            object,
        }
    }
}

/// A NetworkPolicy: which pods it isolates, in which directions. Its rules are read where they are evaluated.
#[derive(Debug, Clone)]
pub struct NetworkPolicy {
    /// What names it.
    pub object: Arc<Object>,
    /// The pods it isolates; empty means all of its namespace.
    pub selector: Selector,
    /// Whether it isolates for incoming connections.
    pub ingress: bool,
    /// Whether it isolates for outgoing connections.
    pub egress: bool,
}

impl NetworkPolicy {
    /// Reads a NetworkPolicy. Without `policyTypes` it isolates for ingress, and for egress where it has egress rules.
    pub fn read(object: impl Into<Arc<Object>>) -> Self {
        let object = object.into();
        let body = &object.body;
        let types = body.texts("spec.policyTypes");
        let egress_rules = !body.list("spec.egress").is_empty();
        NetworkPolicy {
            selector: body.at("spec.podSelector").map(Selector::read).unwrap_or_default(),
            ingress: types.is_empty() || types.iter().any(|t| t == "Ingress"),
            egress: if types.is_empty() { egress_rules } else { types.iter().any(|t| t == "Egress") },
            object,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn protocols_follow_app_protocol_then_the_name() {
        assert_eq!(Protocol::of("", "http-web", "TCP"), Protocol::Http);
        assert_eq!(Protocol::of("grpc", "http", "TCP"), Protocol::Grpc);
        assert_eq!(Protocol::of("", "web", "TCP"), Protocol::Unknown);
        assert_eq!(Protocol::of("", "tcp-http", "TCP"), Protocol::Tcp);
        assert_eq!(Protocol::of("", "http", "UDP"), Protocol::Udp);
        assert_eq!(Protocol::of("", "GRPC-api", "TCP"), Protocol::Grpc);
    }

    #[test]
    fn a_target_port_in_quotes_is_a_number() {
        let service = Service::read(
            Object::read(json!({"kind": "Service", "metadata": {"name": "s"},
                "spec": {"ports": [{"port": 80, "targetPort": "8080"}, {"port": 81, "targetPort": "web"}, {"port": 82}]}}))
            .unwrap(),
        );
        assert_eq!(service.ports[0].target, TargetPort::Number(8080));
        assert_eq!(service.ports[1].target, TargetPort::Name("web".into()));
        assert_eq!(service.ports[2].target, TargetPort::Number(82));
    }
}
