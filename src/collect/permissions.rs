//! What Meshscope asks of a cluster's API, in one table: every group, resource and verb that the collectors
//! and the controller use, and why. `meshscope rbac`, the chart's roles and the hints of gaps come from it, so
//! there is one place to look at before installing, and one to change.
//!
//! Nothing here reads a Secret, and nothing writes to anything but what belongs to a session. A port-forward is the one
//! thing that reaches into a pod; its role is granted nowhere unless an administrator names a namespace.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// One row: verbs on resources of one API group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// Which role it becomes part of.
    pub role: RoleKind,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Plural resource names, with `/subresource` where it is one.
    pub resources: &'static [&'static str],
    /// Verbs of the Kubernetes API.
    pub verbs: &'static [&'static str],
    /// What it is needed for, as an administrator wants to read it: one line, without a full stop.
    pub why: &'static str,
}

/// The roles that rows are gathered into. Apart because they are granted in different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoleKind {
    /// What lies in namespaces: granted everywhere, or in each watched namespace.
    Namespaced,
    /// What lies in no namespace: granted by a ClusterRole or not at all.
    ClusterScoped,
    /// Logs of pods: granted only in the namespaces that the administrator names.
    Logs,
    /// Admin ports of proxies: granted only in the namespaces that the administrator names.
    Proxies,
    /// The lease between replicas: granted in the operator's own namespace.
    Leader,
}

impl RoleKind {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 5] =
        [Self::Namespaced, Self::ClusterScoped, Self::Logs, Self::Proxies, Self::Leader];

    /// The name under which command line and chart know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespaced => "namespaced",
            Self::ClusterScoped => "cluster-scoped",
            Self::Logs => "logs",
            Self::Proxies => "proxies",
            Self::Leader => "leader",
        }
    }
}

const READ: &[&str] = &["get", "list"];

const fn read(group: &'static str, resources: &'static [&'static str], why: &'static str) -> Permission {
    Permission { role: RoleKind::Namespaced, group, resources, verbs: READ, why }
}

const fn read_cluster(
    group: &'static str,
    resources: &'static [&'static str],
    why: &'static str,
) -> Permission {
    Permission { role: RoleKind::ClusterScoped, group, resources, verbs: READ, why }
}

const fn control(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    why: &'static str,
) -> Permission {
    Permission { role: RoleKind::Namespaced, group, resources, verbs, why }
}

