//! Everything that one run has seen: the only thing that analysis reads.

use jiff::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::change::{self, Change};
use super::event::Event;
use super::fields::Fields;
use super::gap::Gap;
use super::graph::{Graph, Provenance};
use super::index::Index;
use super::log::LogStream;
use super::memo::{Derived, Memo};
use super::mesh::gateway_api::{self, GatewayApi};
use super::mesh::istio::{self, Istio, Policy};
use super::network::{EndpointSlice, NetworkPolicy, Service, ServiceName};
use super::object::{Object, ObjectRef};
use super::proxy::Proxy;
use super::proxy::sync::{self, ProxySync};
use super::series::Series;
use super::time::{self, Window};
use super::traffic::{EdgeTraffic, ProxyIdentity, Reporter, TrafficBuilder};
use super::workload::{EnvSource, Pod, Workload, is_proxy_container};

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
    /// Every object, by kind, namespace and name.
    pub objects: BTreeMap<(String, String, String), Object>,
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
    pub graph: Graph,
    /// What somebody did, oldest first.
    pub changes: Vec<Change>,
    /// What could not be seen.
    pub gaps: Vec<Gap>,
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

impl Snapshot {
    /// Something that follows from all of it, computed at the first call and kept.
    pub fn derived<T: Derived>(&self) -> std::sync::Arc<T> {
        self.memo.get(self)
    }

