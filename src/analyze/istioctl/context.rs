//! How istioctl sees a cluster: which objects it looks at, which pods are in the mesh, how it writes a selector.

use crate::model::json::Value;
use std::collections::BTreeMap;

use crate::model::fields::Fields;
use crate::model::mesh::istio::Istio;
use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Namespaces in which istioctl looks at nothing.
const IGNORED_NAMESPACES: &[&str] = &["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// The container that an injected proxy runs in.
pub(super) const PROXY: &str = "istio-proxy";

/// A kind that istioctl reads: its key among a snapshot's objects, and its group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind(pub(super) &'static str, pub(super) &'static str);

pub(super) const NAMESPACE: Kind = Kind("Namespace", "");
pub(super) const POD: Kind = Kind("Pod", "");
pub(super) const NODE: Kind = Kind("Node", "");
pub(super) const SERVICE: Kind = Kind("Service", "");
pub(super) const SECRET: Kind = Kind("Secret", "");
pub(super) const CONFIG_MAP: Kind = Kind("ConfigMap", "");
pub(super) const DEPLOYMENT: Kind = Kind("Deployment", "apps");
pub(super) const DEFINITION: Kind = Kind("CustomResourceDefinition", "apiextensions.k8s.io");
pub(super) const MUTATING_WEBHOOK: Kind =
    Kind("MutatingWebhookConfiguration", "admissionregistration.k8s.io");
pub(super) const VALIDATING_WEBHOOK: Kind =
    Kind("ValidatingWebhookConfiguration", "admissionregistration.k8s.io");
pub(super) const VIRTUAL_SERVICE: Kind = Kind("VirtualService", "networking.istio.io");
pub(super) const DESTINATION_RULE: Kind = Kind("DestinationRule", "networking.istio.io");
pub(super) const GATEWAY: Kind = Kind("Gateway", "networking.istio.io");
pub(super) const SERVICE_ENTRY: Kind = Kind("ServiceEntry", "networking.istio.io");
pub(super) const WORKLOAD_ENTRY: Kind = Kind("WorkloadEntry", "networking.istio.io");
pub(super) const SIDECAR: Kind = Kind("Sidecar", "networking.istio.io");
pub(super) const ENVOY_FILTER: Kind = Kind("EnvoyFilter", "networking.istio.io");
pub(super) const PROXY_CONFIG: Kind = Kind("ProxyConfig", "networking.istio.io");
pub(super) const AUTHORIZATION_POLICY: Kind = Kind("AuthorizationPolicy", "security.istio.io");
pub(super) const REQUEST_AUTHENTICATION: Kind = Kind("RequestAuthentication", "security.istio.io");
pub(super) const TELEMETRY: Kind = Kind("Telemetry", "telemetry.istio.io");
pub(super) const WASM_PLUGIN: Kind = Kind("WasmPlugin", "extensions.istio.io");
pub(super) const KUBERNETES_GATEWAY: Kind =
    Kind("gateway.networking.k8s.io/Gateway", "gateway.networking.k8s.io");
pub(super) const HTTP_ROUTE: Kind = Kind("HTTPRoute", "gateway.networking.k8s.io");
pub(super) const GRPC_ROUTE: Kind = Kind("GRPCRoute", "gateway.networking.k8s.io");

/// A snapshot as istioctl reads it.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// All pods, in order of namespace and name.
    pub(super) pods: Vec<&'a Object>,
    by_label: BTreeMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut context = Context { snapshot, pods: vec![], by_label: BTreeMap::new() };
        context.pods = context.all(POD).collect();
        for (at, pod) in context.pods.iter().enumerate() {
            for (key, value) in &pod.labels {
                context.by_label.entry((key, value)).or_default().push(at);
            }
        }
        context
    }

    /// All objects of a kind that istioctl looks at, in order of namespace and name.
    pub(super) fn all(&self, kind: Kind) -> impl Iterator<Item = &'a Object> + use<'a> {
        self.snapshot.objects_of(kind.0).filter(move |object| {
            let namespace = if kind.0 == "Namespace" { object.name() } else { object.namespace() };
            object.reference.group() == kind.1 && !IGNORED_NAMESPACES.contains(&namespace)
        })
    }

    /// One of them by its name.
    pub(super) fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<&'a Object> {
        self.snapshot.object(kind.0, namespace, name).filter(|object| {
            object.reference.group() == kind.1 && !IGNORED_NAMESPACES.contains(&object.namespace())
        })
    }

    /// The labels of a namespace, where its object was seen.
    pub(super) fn namespace_labels(&self, name: &str) -> Option<&'a Labels> {
        if IGNORED_NAMESPACES.contains(&name) {
            return None;
        }
        self.snapshot.object("Namespace", "", name).map(|namespace| &namespace.labels)
    }

    /// The pods of every namespace that carry all of these labels; all pods where there are none.
    pub(super) fn pods_with(&self, labels: &Labels) -> Vec<&'a Object> {
        let rarest = labels
            .iter()
            .map(|(key, value)| self.by_label.get(&(key, value)).map_or(&[][..], Vec::as_slice))
            .min_by_key(|places| places.len());
        match rarest {
            None => self.pods.clone(),
            Some(places) => {
                let pods = places.iter().filter_map(|at| self.pods.get(*at).copied());
                pods.filter(|pod| covers(labels, &pod.labels)).collect()
            }
        }
    }

    /// Istio's configuration.
    pub(super) fn istio(&self) -> &'a Istio {
        &self.snapshot.istio
    }

    /// Whether a pod, or what a template makes, is in the mesh: it has a proxy, or injection is on for it. `containers` are those
    /// that istioctl looks through.
    fn in_mesh<'v>(
        &self,
        namespace: &str,
        (labels, annotations): (&Labels, &Labels),
        mut containers: impl Iterator<Item = &'v Value>,
    ) -> bool {
        let first = containers.find(|container| container.text("name") == Some(PROXY));
        if first.is_some_and(|container| !container.string("image").is_empty()) {
            return true;
        }
        for map in [labels, annotations] {
            if let Some(value) = map.get("sidecar.istio.io/inject") {
                return value == "true";
            }
        }
        let namespace = self.namespace_labels(namespace);
        namespace.is_some_and(|labels| labels.get("istio-injection").is_some_and(|value| value == "enabled"))
    }

    /// Whether a pod is in the mesh with a sidecar.
    pub(super) fn pod_in_mesh(&self, pod: &Object) -> bool {
        let containers = pod.body.list("spec.containers").iter().chain(pod.body.list("spec.initContainers"));
        self.in_mesh(pod.namespace(), (&pod.labels, &pod.annotations), containers)
    }

    /// Whether the pods of a Deployment are in the mesh with a sidecar.
    pub(super) fn deployment_in_mesh(&self, deployment: &Object) -> bool {
        let body = &deployment.body;
        let labels = body.text_map("spec.template.metadata.labels");
        let annotations = body.text_map("spec.template.metadata.annotations");
        let containers = body.list("spec.template.spec.containers").iter();
        self.in_mesh(deployment.namespace(), (&labels, &annotations), containers)
    }
}

