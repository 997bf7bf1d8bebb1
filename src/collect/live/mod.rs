//! One run against a live cluster: from a plan to the material that a bundle would hold.
//!
//! First cheap, then deep: [`LiveRun::collect`] reads objects, events, access logs, logs of what is unwell and the
//! cheap series; what a first analysis implicates is then looked at closely with [`LiveRun::deepen`].

mod cluster;
mod edge;
mod evidence;
mod objects;
mod proxies;

use crate::model::json::Value;
use kube::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use super::assemble::assemble;
use super::budget::{Budget, Cost, Meter};
use super::kubernetes::access::Access;
use super::kubernetes::gather::{self, Batch, Context};
use super::kubernetes::neighbours::{Mentions, Neighbourhood, mentioned_calls, neighbourhood};
use super::kubernetes::reader::{ReadError, Reader};
use super::kubernetes::served::Catalogue;
use super::logs::choose::{LogRequest, PodKey, pods_around};
use super::material::{ControlPlaneFile, LogFile, Manifest, ManifestIstio, Material, MetricFile, ProxyFile};
use super::outcome::{CollectorOutcome, Ledger};
use super::plan::{Asker, Plan};
use super::prometheus::MetricsSource;
use super::prometheus::variants::Variants;
use super::proxy::Proxies;
use super::redact::Counts;
use crate::model::fields::Fields;
use crate::model::gap::Gap;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

/// The sources besides the Kubernetes API.
#[derive(Clone, Default)]
pub struct Sources {
    /// Where metrics come from; `None` where no source is configured.
    pub metrics: Option<Arc<dyn MetricsSource>>,
    /// How and where admin ports of proxies may be opened; `None` where they may not.
    pub proxies: Option<Proxies>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done: one of [`STEPS`].
    pub step: &'static str,
    /// Steps that are done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

/// Is told how far a run is. Called from the run's own task: it must not block.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// The steps of [`LiveRun::collect`], in order.
pub const STEPS: &[&str] = &[
    "Discovery",
    "Cluster",
    "Namespace",
    "Mesh",
    "Neighbours",
    "Events",
    "Logs",
    "Proxies",
    "Metrics",
    "Nodes",
];

/// Group, kind, namespace and name of an object.
type ObjectKey = (String, String, String, String);

/// A run against a live cluster. It never fails: what cannot be read is a gap.
pub struct LiveRun {
    reader: Reader,
    plan: Plan,
    sources: Sources,
    progress: ProgressSink,
    catalogue: Catalogue,
    access: BTreeMap<String, Access>,
    /// Namespaces that exist, as far as we may know.
    namespaces: BTreeSet<String>,
    namespace_objects: BTreeMap<String, Value>,
    /// Namespaces whose objects were read.
    read: BTreeSet<String>,
    /// Namespaces that matter and are not read: not granted, not there, or too many.
    beyond: BTreeSet<String>,
    control_planes: BTreeSet<String>,
    istio: Option<ManifestIstio>,
    objects: BTreeMap<ObjectKey, Value>,
    mentions: Mentions,
    around: Neighbourhood,
    logs: Vec<LogFile>,
    asked_logs: BTreeSet<LogRequest>,
    metrics: Vec<MetricFile>,
    /// What the metrics source has, once it was asked.
    variants: Option<Variants>,
    proxies: Vec<ProxyFile>,
    control_plane: Vec<ControlPlaneFile>,
    ledger: Ledger,
    redactions: Counts,
    unreachable: Option<ReadError>,
}

/// Collects once, without a closer look.
pub async fn collect(
    client: Client,
    plan: Plan,
    sources: Sources,
    progress: ProgressSink,
    cancel: CancellationToken,
    budget: Budget,
) -> (Material, Vec<CollectorOutcome>, Cost) {
    let mut run = LiveRun::new(client, plan, sources, progress, cancel, budget);
    run.collect().await;
    run.finish()
}

impl LiveRun {
    /// A run that begins now: its deadline counts from here.
    pub fn new(
        client: Client,
        plan: Plan,
        sources: Sources,
        progress: ProgressSink,
        cancel: CancellationToken,
        budget: Budget,
    ) -> Self {
        let reader = Reader::new(client, Arc::new(Meter::new(budget)), cancel);
        let ledger = Ledger::new(plan.asker).watching(plan.watched.clone());
        LiveRun {
            reader,
            plan,
            sources,
            progress,
            catalogue: Catalogue::default(),
            access: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            namespace_objects: BTreeMap::new(),
            read: BTreeSet::new(),
            beyond: BTreeSet::new(),
            control_planes: BTreeSet::new(),
            istio: None,
            objects: BTreeMap::new(),
            mentions: Mentions::new(),
            around: Neighbourhood::default(),
            logs: vec![],
            asked_logs: BTreeSet::new(),
            metrics: vec![],
            variants: None,
            proxies: vec![],
            control_plane: vec![],
            ledger,
            redactions: Counts::default(),
            unreachable: None,
        }
    }