/// The table, sorted by role and then by what it is for.
pub const PERMISSIONS: &[Permission] = &[
    read(
        "",
        &[
            "pods",
            "services",
            "events",
            "replicationcontrollers",
            "serviceaccounts",
            "persistentvolumeclaims",
        ],
        "the targets and their neighbours, what happened to them, and who they are to the mesh",
    ),
    read(
        "",
        &["configmaps"],
        "which ConfigMaps and keys exist, and the mesh's own configuration; no other value is kept",
    ),
    read("", &["resourcequotas", "limitranges"], "why a pod was not admitted"),
    read(
        "apps",
        &["deployments", "replicasets", "statefulsets", "daemonsets", "controllerrevisions"],
        "workloads, and the history of their rollouts",
    ),
    read("argoproj.io", &["rollouts"], "workloads of Argo Rollouts"),
    read("batch", &["jobs", "cronjobs"], "workloads that end"),
    read(
        "autoscaling",
        &["horizontalpodautoscalers"],
        "who scaled a workload, and what kept it from scaling",
    ),
    read("policy", &["poddisruptionbudgets"], "what holds up a drain or a rollout"),
    read("networking.k8s.io", &["networkpolicies", "ingresses"], "who may connect, and how traffic comes in"),
    read("discovery.k8s.io", &["endpointslices"], "where a Service really sends traffic"),
    Permission {
        role: RoleKind::Namespaced,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["list"],
        why: "whether one of an application's replicas leads, where they elect a leader",
    },
    read(
        "cert-manager.io",
        &["certificates"],
        "whether a certificate was issued, and when it ends; never the certificate's key",
    ),
    read(
        "argoproj.io",
        &["applications"],
        "which revision was deployed last, when and by whom; values of charts are dropped",
    ),
    read(
        "helm.toolkit.fluxcd.io",
        &["helmreleases"],
        "which chart was deployed last and when; its values are dropped",
    ),
    read("kustomize.toolkit.fluxcd.io", &["kustomizations"], "which revision was deployed last and when"),
    read(
        "gateway.networking.k8s.io",
        &[
            "gateways",
            "httproutes",
            "grpcroutes",
            "tcproutes",
            "tlsroutes",
            "udproutes",
            "listenersets",
            "referencegrants",
            "backendtlspolicies",
        ],
        "routes of the Gateway API",
    ),
    read("gateway.networking.x-k8s.io", &["xbackends", "xlistenersets"], "kinds of the Gateway API on trial"),
    read("inference.networking.k8s.io", &["inferencepools"], "which pods routes for models lead to"),
    read(
        "networking.istio.io",
        &[
            "virtualservices",
            "destinationrules",
            "gateways",
            "serviceentries",
            "sidecars",
            "workloadentries",
            "workloadgroups",
            "envoyfilters",
            "proxyconfigs",
        ],
        "routes, subsets and proxies of Istio",
    ),
    read(
        "security.istio.io",
        &["authorizationpolicies", "peerauthentications", "requestauthentications"],
        "whom Istio lets in, and with which encryption",
    ),
    read("telemetry.istio.io", &["telemetries"], "which logs, metrics and traces Istio's proxies send"),
    read("extensions.istio.io", &["wasmplugins"], "filters that were added to Istio's proxies"),
    read(
        "policy.linkerd.io",
        &[
            "servers",
            "serverauthorizations",
            "authorizationpolicies",
            "meshtlsauthentications",
            "networkauthentications",
            "httproutes",
            "egressnetworks",
            "httplocalratelimitpolicies",
        ],
        "whom Linkerd lets in, on which ports and paths",
    ),
    read("linkerd.io", &["serviceprofiles"], "routes, retries and time-outs of Linkerd"),
    read("workload.linkerd.io", &["externalworkloads"], "endpoints of Linkerd outside of the cluster"),
    read(
        "multicluster.linkerd.io",
        &["links"],
        "which other clusters Linkerd mirrors; never their credentials",
    ),
    read(
        "consul.hashicorp.com",
        &[
            "servicedefaults",
            "serviceintentions",
            "serviceresolvers",
            "servicerouters",
            "servicesplitters",
            "proxydefaults",
            "meshes",
            "exportedservices",
            "ingressgateways",
            "terminatinggateways",
        ],
        "configuration entries of Consul, and whether its servers took them",
    ),
    control(
        "meshscope.dev",
        &["debugsessions"],
        &["get", "list", "watch", "delete"],
        "the sessions themselves; deleted only when their time to live asks for it",
    ),
    control("meshscope.dev", &["debugsessions/status"], &["get", "patch", "update"], "progress and results"),
    control(
        "meshscope.dev",
        &["debugsessions/finalizers"],
        &["update"],
        "some clusters, OpenShift among them, ask for it before a report may be owned by its session",
    ),
    control(
        "",
        &["configmaps"],
        &["create", "patch", "delete"],
        "whole reports, each owned by its session; the chart's admission policy refuses any other ConfigMap",
    ),
    control("events.k8s.io", &["events"], &["create", "patch"], "what `kubectl describe` shows of a session"),
    read_cluster("", &["nodes"], "pressure, taints and readiness of where pods run"),
    read_cluster(
        "",
        &["namespaces"],
        "labels of namespaces: sidecar injection, network policies, pod security",
    ),
    read_cluster("", &["persistentvolumes"], "why a claim is not bound, or bound to another zone"),
    read_cluster("storage.k8s.io", &["storageclasses"], "why a claim is not bound"),
    read_cluster("networking.k8s.io", &["ingressclasses"], "which controller serves an Ingress"),
    read_cluster("scheduling.k8s.io", &["priorityclasses"], "whose pods give way to whose"),
    read_cluster("apiregistration.k8s.io", &["apiservices"], "which parts of the API do not answer"),
    read_cluster(
        "policy.networking.k8s.io",
        &["adminnetworkpolicies", "baselineadminnetworkpolicies"],
        "who may connect, before and after the NetworkPolicies of a namespace",
    ),
    read_cluster("gateway.networking.k8s.io", &["gatewayclasses"], "which controller serves a Gateway"),
    read_cluster(
        "apiextensions.k8s.io",
        &["customresourcedefinitions"],
        "which meshes are installed, in which versions",
    ),
    read_cluster(
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
        "whether sidecars can be injected, and what refuses pods",
    ),
    Permission {
        role: RoleKind::Logs,
        group: "",
        resources: &["pods/log"],
        verbs: &["get"],
        why: "logs of containers and of the mesh's proxies; redacted on the way in",
    },
    Permission {
        role: RoleKind::Proxies,
        group: "",
        resources: &["pods/portforward"],
        // A WebSocket begins with a GET: older API servers ask for `get`, those from 1.35 on for `create` too.
        verbs: &["get", "create"],
        why: "admin ports of proxies and of the mesh's control plane, which listen on localhost only; opens every port of a pod",
    },
    Permission {
        role: RoleKind::Leader,
        group: "coordination.k8s.io",
        resources: &["leases"],
        verbs: &["get", "create", "update", "patch"],
        why: "which of the operator's replicas works",
    },
];

