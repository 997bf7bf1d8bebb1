//! What the proxies' access logs say, summed up by edge and by outcome.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::access_log::AccessRecord;
use super::mesh::istio::service_of_host;
use super::network::ServiceName;
use super::object::ObjectRef;

/// Which of the two proxies of an edge speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reporter {
    /// The caller's proxy, or a gateway.
    Source,
    /// The proxy of the one that is called.
    Destination,
}

/// The parts of an Istio cluster name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName {
    /// The name as it stands in the log; empty where no route or listener matched.
    pub raw: String,
    /// `outbound`, `inbound`, or empty for other clusters.
    pub direction: String,
    /// The port.
    pub port: Option<i64>,
    /// The subset; empty where there is none.
    pub subset: String,
    /// The host; empty for inbound.
    pub host: String,
}

impl ClusterName {
    /// Reads `outbound|80|v1|host` and `inbound|8080||`; `;` at the end, as newer statistics have it, is dropped.
    pub fn read(raw: &str) -> Self {
        let raw = raw.trim_end_matches(';');
        let mut parts = raw.split('|');
        let direction = parts.next().unwrap_or_default();
        if !matches!(direction, "outbound" | "inbound" | "inbound-vip") || !raw.contains('|') {
            return ClusterName { raw: raw.to_owned(), ..ClusterName::default() };
        }
        ClusterName {
            raw: raw.to_owned(),
            direction: direction.to_owned(),
            port: parts.next().and_then(|port| port.parse().ok()),
            subset: parts.next().unwrap_or_default().to_owned(),
            host: parts.next().unwrap_or_default().to_owned(),
        }
    }
}

/// Requests of one edge that ended alike.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The response code.
    pub code: u16,
    /// Its flags, joined by commas, in Envoy's order.
    pub flags: String,
    /// `RESPONSE_CODE_DETAILS`.
    pub details: String,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    pub transport_failure: String,
    /// The route's name.
    pub route: String,
    /// Whether a client would call it a failure.
    pub failed: bool,
    /// Whether it was a bare connection and no request.
    pub connection: bool,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// Durations in milliseconds, of the first [`MAX_SAMPLES`] of them.
    pub durations: Vec<u64>,
    /// Endpoints that were called, with how often.
    pub upstreams: BTreeMap<String, u64>,
    /// Paths without query, with how often.
    pub paths: BTreeMap<String, u64>,
    /// Methods, with how often.
    pub methods: BTreeMap<String, u64>,
    /// Hosts that were asked for, with how often.
    pub authorities: BTreeMap<String, u64>,
    /// Addresses of clients, without port, with how often.
    pub clients: BTreeMap<String, u64>,
    /// Addresses that were called, with port, with how often.
    pub called: BTreeMap<String, u64>,
    /// The pods whose proxies reported it.
    pub pods: BTreeSet<String>,
}

/// Samples and distinct values kept for one outcome: enough to tell a pattern, and bounded.
pub const MAX_SAMPLES: usize = 512;
const MAX_DISTINCT: usize = 32;

impl Outcome {
    /// Whether this flag is set.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.split(',').any(|f| f == flag)
    }

    /// The duration in milliseconds below which this share (0 to 1) of the samples lies.
    pub fn duration(&self, share: f64) -> Option<u64> {
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        let at = ((sorted.len().checked_sub(1)?) as f64 * share).round() as usize;
        sorted.get(at).copied()
    }

    /// `503 UH no_healthy_upstream`, as one reads it in the log.
    pub fn label(&self) -> String {
        let flags = if self.flags.is_empty() { "-" } else { &self.flags };
        let details = if self.details.is_empty() { "-" } else { &self.details };
        format!("{} {flags} {details}", self.code)
    }
}

/// The most frequent of some values, the first by name among equals.
pub fn most(counted: &BTreeMap<String, u64>) -> Option<&str> {
    counted
        .iter()
        .max_by_key(|(text, count)| (**count, std::cmp::Reverse(*text)))
        .map(|(text, _)| text.as_str())
}

