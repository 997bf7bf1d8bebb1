//! Everything that one run has seen: the only thing that analysis reads.

mod altered;
mod builder;
mod edges;
mod emitters;

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::change::{self, Change};
use super::event::Event;
use super::gap::Gap;
use super::graph::Graph;
use super::index::Index;
use super::log::LogStream;
use super::memo::{Derived, Memo};
use super::mesh::gateway_api::GatewayApi;
use super::mesh::istio::Istio;
use super::network::{EndpointSlice, NetworkPolicy, Service, ServiceName};
use super::object::{Object, ObjectRef};
use super::proxy::Proxy;
use super::proxy::sync::ProxySync;
use super::selector::Labels;
use super::series::Series;
use super::source::{Location, Sources};
use super::span::Spans;
use super::time::Window;
use super::traffic::{EdgeTraffic, Reporter};
use super::workload::{Pod, Workload};
use crate::model::objects::Objects;

pub use builder::Builder;

/// What was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// Services in it; empty means all.
    pub services: Vec<String>,
}

/// Everything that one run has seen. Made by a [`Builder`]; its parts are sorted, so that the same input gives the same
/// answer byte for byte.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The clock of the analysis: when the material was taken.
    pub now: Timestamp,
    /// The span of time that is looked at.
    pub window: Option<Window>,
    /// When the trouble began, where somebody said so.
    pub onset: Option<Timestamp>,
    /// What was asked about; `None` means every Service of every namespace.
    pub target: Option<Target>,
    /// Every object.
    pub objects: Objects,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Whatever makes pods.
    pub workloads: Vec<Workload>,
    /// Services.
    pub services: Vec<Service>,
    /// EndpointSlices.
    pub slices: Vec<EndpointSlice>,
    /// NetworkPolicies.
    pub network_policies: Vec<NetworkPolicy>,
    /// Events, oldest first.
    pub events: Vec<Event>,
    /// Logs.
    pub logs: Vec<LogStream>,
    /// Series.
    pub series: Vec<Series>,
    /// Spans of distributed traces.
    pub spans: Spans,
    /// What proxies' admin ports said, in order of namespace and pod.
    pub proxies: Vec<Proxy>,
    /// What control planes know of their proxies, in order of namespace and pod.
    pub proxy_syncs: Vec<ProxySync>,
    /// Istio's objects.
    pub istio: Istio,
    /// The Gateway API's objects.
    pub gateway_api: GatewayApi,
    /// Access logs, summed up by edge.
    pub traffic: Vec<EdgeTraffic>,
    /// Who calls whom.
    pub graph: Arc<Graph>,
    /// What somebody did, oldest first.
    pub changes: Vec<Change>,
    /// What could not be seen.
    pub gaps: Vec<Gap>,
    /// Where objects stand in the YAML files that they were read from.
    pub sources: Sources,
    owner_of_pod: BTreeMap<(String, String), ObjectRef>,
    pod_of_ip: BTreeMap<String, usize>,
    index: Index,
    memo: Memo,
}

/// Namespaces of the platform itself: nobody asks why *they* fail unless they name them.
pub fn is_system_namespace(namespace: &str) -> bool {
    matches!(
        namespace,
        "kube-system"
            | "kube-public"
            | "kube-node-lease"
            | "local-path-storage"
            | "istio-system"
            | "linkerd"
            | "consul"
    )
}