/// The rules of one role, in the table's order.
pub fn rules(role: RoleKind) -> Vec<PolicyRule> {
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    PERMISSIONS
        .iter()
        .filter(|permission| permission.role == role)
        .map(|permission| PolicyRule {
            api_groups: Some(vec![permission.group.to_owned()]),
            resources: Some(owned(permission.resources)),
            verbs: owned(permission.verbs),
            ..PolicyRule::default()
        })
        .collect()
}

/// The rules of one role as a YAML list, each under a comment that says why. The chart carries this text.
pub fn rules_yaml(role: RoleKind) -> String {
    // The words of the table are resource names and verbs: none needs an escape that JSON and YAML do differently.
    let list = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        format!("[{}]", quoted.join(", "))
    };
    PERMISSIONS
        .iter()
        .filter(|permission| permission.role == role)
        .map(|permission| {
            format!(
                "# {}\n- apiGroups: {}\n  resources: {}\n  verbs: {}\n",
                permission.why,
                list(&[permission.group]),
                list(permission.resources),
                list(permission.verbs)
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITES: &[&str] =
        &["create", "update", "patch", "delete", "deletecollection", "bind", "escalate", "impersonate"];

    #[test]
    fn no_row_reads_secrets_or_uses_a_wildcard() {
        for permission in PERMISSIONS {
            for word in permission.resources.iter().chain(permission.verbs).chain([&permission.group]) {
                assert!(!word.contains('*'), "{permission:?}");
                assert!(!word.starts_with("secrets"), "{permission:?}");
            }
            for resource in permission.resources {
                let (name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
                assert!(!["exec", "attach", "proxy", "ephemeralcontainers", "token"].contains(&subresource));
                assert_eq!(
                    subresource == "portforward",
                    permission.role == RoleKind::Proxies,
                    "{permission:?}"
                );
                assert_eq!(
                    name == "pods" && subresource == "log",
                    permission.role == RoleKind::Logs,
                    "{permission:?}"
                );
            }
        }
    }

    #[test]
    fn only_what_belongs_to_a_session_is_written() {
        let written: Vec<(&str, &str)> = PERMISSIONS
            .iter()
            .filter(|permission| permission.role != RoleKind::Proxies)
            .filter(|permission| permission.verbs.iter().any(|verb| WRITES.contains(verb)))
            .flat_map(|permission| permission.resources.iter().map(|resource| (permission.group, *resource)))
            .collect();
        assert_eq!(
            written,
            [
                ("meshscope.dev", "debugsessions"),
                ("meshscope.dev", "debugsessions/status"),
                ("meshscope.dev", "debugsessions/finalizers"),
                ("", "configmaps"),
                ("events.k8s.io", "events"),
                ("coordination.k8s.io", "leases"),
            ]
        );
    }

    #[test]
    fn no_verb_on_a_resource_is_listed_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for permission in PERMISSIONS {
            for resource in permission.resources {
                for verb in permission.verbs {
                    assert!(
                        seen.insert((permission.group, resource, verb)),
                        "{} {resource} {verb}",
                        permission.group
                    );
                }
            }
        }
    }

    #[test]
    fn rows_stand_with_their_role_and_say_why_in_one_line() {
        let roles: Vec<RoleKind> = PERMISSIONS.iter().map(|permission| permission.role).collect();
        assert!(roles.is_sorted(), "rows of one role stand together");
        for permission in PERMISSIONS {
            assert!(
                !permission.why.is_empty()
                    && !permission.why.contains('\n')
                    && !permission.why.ends_with('.')
            );
        }
    }

    #[test]
    fn the_text_and_the_rules_say_the_same() {
        for role in RoleKind::ALL {
            let parsed: Vec<PolicyRule> = serde_saphyr::from_str(&rules_yaml(role)).unwrap();
            assert!(!parsed.is_empty());
            assert_eq!(parsed, rules(role), "{}", role.name());
        }
    }
}
