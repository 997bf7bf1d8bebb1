//! Who calls whom, drawn from everything that was seen.

mod spans;

use std::collections::{BTreeMap, BTreeSet};

use super::Snapshot;
use crate::model::fields::Fields;
use crate::model::graph::{Counted, Graph, Provenance};
use crate::model::mesh::istio;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::traffic::{EdgeTraffic, ProxyIdentity, Reporter, TrafficBuilder};
use crate::model::workload::{EnvSource, is_proxy_container};

/// Sums up the access logs of all proxies.
pub(super) fn traffic(snapshot: &Snapshot) -> Vec<EdgeTraffic> {
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
pub(super) fn graph(snapshot: &Snapshot, manifest: &[(String, String)]) -> Graph {
    let mut graph = Graph::default();
    for service in &snapshot.services {
        let behind: BTreeSet<ObjectRef> =
            snapshot.workloads_behind(service).map(|w| w.reference().clone()).collect();
        let pods = snapshot.pods_behind(service).map(|pod| snapshot.owner(pod));
        let known: BTreeSet<ObjectRef> = if behind.is_empty() { pods.collect() } else { behind };
        graph.backing.insert(service.service_name(), known.into_iter().collect());
    }
    // The caller's proxy sees what never arrives as well, so its count is the one to believe.
    for side in [Reporter::Source, Reporter::Destination] {
        let mut edges: BTreeMap<(&ObjectRef, &ServiceName), Counted> = BTreeMap::new();
        for edge in snapshot.traffic.iter().filter(|edge| edge.reporter == side) {
            let caller = if side == Reporter::Source { Some(&edge.workload) } else { edge.peer.as_ref() };
            if let (Some(caller), Some(service)) = (caller, &edge.service) {
                edges.entry((caller, service)).or_default().extend(counted(edge));
            }
        }
        for ((caller, service), counted) in edges {
            graph.count(caller.clone(), service.clone(), Provenance::AccessLog, &counted);
        }
    }
    metric_edges(snapshot, &mut graph);
    spans::draw(snapshot, &mut graph);
    named_edges(snapshot, &mut graph);
    for (caller, callee) in manifest {
        let namespace = snapshot.target.as_ref().map(|t| t.namespace.clone()).unwrap_or_default();
        // Names that others gave to what they trace hold slashes too (`https://…`, `api/prod`): what stands before one is a namespace
        // only where it could be one.
        let label = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let name = |text: &str| match text.split_once('/').filter(|(namespace, _)| label(namespace)) {
            Some((namespace, name)) => ServiceName::new(namespace, name),
            None => ServiceName::new(namespace.clone(), text),
        };
        let (caller, callee) = (name(caller), name(callee));
        let workloads = graph.backing.get(&caller).cloned().filter(|w| !w.is_empty());
        for workload in workloads.unwrap_or_else(|| [caller.reference()].into()) {
            graph.add(workload, callee.clone(), Provenance::Manifest);
        }
    }
    graph
}

/// The requests of an edge of an access log. Of each outcome only the first durations are kept: each stands for its share of all.
fn counted(edge: &EdgeTraffic) -> Counted {
    let took = edge.outcomes.iter().filter(|outcome| !outcome.connection).flat_map(|outcome| {
        let weight = outcome.count as f64 / outcome.durations.len().max(1) as f64;
        outcome.durations.iter().map(move |millis| (*millis as f64, weight))
    });
    Counted { requests: edge.requests, failures: edge.failures(), took: took.collect() }
}

/// Edges that counters of requests name, with what they count: by the caller's proxy, else by the callee's.
fn metric_edges(snapshot: &Snapshot, graph: &mut Graph) {
    let mut edges: BTreeMap<(bool, ObjectRef, ServiceName), Counted> = BTreeMap::new();
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
                let by_callee = series.label("reporter") == "destination";
                let edge = edges.entry((by_callee, caller, callee)).or_default();
                if series.name == "istio_requests_total" {
                    let grown = series.total_increase().unwrap_or_default().max(0.0).round() as u64;
                    let code = series.label("response_code");
                    let failed = code.starts_with('5') || code == "0";
                    edge.requests += grown;
                    edge.failures += if failed { grown } else { 0 };
                }
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
                    graph.add(caller, callee, Provenance::Metrics);
                }
            }
            _ => {}
        }
    }
    for ((_, caller, callee), counted) in edges {
        graph.count(caller, callee, Provenance::Metrics, &counted);
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
                graph.add(workload.reference().clone(), callee, Provenance::Environment);
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
                graph.add(caller.clone(), callee, Provenance::Log);
            }
        }
    }
}