    /// The first, cheap pass.
    pub async fn collect(&mut self) {
        self.step(0);
        match gather::discover(&self.reader).await {
            Ok(catalogue) => {
                self.catalogue = catalogue;
                self.ledger.got("Discovery", 1, 0);
            }
            Err(error) => {
                let gap = Gap::new(
                    "Objects",
                    "everything: the API server did not say what it serves",
                    error.gap_reason(),
                );
                let hint = "check the address and the credentials of the API server: kubectl get --raw /apis";
                self.ledger.gap("Discovery", gap.hint(hint));
                self.unreachable = Some(error);
                return;
            }
        }
        self.step(1);
        self.read_cluster().await;
        if !self.target_exists() {
            return;
        }
        self.step(2);
        self.read_target().await;
        self.step(3);
        self.read_mesh().await;
        self.step(4);
        self.read_neighbours().await;
        self.read_edge().await;
        self.step(5);
        self.read_events().await;
        self.step(6);
        self.read_logs().await;
        self.step(7);
        self.read_proxies().await;
        self.step(8);
        self.read_metrics().await;
        self.step(9);
        // Access logs and metrics may have shown callers that no configuration names.
        self.read_neighbours().await;
        self.read_nodes().await;
        (self.progress)(Progress { step: "Nodes", done: STEPS.len(), total: STEPS.len() });
    }

    /// The second, deep pass: every log and the raw series of these pods. What may not be looked at is left out.
    pub async fn deepen(&mut self, implicated: &[PodKey]) {
        let snapshot = self.structure();
        self.deepen_logs(&snapshot, implicated).await;
        self.deepen_proxies(&snapshot, implicated).await;
        self.deepen_metrics(&snapshot, implicated).await;
    }

    /// The pods of the target itself: implicated by definition.
    pub fn target_pods(&self) -> Vec<PodKey> {
        self.pods_within(0)
    }

    /// The pods of the target and of its neighbours within the plan's depth.
    pub fn all_pods(&self) -> Vec<PodKey> {
        self.pods_within(u8::MAX)
    }

    fn pods_within(&self, hops: u8) -> Vec<PodKey> {
        let snapshot = self.structure();
        let pods = pods_around(&snapshot, &self.around, &self.plan).into_iter().filter(|(_, at)| *at <= hops);
        pods.map(|(pod, _)| (pod.object.namespace().to_owned(), pod.object.name().to_owned())).collect()
    }

    /// What has been collected so far.
    pub fn material(&self) -> Material {
        let mut objects: Vec<Value> = self.objects.values().cloned().collect();
        let read = |name: &str| self.read.contains(name);
        objects.extend(self.namespace_objects.iter().filter(|(name, _)| read(name)).map(|(_, o)| o.clone()));
        Material {
            manifest: self.manifest(&objects),
            objects,
            logs: self.logs.clone(),
            metrics: self.metrics.clone(),
            proxies: self.proxies.clone(),
            control_plane: self.control_plane.clone(),
            gaps: self.ledger.gaps(),
            ..Material::default()
        }
    }

    fn manifest(&self, objects: &[Value]) -> Manifest {
        let mut manifest = Manifest {
            version: 1,
            captured_at: Some(self.plan.now),
            window: Some(self.plan.window),
            onset: self.plan.onset,
            target: Some(self.plan.manifest_target()),
            istio: self.istio.clone(),
            ..Manifest::default()
        };
        if !self.mentions.is_empty() {
            // Only objects decide who mentions whom.
            let objects = Material { objects: objects.to_vec(), ..Material::default() };
            manifest.edges = mentioned_calls(&assemble(objects), &self.mentions);
        }
        manifest
    }

    /// Why nothing at all could be read; `None` where the API server answered.
    pub fn unreachable(&self) -> Option<&ReadError> {
        self.unreachable.as_ref()
    }

    /// One line for each collector.
    pub fn outcomes(&self) -> Vec<CollectorOutcome> {
        self.ledger.outcomes()
    }

