//! The same from counters: `istio_requests_total`, and the counters of Envoy's clusters.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use super::way::{Callee, Signs, Way};
use super::{Failures, Part, RECOVERED_AFTER};
use crate::model::mesh::istio::service_of_host;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;
use crate::model::traffic::{ClusterName, Reporter};

/// Counters of a cluster that name a way without a response code. Envoy's documentation of cluster statistics says when each
/// one is raised.
const CLUSTER_COUNTERS: &[(&str, Way, &str)] = &[
    ("envoy_cluster_upstream_cx_none_healthy", Way::NoHealthyUpstream, "503 UH"),
    ("envoy_cluster_upstream_rq_pending_overflow", Way::Overflow, "503 UO"),
    ("envoy_cluster_upstream_cx_connect_fail", Way::ConnectionFailed, "503 UF"),
    ("envoy_cluster_upstream_rq_timeout", Way::Timeout, "504 UT"),
    ("envoy_cluster_upstream_rq_per_try_timeout", Way::Timeout, "504 UT"),
    ("envoy_cluster_upstream_cx_destroy_remote_with_active_rq", Way::UpstreamClosed, "503 UC"),
    ("envoy_cluster_upstream_rq_rx_reset", Way::UpstreamReset, "503 UR"),
    ("envoy_cluster_upstream_cx_protocol_error", Way::UpstreamProtocol, "502 UPE"),
];

/// How a counter grew.
#[derive(Debug, Clone, Copy)]
struct Growth {
    /// Whether a counter of a cluster says it that knows no response codes.
    of_cluster: bool,
    count: u64,
    first: f64,
    last: f64,
}

/// By how much a counter grew, and between which of its points it did so in earnest: from the first interval that holds at
/// least a fifth of the busiest one. The point at the end of that interval is when it was seen.
fn growth(series: &Series) -> Option<Growth> {
    let steps: Vec<(f64, f64)> = series
        .points
        .iter()
        .zip(series.points.iter().skip(1))
        .map(|((_, a), (t, b))| (*t, if b >= a { b - a } else { *b }))
        .filter(|(_, step)| *step > 0.0)
        .collect();
    let most = steps.iter().map(|(_, step)| *step).fold(0.0, f64::max);
    let first = steps.iter().find(|(_, step)| *step * 5.0 >= most)?.0;
    let last = steps.last()?.0;
    let count = steps.iter().filter(|(t, _)| *t >= first).map(|(_, step)| *step).sum::<f64>();
    (count >= 1.0).then_some(Growth {
        of_cluster: !counts_requests(series),
        count: count.round() as u64,
        first,
        last,
    })
}

/// The growth after an instant.
fn since(series: &Series, at: f64) -> u64 {
    let pairs = series.points.iter().zip(series.points.iter().skip(1));
    let steps = pairs.filter(|(_, (t, _))| *t >= at).map(|((_, a), (_, b))| if b >= a { b - a } else { *b });
    steps.sum::<f64>().round() as u64
}

/// Who calls whom, as the labels of a series say.
fn edge(snapshot: &Snapshot, series: &Series) -> Option<(Callee, ObjectRef, Option<ObjectRef>)> {
    if series.name == "istio_requests_total" {
        let reporter = match series.label("reporter") {
            "source" => Reporter::Source,
            "destination" => Reporter::Destination,
            _ => return None,
        };
        let (namespace, name) =
            (series.label("destination_service_namespace"), series.label("destination_service_name"));
        let service = ServiceName::new(namespace, name);
        let service = snapshot.service(&service).map(|_| service);
        let host =
            if service.is_some() { String::new() } else { series.label("destination_service").to_owned() };
        if service.is_none() && matches!(host.as_str(), "" | "unknown") {
            return None;
        }
        let workload = |side: &str| {
            let name = series.label(&format!("{side}_workload"));
            let namespace = series.label(&format!("{side}_workload_namespace"));
            (!matches!(name, "" | "unknown")).then(|| workload_named(snapshot, namespace, name))
        };
        let (own, peer) = match reporter {
            Reporter::Source => (workload("source"), workload("destination")),
            Reporter::Destination => (workload("destination"), workload("source")),
        };
        return Some((Callee { service, host, reporter }, own?, peer));
    }
    let cluster = ClusterName::read(series.label("cluster_name"));
    let (namespace, pod) = (series.label("namespace"), series.label("pod"));
    if cluster.direction != "outbound" || pod.is_empty() {
        return None;
    }
    let service = service_of_host(&cluster.host).map(|(namespace, name)| ServiceName::new(namespace, name));
    let service = service.filter(|name| snapshot.service(name).is_some());
    let host = if service.is_some() { String::new() } else { cluster.host };
    Some((Callee { service, host, reporter: Reporter::Source }, snapshot.owner_by_name(namespace, pod), None))
}

