//! The policies that keep a connection closed, as objects that a rule can name and mend.

use crate::model::json::{Value, json};

use crate::analyze::remedy::{Remedy, pointer};
use crate::analyze::twin::policy::network::{Direction, End, NetworkPolicies, PodEnd, Port, Verdict};
use crate::model::object::{Object, ObjectRef};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;

/// A policy that drops a connection: a NetworkPolicy that isolates a pod and lets it through nowhere, or a rule of an
/// AdminNetworkPolicy or of the BaselineAdminNetworkPolicy that denies it.
#[derive(Debug, Clone)]
pub struct Blocking<'a> {
    /// The policy.
    pub object: &'a Object,
    /// The policy, and the list of its rules or the rule that denies.
    pub reference: ObjectRef,
    /// Which way it looks.
    pub direction: Direction,
}

impl Blocking<'_> {
    /// The list of its rules: `spec.ingress`.
    pub fn list(&self) -> String {
        format!("spec.{}", self.direction.field())
    }

    /// Whether one of its rules denies, rather than none allowing.
    pub fn denies(&self) -> bool {
        self.object.reference.kind != "NetworkPolicy"
    }

    /// Lets a connection through: one more rule, where rules are read in order before all others. `peer`: namespace and
    /// labels of the other end; without it anybody is let through.
    pub fn open(
        &self,
        peer: Option<(&str, &Labels)>,
        ports: &[(i64, &str)],
        summary: String,
    ) -> Option<Remedy> {
        let rule = if self.denies() { self.admin_rule(peer, ports) } else { self.rule(peer, ports) };
        let at = pointer(&self.list());
        let has = self.object.body.pointer(&at).is_some_and(Value::is_array);
        let operation = match (has, self.denies()) {
            (true, true) => json!([{"op": "add", "path": format!("{at}/0"), "value": rule}]),
            (true, false) => json!([{"op": "add", "path": format!("{at}/-"), "value": rule}]),
            (false, _) => json!([{"op": "add", "path": at, "value": [rule]}]),
        };
        Remedy::patch(self.object, &operation, summary)
    }

    fn rule(&self, peer: Option<(&str, &Labels)>, ports: &[(i64, &str)]) -> Value {
        let ports: Vec<Value> =
            ports.iter().map(|(port, protocol)| json!({"port": port, "protocol": protocol})).collect();
        let Some((namespace, labels)) = peer else { return json!({"ports": ports}) };
        let mut selected = crate::model::json::Map::new();
        if namespace != self.object.namespace() {
            selected.insert("namespaceSelector".to_owned(), in_namespace(namespace));
        }
        if !labels.is_empty() || selected.is_empty() {
            selected.insert("podSelector".to_owned(), json!({"matchLabels": labels}));
        }
        json!({self.direction.peers(): [selected], "ports": ports})
    }

    fn admin_rule(&self, peer: Option<(&str, &Labels)>, ports: &[(i64, &str)]) -> Value {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(port, protocol)| json!({"portNumber": {"port": port, "protocol": protocol}}))
            .collect();
        let selected = match peer {
            None => json!({"namespaces": {}}),
            Some((namespace, labels)) if labels.is_empty() => json!({"namespaces": in_namespace(namespace)}),
            Some((namespace, labels)) => {
                json!({"pods": {"namespaceSelector": in_namespace(namespace), "podSelector": {"matchLabels": labels}}})
            }
        };
        json!({"action": "Allow", self.direction.peers(): [selected], "ports": ports})
    }
}

fn in_namespace(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}

/// Addresses of a workload's pods.
pub fn ips_of(snapshot: &Snapshot, workload: &Workload) -> Vec<String> {
    snapshot.pods_of(workload.reference()).flat_map(|pod| pod.ips.clone()).collect()
}

/// A pod of a workload. Without addresses any range may hold it.
pub fn end<'a>(workload: &'a Workload, ips: &'a [String]) -> PodEnd<'a> {
    PodEnd {
        namespace: workload.object.namespace(),
        labels: &workload.template.labels,
        template: Some(&workload.template),
        ips: (!ips.is_empty()).then_some(ips),
        node_ips: &[],
    }
}

/// The policies at one end that surely drop a connection; empty where it passes, where nobody can say, and where the pod is
/// in its node's network, which many plug-ins leave alone.
pub fn blocking<'a>(
    snapshot: &'a Snapshot,
    direction: Direction,
    own: &PodEnd<'_>,
    other: &End<'_>,
    port: Port<'_>,
) -> Vec<Blocking<'a>> {
    let host = |pod: &PodEnd<'_>| pod.host_network();
    if host(own) || matches!(other, End::Pod(pod) if host(pod)) {
        return vec![];
    }
    let decision = snapshot.derived::<NetworkPolicies>().decide(direction, own, other, port);
    if decision.verdict != Verdict::Denied {
        return vec![];
    }
    let denying = decision.causes.into_iter().filter(|cause| cause.denies);
    let found = denying.filter_map(|cause| {
        let r = &cause.object;
        let object = snapshot.object(&r.kind, &r.namespace, &r.name)?;
        Some(Blocking { object, reference: cause.object, direction })
    });
    found.collect()
}

/// Whether there is any policy at all.
pub fn any(snapshot: &Snapshot) -> bool {
    !snapshot.derived::<NetworkPolicies>().is_empty()
}
