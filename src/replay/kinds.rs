//! Which kinds the replayed API has: those of Kubernetes itself, those of the recording's CRDs, and those that only
//! objects in the recording tell of.

use crate::model::json::Value;
use std::collections::BTreeMap;

use crate::model::fields::Fields;

/// One kind as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: String,
    /// Served versions, the preferred one first.
    pub(super) versions: Vec<String>,
    pub(super) kind: String,
    pub(super) plural: String,
    pub(super) singular: String,
    pub(super) short: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// Whether it has a `status` subresource.
    pub(super) status: bool,
    /// Whether objects of it can be made, changed and deleted in a replay.
    pub(super) writable: bool,
}

impl Kind {
    /// `pods`, `deployments.apps`: how errors name it.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `v1`, `apps/v1`.
    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The verbs that work on it.
    pub(super) fn verbs(&self) -> &'static [&'static str] {
        if self.writable {
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        } else {
            &["get", "list", "watch"]
        }
    }
}

/// Group, version, kind, plural, short names, namespaced, categories.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
    &'static [&'static str],
);

/// The kinds that every cluster has, and that a recording may hold.
const BUILT_IN: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", &["cm"], true, &[]),
    ("", "v1", "Endpoints", "endpoints", &["ep"], true, &[]),
    ("", "v1", "Event", "events", &["ev"], true, &[]),
    ("", "v1", "LimitRange", "limitranges", &["limits"], true, &[]),
    ("", "v1", "Namespace", "namespaces", &["ns"], false, &[]),
    ("", "v1", "Node", "nodes", &["no"], false, &[]),
    ("", "v1", "PersistentVolume", "persistentvolumes", &["pv"], false, &[]),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], true, &[]),
    ("", "v1", "Pod", "pods", &["po"], true, &["all"]),
    ("", "v1", "PodTemplate", "podtemplates", &[], true, &[]),
    ("", "v1", "ReplicationController", "replicationcontrollers", &["rc"], true, &["all"]),
    ("", "v1", "ResourceQuota", "resourcequotas", &["quota"], true, &[]),
    ("", "v1", "Secret", "secrets", &[], true, &[]),
    ("", "v1", "Service", "services", &["svc"], true, &["all"]),
    ("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], true, &[]),
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        &[],
        false,
        &["api-extensions"],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicy",
        "validatingadmissionpolicies",
        &[],
        false,
        &["api-extensions"],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings",
        &[],
        false,
        &["api-extensions"],
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        &[],
        false,
        &["api-extensions"],
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        false,
        &["api-extensions"],
    ),
    ("apiregistration.k8s.io", "v1", "APIService", "apiservices", &[], false, &["api-extensions"]),
    ("apps", "v1", "ControllerRevision", "controllerrevisions", &[], true, &[]),
    ("apps", "v1", "DaemonSet", "daemonsets", &["ds"], true, &["all"]),
    ("apps", "v1", "Deployment", "deployments", &["deploy"], true, &["all"]),
    ("apps", "v1", "ReplicaSet", "replicasets", &["rs"], true, &["all"]),
    ("apps", "v1", "StatefulSet", "statefulsets", &["sts"], true, &["all"]),
    ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], true, &["all"]),
    ("batch", "v1", "CronJob", "cronjobs", &["cj"], true, &["all"]),
    ("batch", "v1", "Job", "jobs", &[], true, &["all"]),
    (
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        &["csr"],
        false,
        &[],
    ),
    ("coordination.k8s.io", "v1", "Lease", "leases", &[], true, &[]),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], true, &[]),
    ("events.k8s.io", "v1", "Event", "events", &["ev"], true, &[]),
    ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", &[], false, &[]),
    (
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "PriorityLevelConfiguration",
        "prioritylevelconfigurations",
        &[],
        false,
        &[],
    ),
    ("networking.k8s.io", "v1", "IPAddress", "ipaddresses", &["ip"], false, &[]),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", &["ing"], true, &[]),
    ("networking.k8s.io", "v1", "IngressClass", "ingressclasses", &[], false, &[]),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", &["netpol"], true, &[]),
    ("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", &[], false, &[]),
    ("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", &[], false, &[]),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], true, &[]),
    ("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", &[], false, &[]),
    ("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", &[], false, &[]),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles", &[], true, &[]),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", &[], true, &[]),
    ("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", &["pc"], false, &[]),
    ("storage.k8s.io", "v1", "CSIDriver", "csidrivers", &[], false, &[]),
    ("storage.k8s.io", "v1", "CSINode", "csinodes", &[], false, &[]),
    ("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", &[], true, &[]),
    ("storage.k8s.io", "v1", "StorageClass", "storageclasses", &["sc"], false, &[]),
    ("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", &[], false, &[]),
];

