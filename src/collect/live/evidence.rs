//! Events, logs and series of a run.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::{LiveRun, ObjectKey};
use crate::collect::kubernetes::gather::Job;
use crate::collect::kubernetes::kinds::find;
use crate::collect::logs::choose::{Choice, LogRequest, PodKey, cheap, deep, pods_around};
use crate::collect::logs::{self, LogAnswer};
use crate::collect::plan::Source;
use crate::collect::prometheus::MetricsSource;
use crate::collect::prometheus::catalogue::{Exporter, Pass};
use crate::collect::prometheus::read::{self, Scope};
use crate::collect::prometheus::variants::Variants;
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};
use crate::model::snapshot::Snapshot;

/// Pages of events that are read for each event that is kept: the API gives them in no order of time.
const EVENT_PAGES: usize = 3;

/// Pods of a control plane whose logs are read; all replicas see the same configuration.
const CONTROL_PLANE_LOGS: usize = 2;

impl LiveRun {
    /// Reads the events of every namespace that was read; of neighbours, those about objects that are kept.
    pub(super) async fn read_events(&mut self) {
        if !self.plan.reads(Source::Events) {
            self.ledger.skip("Events", "not asked for");
            return;
        }
        let about: BTreeSet<(String, String)> =
            self.objects.keys().map(|(_, kind, _, name)| (kind.clone(), name.clone())).collect();
        for namespace in self.read.clone() {
            let mut events = self.events_of(&namespace, "").await;
            if events.is_empty() {
                // A replayed bundle may hold the events of the newer API only.
                events = self.events_of(&namespace, "events.k8s.io").await;
            }
            if namespace != self.plan.namespace {
                events.retain(|event| {
                    let of = ["involvedObject", "regarding"].iter().find_map(|field| event.at(field));
                    of.is_some_and(|of| about.contains(&(of.string("kind"), of.string("name"))))
                });
            }
            let cap = self.reader.budget().events_per_namespace;
            if events.len() > cap {
                events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
                events.truncate(cap);
                let what = format!("older events of namespace {namespace}");
                self.ledger.gap("Events", Gap::new("Events", what, GapReason::Truncated));
            }
            self.keep(events);
        }
    }

    async fn events_of(&mut self, namespace: &str, group: &str) -> Vec<Value> {
        let access = self.access(namespace).await;
        let newer_denied = group == "events.k8s.io" && access.denies("list", group, "events");
        let Some(kind) = find(group, "events").filter(|_| !newer_denied) else { return vec![] };
        if group == "events.k8s.io" && self.catalogue.served(kind).is_none() {
            return vec![];
        }
        let cap = self.reader.budget().events_per_namespace.saturating_mul(EVENT_PAGES);
        self.batch(Some(namespace), vec![Job::all(kind, Some(namespace), cap)]).await
    }

    /// The cheap pass over logs.
    pub(super) async fn read_logs(&mut self) {
        if !self.plan.reads(Source::Logs) {
            self.ledger.skip("Logs", "not asked for");
            return;
        }
        let mut choice = cheap(&self.structure(), &self.around, &self.plan, self.reader.budget());
        choice.requests.extend(self.control_plane_logs());
        choice.requests.extend(self.edge_logs());
        self.fetch_logs(choice).await;
    }

    /// The log of the mesh's control plane, where proxies' refusals of its configuration stand. It names objects of every
    /// namespace, so it is only read where that namespace may be looked into.
    fn control_plane_logs(&self) -> Vec<LogRequest> {
        let pods = self.objects.iter().filter(|((group, kind, namespace, _), object)| {
            let here = group.is_empty() && kind == "Pod" && self.control_planes.contains(namespace);
            here && self.plan.reaches(namespace) && object.text("metadata.labels.app") == Some("istiod")
        });
        let request = |((_, _, namespace, pod), _): (&ObjectKey, _)| LogRequest {
            namespace: namespace.clone(),
            pod: pod.clone(),
            container: "discovery".to_owned(),
            previous: false,
            lines: self.reader.budget().access_log_lines.min(self.plan.logs.tail_lines),
        };
        pods.take(CONTROL_PLANE_LOGS).map(request).collect()
    }

