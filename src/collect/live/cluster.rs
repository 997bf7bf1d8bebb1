//! What belongs to the cluster as a whole: namespaces, webhooks, definitions, the mesh's control plane, nodes.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::LiveRun;
use crate::collect::kubernetes::gather::{Job, kinds};
use crate::collect::kubernetes::kinds::{KINDS, OTHER_MESHES, Place, find};
use crate::collect::kubernetes::mesh;
use crate::collect::kubernetes::reader::ListQuery;
use crate::collect::material::ManifestIstio;
use crate::collect::plan::Source;
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};

/// Kinds without a namespace that are not listed as a whole.
const BY_NAME: &[&str] = &["nodes", "namespaces", "persistentvolumes"];
/// The namespace and the selector of the cluster's DNS, as all distributions keep them.
pub(super) const DNS: (&str, &str) = ("kube-system", "k8s-app=kube-dns");
/// The selector of Istio's control plane, in all its revisions.
const ISTIOD: &str = "app=istiod";
/// What is read of the workloads of the platform: enough to see whether they run.
const PLATFORM: &[(&str, &str)] =
    &[("apps", "deployments"), ("", "pods"), ("", "services"), ("discovery.k8s.io", "endpointslices")];

impl LiveRun {
    /// Reads what lies in no namespace, and finds the mesh's control planes.
    pub(super) async fn read_cluster(&mut self) {
        self.read_namespaces().await;
        let cap = self.reader.budget().objects_per_kind;
        let wanted = |kind: &&'static crate::collect::kubernetes::kinds::Kind| {
            kind.place == Place::Cluster && !BY_NAME.contains(&kind.resource)
        };
        let jobs = KINDS.iter().filter(wanted).map(|kind| Job::all(kind, None, cap)).collect();
        let mut objects = self.batch(None, jobs).await;
        objects.retain(|object| {
            object.text("kind") != Some("CustomResourceDefinition")
                || is_mesh_group(object.text("spec.group").unwrap_or_default())
        });
        self.control_planes = mesh::control_planes(&objects);
        self.keep(objects);
    }

    async fn read_namespaces(&mut self) {
        let Some(kind) = find("", "namespaces") else { return };
        let cap = self.reader.budget().objects_per_kind;
        let objects = self.batch(None, vec![Job::all(kind, None, cap)]).await;
        for object in objects {
            let name = object.string("metadata.name");
            self.namespaces.insert(name.clone());
            self.namespace_objects.insert(name, object);
        }
    }

    /// Whether the target's namespace exists, as far as we may know.
    pub(super) fn target_exists(&mut self) -> bool {
        if self.namespaces.is_empty() || self.namespaces.contains(&self.plan.namespace) {
            return true;
        }
        let gap = Gap::new("Objects", format!("namespace {}", self.plan.namespace), GapReason::Absent);
        self.ledger.gap("Cluster", gap.hint("check the name: kubectl get namespaces"));
        false
    }

    /// Reads the mesh's configuration, the objects that hold for the whole mesh, and how its control plane fares.
    pub(super) async fn read_mesh(&mut self) {
        if self.plan.reads(Source::Mesh) {
            self.read_istio().await;
        } else {
            self.ledger.skip("Istio", "not asked for");
            self.ledger.skip("GatewayAPI", "not asked for");
            for collector in OTHER_MESHES {
                let mut own = kinds(|kind| kind.collector == *collector);
                if own.any(|kind| self.catalogue.served(kind).is_some()) {
                    self.ledger.skip(collector, "not asked for");
                }
            }
        }
        let (namespace, selector) = DNS;
        self.read_platform(namespace, selector).await;
    }

    async fn read_istio(&mut self) {
        let installed =
            kinds(|kind| kind.collector == "Istio").any(|kind| self.catalogue.served(kind).is_some());
        if !installed && self.control_planes.is_empty() {
            return;
        }
        if self.control_planes.is_empty() {
            self.control_planes.insert(mesh::DEFAULT_NAMESPACE.to_owned());
        }
        let labels = self.namespace_objects.get(&self.plan.namespace);
        let names = mesh::config_map_names(labels);
        let mut found = None;
        'search: for namespace in self.control_planes.clone() {
            for name in &names {
                if let Some(map) = self.get("", "configmaps", Some(&namespace), name).await {
                    found = Some((namespace, map));
                    break 'search;
                }
            }
        }
        let control_plane = found.as_ref().map(|(namespace, _)| namespace.clone());
        let control_plane =
            control_plane.or_else(|| self.control_planes.first().cloned()).unwrap_or_default();
        let config = found.as_ref().map(|(_, map)| mesh::mesh_config(map)).unwrap_or(Value::Null);
        let root = mesh::root_namespace(&config, &control_plane);
        self.keep(found.map(|(_, map)| map));
        self.istio = Some(ManifestIstio { root_namespace: root.clone(), mesh_config: config });
        self.read_platform(&control_plane, ISTIOD).await;
        if root != self.plan.namespace {
            let cap = self.reader.budget().objects_per_kind;
            let jobs = kinds(|kind| kind.place == Place::NamespaceAndRoot);
            let jobs = jobs.map(|kind| Job::all(kind, Some(&root), cap)).collect();
            let objects = self.batch(Some(&root), jobs).await;
            self.keep(objects);
        }
    }

    /// Reads the workloads of the platform that a selector finds in a namespace.
    async fn read_platform(&mut self, namespace: &str, selector: &str) {
        if namespace == self.plan.namespace {
            return;
        }
        let cap = self.reader.budget().objects_per_kind;
        let jobs = PLATFORM.iter().filter_map(|(group, resource)| find(group, resource));
        let jobs = jobs.map(|kind| Job::all(kind, Some(namespace), cap).labels(selector)).collect();
        let objects = self.batch(Some(namespace), jobs).await;
        self.keep(objects);
    }

    /// Reads the nodes of the pods in question (all of them, as far as the budget allows, while a pod has none), what
    /// happened to them, and the volumes that are claimed.
    pub(super) async fn read_nodes(&mut self) {
        let of_kind = |kind: &'static str| {
            self.objects
                .iter()
                .filter(move |((group, k, _, _), _)| group.is_empty() && k == kind)
                .map(|(_, object)| object)
        };
        let pods: Vec<&Value> = of_kind("Pod").collect();
        let ended = |pod: &&&Value| matches!(pod.text("status.phase"), Some("Succeeded" | "Failed"));
        let unplaced = pods.iter().filter(|pod| !ended(pod)).any(|pod| pod.text("spec.nodeName").is_none());
        let named: BTreeSet<String> =
            pods.iter().filter_map(|pod| pod.text("spec.nodeName")).map(str::to_owned).collect();
        let volumes: BTreeSet<String> = of_kind("PersistentVolumeClaim")
            .filter_map(|claim| claim.text("spec.volumeName"))
            .map(str::to_owned)
            .collect();
        let cap = self.reader.budget().nodes;
        // One list is cheaper than many requests, and shows where a pod could have gone.
        if unplaced || named.len() > FEW_NODES {
            let jobs = find("", "nodes").map(|kind| Job::all(kind, None, cap)).into_iter().collect();
            let nodes = self.batch(None, jobs).await;
            self.keep(nodes);
        }
        for (resource, names) in [("nodes", named), ("persistentvolumes", volumes)] {
            let kind = if resource == "nodes" { "Node" } else { "PersistentVolume" };
            for name in names.iter().take(cap) {
                let key = (String::new(), kind.to_owned(), String::new(), name.clone());
                if !self.objects.contains_key(&key) {
                    let refusals = self.ledger.refusals();
                    let found = self.get("", resource, None, name).await;
                    // One refusal stands for all of them.
                    if self.ledger.refusals() > refusals {
                        break;
                    }
                    self.keep(found);
                }
            }
        }
        self.read_node_events().await;
    }

    async fn read_node_events(&mut self) {
        if !self.plan.reads(Source::Events) {
            return;
        }
        let Some(kind) = find("", "events") else { return };
        let query = ListQuery {
            fields: "involvedObject.kind=Node".to_owned(),
            cap: self.reader.budget().events_per_namespace,
            ..ListQuery::default()
        };
        let job = Job { kind, namespace: Some("default".to_owned()), query };
        let mut events = self.batch(Some("default"), vec![job]).await;
        events.retain(|event| {
            let name = event.string("involvedObject.name");
            let key = (String::new(), "Node".to_owned(), String::new(), name);
            event.text("involvedObject.kind") == Some("Node") && self.objects.contains_key(&key)
        });
        self.keep(events);
    }
}

/// Up to so many nodes are read one by one.
const FEW_NODES: usize = 16;

/// Whether a group is one of a service mesh or of the Gateway API.
fn is_mesh_group(group: &str) -> bool {
    const GROUPS: &[&str] = &[
        "istio.io",
        "gateway.networking.k8s.io",
        "inference.networking.k8s.io",
        "linkerd.io",
        "consul.hashicorp.com",
        "networking.x-k8s.io",
    ];
    GROUPS
        .iter()
        .any(|known| group == *known || group.strip_suffix(known).is_some_and(|rest| rest.ends_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_meshes_are_told_from_others() {
        assert!(is_mesh_group("networking.istio.io") && is_mesh_group("gateway.networking.k8s.io"));
        assert!(!is_mesh_group("evilistio.io") && !is_mesh_group("cert-manager.io"));
    }
}
