//! How requests to a Service spread over its pods.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::network::Service;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time;
use crate::model::traffic::address;
use crate::model::workload::Pod;

/// Fewer requests than this spread by chance.
const ENOUGH: u64 = 100;
/// Proxies learn of a new pod within this many seconds.
const LEARNT_S: i64 = 30;
/// Distinct connections and clients that are counted: more of them are no pattern of one.
const MAX_DISTINCT: usize = 4096;
/// From this share of failures on the pod that gets everything is overloaded by it.
const FAILING: f64 = 0.01;
/// As many failures at least.
const FEW: u64 = 5;
/// Answers of the pod that take so many times longer than those of the others, and at least so many milliseconds.
const SLOWER: f64 = 2.0;
const SLOW_MS: u64 = 100;

/// What one pod got.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// Requests.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// How long they took, in milliseconds.
    durations: Vec<u64>,
}

impl Load {
    /// The 95th percentile of its durations in milliseconds.
    pub fn slow(&self) -> Option<u64> {
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len().checked_sub(1)?) * 95 / 100).copied()
    }
}

/// Requests to a Service of which one pod gets nearly all.
#[derive(Debug)]
pub struct Skew<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pod that gets them.
    pub pod: &'a Pod,
    /// What it got.
    pub top: Load,
    /// What all others got together.
    pub others: Load,
    /// Pods that were ready all the while.
    pub pods: usize,
    /// The pods' port, where proxies of the pods reported it.
    pub port: Option<i64>,
    /// `HTTP/1.1`, `HTTP/2`; empty for bare connections, and where only counters speak.
    pub protocol: String,
    /// Connections on which the requests came, where proxies of the pods reported them.
    pub connections: usize,
    /// The client's address with the most requests, its share, and how many clients there were.
    pub client: Option<(String, u64, usize)>,
    /// Whether it was read from counters.
    pub counted: bool,
}

impl Skew<'_> {
    /// Requests to all pods.
    pub fn requests(&self) -> u64 {
        self.top.requests + self.others.requests
    }

    /// The share of the requests that the one pod gets.
    pub fn share(&self) -> f64 {
        self.top.requests as f64 / self.requests().max(1) as f64
    }

    /// How it is felt: in the words of a sentence, where requests fail or are slow at the pod that gets them.
    pub fn felt(&self) -> Option<String> {
        if self.top.failed >= FEW && self.top.failed as f64 >= self.top.requests as f64 * FAILING {
            return Some(format!("{} of its {} requests failed", self.top.failed, self.top.requests));
        }
        let (own, rest) = (self.top.slow()?, self.others.slow()?);
        (own >= SLOW_MS && own as f64 >= rest as f64 * SLOWER).then(|| {
            format!("95 % of its answers come within {own} ms, those of the other pods within {rest} ms")
        })
    }
}

/// What the proxies of a pod reported on one port.
#[derive(Debug, Default)]
struct Inbound {
    load: Load,
    protocols: BTreeMap<String, u64>,
    connections: BTreeSet<String>,
    clients: BTreeMap<String, u64>,
}

/// Durations kept of one pod.
const MAX_DURATIONS: usize = 512;

/// Services of which one of several ready pods gets nearly all requests, from the pods' own access logs, and from counters by
/// pod where there are none.
pub fn skews(snapshot: &Snapshot) -> Vec<Skew<'_>> {
    let mut out = vec![];
    let arrivals = arrivals(snapshot);
    for service in snapshot.services.iter().filter(|s| snapshot.in_scope(s.object.namespace())) {
        let pods: Vec<&Pod> = snapshot.pods_behind(service).filter(|pod| pod.ready()).collect();
        // A primary takes all on purpose: only what a Deployment makes is alike.
        let alike = pods.iter().all(|pod| snapshot.owner(pod).kind == "Deployment");
        let owners: BTreeSet<_> = pods.iter().map(|pod| snapshot.owner(pod)).collect();
        if pods.len() < 2 || !alike || owners.len() != 1 {
            continue;
        }
        out.extend(logged(snapshot, service, &pods).or_else(|| counted(snapshot, service, &pods, &arrivals)));
    }
    out
}

/// When the youngest pod had been known to everybody, in Unix seconds.
fn all_known(pods: &[&Pod]) -> i64 {
    let since = pods.iter().filter_map(|pod| pod.condition("Ready").and_then(|c| c.since));
    since.map(|at| at.as_second() + LEARNT_S).max().unwrap_or(i64::MIN)
}

