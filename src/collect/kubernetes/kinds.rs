//! Every kind of object that an investigation may read, in one table. The role that the operator asks for
//! ([`crate::collect::permissions`]) is tested against it.

use crate::collect::plan::Source;

/// Where objects of a kind live, and in which part of a run they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a namespace: read in the target's and, as far as they matter to it, in its neighbours'.
    Namespace,
    /// In a namespace, and in the mesh's root namespace they hold for the whole mesh.
    NamespaceAndRoot,
    /// In no namespace.
    Cluster,
}

/// One kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural that stands in paths and in roles.
    pub resource: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Where its objects live.
    pub place: Place,
    /// The collector that reads it: a line of a session's `status.collectors`.
    pub collector: &'static str,
    /// The source that it belongs to; `None` is always read.
    pub source: Option<Source>,
}

impl Kind {
    /// `deployments.apps`, as `kubectl` and gaps write it; `pods` for the core group.
    pub fn resource_name(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }

    /// The `source` of gaps about it.
    pub fn gap_source(&self) -> &'static str {
        self.source.map_or("Objects", Source::as_str)
    }
}

const ISTIO_NETWORKING: &str = "networking.istio.io";
const ISTIO_SECURITY: &str = "security.istio.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// Where the Gateway API's kinds are tried out; few clusters serve them.
const GATEWAY_API_TRIALS: &str = "gateway.networking.x-k8s.io";
const LINKERD_POLICY: &str = "policy.linkerd.io";

const fn own(
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    collector: &'static str,
) -> Kind {
    Kind { group, resource, kind, place: Place::Namespace, collector, source: None }
}

const fn istio(group: &'static str, resource: &'static str, kind: &'static str) -> Kind {
    let source = Some(Source::Mesh);
    Kind { group, resource, kind, place: Place::NamespaceAndRoot, collector: "Istio", source }
}

const fn gateway_api(resource: &'static str, kind: &'static str) -> Kind {
    let source = Some(Source::Mesh);
    Kind { group: GATEWAY_API, resource, kind, place: Place::Namespace, collector: "GatewayAPI", source }
}

/// A kind of a mesh that most clusters do not have.
const fn mesh(
    group: &'static str,
    resource: &'static str,
    kind: &'static str,
    collector: &'static str,
) -> Kind {
    Kind { source: Some(Source::Mesh), ..own(group, resource, kind, collector) }
}

/// The collectors of meshes that most clusters do not have: where none of their kinds is served, nothing is said of them.
pub const OTHER_MESHES: &[&str] = &["Linkerd", "Consul"];

const fn linkerd(group: &'static str, resource: &'static str, kind: &'static str) -> Kind {
    mesh(group, resource, kind, "Linkerd")
}

const fn consul(resource: &'static str, kind: &'static str) -> Kind {
    mesh("consul.hashicorp.com", resource, kind, "Consul")
}

const fn cluster(group: &'static str, resource: &'static str, kind: &'static str) -> Kind {
    Kind { group, resource, kind, place: Place::Cluster, collector: "Cluster", source: None }
}

