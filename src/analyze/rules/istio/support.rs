//! What several rules about a mesh share: evidence from failing edges, lines of logs, traffic policies, annotations of pods.

use crate::model::json::{Value, json};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Evidence, Severity};
use crate::analyze::remedy::{Remedy, Risk, pointer, pointer_segment};
use crate::analyze::rules::seen::MAX_EVIDENCE;
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::analyze::twin::ask::{Origin, Request};
use crate::analyze::twin::probe::placed;
use crate::model::fields::Fields;
use crate::model::log::LogStream;
use crate::model::mesh::istio::{DestinationRule, VirtualService};
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{ClusterName, EdgeTraffic, Outcome, host_of, most};
use crate::model::workload::Workload;

/// At most this many edges are shown as evidence.
const MAX_PARTS: usize = 3;

/// The busiest edges of a group of failures as evidence.
pub fn parts(group: &Failures) -> impl Iterator<Item = Evidence> + '_ {
    group.parts.iter().take(MAX_PARTS).map(|part| {
        let source = if part.counted { "Metric" } else { "AccessLog" };
        let cluster = text::plain(&part.cluster, 120);
        let place = format!(
            "istio-proxy of {}{}{cluster}",
            part.workload,
            if cluster.is_empty() { "" } else { ", " }
        );
        let value = format!("{}, {} requests", text::plain(&part.short, 24), text::number(part.count));
        Evidence::new(source, place, value).at(part.first).excerpt(&part.details)
    })
}

/// The Services of the snapshot whose callers' requests fail in a way, with the failures.
pub fn failing(snapshot: &Snapshot, way: Way) -> impl Iterator<Item = (Failures, &Service)> {
    let service = |seen: &Failures| snapshot.service(seen.callee.service.as_ref()?);
    failures(snapshot, way).into_iter().filter_map(move |seen| service(&seen).map(|service| (seen, service)))
}

/// ` since 10:00:00Z`; empty where nobody knows.
pub fn since(at: Option<Timestamp>) -> String {
    at.map(|at| format!(" since {}", text::clock(at))).unwrap_or_default()
}

/// Takes one patch out of an EnvoyFilter that has others; `None` where it is the only one, so that the object goes as a whole.
pub fn take_patch_out(filter: &Object, index: usize) -> Option<Remedy> {
    if filter.body.list("spec.configPatches").len() < 2 {
        return None;
    }
    let operation = json!([{"op": "remove", "path": format!("/spec/configPatches/{index}")}]);
    Remedy::patch(filter, &operation, format!("Take configPatches[{index}] out of {}", filter.reference))
}

/// Takes a policy (`tls`, `connectionPool`, …) out of a DestinationRule, and with it what would hold no policy any more: Istio
/// refuses an empty traffic policy, and settings of a port that only name it.
pub fn take_out_policy(rule: &Object, field_path: &str, summary: impl Into<String>) -> Option<Remedy> {
    let mut path = pointer(field_path);
    while let Some((parent, key)) =
        path.rsplit_once('/').filter(|(parent, _)| parent.matches('/').count() > 1)
    {
        let empty = match rule.body.pointer(parent)? {
            Value::Object(map) => map.keys().all(|other| other.as_str() == key || other.as_str() == "port"),
            Value::Array(list) => list.len() == 1,
            _ => false,
        };
        if !empty {
            break;
        }
        path.truncate(parent.len());
    }
    Remedy::patch(rule, &json!([{"op": "remove", "path": path}]), summary)
}

/// The part of a DestinationRule's traffic policy (`connectionPool`, `outlierDetection`) that counts for a cluster, with
/// where it stands: the subset's own where it has one, else the port's, else the general one.
pub fn traffic_policy<'a>(
    rule: &'a DestinationRule,
    cluster: &ClusterName,
    what: &str,
) -> Option<(String, &'a Value)> {
    let named = rule.subsets.iter().find(|s| s.name == cluster.subset && !cluster.subset.is_empty());
    if let Some(subset) = named
        && let Some(policy) = rule
            .object
            .body
            .pointer(&pointer(&subset.path))
            .and_then(|body| body.at("trafficPolicy")?.child(what))
    {
        return Some((format!("{}.trafficPolicy.{what}", subset.path), policy));
    }
    rule.policy(cluster.port, what)
}

/// What one object did to requests, over the edges of the mesh.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that it was done to.
    pub count: u64,
    /// All requests on those edges.
    pub requests: u64,
    /// The first time.
    pub onset: Option<Timestamp>,
    /// At most [`MAX_EVIDENCE`] pieces.
    pub evidence: Vec<Evidence>,
    last_edge: Option<usize>,
}