    /// What the run has cost so far.
    pub fn cost(&self) -> Cost {
        self.reader.meter().cost()
    }

    /// How many secrets were masked, by kind.
    pub fn redactions(&self) -> &Counts {
        &self.redactions
    }

    /// Everything at once.
    pub fn finish(mut self) -> (Material, Vec<CollectorOutcome>, Cost) {
        let (outcomes, cost, gaps) = (self.outcomes(), self.cost(), self.ledger.gaps());
        let mut objects: Vec<Value> = std::mem::take(&mut self.objects).into_values().collect();
        let spaces = std::mem::take(&mut self.namespace_objects).into_iter();
        objects.extend(spaces.filter(|(name, _)| self.read.contains(name)).map(|(_, object)| object));
        let material = Material {
            manifest: self.manifest(&objects),
            objects,
            logs: self.logs,
            metrics: self.metrics,
            proxies: self.proxies,
            control_plane: self.control_plane,
            gaps,
            ..Material::default()
        };
        (material, outcomes, cost)
    }

    /// The objects so far, indexed: who owns and selects which pods. Cheap, since logs and series are not read.
    fn structure(&self) -> Snapshot {
        assemble(Material { objects: self.objects.values().cloned().collect(), ..Material::default() })
    }

    /// Looks anew at who matters to the target, by everything that is known so far.
    async fn look_around(&mut self) {
        let material = self.material();
        // Logs and series can take a while to read: other runs go on meanwhile.
        let Ok(snapshot) = tokio::task::spawn_blocking(move || assemble(material)).await else {
            tracing::error!("what was collected could not be put together");
            return;
        };
        self.around = neighbourhood(&snapshot, &self.plan, &self.mentions, &self.namespaces);
    }

    fn step(&self, done: usize) {
        let step = STEPS.get(done).copied().unwrap_or_default();
        (self.progress)(Progress { step, done, total: STEPS.len() });
    }

    /// What may be read in a namespace; asked once.
    async fn access(&mut self, namespace: &str) -> Access {
        if let Some(known) = self.access.get(namespace) {
            return known.clone();
        }
        let access = gather::access(&self.reader, namespace).await;
        self.access.insert(namespace.to_owned(), access.clone());
        access
    }

    /// Reads lists of one namespace (or of none) and returns the objects, which are not kept yet.
    async fn batch(&mut self, namespace: Option<&str>, jobs: Vec<gather::Job>) -> Vec<Value> {
        let access = match namespace {
            Some(namespace) => self.access(namespace).await,
            None => Access::unknown(),
        };
        let services = self.services();
        let context = Context {
            reader: &self.reader,
            catalogue: &self.catalogue,
            control_planes: &self.control_planes,
            services: &services,
            namespaces: &self.namespaces,
        };
        let Batch { objects, mentions, redactions } =
            gather::lists(&context, &access, jobs, &mut self.ledger).await;
        self.mentions.extend(mentions);
        self.redactions.add(&redactions);
        objects
    }

    /// Reads one object.
    async fn get(
        &mut self,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Value> {
        let kind = super::kubernetes::kinds::find(group, resource)?;
        let context = Context {
            reader: &self.reader,
            catalogue: &self.catalogue,
            control_planes: &self.control_planes,
            services: &BTreeSet::new(),
            namespaces: &self.namespaces,
        };
        gather::get(&context, kind, namespace, name, &mut self.ledger, &mut self.redactions).await
    }

    fn keep(&mut self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            let version = object.string("apiVersion");
            let group = version.split_once('/').map_or("", |(group, _)| group);
            // Both APIs for events show the same ones.
            let group = if object.text("kind") == Some("Event") { "" } else { group };
            let (namespace, name) = (object.string("metadata.namespace"), object.string("metadata.name"));
            let key = (group.to_owned(), object.string("kind"), namespace, name);
            self.objects.entry(key).or_insert(object);
        }
    }

    fn services(&self) -> BTreeSet<ServiceName> {
        let services =
            self.objects.keys().filter(|(group, kind, _, _)| group.is_empty() && kind == "Service");
        services.map(|(_, _, namespace, name)| ServiceName::new(namespace, name)).collect()
    }

    fn configured_hint(&self) -> &'static str {
        match self.plan.asker {
            Asker::Operator => "configure a metrics source: chart value sources.metrics",
            Asker::Person => "name a metrics source: --prometheus URL",
        }
    }
}

#[cfg(test)]
mod tests;