fn workload_named(snapshot: &Snapshot, namespace: &str, name: &str) -> ObjectRef {
    let known = snapshot
        .workloads
        .iter()
        .find(|w| w.object.owners.is_empty() && w.object.namespace() == namespace && w.object.name() == name);
    known.map_or_else(|| ObjectRef::new("Deployment", namespace, name), |w| w.reference().clone())
}

/// The way that a series counts, with a short label; `None` where it counts no failures.
fn way(series: &Series) -> Option<(Way, String)> {
    if let Some((_, way, label)) = CLUSTER_COUNTERS.iter().find(|(name, _, _)| *name == series.name) {
        return Some((*way, (*label).to_owned()));
    }
    if !matches!(series.name.as_str(), "istio_requests_total" | "envoy_cluster_upstream_rq") {
        return None;
    }
    let code = series.label("response_code").parse().ok()?;
    let flags = match series.label("response_flags") {
        "" | "-" => "",
        flags => flags,
    };
    let signs = Signs { code, flags, details: "", transport: "", route: "", cluster: "" };
    let shown = if flags.is_empty() { "-" } else { flags };
    Some((signs.way()?, format!("{code} {}", super::text::plain(shown, 24))))
}

/// Whether a series counts all requests of an edge.
fn counts_requests(series: &Series) -> bool {
    matches!(series.name.as_str(), "istio_requests_total" | "envoy_cluster_upstream_rq")
}

/// Who reports, who is at the other end, and how it is labelled.
type PartKey = (ObjectRef, Option<ObjectRef>, String);

/// The growth of one group's counters by part.
type Sums = BTreeMap<PartKey, Growth>;

/// Failures that counters show, of callees of whom no access log speaks.
pub fn failures(
    snapshot: &Snapshot,
    logged: &BTreeSet<&Callee>,
    wanted: impl Fn(Way) -> bool,
) -> Vec<Failures> {
    let mut sums: BTreeMap<(Callee, Way), Sums> = BTreeMap::new();
    let mut requests: BTreeMap<Callee, Vec<&Series>> = BTreeMap::new();
    for series in &snapshot.series {
        let total = counts_requests(series);
        let way = way(series);
        if !total && way.is_none() {
            continue;
        }
        let Some((callee, workload, peer)) = edge(snapshot, series) else { continue };
        if logged.contains(&callee) {
            continue;
        }
        let scope = callee.service.as_ref().is_some_and(|s| snapshot.in_scope(&s.namespace));
        if !scope && !snapshot.in_scope(&workload.namespace) {
            continue;
        }
        if total {
            requests.entry(callee.clone()).or_default().push(series);
        }
        let Some((way, label)) = way else { continue };
        let Some(grown) = growth(series) else { continue };
        let parts = sums.entry((callee, way)).or_default();
        parts
            .entry((workload, peer, label))
            .and_modify(|part| {
                *part = Growth {
                    of_cluster: part.of_cluster && grown.of_cluster,
                    count: part.count + grown.count,
                    first: part.first.min(grown.first),
                    last: part.last.max(grown.last),
                };
            })
            .or_insert(grown);
    }
    // A request that overflowed, timed out or was cut off is counted by its code as well: the counter that says how decides.
    // Such a counter alone is no failure: what was tried again and succeeded has no failing code.
    let coded: BTreeMap<Callee, u64> = sums.iter().filter(|((_, way), _)| *way == Way::Application).fold(
        BTreeMap::new(),
        |mut out, ((callee, _), sums)| {
            *out.entry(callee.clone()).or_default() += sums.values().map(|p| p.count).sum::<u64>();
            out
        },
    );
    let named: BTreeMap<Callee, u64> = sums.iter().filter(|((_, way), _)| *way != Way::Application).fold(
        BTreeMap::new(),
        |mut out, ((callee, _), sums)| {
            *out.entry(callee.clone()).or_default() += sums.values().map(|p| p.count).sum::<u64>();
            out
        },
    );
    let mut out = vec![];
    for ((callee, way), sums) in sums {
        let counted: u64 = sums.values().map(|p| p.count).sum();
        if way == Way::Application && named.get(&callee).is_some_and(|named| named * 2 >= counted) {
            continue;
        }
        let by_cluster = sums.values().all(|part| part.of_cluster);
        let all = requests.get(&callee).map(Vec::as_slice).unwrap_or_default();
        if !wanted(way) || (by_cluster && !all.is_empty() && !coded.contains_key(&callee)) {
            continue;
        }
        let first = sums.values().map(|p| p.first).fold(f64::MAX, f64::min);
        let last = sums.values().map(|p| p.last).fold(f64::MIN, f64::max);
        let seen: u64 = all.iter().map(|s| since(s, first)).sum();
        let after: u64 = all.iter().map(|s| since(s, last + RECOVERED_AFTER as f64)).sum();
        let mut parts: Vec<Part> = sums
            .into_iter()
            .map(|((workload, peer, label), Growth { count, first, last, .. })| Part {
                cluster: callee.service.as_ref().map_or(callee.host.clone(), |s| s.to_string()),
                workload,
                peer,
                short: label.clone(),
                label,
                details: String::new(),
                count,
                first: from_unix(first),
                last: from_unix(last),
                durations: None,
                upstreams: BTreeMap::new(),
                clients: BTreeMap::new(),
                pods: BTreeSet::new(),
                counted: true,
            })
            .collect();
        parts.sort_by(|a, b| (b.count, &a.workload, &a.label).cmp(&(a.count, &b.workload, &b.label)));
        // Counters of connections are not bounded by counters of requests.
        let requests = seen.max(counted);
        out.push(Failures {
            callee,
            way,
            count: counted,
            requests,
            onset: from_unix(first),
            last: from_unix(last),
            requests_after: after,
            parts,
        });
    }
    out
}