/// One edge as one of its two proxies saw it.
#[derive(Debug, Clone)]
pub struct EdgeTraffic {
    /// Who speaks.
    pub reporter: Reporter,
    /// The workload whose proxies speak.
    pub workload: ObjectRef,
    /// The workload at the other end, where it is known: the callee's for a source, the caller's for a destination.
    pub peer: Option<ObjectRef>,
    /// The Service that was called, where it is known.
    pub service: Option<ServiceName>,
    /// The cluster that was chosen.
    pub cluster: ClusterName,
    /// The host that was asked for, where no cluster names one.
    pub authority: String,
    /// All requests.
    pub requests: u64,
    /// Requests by how they ended: the most frequent first.
    pub outcomes: Vec<Outcome>,
    /// Requests and failures by Unix second.
    pub seconds: BTreeMap<i64, (u64, u64)>,
}

impl EdgeTraffic {
    /// The failing requests.
    pub fn failures(&self) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.failed).map(|outcome| outcome.count).sum()
    }

    /// Requests from an instant on.
    pub fn requests_since(&self, at: Timestamp) -> u64 {
        self.seconds.range(at.as_second()..).map(|(_, (all, _))| all).sum()
    }
}

/// Sums up records.
#[derive(Debug, Default)]
pub struct TrafficBuilder {
    edges: BTreeMap<EdgeKey, Accumulator>,
}

type EdgeKey = (Reporter, ObjectRef, Option<ObjectRef>, Option<ServiceName>, ClusterName, String);
type OutcomeKey = (u16, String, String, String, String, bool);

#[derive(Debug, Default)]
struct Accumulator {
    requests: u64,
    seconds: BTreeMap<i64, (u64, u64)>,
    outcomes: BTreeMap<OutcomeKey, Outcome>,
}

/// What is known of the proxy that wrote a record.
#[derive(Debug, Clone)]
pub struct ProxyIdentity {
    /// Its workload, or its pod where none is known.
    pub workload: ObjectRef,
    /// Its pod.
    pub pod: String,
    /// Its pod's namespace.
    pub namespace: String,
    /// Its pod's addresses.
    pub ips: Vec<String>,
    /// The Service that its pod is behind, where there is exactly one or a best one.
    pub service: Option<ServiceName>,
}

/// The address of `10.0.0.1:80` or `[::1]:80`.
pub fn address(host_and_port: &str) -> &str {
    host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host).trim_matches(['[', ']'])
}

impl TrafficBuilder {
    /// Adds a record of a proxy. `who` finds the workload behind an address, `service` the Service behind a host and the
    /// address that was called.
    pub fn add(
        &mut self,
        record: &AccessRecord,
        proxy: &ProxyIdentity,
        who: &dyn Fn(&str) -> Option<ObjectRef>,
        service: &dyn Fn(&str, &str) -> Option<ServiceName>,
    ) {
        let cluster = ClusterName::read(&record.cluster);
        let reporter = reporter(record, &cluster, proxy);
        let (peer, called) = match reporter {
            Reporter::Source => {
                let host = if cluster.host.is_empty() { host_of(&record.authority) } else { &cluster.host };
                let called = service_of_host(&cluster.host).map(|(ns, name)| ServiceName::new(ns, name));
                (
                    who(address(&record.upstream_host)),
                    called.or_else(|| service(host, address(&record.downstream_local))),
                )
            }
            Reporter::Destination => {
                let called = service(host_of(&record.authority), "").or_else(|| proxy.service.clone());
                (who(address(&record.downstream_remote)), called)
            }
        };
        let authority =
            if cluster.host.is_empty() { host_of(&record.authority).to_owned() } else { String::new() };
        let key = (reporter, proxy.workload.clone(), peer, called, cluster, authority);
        let edge = self.edges.entry(key).or_default();
        let failed = record.failed();
        edge.requests += 1;
        if let Some(at) = record.start {
            let slot = edge.seconds.entry(at.as_second()).or_default();
            slot.0 += 1;
            slot.1 += u64::from(failed);
        }
        let key = (
            record.code,
            record.flags.join(","),
            record.details.clone(),
            record.transport_failure.clone(),
            record.route.clone(),
            record.protocol.is_empty(),
        );
        let outcome = edge.outcomes.entry(key).or_insert_with(|| Outcome {
            code: record.code,
            flags: record.flags.join(","),
            details: record.details.clone(),
            transport_failure: record.transport_failure.clone(),
            route: record.route.clone(),
            connection: record.protocol.is_empty(),
            failed,
            ..Outcome::default()
        });
        outcome.count += 1;
        outcome.first = outcome.first.into_iter().chain(record.start).min();
        outcome.last = outcome.last.into_iter().chain(record.start).max();
        if outcome.durations.len() < MAX_SAMPLES {
            outcome.durations.push(record.duration_ms);
        }
        count(&mut outcome.upstreams, &record.upstream_host);
        count(&mut outcome.paths, record.path.split('?').next().unwrap_or_default());
        count(&mut outcome.methods, &record.method);
        count(&mut outcome.authorities, &record.authority);
        count(&mut outcome.clients, address(&record.downstream_remote));
        count(&mut outcome.called, &record.downstream_local);
        if outcome.pods.len() < MAX_DISTINCT {
            outcome.pods.insert(proxy.pod.clone());
        }
    }

