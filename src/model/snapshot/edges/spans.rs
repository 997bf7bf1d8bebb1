//! Edges that spans show: a span of one service within a span of another, and outgoing calls whose other half is missing.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::graph::{Counted, Graph, Provenance};
use crate::model::mesh::istio;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::span::tree::Forest;
use crate::model::span::{Name, Span};

/// Adds what spans show. They are mostly a sample, so their numbers count only where no access log counts all requests.
pub(super) fn draw(snapshot: &Snapshot, graph: &mut Graph) {
    let spans = &snapshot.spans;
    if spans.is_empty() {
        return;
    }
    let forest = Forest::of(spans);
    let services: Vec<ServiceName> = spans.services().to_vec();
    // By caller's emitter and callee's service: calls, and those that failed.
    let mut calls: BTreeMap<(u32, usize), Counted> = BTreeMap::new();
    let mut outside: BTreeMap<(u32, Name), Counted> = BTreeMap::new();
    let millis = |span: &Span| span.duration as f64 / 1e6;
    for (at, span) in spans.all().iter().enumerate() {
        let own = spans.service_index(span);
        if let Some(parent) = forest.parent(at).and_then(|parent| spans.all().get(parent))
            && spans.service_index(parent) != own
        {
            // The caller waits for the way as well, where its own side of the call has a span.
            let felt = if parent.is_outgoing() { parent } else { span };
            calls.entry((parent.emitter, own)).or_default().add(felt.failed() || span.failed(), millis(felt));
        }
        let alone = || forest.children(at).filter_map(|child| spans.all().get(child));
        let away = |child: &Span| spans.service_index(child) != own;
        if span.is_outgoing() && !span.peer.is_empty() && !alone().any(away) {
            outside.entry((span.emitter, span.peer)).or_default().add(span.failed(), millis(span));
        }
    }
    let callers: Vec<BTreeSet<ObjectRef>> = spans
        .emitters()
        .iter()
        .map(|emitter| workloads(snapshot, graph, emitter.service, &emitter.pod))
        .collect();
    let known: BTreeSet<&ServiceName> = graph.backing.keys().chain(&services).collect();
    let resolve = |emitter: u32, peer: Name| {
        let namespace = spans
            .emitters()
            .get(emitter as usize)
            .and_then(|emitter| services.get(emitter.service as usize))
            .map(|service| service.namespace.as_str())
            .unwrap_or_default();
        let host = spans.text(peer);
        let host = host.rsplit('|').next().unwrap_or(host);
        let host = host.split_once(':').map_or(host, |(host, _)| host);
        let plain = ServiceName::new(namespace, host);
        if known.contains(&plain) {
            return Some(plain);
        }
        let (namespace, name) = istio::service_of_host(&istio::full_host(host, namespace))?;
        Some(ServiceName::new(namespace, name)).filter(|name| known.contains(name))
    };
    let named =
        outside.into_iter().filter_map(|((emitter, peer), n)| Some((emitter, resolve(emitter, peer)?, n)));
    let seen = calls
        .into_iter()
        .filter_map(|((emitter, callee), n)| Some((emitter, services.get(callee)?.clone(), n)));
    let mut edges: BTreeMap<(&ObjectRef, ServiceName), Counted> = BTreeMap::new();
    for (emitter, callee, counted) in seen.chain(named) {
        for caller in callers.get(emitter as usize).into_iter().flatten() {
            edges.entry((caller, callee.clone())).or_default().extend(counted.clone());
        }
    }
    for ((caller, callee), counted) in edges {
        graph.count(caller.clone(), callee, Provenance::Trace, &counted);
    }
}

/// The workloads that an emitter stands for: its pod's owner, else whatever is behind its Service, else the Service itself.
fn workloads(snapshot: &Snapshot, graph: &Graph, service: u32, pod: &str) -> BTreeSet<ObjectRef> {
    let Some(name) = snapshot.spans.services().get(service as usize) else { return BTreeSet::new() };
    if snapshot.pod(&name.namespace, pod).is_some() {
        return [snapshot.owner_by_name(&name.namespace, pod)].into();
    }
    match graph.backing.get(name).filter(|workloads| !workloads.is_empty()) {
        Some(workloads) => workloads.iter().cloned().collect(),
        None => [name.reference()].into(),
    }
}

#[cfg(test)]
mod tests {
    use crate::model::json::json;
    use crate::model::snapshot::Builder;
    use crate::model::span::{SpansBuilder, read};

    #[test]
    fn calls_between_services_and_to_a_known_host_are_edges() {
        let mut builder = Builder::new();
        for name in ["a", "b", "db"] {
            builder.object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "n"}, "spec": {"selector": {"app": name}}}));
        }
        builder.object(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"}, "spec": {"template": {"metadata": {"labels": {"app": "a"}}}}}));
        let span = |id: &str, parent: &str, service: &str, kind: &str, peer: &str, error: &str| {
            json!({"traceId": "1", "id": id, "parentId": parent, "kind": kind, "timestamp": 1_700_000_000_000_000u64, "duration": 5,
                "localEndpoint": {"serviceName": service}, "remoteEndpoint": {"serviceName": peer}, "tags": {"error": error}})
        };
        let body = json!([
            span("1", "", "a", "SERVER", "", ""),
            span("2", "1", "a", "CLIENT", "b", ""),
            span("3", "2", "b.n", "SERVER", "", "boom"),
            span("4", "3", "b.n", "CLIENT", "db.n.svc.cluster.local:5432", ""),
            span("5", "3", "b.n", "CLIENT", "unheard-of", ""),
        ]);
        let mut spans = SpansBuilder::default();
        assert!(read("f", body.to_string().as_bytes(), &mut spans).is_empty());
        builder.spans(spans.finish());
        let snapshot = builder.finish();
        let edges: Vec<String> = snapshot
            .graph
            .edges
            .iter()
            .map(|((a, b), e)| format!("{a} {b} {} {} {:?}", e.requests, e.failures, e.provenance))
            .collect();
        assert_eq!(edges, ["Deployment n/a n/b 1 1 {Trace}", "Service n/b n/db 1 0 {Trace}"]);
    }
}