/// Whether a pod's traffic goes through a node's proxy.
pub(super) fn pod_in_ambient_mode(pod: &Object) -> bool {
    pod.annotations.get("ambient.istio.io/redirection").is_some_and(|value| value == "enabled")
}

/// Whether an object belongs to Istio's own control plane.
pub(super) fn is_control_plane(object: &Object) -> bool {
    object.labels.contains_key("istio") || object.labels.get("release").is_some_and(|value| value == "istio")
}

/// Whether labels carry all of a selector's.
pub(super) fn covers(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A selector of labels as text: `app=a,version=v1`.
pub(super) fn selector_text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The first label of a selector, as a field below a path.
pub(super) fn first_label(path: &str, labels: &Labels) -> String {
    labels.keys().next().map_or_else(String::new, |key| format!("{path}[{key}]"))
}

/// A whole name as istioctl writes it: `namespace/name`, or the name where there is no namespace.
pub(super) fn full_name(object: &Object) -> String {
    if object.namespace().is_empty() {
        object.name().to_owned()
    } else {
        format!("{}/{}", object.namespace(), object.name())
    }
}

/// `name` or `namespace/name`, the first meant in `namespace`.
pub(super) fn short_or_full(namespace: &str, name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (namespace.to_owned(), name.to_owned()),
    }
}

/// Whether a map or list is there at a path, be it empty: what a protobuf message calls set.
pub(super) fn is_set(value: &Value, path: &str) -> bool {
    value.at(path).is_some_and(|value| value.is_object() || value.is_array())
}