    /// An object by kind, namespace and name, whatever its version. Kinds that two APIs share (`Gateway`) are told apart by
    /// their typed lists.
    pub fn object(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(kind.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind, in order of namespace and name.
    pub fn objects_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Object> {
        let from = (kind.to_owned(), String::new(), String::new());
        self.objects.range(from..).take_while(move |((k, _, _), _)| k == kind).map(|(_, object)| object)
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
        let beside = self.index.pods_in(&self.pods, service.object.namespace());
        beside.iter().filter(move |pod| service.selects(pod) && !pod.ended())
    }

    /// The workloads at the top whose template a Service selects: ReplicaSets of a Deployment stand for nothing here.
    pub fn workloads_behind<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Workload> {
        let beside = self
            .index
            .workloads_in(service.object.namespace())
            .iter()
            .filter_map(|at| self.workloads.get(*at));
        beside.filter(move |w| {
            w.object.owners.is_empty() && service.selects_labels(w.object.namespace(), &w.template.labels)
        })
    }

    /// The Services in front of a workload, by its template's labels.
    pub fn services_before<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Service> {
        let beside = self.index.services_in(&self.services, workload.object.namespace());
        beside
            .iter()
            .filter(move |s| s.selects_labels(workload.object.namespace(), &workload.template.labels))
    }

    /// The Services in front of a pod.
    pub fn services_before_pod<'a>(&'a self, pod: &'a Pod) -> impl Iterator<Item = &'a Service> {
        let beside = self.index.services_in(&self.services, pod.object.namespace());
        beside.iter().filter(move |s| s.selects(pod))
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

/// Fills a snapshot, piece by piece, from whatever a source gives.
#[derive(Debug, Default)]
pub struct Builder {
    snapshot: Snapshot,
    manifest_edges: Vec<(String, String)>,
    proxies: BTreeMap<(String, String), Proxy>,
    captured_at: Option<Timestamp>,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Self {
        Builder::default()
    }

    /// When the material was taken. Without it, the latest time that anything in it carries.
    pub fn captured_at(&mut self, at: Option<Timestamp>) {
        self.captured_at = at;
    }

    /// The span of time that is looked at. Without it, that of the timestamped evidence.
    pub fn window(&mut self, window: Option<Window>) {
        self.snapshot.window = window;
    }

    /// When the trouble began, where somebody knows.
    pub fn onset(&mut self, onset: Option<Timestamp>) {
        self.snapshot.onset = onset;
    }

    /// What was asked about.
    pub fn target(&mut self, target: Option<Target>) {
        self.snapshot.target = target;
    }

    /// A known call, each side `service` or `namespace/service`.
    pub fn edge(&mut self, caller: &str, callee: &str) {
        self.manifest_edges.push((caller.to_owned(), callee.to_owned()));
    }

    /// Istio's root namespace and MeshConfig, as far as somebody knows them.
    pub fn istio(&mut self, root_namespace: &str, mesh_config: Value) {
        self.snapshot.istio.root_namespace = root_namespace.to_owned();
        self.snapshot.istio.mesh_config = mesh_config;
    }

    /// An object of any kind; what has no kind or no name is left out. Of two with the same name the later one counts.
    pub fn object(&mut self, body: Value) {
        let Some(object) = Object::read(body) else { return };
        if object.reference.kind == "Event" {
            self.snapshot.events.push(Event::read(&object));
            return;
        }
        let mut kind = object.reference.kind.clone();
        // Several APIs share these names; the core's and Istio's keep them.
        let group = object.reference.group();
        let shared =
            (kind == "Gateway" && group != "networking.istio.io") || (kind == "Service" && !group.is_empty());
        if shared {
            kind = format!("{group}/{kind}");
        }
        let key = (kind, object.reference.namespace.clone(), object.reference.name.clone());
        self.snapshot.objects.insert(key, object);
    }

    /// A container's log.
    pub fn log(&mut self, stream: LogStream) {
        self.snapshot.logs.push(stream);
    }

    /// Series.
    pub fn series(&mut self, series: Vec<Series>) {
        self.snapshot.series.extend(series);
    }

    /// An answer of a proxy's admin port.
    pub fn proxy(&mut self, namespace: &str, pod: &str, file: &str, bytes: &[u8]) {
        let proxy = self.proxies.entry((namespace.to_owned(), pod.to_owned())).or_insert_with(|| Proxy {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            ..Proxy::default()
        });
        proxy.read(file, bytes);
    }

    /// An answer of a control plane's debug port.
    pub fn control_plane(&mut self, pod: &str, file: &str, body: &Value) {
        if file == "syncz.json" {
            self.snapshot.proxy_syncs.extend(sync::read(pod, body));
        }
    }

    /// Something that could not be seen.
    pub fn gap(&mut self, gap: Gap) {
        self.snapshot.gaps.push(gap);
    }

    /// The snapshot: typed, indexed, in a fixed order.
    pub fn finish(mut self) -> Snapshot {
        self.sort_objects();
        let mut snapshot = self.snapshot;
        snapshot.proxies = self.proxies.into_values().collect();
        snapshot.proxy_syncs.sort_by(|a, b| {
            (&a.namespace, &a.pod, &a.control_plane).cmp(&(&b.namespace, &b.pod, &b.control_plane))
        });
        snapshot.logs.sort_by(|a, b| {
            (&a.namespace, &a.pod, &a.container, a.previous).cmp(&(
                &b.namespace,
                &b.pod,
                &b.container,
                b.previous,
            ))
        });
        snapshot.series.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
        snapshot.events.sort_by(|a, b| {
            (a.last, &a.about, &a.reason, &a.message).cmp(&(b.last, &b.about, &b.reason, &b.message))
        });
        snapshot.gaps.sort();
        snapshot.gaps.dedup();
        index_pods(&mut snapshot);
        snapshot.index = Index::new(
            (&snapshot.pods, &snapshot.services),
            &snapshot.workloads,
            &snapshot.slices,
            &snapshot.events,
            &|pod| snapshot.owner(pod),
        );
        snapshot.now = self.captured_at.or_else(|| latest(&snapshot)).unwrap_or_default();
        if snapshot.window.is_none() {
            snapshot.window = evidence_window(&snapshot);
        }
        snapshot.changes = change::changes(&snapshot.objects, &snapshot.workloads, &snapshot.events);
        snapshot.traffic = traffic(&snapshot);
        snapshot.graph = graph(&snapshot, &self.manifest_edges);
        snapshot
    }

    fn sort_objects(&mut self) {
        let snapshot = &mut self.snapshot;
        let istio = &mut snapshot.istio;
        if istio.root_namespace.is_empty() {
            istio.root_namespace = "istio-system".to_owned();
        }
        for ((kind, _, _), object) in &snapshot.objects {
            let (object, group) = (object.clone(), object.reference.group().to_owned());
            let istio_kind = group.ends_with("istio.io");
            istio.present |= istio_kind;
            match kind.as_str() {
                "Pod" => snapshot.pods.push(Pod::read(object)),
                "Service" if group.is_empty() => snapshot.services.push(Service::read(object)),
                "EndpointSlice" => snapshot.slices.push(EndpointSlice::read(object)),
                "NetworkPolicy" if group == "networking.k8s.io" => {
                    snapshot.network_policies.push(NetworkPolicy::read(object))
                }
                "VirtualService" if istio_kind => {
                    istio.virtual_services.push(istio::VirtualService::read(object))
                }
                "DestinationRule" if istio_kind => {
                    istio.destination_rules.push(istio::DestinationRule::read(object))
                }
                "Gateway" if istio_kind => istio.gateways.push(istio::Gateway::read(object)),
                "ServiceEntry" if istio_kind => istio.service_entries.push(istio::ServiceEntry::read(object)),
                "PeerAuthentication" if istio_kind => istio.peer_authentications.push(Policy::read(object)),
                "AuthorizationPolicy" if istio_kind => {
                    istio.authorization_policies.push(Policy::read(object))
                }
                "RequestAuthentication" if istio_kind => {
                    istio.request_authentications.push(Policy::read(object))
                }
                "Sidecar" if istio_kind => istio.sidecars.push(Policy::read(object)),
                "EnvoyFilter" if istio_kind => istio.envoy_filters.push(Policy::read(object)),
                "gateway.networking.k8s.io/Gateway" => {
                    snapshot.gateway_api.gateways.push(gateway_api::Gateway::read(object))
                }
                "ReferenceGrant" => snapshot.gateway_api.grants.push(object),
                kind if gateway_api::Route::KINDS.contains(&kind) && group == "gateway.networking.k8s.io" => {
                    snapshot.gateway_api.routes.push(gateway_api::Route::read(object));
                }
                kind if Workload::KINDS.contains(&kind) => snapshot.workloads.push(Workload::read(object)),
                _ => {}
            }
        }
        istio.present |= snapshot.pods.iter().any(|pod| pod.template.has_running_container("istio-proxy"));
    }
}

/// Who owns which pod at the top, and whose address is whose.
fn index_pods(snapshot: &mut Snapshot) {
    let mut above: BTreeMap<(String, String, String), ObjectRef> = BTreeMap::new();
    for workload in &snapshot.workloads {
        if let Some(owner) = workload.object.owners.first() {
            let r = workload.reference();
            above.insert((r.kind.clone(), r.namespace.clone(), r.name.clone()), owner.clone());
        }
    }
    for (at, pod) in snapshot.pods.iter().enumerate() {
        // Addresses of pods that have ended, or that share their node's, belong to others.
        if !pod.ended() && !pod.template.host_network {
            for ip in &pod.ips {
                snapshot.pod_of_ip.insert(ip.clone(), at);
            }
        }
        let Some(mut owner) = pod.object.owners.first().cloned() else { continue };
        // A chain longer than this is a loop that somebody made.
        for _ in 0..4 {
            let key = (owner.kind.clone(), owner.namespace.clone(), owner.name.clone());
            match above.get(&key) {
                Some(next) => owner = next.clone(),
                None => break,
            }
        }
        // A ReplicaSet that was not seen is named after its Deployment and the template's hash.
        if owner.kind == "ReplicaSet"
            && let Some(hash) = pod.object.labels.get("pod-template-hash")
            && let Some(name) = owner.name.strip_suffix(&format!("-{hash}"))
        {
            owner = ObjectRef { kind: "Deployment".to_owned(), name: name.to_owned(), ..owner };
        }
        snapshot
            .owner_of_pod
            .insert((pod.object.namespace().to_owned(), pod.object.name().to_owned()), owner);
    }
}

/// The latest time that anything carries.
fn latest(snapshot: &Snapshot) -> Option<Timestamp> {
    evidence_times(snapshot).max()
}

/// The span of the timestamped evidence: logs, access logs, series and events.
fn evidence_window(snapshot: &Snapshot) -> Option<Window> {
    let (mut start, mut end) = (None::<Timestamp>, None::<Timestamp>);
    for at in evidence_times(snapshot) {
        start = Some(start.map_or(at, |s| s.min(at)));
        end = Some(end.map_or(at, |e| e.max(at)));
    }
    Some(Window { start: start?, end: end? })
}

fn evidence_times(snapshot: &Snapshot) -> impl Iterator<Item = Timestamp> + '_ {
    let logs = snapshot.logs.iter().flat_map(|log| {
        let ends = [log.lines.first(), log.lines.last()].into_iter().flatten().filter_map(|line| line.time);
        let access =
            [log.access.first(), log.access.last()].into_iter().flatten().filter_map(|record| record.start);
        ends.chain(access)
    });
    let series = snapshot.series.iter().flat_map(|series| {
        [series.points.first(), series.points.last()]
            .into_iter()
            .flatten()
            .filter_map(|(t, _)| time::from_unix(*t))
    });
    logs.chain(series).chain(snapshot.events.iter().filter_map(|event| event.last))
}

/// Sums up the access logs of all proxies.
fn traffic(snapshot: &Snapshot) -> Vec<EdgeTraffic> {
    let mut builder = TrafficBuilder::default();
    let who = |ip: &str| snapshot.pod_by_ip(ip).map(|pod| snapshot.owner(pod));
    let by_ip: BTreeMap<&str, ServiceName> = snapshot
        .services
        .iter()
        .flat_map(|s| {
            s.cluster_ips.iter().filter(|ip| *ip != "None").map(|ip| (ip.as_str(), s.service_name()))
        })
        .collect();
    for log in snapshot.logs.iter().filter(|log| !log.access.is_empty()) {
        let pod = snapshot.pod(&log.namespace, &log.pod);
        let service = pod.and_then(|pod| {
            let mut before = snapshot.services_before_pod(pod);
            let first = before.next()?;
            // Of several, the one that is named after the workload.
            let owner = snapshot.owner(pod).name;
            Some(
                before
                    .find(|s| s.object.name() == owner)
                    .filter(|_| first.object.name() != owner)
                    .unwrap_or(first)
                    .service_name(),
            )
        });
        let proxy = ProxyIdentity {
            workload: snapshot.owner_by_name(&log.namespace, &log.pod),
            pod: log.pod.clone(),
            namespace: log.namespace.clone(),
            ips: pod.map(|pod| pod.ips.clone()).unwrap_or_default(),
            service,
        };
        let namespace = log.namespace.clone();
        let service_of = |host: &str, ip: &str| {
            let full = istio::full_host(host, &namespace);
            let named = istio::service_of_host(&full).map(|(ns, name)| ServiceName::new(ns, name));
            named.filter(|name| snapshot.service(name).is_some()).or_else(|| by_ip.get(ip).cloned())
        };
        for record in &log.access {
            builder.add(record, &proxy, &who, &service_of);
        }
    }
    builder.finish()
}

/// Draws the service graph from what was seen and from what is configured.
fn graph(snapshot: &Snapshot, manifest: &[(String, String)]) -> Graph {
    let mut graph = Graph::default();
    for service in &snapshot.services {
        let behind: BTreeSet<ObjectRef> =
            snapshot.workloads_behind(service).map(|w| w.reference().clone()).collect();
        let pods = snapshot.pods_behind(service).map(|pod| snapshot.owner(pod));
        let known: BTreeSet<ObjectRef> = if behind.is_empty() { pods.collect() } else { behind };
        graph.backing.insert(service.service_name(), known);
    }
    for edge in &snapshot.traffic {
        let Some(service) = &edge.service else { continue };
        match edge.reporter {
            Reporter::Source => graph.add(
                edge.workload.clone(),
                service.clone(),
                Provenance::AccessLog,
                edge.requests,
                edge.failures(),
            ),
            Reporter::Destination => {
                if let Some(caller) = &edge.peer {
                    graph.add(caller.clone(), service.clone(), Provenance::AccessLog, 0, 0);
                }
            }
        }
    }
    metric_edges(snapshot, &mut graph);
    named_edges(snapshot, &mut graph);
    for (caller, callee) in manifest {
        let namespace = snapshot.target.as_ref().map(|t| t.namespace.clone()).unwrap_or_default();
        let name = |text: &str| match text.split_once('/') {
            Some((namespace, name)) => ServiceName::new(namespace, name),
            None => ServiceName::new(namespace.clone(), text),
        };
        let (caller, callee) = (name(caller), name(callee));
        let workloads = graph.backing.get(&caller).cloned().filter(|w| !w.is_empty());
        for workload in workloads.unwrap_or_else(|| [caller.reference()].into()) {
            graph.add(workload, callee.clone(), Provenance::Manifest, 0, 0);
        }
    }
    graph
}

/// Edges that counters of requests name.
fn metric_edges(snapshot: &Snapshot, graph: &mut Graph) {
    for series in &snapshot.series {
        match series.name.as_str() {
            "istio_requests_total" | "istio_tcp_connections_opened_total" => {
                let callee = ServiceName::new(
                    series.label("destination_service_namespace"),
                    series.label("destination_service_name"),
                );
                let (namespace, name) =
                    (series.label("source_workload_namespace"), series.label("source_workload"));
                if name.is_empty() || name == "unknown" || snapshot.service(&callee).is_none() {
                    continue;
                }
                let caller = snapshot.workloads.iter().find(|w| {
                    w.object.owners.is_empty() && w.object.namespace() == namespace && w.object.name() == name
                });
                let caller = caller
                    .map_or_else(|| ObjectRef::new("Deployment", namespace, name), |w| w.reference().clone());
                graph.add(caller, callee, Provenance::Metrics, 0, 0);
            }
            "envoy_cluster_upstream_rq" | "envoy_cluster_upstream_rq_total" => {
                let Some((_, host)) = series.label("cluster_name").rsplit_once('|') else { continue };
                let Some((namespace, name)) = istio::service_of_host(host.trim_end_matches(';')) else {
                    continue;
                };
                let callee = ServiceName::new(namespace, name);
                let active = series.max().unwrap_or(0.0) > 0.0;
                if active && snapshot.service(&callee).is_some() && !series.label("pod").is_empty() {
                    let caller = snapshot.owner_by_name(series.label("namespace"), series.label("pod"));
                    graph.add(caller, callee, Provenance::Metrics, 0, 0);
                }
            }
            _ => {}
        }
    }
}

/// Words of a text that can be host names.
fn host_words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))).filter(|word| word.len() > 1)
}