/// When failures with one of these codes began, where counters reach back further than the logs do: proxies' logs are
/// often cut to their newest lines. Counters are read every few seconds only, so the later of the two points between
/// which it began is taken.
pub fn earlier_onset(
    snapshot: &Snapshot,
    callee: &Callee,
    codes: &BTreeSet<u16>,
    seen: Timestamp,
) -> Timestamp {
    let Some(service) = &callee.service else { return seen };
    let host = format!("|{}.{}.svc.", service.name, service.namespace);
    let begun = snapshot
        .series_named("envoy_cluster_upstream_rq")
        .filter(|s| s.label("cluster_name").contains(&host))
        .filter(|s| s.label("response_code").parse().is_ok_and(|code: u16| codes.contains(&code)))
        .filter_map(|s| Some(growth(s)?.first))
        .fold(f64::INFINITY, f64::min);
    from_unix(begun).map_or(seen, |begun| seen.min(begun))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::traffic::failures as all;
    use crate::model::json::json;
    use crate::model::series;
    use crate::model::snapshot::Builder;

    fn points(from: i64, values: &[u64]) -> crate::model::json::Value {
        json!(
            values
                .iter()
                .enumerate()
                .map(|(i, v)| json!([from + 15 * i as i64, v.to_string()]))
                .collect::<Vec<_>>()
        )
    }

    fn snapshot(result: crate::model::json::Value) -> Snapshot {
        let mut builder = Builder::new();
        builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "shop"}, "spec": {"selector": {"app": "pay"}}}));
        builder.series(series::read(&json!({"data": {"result": result}}), ""));
        builder.finish()
    }

    #[test]
    fn flags_of_istios_counter() {
        let labels = |code: &str, flags: &str| {
            json!({"__name__": "istio_requests_total", "reporter": "source", "response_code": code, "response_flags": flags,
            "source_workload": "cart", "source_workload_namespace": "shop", "destination_service_name": "pay", "destination_service_namespace": "shop"})
        };
        let found = all(
            &snapshot(json!([{"metric": labels("200", "-"), "values": points(1000, &[0, 50, 100, 150])},
                {"metric": labels("503", "UH"), "values": points(1000, &[0, 0, 30, 60])}])),
            Way::NoHealthyUpstream,
        );
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].count, found[0].requests), (60, 160));
        assert_eq!(found[0].onset, from_unix(1030.0));
        assert_eq!(found[0].parts[0].workload.to_string(), "Deployment shop/cart");
    }

    #[test]
    fn an_overflow_is_not_also_an_error_of_the_application() {
        let labels = |name: &str, code: &str| {
            json!({"__name__": name, "response_code": code, "cluster_name": "outbound|80||pay.shop.svc.cluster.local",
            "namespace": "shop", "pod": "cart-1"})
        };
        let snapshot = snapshot(json!([
            {"metric": labels("envoy_cluster_upstream_rq", "200"), "values": points(1000, &[0, 100, 200])},
            {"metric": labels("envoy_cluster_upstream_rq", "503"), "values": points(1000, &[0, 20, 40])},
            {"metric": labels("envoy_cluster_upstream_rq_pending_overflow", ""), "values": points(1000, &[0, 20, 40])}]));
        assert_eq!(all(&snapshot, Way::Overflow)[0].count, 40);
        let every = super::super::all(&snapshot, |_| true);
        assert_eq!(every.len(), 1);
    }
}
