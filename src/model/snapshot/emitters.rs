//! Which Service each writer of spans is.

use std::collections::{BTreeMap, BTreeSet};

use super::Snapshot;
use crate::model::network::ServiceName;
use crate::model::span::Emitter;

/// Names the Service of every emitter: that of its pod where the pod was seen, else the one with its name.
pub(super) fn assign(snapshot: &mut Snapshot) {
    let mut spans = std::mem::take(&mut snapshot.spans);
    if !spans.is_empty() {
        let by_name = by_name(snapshot);
        spans.assign(|emitter| service_of(snapshot, &by_name, emitter));
    }
    snapshot.spans = spans;
}

/// The namespaces in which a Service of each name is.
fn by_name(snapshot: &Snapshot) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut out: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for service in &snapshot.services {
        out.entry(service.object.name()).or_default().insert(service.object.namespace());
    }
    out
}

fn service_of(
    snapshot: &Snapshot,
    by_name: &BTreeMap<&str, BTreeSet<&str>>,
    emitter: &Emitter,
) -> ServiceName {
    if let Some(pod) =
        snapshot.pod(&emitter.namespace, &emitter.pod).or_else(|| snapshot.pod_by_ip(&emitter.pod))
    {
        let before: Vec<&str> = snapshot.services_before_pod(pod).map(|s| s.object.name()).collect();
        let owner = snapshot.owner(pod).name;
        let chosen = [emitter.name.as_str(), owner.as_str()].into_iter().find(|name| before.contains(name));
        if let Some(name) = chosen.or_else(|| before.first().copied()) {
            return ServiceName::new(pod.object.namespace(), name);
        }
    }
    let in_namespace = |name: &str| {
        if !emitter.namespace.is_empty() {
            return Some(emitter.namespace.clone());
        }
        let target = snapshot.target.as_ref().map(|target| target.namespace.as_str()).unwrap_or_default();
        let known = by_name.get(name)?;
        if known.contains(target) {
            return Some(target.to_owned());
        }
        known.first().filter(|_| known.len() == 1).map(|namespace| (*namespace).to_owned())
    };
    // Istio's proxies call themselves `service.namespace`.
    if let Some((name, namespace)) = emitter.name.split_once('.')
        && !namespace.contains('.')
        && by_name.get(name).is_some_and(|known| known.contains(namespace))
    {
        return ServiceName::new(namespace, name);
    }
    let name = if emitter.name.is_empty() { emitter.pod.as_str() } else { emitter.name.as_str() };
    let namespace =
        in_namespace(name).or_else(|| snapshot.target.as_ref().map(|target| target.namespace.clone()));
    ServiceName::new(namespace.unwrap_or_default(), name)
}