/// Edges that environments, arguments and logs of workloads name.
fn named_edges(snapshot: &Snapshot, graph: &mut Graph) {
    let known: BTreeSet<ServiceName> = snapshot.services.iter().map(Service::service_name).collect();
    let named = |text: &str, namespace: &str| {
        let mut found: BTreeSet<ServiceName> = BTreeSet::new();
        for word in host_words(text) {
            let name = match istio::service_of_host(&istio::full_host(word, namespace)) {
                Some((ns, name)) => ServiceName::new(ns, name),
                None => continue,
            };
            if known.contains(&name) {
                found.insert(name);
            }
        }
        found
    };
    for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
        let namespace = workload.object.namespace();
        for container in workload.template.application_containers() {
            let mut texts: Vec<String> = container.body.texts("args");
            texts.extend(container.body.texts("command"));
            for var in &container.env {
                match &var.source {
                    EnvSource::Literal(text) => texts.push(text.clone()),
                    EnvSource::ConfigMapKey { name, key, .. } => {
                        let map = snapshot.object("ConfigMap", namespace, name);
                        texts.extend(
                            map.and_then(|m| m.body.at("data")?.child(key)?.as_str().map(str::to_owned)),
                        );
                    }
                    EnvSource::SecretKey { .. } | EnvSource::Other => {}
                }
            }
            for entry in container.body.list("envFrom") {
                let map = entry
                    .text("configMapRef.name")
                    .and_then(|name| snapshot.object("ConfigMap", namespace, name));
                let values = map.and_then(|m| m.body.map("data")).into_iter().flatten();
                texts.extend(values.filter_map(|(_, value)| value.as_str().map(str::to_owned)));
            }
            for callee in texts.iter().flat_map(|text| named(text, namespace)) {
                graph.add(workload.reference().clone(), callee, Provenance::Environment, 0, 0);
            }
        }
    }
    for log in snapshot.logs.iter().filter(|log| !is_proxy_container(&log.container)) {
        let caller = snapshot.owner_by_name(&log.namespace, &log.pod);
        // The first URL in a line of a log names who was called; a later one stands in an answer that the callee quotes, and
        // any other word may be anything.
        for line in &log.lines {
            let Some(rest) = line.text.split_once("://").map(|(_, rest)| rest) else { continue };
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.')))
                .unwrap_or(rest.len());
            for callee in named(rest.get(..end).unwrap_or_default(), &log.namespace) {
                graph.add(caller.clone(), callee, Provenance::Log, 0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