impl Tally {
    /// Takes in an outcome of the edge at this place among all; edges come in their order, so that each counts once, however many of
    /// its outcomes do.
    pub fn add(&mut self, (at, edge): (usize, &EdgeTraffic), outcome: &Outcome, evidence: Evidence) {
        self.count += outcome.count;
        if self.last_edge.replace(at) != Some(at) {
            self.requests += edge.requests;
        }
        self.onset = self.onset.into_iter().chain(outcome.first).min();
        if self.evidence.len() < MAX_EVIDENCE {
            self.evidence.push(evidence.at(outcome.first));
        }
    }

    /// `12 of 30 requests (40 %)`.
    pub fn share(&self) -> String {
        text::share(self.count, self.requests.max(self.count), "requests")
    }

    /// An error where one request in a hundred or more is concerned, else a warning.
    pub fn severity(&self) -> Severity {
        if self.count * 100 >= self.requests { Severity::Error } else { Severity::Warning }
    }
}

/// Lines of one container that say the same.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Option<Timestamp>,
    /// The last time.
    pub last: Option<Timestamp>,
    /// The last line, word for word.
    pub text: String,
    /// The pods that said it.
    pub pods: BTreeSet<String>,
}

impl Said {
    /// Takes in one line.
    pub fn add(&mut self, pod: &str, at: Option<Timestamp>, line: &str) {
        self.count += 1;
        self.first = self.first.into_iter().chain(at).min();
        self.last = self.last.into_iter().chain(at).max();
        line.clone_into(&mut self.text);
        self.pods.insert(pod.to_owned());
    }

    /// It as evidence: where, how often, and the last of them.
    pub fn evidence(&self, place: impl Into<String>) -> Evidence {
        Evidence::new("Log", place, text::several(self.count, "such line")).at(self.first).excerpt(&self.text)
    }
}

/// What containers that `wanted` picks say with any of these words, by the workload that they belong to.
pub fn said(
    snapshot: &Snapshot,
    wanted: impl Fn(&LogStream) -> bool,
    words: &[&str],
) -> BTreeMap<ObjectRef, Said> {
    let finders: Vec<memchr::memmem::Finder<'_>> = words.iter().map(memchr::memmem::Finder::new).collect();
    let mut out: BTreeMap<ObjectRef, Said> = BTreeMap::new();
    for log in snapshot.logs.iter().filter(|log| wanted(log)) {
        for line in &log.lines {
            if finders.iter().any(|finder| finder.find(line.text.as_bytes()).is_some()) {
                let owner = snapshot.owner_by_name(&log.namespace, &log.pod);
                out.entry(owner).or_default().add(&log.pod, line.time, &line.text);
            }
        }
    }
    out
}

/// The log of Istio's control plane.
pub fn of_control_plane(log: &LogStream) -> bool {
    log.container == "discovery"
}

/// The log of a sidecar or of a gateway.
pub fn of_proxy(log: &LogStream) -> bool {
    log.container == "istio-proxy"
}

/// The Services in front of a workload.
pub fn services_of(snapshot: &Snapshot, workload: &ObjectRef) -> Vec<ServiceName> {
    match snapshot.workload(workload) {
        Some(workload) => snapshot.services_before(workload).map(Service::service_name).collect(),
        None => snapshot.graph.services_of(workload).cloned().collect(),
    }
}

/// A patch that sets an annotation of a workload's pods, which replaces them.
pub fn annotate(workload: &Workload, key: &str, value: &str, summary: impl Into<String>) -> Option<Remedy> {
    let metadata = workload.template_path("metadata");
    let base = pointer(&format!("{metadata}.annotations"));
    let body = &workload.object.body;
    let operations = if body.pointer(&base).is_some_and(Value::is_object) {
        json!([{"op": "add", "path": format!("{base}/{}", pointer_segment(key)), "value": value}])
    } else if body.pointer(&pointer(&metadata)).is_some_and(Value::is_object) {
        json!([{"op": "add", "path": base, "value": {key: value}}])
    } else {
        json!([{"op": "add", "path": pointer(&metadata), "value": {"annotations": {key: value}}}])
    };
    Some(Remedy::patch(&workload.object, &operations, summary)?.risk(Risk::Medium))
}

