//! How far a fix reaches. On a large cluster a trial reads the namespaces that the fix, what it is to heal and the requests at
//! stake stand in, and those whose mesh configuration names one of them: nothing else can tell the difference.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::asks::Question;
use crate::analyze::finding::Finding;
use crate::analyze::remedy::{Remedy, Whole};
use crate::analyze::twin::ask::Origin;
use crate::model::fields::Fields;
use crate::model::mesh::istio::service_of_host;
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// What is at stake in the trials of one finding's remedies.
pub(super) struct Stake<'s> {
    /// The finding, and those that it explains.
    pub(super) findings: Vec<&'s Finding>,
    pub(super) remedies: &'s [Remedy],
    pub(super) questions: &'s [Question],
}

/// Namespaces that matter, and hosts that make others matter.
struct Near {
    namespaces: BTreeSet<String>,
    hosts: BTreeSet<String>,
    /// Namespaces whose mesh configuration names one of them.
    named: BTreeSet<String>,
}

/// For each stake the namespaces that its trials read; what stands in no namespace belongs to all. The configuration of a large
/// mesh is searched once for all of them.
pub(super) fn namespaces(snapshot: &Snapshot, stakes: &[Stake<'_>]) -> Vec<BTreeSet<String>> {
    let mut all: Vec<Near> = stakes.iter().map(|stake| at_stake(snapshot, stake)).collect();
    let (namespaces, hosts) =
        (Words::new(&all, |near| &near.namespaces), Words::new(&all, |near| &near.hosts));
    let mut named: Vec<BTreeSet<String>> = vec![BTreeSet::new(); all.len()];
    for object in snapshot.objects.iter().filter(|object| is_of_a_mesh(object)) {
        let own = object.namespace();
        let Some(spec) = object.body.get("spec") else { continue };
        let known =
            |(near, named): (&Near, &BTreeSet<String>)| near.namespaces.contains(own) || named.contains(own);
        let mut left: Whose = 0;
        for (at, pair) in all.iter().zip(&named).enumerate() {
            left |= if known(pair) { 0 } else { bit(at) };
        }
        let found = whose(spec, left, &namespaces, &hosts);
        for (_, named) in named.iter_mut().enumerate().filter(|(at, _)| found & bit(*at) != 0) {
            named.insert(own.to_owned());
        }
    }
    for (near, named) in all.iter_mut().zip(named) {
        near.named = named;
    }
    all.into_iter().map(|near| with_servers(snapshot, near)).collect()
}

/// The namespaces that the stake itself names.
fn at_stake(snapshot: &Snapshot, Stake { findings, remedies, questions }: &Stake<'_>) -> Near {
    let mut out: BTreeSet<String> = [snapshot.istio.root_namespace.clone()].into();
    let mut changed: Vec<Object> = vec![];
    let mut add = |reference: &ObjectRef| {
        out.insert(reference.namespace.clone());
        changed.extend(snapshot.find(reference).cloned());
    };
    for finding in findings {
        add(&finding.subject);
        finding.related.iter().for_each(&mut add);
    }
    for remedy in *remedies {
        remedy.patch.iter().for_each(|patch| add(&patch.target));
        match &remedy.whole {
            Some(Whole::Delete(reference) | Whole::Scale(reference, _)) => add(reference),
            Some(Whole::Create(manifests)) => manifests.iter().map(ObjectRef::of).for_each(|new| add(&new)),
            None => {}
        }
    }
    for question in *questions {
        if let Origin::Workload(named) | Origin::Gateway(named) = &question.ask.from {
            out.insert(named.namespace.clone());
        }
        out.extend(service_of_host(&question.ask.request.host).map(|(namespace, _)| namespace));
    }
    out.remove("");
    let hosts = changed.iter().flat_map(hosts).collect();
    Near { namespaces: out, hosts, named: BTreeSet::new() }
}

/// All of them, and the namespaces whose pods serve the Gateways in them.
fn with_servers(snapshot: &Snapshot, near: Near) -> BTreeSet<String> {
    let mut out = near.namespaces;
    out.extend(near.named);
    // Pods that serve a Gateway stand where their owner likes.
    let gateways = snapshot.istio.gateways.iter().filter(|gateway| out.contains(gateway.object.namespace()));
    let selectors: BTreeSet<_> =
        gateways.map(|gateway| &gateway.selector).filter(|s| !s.is_empty()).collect();
    let serves = |labels: &Labels| {
        selectors.iter().any(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    let pods = snapshot.pods.iter().filter(|pod| serves(&pod.object.labels)).map(|pod| &pod.object);
    let workloads = snapshot.workloads.iter().filter(|w| serves(&w.template.labels)).map(|w| &w.object);
    let serving: Vec<String> = pods.chain(workloads).map(|object| object.namespace().to_owned()).collect();
    out.extend(serving);
    out
}

fn is_of_a_mesh(object: &Object) -> bool {
    let group = object.reference.group();
    ["istio.io", "gateway.networking.k8s.io", "linkerd.io", "consul.hashicorp.com"]
        .iter()
        .any(|end| group.ends_with(end))
}

/// The hosts that an object speaks for.
fn hosts(object: &Object) -> Vec<String> {
    let body = &object.body;
    let mut out = body.texts("spec.hosts");
    out.extend(body.texts("spec.hostnames"));
    out.extend(body.text("spec.host").map(str::to_owned));
    for server in body.list("spec.servers").iter().chain(body.list("spec.listeners")) {
        out.extend(server.texts("hosts"));
        out.extend(server.text("hostname").map(str::to_owned));
    }
    out.retain(|host| host != "*");
    out
}

/// Some of the stakes, one bit each.
type Whose = u32;

fn bit(stake: usize) -> Whose {
    Whose::try_from(stake).ok().and_then(|at| 1_u32.checked_shl(at)).unwrap_or_default()
}

/// Words of all stakes, in order, with the stakes that each belongs to.
struct Words<'n> {
    all: Vec<(&'n str, Whose)>,
    /// One bit for each length that occurs, the last one for all longer ones: most texts are told by it alone.
    lengths: u64,
}

impl<'n> Words<'n> {
    fn new(stakes: &'n [Near], of: impl Fn(&'n Near) -> &'n BTreeSet<String>) -> Self {
        let mut all: BTreeMap<&str, Whose> = BTreeMap::new();
        for (at, near) in stakes.iter().enumerate() {
            for word in of(near) {
                *all.entry(word).or_default() |= bit(at);
            }
        }
        let lengths = all.keys().fold(0, |lengths, word| lengths | 1 << word.len().min(63));
        Words { all: all.into_iter().collect(), lengths }
    }

    fn whose(&self, text: &str) -> Whose {
        if self.lengths & 1 << text.len().min(63) == 0 {
            return 0;
        }
        let place = self.all.binary_search_by_key(&text, |(word, _)| word);
        place.ok().and_then(|at| self.all.get(at)).map_or(0, |(_, whose)| *whose)
    }
}

/// Which of the stakes in `left` a text anywhere in this names a namespace of, as hosts and references do, or a host.
fn whose(value: &Value, left: Whose, namespaces: &Words<'_>, hosts: &Words<'_>) -> Whose {
    let mut found = 0;
    match value {
        Value::String(text) => {
            // `checkout.shop.svc.cluster.local`, `shop/public`, `shop`, `cluster.local/ns/shop/sa/checkout`
            found |= hosts.whose(text);
            let mut rest = text.as_str();
            while let Some(end) = rest.bytes().position(|byte| matches!(byte, b'.' | b'/')) {
                found |= rest.get(..end).map_or(0, |part| namespaces.whose(part));
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            found |= namespaces.whose(rest);
        }
        Value::Array(items) => {
            for item in items {
                if found & left == left {
                    break;
                }
                found |= whose(item, left, namespaces, hosts);
            }
        }
        Value::Object(fields) => {
            for field in fields.values() {
                if found & left == left {
                    break;
                }
                found |= whose(field, left, namespaces, hosts);
            }
        }
        _ => {}
    }
    found & left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::twin::ask::{Ask, Named, Request};
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    fn object(group: &str, kind: &str, namespace: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": "x", "namespace": namespace}, "spec": spec})
    }

    #[test]
    fn whoever_names_a_namespace_or_a_host_is_near() {
        let mut builder = Builder::new();
        let istio = "networking.istio.io";
        for object in [
            object(
                istio,
                "VirtualService",
                "shop",
                json!({"hosts": ["shop.example.com"], "gateways": ["public"]}),
            ),
            object(istio, "VirtualService", "by-host", json!({"hosts": ["shop.example.com"]})),
            object(istio, "DestinationRule", "by-name", json!({"host": "checkout.shop.svc.cluster.local"})),
            object(
                "security.istio.io",
                "AuthorizationPolicy",
                "by-policy",
                json!({"rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/a"]}}]}]}),
            ),
            object(istio, "VirtualService", "stranger", json!({"hosts": ["workshop.example.com"]})),
            object("apps", "Deployment", "no-mesh", json!({"template": {"spec": {"nodeName": "shop"}}})),
            object(istio, "Gateway", "shop", json!({"selector": {"gateway": "public"}, "servers": []})),
            object(
                "apps",
                "Deployment",
                "edge",
                json!({"template": {"metadata": {"labels": {"gateway": "public"}}}}),
            ),
        ] {
            builder.object(object);
        }
        let snapshot = builder.finish();
        let patch = crate::analyze::remedy::Patch {
            target: ObjectRef::new("VirtualService", "shop", "x"),
            operations: json!([]),
        };
        let remedy = Remedy { patch: Some(patch), ..Remedy::manual("") };
        let from =
            Origin::Workload(Named { namespace: "caller".into(), kind: String::new(), name: "a".into() });
        let request = Request { host: "pay.other.svc".into(), ..Request::default() };
        let question = Question { ask: Ask { name: String::new(), from, request }, felt: false };
        let stake = Stake { findings: vec![], remedies: &[remedy], questions: &[question] };
        let near = namespaces(&snapshot, &[stake]);
        let near: Vec<&str> = near[0].iter().map(String::as_str).collect();
        assert_eq!(
            near,
            ["by-host", "by-name", "by-policy", "caller", "edge", "istio-system", "other", "shop"]
        );
    }
}