    /// The edges in a fixed order.
    pub fn finish(self) -> Vec<EdgeTraffic> {
        let edges =
            self.edges.into_iter().map(|((reporter, workload, peer, service, cluster, authority), sums)| {
                let mut outcomes: Vec<Outcome> = sums.outcomes.into_values().collect();
                outcomes.sort_by_key(|outcome| std::cmp::Reverse(outcome.count));
                EdgeTraffic {
                    reporter,
                    workload,
                    peer,
                    service,
                    cluster,
                    authority,
                    requests: sums.requests,
                    outcomes,
                    seconds: sums.seconds,
                }
            });
        edges.collect()
    }
}

fn count(map: &mut BTreeMap<String, u64>, key: &str) {
    if key.is_empty() {
        return;
    }
    if let Some(known) = map.get_mut(key) {
        *known += 1;
    } else if map.len() < MAX_DISTINCT {
        map.insert(key.to_owned(), 1);
    }
}

/// A Host header (`:authority`) without its port.
pub fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The cluster says it; where there is none, the addresses do: who was called at one of the pod's own addresses is the
/// destination, unless the caller sits in the same pod.
fn reporter(record: &AccessRecord, cluster: &ClusterName, proxy: &ProxyIdentity) -> Reporter {
    if cluster.direction.starts_with("inbound") || cluster.raw.starts_with("InboundPassthrough") {
        return Reporter::Destination;
    }
    if cluster.direction == "outbound"
        || matches!(cluster.raw.as_str(), "PassthroughCluster" | "BlackHoleCluster")
    {
        return Reporter::Source;
    }
    let own = |text: &str| proxy.ips.iter().any(|ip| ip == address(text));
    if own(&record.downstream_local) && !own(&record.downstream_remote) {
        Reporter::Destination
    } else {
        Reporter::Source
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access_log::parse;

    #[test]
    fn cluster_names() {
        let name = ClusterName::read("outbound|80|v1|a.n.svc.cluster.local;");
        assert_eq!(
            (name.port, name.subset.as_str(), name.host.as_str()),
            (Some(80), "v1", "a.n.svc.cluster.local")
        );
        assert_eq!(ClusterName::read("PassthroughCluster").direction, "");
        assert_eq!(ClusterName::read("outbound").direction, "");
    }

    #[test]
    fn requests_are_counted_by_edge_and_outcome() {
        let proxy = ProxyIdentity {
            workload: ObjectRef::new("Deployment", "n", "caller"),
            pod: "caller-1".into(),
            namespace: "n".into(),
            ips: vec!["10.0.0.1".into()],
            service: None,
        };
        let mut builder = TrafficBuilder::default();
        for (code, flags) in [("200 -", ""), ("503 UH", ""), ("503 UH", "")] {
            let line = format!(
                r#"[2026-11-22T03:04:14Z] "GET /a?x=1 HTTP/1.1" {code}{flags} d - "-" 0 0 3 - "-" "-" "-" "b" "-" outbound|80||b.n.svc.cluster.local - 10.9.0.1:80 10.0.0.1:5 - default"#
            );
            builder.add(&parse(&line, None).unwrap(), &proxy, &|_| None, &|_, _| None);
        }
        let edges = builder.finish();
        assert_eq!(edges.len(), 1);
        assert_eq!((edges[0].requests, edges[0].failures()), (3, 2));
        assert_eq!(edges[0].service, Some(ServiceName::new("n", "b")));
        assert_eq!(edges[0].outcomes[0].label(), "503 UH d");
        assert_eq!(edges[0].outcomes[0].paths["/a"], 2);
    }
}