/// Short names of well-known custom resources, for recordings without their CRDs: group, kind, short name.
const SHORT_NAMES: &[(&str, &str, &str)] = &[
    ("networking.istio.io", "VirtualService", "vs"),
    ("networking.istio.io", "DestinationRule", "dr"),
    ("networking.istio.io", "Gateway", "gw"),
    ("networking.istio.io", "ServiceEntry", "se"),
    ("networking.istio.io", "WorkloadEntry", "we"),
    ("networking.istio.io", "WorkloadGroup", "wg"),
    ("security.istio.io", "PeerAuthentication", "pa"),
    ("security.istio.io", "AuthorizationPolicy", "ap"),
    ("security.istio.io", "RequestAuthentication", "ra"),
    ("gateway.networking.k8s.io", "Gateway", "gtw"),
    ("gateway.networking.k8s.io", "GatewayClass", "gc"),
    ("gateway.networking.k8s.io", "ReferenceGrant", "refgrant"),
];

/// What a controller needs to write besides its own kinds.
const WRITABLE: &[(&str, &str)] =
    &[("", "configmaps"), ("", "events"), ("events.k8s.io", "events"), ("coordination.k8s.io", "leases")];

/// All kinds, by group and plural. Both groups' events are one set of objects.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    by_plural: BTreeMap<(String, String), Kind>,
    plural_of: BTreeMap<(String, String), String>,
}

/// At most this many kinds that only objects tell of; a cluster has a few hundred CRDs.
const MAX_GUESSED: usize = 2_000;

impl Kinds {
    /// The kinds of a recording. CRDs among `objects` decide about theirs; `ours` is a writable CRD of Meshscope itself.
    pub(super) fn of(objects: &[Value], ours: &[Value]) -> Self {
        let mut kinds = Kinds::default();
        for &(group, version, kind, plural, short, namespaced, categories) in BUILT_IN {
            kinds.insert(Kind {
                group: group.to_owned(),
                versions: vec![version.to_owned()],
                kind: kind.to_owned(),
                plural: plural.to_owned(),
                singular: kind.to_ascii_lowercase(),
                short: short.iter().map(|&name| name.to_owned()).collect(),
                categories: categories.iter().map(|&name| name.to_owned()).collect(),
                namespaced,
                status: true,
                writable: WRITABLE.contains(&(group, plural)),
            });
        }
        for (crds, writable) in [(objects, false), (ours, true)] {
            for crd in crds.iter().filter(|object| object.text("kind") == Some("CustomResourceDefinition")) {
                if let Some(kind) = from_crd(crd, writable) {
                    kinds.insert(kind);
                }
            }
        }
        let mut guessed = 0;
        for object in objects {
            let (group, version) = group_version(object);
            let kind = object.text("kind").unwrap_or_default();
            if kind.is_empty() || guessed >= MAX_GUESSED {
                continue;
            }
            if let Some(plural) = kinds.plural_of.get(&(group.to_owned(), kind.to_owned())).cloned() {
                // An older version than ours was recorded: it is served as it is.
                if let Some(known) = kinds.by_plural.get_mut(&(group.to_owned(), plural))
                    && !known.versions.iter().any(|served| served == version)
                {
                    known.versions.push(version.to_owned());
                    guessed += 1;
                }
                continue;
            }
            guessed += 1;
            kinds.insert(guess(group, version, kind, object.text("metadata.namespace").is_some()));
        }
        kinds
    }

    fn insert(&mut self, kind: Kind) {
        self.plural_of.insert((kind.group.clone(), kind.kind.clone()), kind.plural.clone());
        self.by_plural.insert((kind.group.clone(), kind.plural.clone()), kind);
    }

    pub(super) fn get(&self, group: &str, plural: &str) -> Option<&Kind> {
        self.by_plural.get(&(group.to_owned(), plural.to_owned()))
    }

    pub(super) fn by_kind(&self, group: &str, kind: &str) -> Option<&Kind> {
        let plural = self.plural_of.get(&(group.to_owned(), kind.to_owned()))?;
        self.get(group, plural)
    }

    /// The kinds of each group; the core group has the empty name.
    pub(super) fn groups(&self) -> BTreeMap<&str, Vec<&Kind>> {
        let mut out: BTreeMap<&str, Vec<&Kind>> = BTreeMap::new();
        for kind in self.by_plural.values() {
            out.entry(&kind.group).or_default().push(kind);
        }
        out
    }
}

/// Group and version of an object; a missing `apiVersion` is the core group's `v1`.
pub(super) fn group_version(object: &Value) -> (&str, &str) {
    let text = object.text("apiVersion").unwrap_or("v1");
    text.split_once('/').unwrap_or(("", text))
}