    /// The deep pass over logs.
    pub(super) async fn deepen_logs(&mut self, snapshot: &Snapshot, implicated: &[PodKey]) {
        if self.plan.reads(Source::Logs) {
            let choice = deep(snapshot, implicated, &self.plan, self.reader.budget(), &self.asked_logs);
            self.fetch_logs(choice).await;
        }
    }

    async fn fetch_logs(&mut self, choice: Choice) {
        if choice.left_out > 0 {
            let what = format!("logs of {} more pods", choice.left_out);
            let hint = "name the service or workload that you ask about";
            self.ledger.gap("Logs", Gap::new("Logs", what, GapReason::Truncated).hint(hint));
        }
        let mut requests = vec![];
        let mut denied = BTreeSet::new();
        for request in choice.requests {
            if self.access(&request.namespace).await.denies("get", "", "pods/log") {
                denied.insert(request.namespace);
            } else {
                requests.push(request);
            }
        }
        for namespace in denied {
            self.ledger.miss("Logs", "Logs", "get", "pods/log", &namespace, GapReason::Forbidden);
        }
        if requests.is_empty() {
            self.ledger.skip("Logs", "no container that has run is unwell or implicated");
        }
        let claim = self.claim();
        for read in logs::read(&self.reader, &self.plan, &claim, requests).await {
            self.redactions.add(&read.redactions);
            let (namespace, bytes) = (&read.request.namespace, read.bytes);
            let mut asked = read.request.clone();
            match read.answer {
                LogAnswer::Log(file) => {
                    self.ledger.got("Logs", 1, bytes);
                    if !file.truncated {
                        // There is no more of it, however many lines a deeper look asks for.
                        asked.lines = u32::MAX;
                    }
                    self.asked_logs.insert(asked);
                    // A deeper look at the same log replaces the first one.
                    self.logs.retain(|known| {
                        (&known.namespace, &known.pod, &known.container, known.previous)
                            != (&file.namespace, &file.pod, &file.container, file.previous)
                    });
                    self.logs.push(file);
                }
                LogAnswer::None => self.ledger.got("Logs", 0, bytes),
                LogAnswer::NoRoom(_) => {
                    self.ledger.miss("Logs", "Logs", "get", "pods/log", namespace, GapReason::Truncated);
                }
                LogAnswer::Failed(error) => {
                    tracing::debug!(category = error.category(), "a log could not be read");
                    self.ledger.miss("Logs", "Logs", "get", "pods/log", namespace, error.gap_reason());
                }
            }
        }
    }

    /// The cheap pass over metrics: all of the target's namespace, and the pods of neighbours in others.
    pub(super) async fn read_metrics(&mut self) {
        if !self.plan.reads(Source::Metrics) {
            self.ledger.skip("Metrics", "not asked for");
            return;
        }
        if self.sources.metrics.is_none() {
            let gap = Gap::new("Metrics", "all series", GapReason::NotConfigured);
            let hint = self.configured_hint();
            self.ledger.gap("Metrics", gap.hint(hint));
            return;
        }
        let namespace = self.plan.namespace.clone();
        self.fetch_metrics(Pass::Cheap, &namespace, &Scope::Namespace).await;
        let snapshot = self.structure();
        let pods = pods_around(&snapshot, &self.around, &self.plan)
            .into_iter()
            .map(|(pod, _)| (pod.object.namespace().to_owned(), pod.object.name().to_owned()));
        let elsewhere: Vec<PodKey> = pods.filter(|(of, _)| *of != namespace).collect();
        for (namespace, scope) in scopes(&snapshot, &elsewhere) {
            self.fetch_metrics(Pass::Cheap, &namespace, &scope).await;
        }
        self.read_name_server_metrics().await;
    }