/// The table. Secrets are not in it and never will be: a missing one shows in events and in waiting reasons.
pub const KINDS: &[Kind] = &[
    own("", "pods", "Pod", "Workloads"),
    own("apps", "deployments", "Deployment", "Workloads"),
    own("apps", "replicasets", "ReplicaSet", "Workloads"),
    own("apps", "statefulsets", "StatefulSet", "Workloads"),
    own("apps", "daemonsets", "DaemonSet", "Workloads"),
    own("apps", "controllerrevisions", "ControllerRevision", "Workloads"),
    own("", "replicationcontrollers", "ReplicationController", "Workloads"),
    own("argoproj.io", "rollouts", "Rollout", "Workloads"),
    own("batch", "jobs", "Job", "Workloads"),
    own("batch", "cronjobs", "CronJob", "Workloads"),
    own("autoscaling", "horizontalpodautoscalers", "HorizontalPodAutoscaler", "Workloads"),
    own("policy", "poddisruptionbudgets", "PodDisruptionBudget", "Workloads"),
    own("", "services", "Service", "Networking"),
    own("discovery.k8s.io", "endpointslices", "EndpointSlice", "Networking"),
    own("networking.k8s.io", "networkpolicies", "NetworkPolicy", "Networking"),
    own("networking.k8s.io", "ingresses", "Ingress", "Networking"),
    own("", "configmaps", "ConfigMap", "Configuration"),
    own("", "serviceaccounts", "ServiceAccount", "Configuration"),
    own("", "resourcequotas", "ResourceQuota", "Configuration"),
    own("", "limitranges", "LimitRange", "Configuration"),
    own("", "persistentvolumeclaims", "PersistentVolumeClaim", "Configuration"),
    own("coordination.k8s.io", "leases", "Lease", "Configuration"),
    own("cert-manager.io", "certificates", "Certificate", "Configuration"),
    own("argoproj.io", "applications", "Application", "Configuration"),
    own("helm.toolkit.fluxcd.io", "helmreleases", "HelmRelease", "Configuration"),
    own("kustomize.toolkit.fluxcd.io", "kustomizations", "Kustomization", "Configuration"),
    istio(ISTIO_NETWORKING, "virtualservices", "VirtualService"),
    istio(ISTIO_NETWORKING, "destinationrules", "DestinationRule"),
    istio(ISTIO_NETWORKING, "gateways", "Gateway"),
    istio(ISTIO_NETWORKING, "serviceentries", "ServiceEntry"),
    istio(ISTIO_NETWORKING, "workloadentries", "WorkloadEntry"),
    istio(ISTIO_NETWORKING, "workloadgroups", "WorkloadGroup"),
    istio(ISTIO_NETWORKING, "sidecars", "Sidecar"),
    istio(ISTIO_NETWORKING, "envoyfilters", "EnvoyFilter"),
    istio(ISTIO_NETWORKING, "proxyconfigs", "ProxyConfig"),
    istio(ISTIO_SECURITY, "authorizationpolicies", "AuthorizationPolicy"),
    istio(ISTIO_SECURITY, "peerauthentications", "PeerAuthentication"),
    istio(ISTIO_SECURITY, "requestauthentications", "RequestAuthentication"),
    istio("telemetry.istio.io", "telemetries", "Telemetry"),
    istio("extensions.istio.io", "wasmplugins", "WasmPlugin"),
    gateway_api("gateways", "Gateway"),
    gateway_api("httproutes", "HTTPRoute"),
    gateway_api("grpcroutes", "GRPCRoute"),
    gateway_api("tlsroutes", "TLSRoute"),
    gateway_api("tcproutes", "TCPRoute"),
    gateway_api("udproutes", "UDPRoute"),
    gateway_api("listenersets", "ListenerSet"),
    gateway_api("referencegrants", "ReferenceGrant"),
    gateway_api("backendtlspolicies", "BackendTLSPolicy"),
    Kind { group: GATEWAY_API_TRIALS, ..gateway_api("xbackends", "XBackend") },
    Kind { group: GATEWAY_API_TRIALS, ..gateway_api("xlistenersets", "XListenerSet") },
    Kind { group: "inference.networking.k8s.io", ..gateway_api("inferencepools", "InferencePool") },
    linkerd(LINKERD_POLICY, "servers", "Server"),
    linkerd(LINKERD_POLICY, "serverauthorizations", "ServerAuthorization"),
    linkerd(LINKERD_POLICY, "authorizationpolicies", "AuthorizationPolicy"),
    linkerd(LINKERD_POLICY, "meshtlsauthentications", "MeshTLSAuthentication"),
    linkerd(LINKERD_POLICY, "networkauthentications", "NetworkAuthentication"),
    linkerd(LINKERD_POLICY, "httproutes", "HTTPRoute"),
    linkerd(LINKERD_POLICY, "egressnetworks", "EgressNetwork"),
    linkerd(LINKERD_POLICY, "httplocalratelimitpolicies", "HTTPLocalRateLimitPolicy"),
    linkerd("linkerd.io", "serviceprofiles", "ServiceProfile"),
    linkerd("workload.linkerd.io", "externalworkloads", "ExternalWorkload"),
    linkerd("multicluster.linkerd.io", "links", "Link"),
    consul("servicedefaults", "ServiceDefaults"),
    consul("serviceintentions", "ServiceIntentions"),
    consul("serviceresolvers", "ServiceResolver"),
    consul("servicerouters", "ServiceRouter"),
    consul("servicesplitters", "ServiceSplitter"),
    consul("proxydefaults", "ProxyDefaults"),
    consul("meshes", "Mesh"),
    consul("exportedservices", "ExportedServices"),
    consul("ingressgateways", "IngressGateway"),
    consul("terminatinggateways", "TerminatingGateway"),
    cluster("", "nodes", "Node"),
    cluster("", "namespaces", "Namespace"),
    cluster("", "persistentvolumes", "PersistentVolume"),
    cluster("storage.k8s.io", "storageclasses", "StorageClass"),
    cluster("networking.k8s.io", "ingressclasses", "IngressClass"),
    cluster("scheduling.k8s.io", "priorityclasses", "PriorityClass"),
    cluster("apiregistration.k8s.io", "apiservices", "APIService"),
    cluster("apiextensions.k8s.io", "customresourcedefinitions", "CustomResourceDefinition"),
    cluster("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
    cluster(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        "ValidatingWebhookConfiguration",
    ),
    cluster("policy.networking.k8s.io", "adminnetworkpolicies", "AdminNetworkPolicy"),
    cluster("policy.networking.k8s.io", "baselineadminnetworkpolicies", "BaselineAdminNetworkPolicy"),
    cluster(GATEWAY_API, "gatewayclasses", "GatewayClass"),
    Kind { source: Some(Source::Events), ..own("", "events", "Event", "Events") },
    // The same events as the core group's on an API server; a replayed bundle may hold only these.
    Kind { source: Some(Source::Events), ..own("events.k8s.io", "events", "Event", "Events") },
];

/// The kind with this group and plural.
pub fn find(group: &str, resource: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.group == group && kind.resource == resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::permissions::{PERMISSIONS, RoleKind};
    use std::collections::BTreeSet;

    #[test]
    fn the_table_names_each_kind_once_and_never_a_secret() {
        let names: BTreeSet<String> = KINDS.iter().map(Kind::resource_name).collect();
        assert_eq!(names.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| !kind.resource.contains("secret")));
    }

    #[test]
    fn the_role_grants_what_is_read_and_no_more() {
        let granted = |role: RoleKind| -> BTreeSet<(&str, &str)> {
            let rows = PERMISSIONS.iter().filter(|row| row.role == role && row.group != "meshscope.dev");
            rows.filter(|row| row.verbs.contains(&"list"))
                .flat_map(|row| row.resources.iter().map(|resource| (row.group, *resource)))
                .collect()
        };
        let read = |cluster: bool| -> BTreeSet<(&str, &str)> {
            let kinds = KINDS.iter().filter(|kind| (kind.place == Place::Cluster) == cluster);
            // The core group's events are the same ones.
            kinds
                .map(|kind| (kind.group, kind.resource))
                .filter(|(group, _)| *group != "events.k8s.io")
                .collect()
        };
        assert_eq!(granted(RoleKind::Namespaced), read(false));
        assert_eq!(granted(RoleKind::ClusterScoped), read(true));
    }
}