fn from_crd(crd: &Value, writable: bool) -> Option<Kind> {
    let mut versions: Vec<String> = crd
        .list("spec.versions")
        .iter()
        .filter(|version| version.at("served").and_then(Value::as_bool).unwrap_or(true))
        .map(|version| version.string("name"))
        .filter(|name| !name.is_empty())
        .collect();
    versions.sort_by_key(|name| priority(name));
    let kind = crd.text("spec.names.kind")?.to_owned();
    let plural = crd.text("spec.names.plural")?.to_owned();
    let status = crd.list("spec.versions").iter().any(|version| version.at("subresources.status").is_some());
    if versions.is_empty() {
        return None;
    }
    Some(Kind {
        group: crd.text("spec.group")?.to_owned(),
        versions,
        singular: crd.text("spec.names.singular").map_or_else(|| kind.to_ascii_lowercase(), str::to_owned),
        short: crd.texts("spec.names.shortNames"),
        categories: crd.texts("spec.names.categories"),
        namespaced: crd.text("spec.scope") != Some("Cluster"),
        // Recorded CRDs are often cut down to their names; that they have no status is then not known.
        status: status || !writable,
        writable,
        kind,
        plural,
    })
}

/// Sorts versions as Kubernetes does: stable before beta before alpha, and the higher number first.
fn priority(version: &str) -> (u8, std::cmp::Reverse<(u32, u32)>, String) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        for (rank, word) in [(1, "beta"), (2, "alpha")] {
            if let Some((major, minor)) = rest.split_once(word) {
                return Some((rank, major.parse().ok()?, minor.parse().ok()?));
            }
        }
        Some((0, rest.parse().ok()?, 0))
    };
    let (rank, major, minor) = parse().unwrap_or((3, 0, 0));
    (rank, std::cmp::Reverse((major, minor)), version.to_owned())
}

/// A kind that no CRD describes: its plural as English makes it.
fn guess(group: &str, version: &str, kind: &str, namespaced: bool) -> Kind {
    let singular = kind.to_ascii_lowercase();
    let before_y = singular.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'i', 'o', 'u']));
    let hisses = ["s", "x", "z", "ch", "sh"].iter().any(|end| singular.ends_with(end));
    let plural = match before_y {
        Some(stem) => format!("{stem}ies"),
        None if hisses => format!("{singular}es"),
        None => format!("{singular}s"),
    };
    Kind {
        group: group.to_owned(),
        versions: vec![version.to_owned()],
        kind: kind.to_owned(),
        plural,
        singular,
        short: SHORT_NAMES
            .iter()
            .filter(|(of, name, _)| *of == group && *name == kind)
            .map(|(_, _, short)| (*short).to_owned())
            .collect(),
        categories: vec![],
        namespaced,
        status: true,
        writable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn plurals_are_guessed_as_english_makes_them() {
        for (kind, plural) in [
            ("VirtualService", "virtualservices"),
            ("AuthorizationPolicy", "authorizationpolicies"),
            ("Gateway", "gateways"),
            ("GatewayClass", "gatewayclasses"),
            ("Mesh", "meshes"),
        ] {
            assert_eq!(guess("g", "v1", kind, true).plural, plural);
        }
    }

    #[test]
    fn versions_are_ordered_as_kubernetes_orders_them() {
        let mut versions = vec!["v1alpha3", "v1", "v1beta1", "foo", "v2", "v1beta2"];
        versions.sort_by_key(|name| priority(name));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha3", "foo"]);
    }

    #[test]
    fn a_crd_decides_about_its_kind_and_objects_about_the_rest() {
        let crd = json!({"kind": "CustomResourceDefinition", "spec": {"group": "g.io", "scope": "Cluster",
            "names": {"kind": "Box", "plural": "boxen"},
            "versions": [{"name": "v1beta1", "served": true}, {"name": "v1", "served": true}, {"name": "v0", "served": false}]}});
        let thing =
            json!({"apiVersion": "x.io/v2", "kind": "Thing", "metadata": {"name": "a", "namespace": "n"}});
        let kinds = Kinds::of(&[crd, thing], &[]);
        let boxen = kinds.by_kind("g.io", "Box").unwrap();
        assert_eq!((boxen.plural.as_str(), boxen.namespaced), ("boxen", false));
        assert_eq!(boxen.versions, ["v1", "v1beta1"]);
        let things = kinds.get("x.io", "things").unwrap();
        assert!(things.namespaced && !things.writable);
        assert!(kinds.get("", "configmaps").unwrap().writable);
        assert_eq!(things.resource(), "things.x.io");
    }

    #[test]
    fn the_table_has_no_kind_twice() {
        let kinds = Kinds::of(&[], &[]);
        assert_eq!(kinds.by_plural.len(), BUILT_IN.len());
    }
}