    /// What the pods of the cluster's DNS take, wherever the session looks: look-ups are slow for everybody at once.
    async fn read_name_server_metrics(&mut self) {
        let (namespace, _) = super::cluster::DNS;
        if namespace == self.plan.namespace {
            return;
        }
        let pods = self.objects.iter().filter(|((group, kind, of, _), object)| {
            let label = object.text("metadata.labels.k8s-app");
            group.is_empty() && kind == "Pod" && of == namespace && label == Some("kube-dns")
        });
        let pods: Vec<String> = pods.map(|((_, _, _, name), _)| name.clone()).collect();
        if !pods.is_empty() {
            self.fetch_metrics(Pass::Cheap, namespace, &Scope::NameServer { pods }).await;
        }
    }

    /// The deep pass over metrics.
    pub(super) async fn deepen_metrics(&mut self, snapshot: &Snapshot, implicated: &[PodKey]) {
        if self.plan.reads(Source::Metrics) && self.sources.metrics.is_some() {
            let reached: Vec<PodKey> =
                implicated.iter().filter(|(namespace, _)| self.plan.reaches(namespace)).cloned().collect();
            for (namespace, scope) in scopes(snapshot, &reached) {
                self.fetch_metrics(Pass::Deep, &namespace, &scope).await;
            }
        }
    }

    /// Asks what the source has. What only a mesh brings is missed only where that mesh is.
    async fn discover_metrics(&mut self, source: &dyn MetricsSource) -> Variants {
        let snapshot = self.structure();
        let has =
            |container: &str| snapshot.pods.iter().any(|pod| pod.template.has_running_container(container));
        let (istio, linkerd) = (has("istio-proxy"), has("linkerd-proxy"));
        let wanted = |exporter: Exporter| match exporter {
            Exporter::Istio => istio,
            Exporter::Linkerd => linkerd,
            _ => true,
        };
        let (variants, gaps) = read::discover(source, &self.reader, &self.plan, wanted).await;
        for gap in gaps {
            self.ledger.gap("Metrics", gap);
        }
        variants
    }

    async fn fetch_metrics(&mut self, pass: Pass, namespace: &str, scope: &Scope) {
        let Some(source) = self.sources.metrics.clone() else { return };
        let variants = match self.variants.take() {
            Some(known) => known,
            None => self.discover_metrics(source.as_ref()).await,
        };
        let gathered =
            read::read(source.as_ref(), &self.reader, &self.plan, &variants, pass, namespace, scope).await;
        self.variants = Some(variants);
        if gathered.answered > 0 {
            self.ledger.got("Metrics", gathered.series, gathered.bytes);
        }
        for gap in gathered.gaps {
            self.ledger.gap("Metrics", gap);
        }
        for file in gathered.files {
            self.metrics.retain(|known| known.name != file.name);
            self.metrics.push(file);
        }
    }
}

/// Pods by namespace, each with the workloads that they belong to.
fn scopes(snapshot: &Snapshot, pods: &[PodKey]) -> BTreeMap<String, Scope> {
    let mut by_namespace: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    for (namespace, pod) in pods {
        let (pods, workloads) = by_namespace.entry(namespace.clone()).or_default();
        pods.insert(pod.clone());
        workloads.insert(snapshot.owner_by_name(namespace, pod).name);
    }
    let scope = |(pods, workloads): (BTreeSet<String>, BTreeSet<String>)| Scope::Of {
        pods: pods.into_iter().collect(),
        workloads: workloads.into_iter().collect(),
    };
    by_namespace.into_iter().map(|(namespace, of)| (namespace, scope(of))).collect()
}

/// When an event was last seen, whichever API it came from; empty sorts as the oldest.
fn last_seen(event: &Value) -> String {
    const FIELDS: &[&str] = &[
        "series.lastObservedTime",
        "lastTimestamp",
        "deprecatedLastTimestamp",
        "eventTime",
        "metadata.creationTimestamp",
    ];
    FIELDS.iter().find_map(|field| event.text(field)).unwrap_or_default().to_owned()
}