/// The value that a name has in an object, wherever it stands below a path, with its path: the places of a filter's
/// configuration differ by version and by how it is wrapped. At most [`MAX_DEPTH`] levels down.
pub fn find_below<'a>(value: &'a Value, path: &str, name: &str) -> Vec<(String, &'a Value)> {
    let mut out = vec![];
    let mut open = vec![(path.to_owned(), value, 0)];
    while let Some((path, value, depth)) = open.pop() {
        if depth > MAX_DEPTH || out.len() >= MAX_FOUND {
            break;
        }
        match value {
            Value::Object(map) => {
                for (key, child) in map {
                    let below = format!("{path}/{}", pointer_segment(key));
                    if key == name {
                        out.push((below.clone(), child));
                    }
                    open.push((below, child, depth + 1));
                }
            }
            Value::Array(items) => {
                open.extend(items.iter().enumerate().map(|(i, v)| (format!("{path}/{i}"), v, depth + 1)));
            }
            _ => {}
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    out
}

/// Configuration of filters nests about ten levels; what is deeper was made to be deep.
const MAX_DEPTH: usize = 24;
/// More of one kind than this in one object are not looked at.
const MAX_FOUND: usize = 32;

/// The field path of a JSON pointer: `/spec/http/0/route` is `spec.http[0].route`.
pub fn field_path(pointer: &str) -> String {
    let mut out = String::new();
    for part in pointer.split('/').filter(|part| !part.is_empty()) {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
        } else {
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    out
}

/// The request of an outcome as the log shows it most often, and where it comes from.
pub fn asked(snapshot: &Snapshot, edge: &EdgeTraffic, outcome: &Outcome) -> Option<(Origin, Request)> {
    let request = Request {
        method: most(&outcome.methods)?.to_owned(),
        host: most(&outcome.authorities)?.to_owned(),
        path: most(&outcome.paths).filter(|path| path.starts_with('/'))?.to_owned(),
        ..Request::default()
    };
    placed(snapshot, &edge.workload, (edge, outcome), request)
}

/// The Service, and its port, that got requests for a VirtualService's hosts last, where any did.
pub fn served_before(snapshot: &Snapshot, route: &VirtualService) -> Option<(ServiceName, i64)> {
    let through = |outcome: &&Outcome| {
        let mut hosts = outcome.authorities.keys().map(|authority| host_of(authority));
        !outcome.upstreams.is_empty() && !outcome.connection && hosts.any(|host| route.covers(host))
    };
    let sources = snapshot.traffic.iter().filter(|edge| edge.cluster.direction == "outbound");
    let edges = sources.filter_map(|edge| {
        let last = edge.outcomes.iter().filter(through).filter_map(|outcome| outcome.last).max()?;
        Some((last, edge.service.clone()?, edge.cluster.port?))
    });
    let (_, service, port) = edges.max_by(|a, b| a.0.cmp(&b.0))?;
    Some((service, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_taken_out_leaves_nothing_empty_behind() {
        let taken = |policy: Value, path: &str| {
            let rule =
                Object::read(json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
                "metadata": {"name": "a", "namespace": "n"}, "spec": {"host": "a", "trafficPolicy": policy}}))
                .unwrap();
            let patch = take_out_policy(&rule, path, "").unwrap().patch.unwrap();
            rule.body.patched(&patch.operations).unwrap().pointer("/spec").unwrap().to_string()
        };
        let tls = || json!({"mode": "DISABLE"});
        assert_eq!(taken(json!({"tls": tls()}), "spec.trafficPolicy.tls"), r#"{"host":"a"}"#);
        let port = json!({"port": {"number": 80}, "tls": tls()});
        let ports = "spec.trafficPolicy.portLevelSettings[0].tls";
        assert_eq!(taken(json!({"portLevelSettings": [port]}), ports), r#"{"host":"a"}"#);
        // What says something by itself stays.
        let pool = json!({"tcp": {"maxConnections": 9}});
        assert_eq!(
            taken(json!({"connectionPool": pool, "portLevelSettings": [port]}), ports),
            r#"{"host":"a","trafficPolicy":{"connectionPool":{"tcp":{"maxConnections":9}}}}"#
        );
        let two = json!({"port": {"number": 80}, "tls": tls(), "connectionPool": pool});
        assert_eq!(
            taken(json!({"portLevelSettings": [two]}), ports),
            r#"{"host":"a","trafficPolicy":{"portLevelSettings":[{"connectionPool":{"tcp":{"maxConnections":9}},"port":{"number":80}}]}}"#
        );
    }

    #[test]
    fn a_name_is_found_wherever_it_stands() {
        let value = json!({"a": [{"token_bucket": {"max_tokens": 1}}], "b": {"c/d": {"token_bucket": 2}}});
        let found = find_below(&value, "/spec", "token_bucket");
        let paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["/spec/a/0/token_bucket", "/spec/b/c~1d/token_bucket"]);
        assert_eq!(field_path(paths[0]), "spec.a[0].token_bucket");
    }
}