/// Whether labels hold all of these.
fn carries(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl Snapshot {
    /// Something that follows from all of it, computed at the first call and kept.
    pub fn derived<T: Derived>(&self) -> std::sync::Arc<T> {
        self.memo.get(self)
    }

    /// An object by kind, namespace and name, whatever its version. Kinds that two APIs share (`Gateway`) are told apart by
    /// their typed lists.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        // Asked for each workload and Service by many rules.
        if kind == "Namespace" && namespace.is_empty() {
            return self.index.namespace(name);
        }
        self.objects.get(kind, namespace, name)
    }

    /// Where each object's field stands in the YAML file that the object was read from.
    pub fn locate(&self, objects: &[&ObjectRef]) -> Vec<Option<Location>> {
        if self.sources.is_empty() {
            return vec![None; objects.len()];
        }
        self.sources.locate(objects, |reference| {
            let ObjectRef { kind, namespace, name, .. } = reference;
            let own_key = format!("{}/{kind}", reference.group());
            let object =
                self.object(&own_key, namespace, name).or_else(|| self.object(kind, namespace, name));
            object.map(|object| &*object.body)
        })
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn objects_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        self.objects.of_kind(kind)
    }

    /// Whether this kind was seen at all: only then does the absence of one object mean anything.
    pub fn knows_kind(&self, kind: &str) -> bool {
        self.objects_of(kind).next().is_some()
    }

    /// A Service by its name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        let at = self
            .services
            .binary_search_by(|s| (s.object.namespace(), s.object.name()).cmp(&(&name.namespace, &name.name)))
            .ok()?;
        self.services.get(at)
    }

    /// A pod by its name.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        let at = self
            .pods
            .binary_search_by(|p| (p.object.namespace(), p.object.name()).cmp(&(namespace, name)))
            .ok()?;
        self.pods.get(at)
    }

    /// The pod with an address.
    pub fn pod_by_ip(&self, ip: &str) -> Option<&Pod> {
        self.pod_of_ip.get(ip).and_then(|at| self.pods.get(*at))
    }

    /// The proxy of a pod, where its admin port was seen.
    pub fn proxy(&self, namespace: &str, pod: &str) -> Option<&Proxy> {
        let place = |p: &Proxy| (p.namespace.as_str(), p.pod.as_str()).cmp(&(namespace, pod));
        self.proxies.binary_search_by(place).ok().and_then(|at| self.proxies.get(at))
    }

    /// A workload by what names it.
    pub fn workload(&self, reference: &ObjectRef) -> Option<&Workload> {
        let known = self.index.workload(reference).iter().filter_map(|at| self.workloads.get(*at));
        known.into_iter().find(|w| w.reference().same_object(reference))
    }

    /// What a pod belongs to, at the top: the Deployment and not its ReplicaSet. The pod itself where it has no owner.
    pub fn owner(&self, pod: &Pod) -> ObjectRef {
        let key = (pod.object.namespace().to_owned(), pod.object.name().to_owned());
        self.owner_of_pod.get(&key).cloned().unwrap_or_else(|| pod.object.reference.clone())
    }

    /// The same for a pod that only its name is known of.
    pub fn owner_by_name(&self, namespace: &str, pod: &str) -> ObjectRef {
        let key = (namespace.to_owned(), pod.to_owned());
        self.owner_of_pod.get(&key).cloned().unwrap_or_else(|| ObjectRef::new("Pod", namespace, pod))
    }

    /// The pods of a workload.
    pub fn pods_of<'a>(&'a self, workload: &'a ObjectRef) -> impl Iterator<Item = &'a Pod> {
        let own = self.index.pods_of(workload).iter().filter_map(|at| self.pods.get(*at));
        own.filter(move |pod| self.owner(pod).same_object(workload))
    }

    /// The pods that a Service selects and that have not ended.
    pub fn pods_behind<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Pod> {
        let some = self.index.pods_with(service.object.namespace(), &service.selector);
        let some = some.iter().filter_map(|at| self.pods.get(*at));
        some.filter(move |pod| service.selects(pod) && !pod.ended())
    }

    /// The pods of a namespace that carry all of these labels and have not ended; none where there are no labels.
    pub fn pods_with<'a, 'l>(
        &'a self,
        namespace: &str,
        labels: &'l Labels,
    ) -> impl Iterator<Item = &'a Pod> + use<'a, 'l> {
        let some = self.index.pods_with(namespace, labels).iter().filter_map(|at| self.pods.get(*at));
        some.filter(move |pod| !pod.ended() && carries(&pod.template.labels, labels))
    }

    /// The workloads at the top of a namespace whose template carries all of these labels; none where there are no labels.
    pub fn workloads_with<'a, 'l>(
        &'a self,
        namespace: &str,
        labels: &'l Labels,
    ) -> impl Iterator<Item = &'a Workload> + use<'a, 'l> {
        let some = self.index.workloads_with(namespace, labels);
        let some = some.iter().filter_map(|at| self.workloads.get(*at));
        some.filter(move |w| w.object.owners.is_empty() && carries(&w.template.labels, labels))
    }

    /// The workloads at the top whose template a Service selects: ReplicaSets of a Deployment stand for nothing here.
    pub fn workloads_behind<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Workload> {
        let some = self.index.workloads_with(service.object.namespace(), &service.selector);
        let some = some.iter().filter_map(|at| self.workloads.get(*at));
        some.filter(move |w| {
            w.object.owners.is_empty() && service.selects_labels(w.object.namespace(), &w.template.labels)
        })
    }

    /// The Services that select pods with these labels, in order.
    pub fn services_selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Service> {
        let some = self.index.services_with(namespace, labels);
        let some = some.into_iter().filter_map(|at| self.services.get(at));
        some.filter(move |s| s.selects_labels(namespace, labels))
    }

    /// The Services in front of a workload, by its template's labels.
    pub fn services_before<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Service> {
        self.services_selecting(workload.object.namespace(), &workload.template.labels)
    }

    /// The Services in front of a pod.
    pub fn services_before_pod<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Service> {
        self.services_selecting(pod.object.namespace(), &pod.template.labels)
    }

    /// Ready addresses and all addresses behind a Service; `None` where nothing says (plain manifests). EndpointSlices
    /// decide where they were seen, the pods' own readiness where not.
    pub fn endpoints(&self, service: &Service) -> Option<(usize, usize)> {
        let own = self.index.slices_of(service.object.namespace(), service.object.name());
        let mut slices = own.iter().filter_map(|at| self.slices.get(*at));
        if let Some(first) = slices.next() {
            let endpoints: Vec<_> = std::iter::once(first).chain(slices).flat_map(|s| &s.endpoints).collect();
            let distinct = |ready: bool| {
                let chosen = endpoints.iter().filter(|e| !ready || (e.ready && !e.terminating));
                chosen.flat_map(|e| &e.addresses).collect::<BTreeSet<_>>().len()
            };
            return Some((distinct(true), distinct(false)));
        }
        let pods: Vec<_> = self.pods_behind(service).collect();
        if !self.runs() || (pods.is_empty() && service.selector.is_empty()) {
            return None;
        }
        Some((pods.iter().filter(|pod| pod.ready()).count(), pods.len()))
    }

    /// The EndpointSlices of a Service.
    pub fn slices_of<'a>(&'a self, service: &Service) -> impl Iterator<Item = &'a EndpointSlice> {
        let own = self.index.slices_of(service.object.namespace(), service.object.name());
        own.iter().filter_map(|at| self.slices.get(*at))
    }

    /// Whether this was taken from something that runs: some pod has a status. Plain manifests have none, and a missing
    /// status, pod or endpoint in them is no failure.
    pub fn runs(&self) -> bool {
        self.pods.iter().any(Pod::has_status)
    }

    /// The log of a container, current or previous.
    pub fn log(&self, namespace: &str, pod: &str, container: &str, previous: bool) -> Option<&LogStream> {
        let wanted = (namespace, pod, container, previous);
        let place = |l: &LogStream| {
            (l.namespace.as_str(), l.pod.as_str(), l.container.as_str(), l.previous).cmp(&wanted)
        };
        self.logs.binary_search_by(place).ok().and_then(|at| self.logs.get(at))
    }

    /// Events about an object.
    pub fn events_about<'a>(&'a self, object: &'a ObjectRef) -> impl Iterator<Item = &'a Event> {
        self.index.events_about(object).iter().filter_map(|at| self.events.get(*at))
    }

    /// Series of this name.
    pub fn series_named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name == name)
    }

    /// Whether findings about this namespace are wanted: it is the target's, or there is no target and it is none of the
    /// platform's own.
    pub fn in_scope(&self, namespace: &str) -> bool {
        match &self.target {
            Some(target) if !target.namespace.is_empty() => target.namespace == namespace,
            _ => !is_system_namespace(namespace),
        }
    }

    /// Whether a pod carries this mesh's proxy beside its containers.
    pub fn has_istio_proxy(&self, pod: &Pod) -> bool {
        pod.template.has_running_container("istio-proxy")
    }

    /// Access logs of one Service, as one side of its edges saw them.
    pub fn traffic_to<'a>(
        &'a self,
        service: &'a ServiceName,
        reporter: Reporter,
    ) -> impl Iterator<Item = &'a EdgeTraffic> {
        self.traffic
            .iter()
            .filter(move |edge| edge.reporter == reporter && edge.service.as_ref() == Some(service))
    }

    /// The newest change to an object at or before an instant, its making not counted.
    pub fn last_change_before(&self, object: &ObjectRef, at: Timestamp) -> Option<&Change> {
        self.changes
            .iter()
            .rev()
            .find(|c| c.time <= at && c.subject.same_object(object) && c.kind != change::ChangeKind::Created)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_pods_owner_is_the_deployment_even_without_its_replica_set() {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-5d-x", "namespace": "n", "labels": {"pod-template-hash": "5d"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a-5d", "controller": true}]}}));
        let snapshot = builder.finish();
        assert_eq!(snapshot.owner(&snapshot.pods[0]).to_string(), "Deployment n/a");
        assert!(!snapshot.runs());
    }

    #[test]
    fn env_values_draw_edges() {
        let mut builder = Builder::new();
        for name in ["a", "bb"] {
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"}, "spec": {"selector": {"app": name}}}));
            builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "n"},
                "spec": {"template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "env": [{"name": "UP", "value": "http://bb:80/x,http://zz"}]}]}}}}));
        }
        let snapshot = builder.finish();
        let edges: Vec<_> = snapshot.graph.edges.keys().map(|(a, b)| format!("{} {b}", a.name)).collect();
        assert_eq!(edges, ["a n/bb"]);
    }

    #[test]
    fn the_two_gateways_do_not_hide_each_other() {
        let mut builder = Builder::new();
        for version in ["networking.istio.io/v1", "gateway.networking.k8s.io/v1"] {
            builder.object(json!({"apiVersion": version, "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"}}));
        }
        let snapshot = builder.finish();
        assert_eq!((snapshot.istio.gateways.len(), snapshot.gateway_api.gateways.len()), (1, 1));
    }
}
