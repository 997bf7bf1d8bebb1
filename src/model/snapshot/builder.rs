//! Fills a snapshot from whatever a source gives.

use crate::model::json::Value;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Snapshot, Target, edges, emitters};
use crate::model::change;
use crate::model::event::Event;
use crate::model::gap::Gap;
use crate::model::index::Index;
use crate::model::log::LogStream;
use crate::model::mesh::gateway_api;
use crate::model::mesh::istio::{self, Policy};
use crate::model::network::{EndpointSlice, NetworkPolicy, Service};
use crate::model::object::{Object, ObjectRef};
use crate::model::objects;
use crate::model::proxy::Proxy;
use crate::model::proxy::sync;
use crate::model::series::Series;
use crate::model::source::Sources;
use crate::model::span::{Span, Spans};
use crate::model::time::{self, Window};
use crate::model::workload::{Pod, Workload};

/// The kind of namespaces.
const NAMESPACE: &str = "Namespace";

/// Fills a snapshot, piece by piece, from whatever a source gives.
#[derive(Debug, Default)]
pub struct Builder {
    snapshot: Snapshot,
    objects: Vec<Arc<Object>>,
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
        if let Some(object) = Object::read(body) {
            self.read_object(Arc::new(object));
        }
    }

    /// The same for an object that was read already.
    pub(super) fn read_object(&mut self, object: Arc<Object>) {
        if object.reference.kind == "Event" {
            self.snapshot.events.push(Event::read(&object));
            return;
        }
        self.objects.push(object);
    }

    /// A container's log.
    pub fn log(&mut self, stream: LogStream) {
        self.snapshot.logs.push(stream);
    }

    /// Series.
    pub fn series(&mut self, series: Vec<Series>) {
        self.snapshot.series.extend(series);
    }

    /// Spans of traces: all that there are.
    pub fn spans(&mut self, spans: Spans) {
        self.snapshot.spans = spans;
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

    /// Where objects stand in the files that they were read from.
    pub fn sources(&mut self, sources: Sources) {
        self.snapshot.sources.extend(sources);
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
        let spaces = snapshot.objects.iter().filter(|object| {
            let ObjectRef { kind, namespace, .. } = &object.reference;
            kind == NAMESPACE && namespace.is_empty()
        });
        snapshot.index = Index::new(
            spaces,
            (&snapshot.pods, &snapshot.services),
            &snapshot.workloads,
            &snapshot.slices,
            &snapshot.events,
            &|pod| snapshot.owner(pod),
        );
        emitters::assign(&mut snapshot);
        snapshot.now = self.captured_at.or_else(|| latest(&snapshot)).unwrap_or_default();
        if snapshot.window.is_none() {
            snapshot.window = evidence_window(&snapshot);
        }
        snapshot.changes = change::changes(&snapshot.objects, &snapshot.workloads, &snapshot.events);
        snapshot.traffic = edges::traffic(&snapshot);
        snapshot.graph = Arc::new(edges::graph(&snapshot, &self.manifest_edges));
        snapshot
    }

    fn sort_objects(&mut self) {
        let snapshot = &mut self.snapshot;
        snapshot.objects = std::mem::take(&mut self.objects).into_iter().collect();
        let istio = &mut snapshot.istio;
        if istio.root_namespace.is_empty() {
            istio.root_namespace = "istio-system".to_owned();
        }
        for object in &snapshot.objects {
            let (kind, group) = (objects::kind(&object.reference), object.reference.group());
            let object = Arc::clone(object);
            let istio_kind = group.ends_with("istio.io");
            istio.present |= istio_kind;
            match &*kind {
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
        shrink(snapshot);
        let istio = &mut snapshot.istio;
        istio.present |= snapshot.pods.iter().any(|pod| pod.template.has_running_container("istio-proxy"));
    }
}

/// Gives back the room that lists of objects have left for more: there will be none.
fn shrink(snapshot: &mut Snapshot) {
    let Snapshot { pods, workloads, services, slices, istio, .. } = snapshot;
    pods.shrink_to_fit();
    workloads.shrink_to_fit();
    services.shrink_to_fit();
    slices.shrink_to_fit();
    istio.virtual_services.shrink_to_fit();
    istio.destination_rules.shrink_to_fit();
    istio.authorization_policies.shrink_to_fit();
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

/// The span of the timestamped evidence: logs, access logs, series, spans and events.
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
    // Spans stand in order of traces; the far ends of each need a pass over all.
    let spans = snapshot.spans.all();
    let first = spans.iter().min_by_key(|span| span.start);
    let last = spans.iter().max_by_key(|span| span.start);
    let spans = [first, last].into_iter().flatten().map(Span::time);
    logs.chain(series).chain(snapshot.events.iter().filter_map(|event| event.last)).chain(spans)
}