fn logged<'a>(snapshot: &'a Snapshot, service: &'a Service, pods: &[&'a Pod]) -> Option<Skew<'a>> {
    let from = all_known(pods);
    let mut by_port: BTreeMap<i64, BTreeMap<&str, Inbound>> = BTreeMap::new();
    for pod in pods {
        let Some(log) = snapshot.log(pod.object.namespace(), pod.object.name(), "istio-proxy", false) else {
            // Whose log was not read counts as silent only where nobody knows better.
            return None;
        };
        for record in &log.access {
            let Some(port) =
                record.cluster.strip_prefix("inbound|").and_then(|rest| rest.split('|').next()?.parse().ok())
            else {
                continue;
            };
            if record.start.is_none_or(|at| at.as_second() < from) {
                continue;
            }
            let inbound = by_port.entry(port).or_default().entry(pod.object.name()).or_default();
            inbound.load.requests += 1;
            inbound.load.failed += u64::from(record.failed());
            if inbound.load.durations.len() < MAX_DURATIONS {
                inbound.load.durations.push(record.duration_ms);
            }
            *inbound.protocols.entry(record.protocol.clone()).or_default() += 1;
            if inbound.connections.len() < MAX_DISTINCT {
                inbound.connections.insert(record.downstream_remote.clone());
            }
            let client = address(&record.downstream_remote);
            if inbound.clients.len() < MAX_DISTINCT || inbound.clients.contains_key(client) {
                *inbound.clients.entry(client.to_owned()).or_default() += 1;
            }
        }
    }
    let total = |pods: &BTreeMap<&str, Inbound>| pods.values().map(|i| i.load.requests).sum::<u64>();
    let (port, found) = by_port.into_iter().max_by_key(|(_, pods)| total(pods))?;
    let (name, _) = found.iter().max_by_key(|(_, inbound)| inbound.load.requests)?;
    let pod = pods.iter().find(|pod| pod.object.name() == *name).copied()?;
    let mut others = Load::default();
    let (mut connections, mut clients, mut protocols) =
        (0, BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    for (of, inbound) in &found {
        if of != name {
            others.requests += inbound.load.requests;
            others.failed += inbound.load.failed;
            others.durations.extend(&inbound.load.durations);
        }
        connections += inbound.connections.len();
        for (client, count) in &inbound.clients {
            *clients.entry(client).or_default() += count;
        }
        for (protocol, count) in &inbound.protocols {
            *protocols.entry(protocol).or_default() += count;
        }
    }
    let client = clients
        .iter()
        .max_by_key(|(_, count)| **count)
        .map(|(ip, count)| ((*ip).to_owned(), *count, clients.len()));
    let protocol =
        protocols.iter().max_by_key(|(_, count)| **count).map_or(String::new(), |(p, _)| (*p).to_owned());
    let top = found.get(name).map(|inbound| inbound.load.clone())?;
    let skew = Skew {
        service,
        pod,
        top,
        others,
        pods: pods.len(),
        port: Some(port),
        protocol,
        connections,
        client,
        counted: false,
    };
    skewed(&skew).then_some(skew)
}

/// Counters of requests that arrived, by namespace and pod: Istio's and Linkerd's.
type Arrivals<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Series>>;

fn arrivals(snapshot: &Snapshot) -> Arrivals<'_> {
    let mut out: Arrivals<'_> = BTreeMap::new();
    let counters =
        [("istio_requests_total", "reporter", "destination"), ("request_total", "direction", "inbound")];
    for (name, label, value) in counters {
        for series in snapshot.series_named(name).filter(|s| s.label(label) == value) {
            let own = series.label("namespace");
            let namespace = if own.is_empty() { series.label("destination_workload_namespace") } else { own };
            out.entry((namespace, series.label("pod"))).or_default().push(series);
        }
    }
    out
}

fn counted<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    pods: &[&'a Pod],
    arrivals: &Arrivals<'_>,
) -> Option<Skew<'a>> {
    let from = all_known(pods);
    let start = if from == i64::MIN { f64::NEG_INFINITY } else { from as f64 };
    let end = time::to_unix(snapshot.now);
    let namespace = service.object.namespace();
    let grown = |pod: &Pod| {
        let series = arrivals.get(&(namespace, pod.object.name()))?;
        Some(series.iter().map(|s| s.increase(start, end).unwrap_or(0.0)).sum())
    };
    let known: Vec<(&'a Pod, f64)> = pods.iter().filter_map(|pod| Some((*pod, grown(pod)?))).collect();
    // A pod without a series may not be scraped.
    if known.len() != pods.len() {
        return None;
    }
    let (pod, most) = known.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let load = |requests: f64| Load { requests: requests.max(0.0) as u64, ..Load::default() };
    let others = load(known.iter().map(|(_, n)| n).sum::<f64>() - most);
    let (top, pods) = (load(*most), pods.len());
    let skew = Skew {
        service,
        pod,
        top,
        others,
        pods,
        port: None,
        protocol: String::new(),
        connections: 0,
        client: None,
        counted: true,
    };
    skewed(&skew).then_some(skew)
}

/// Nine of ten of two pods, eight of ten of more: no balancer that chooses for each request does that.
fn skewed(skew: &Skew<'_>) -> bool {
    let least = if skew.pods == 2 { 0.9 } else { 0.8 };
    skew.requests() >= ENOUGH && skew.share() >= least
}
