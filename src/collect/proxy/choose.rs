//! Which proxies to ask. Pure.

use std::collections::BTreeMap;

use super::{AdminFile, AdminRequest};
use crate::collect::budget::Budget;
use crate::collect::kubernetes::neighbours::Neighbourhood;
use crate::collect::logs::choose::{PodKey, pods_around};
use crate::collect::plan::Plan;
use crate::model::fields::Fields;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Pod;

/// Containers that are an Envoy with an admin port, and the port where nothing says another one.
const PROXIES: &[(&str, u16)] =
    &[("istio-proxy", 15000), ("consul-dataplane", 19000), ("envoy-sidecar", 19000)];

/// What to ask, and how many pods the budget left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The nearest to the target first.
    pub requests: Vec<AdminRequest>,
    /// Pods that were left out.
    pub left_out: usize,
    /// Namespaces in which ports may not be opened, although proxies run there.
    pub not_allowed: Vec<String>,
}

/// The proxies of the target and its neighbours, a few of each workload: they have the same configuration, but not the
/// same connections.
pub fn around(
    snapshot: &Snapshot,
    around: &Neighbourhood,
    plan: &Plan,
    budget: &Budget,
    allows: &dyn Fn(&str) -> bool,
    files: &[AdminFile],
) -> Choice {
    let mut pods: Vec<(u8, &Pod)> =
        pods_around(snapshot, around, plan).into_iter().map(|(pod, hops)| (hops, pod)).collect();
    pods.sort_by_key(|(hops, pod)| (*hops, pod.ready(), pod.object.namespace(), pod.object.name()));
    choose(snapshot, pods.into_iter().map(|(_, pod)| pod), budget, allows, files)
}

/// The proxies of these pods, in their order.
pub fn of(
    snapshot: &Snapshot,
    pods: &[PodKey],
    plan: &Plan,
    budget: &Budget,
    allows: &dyn Fn(&str) -> bool,
    files: &[AdminFile],
) -> Choice {
    let reached = pods.iter().filter(|(namespace, _)| plan.reaches(namespace));
    let pods = reached.filter_map(|(namespace, name)| snapshot.pod(namespace, name));
    choose(snapshot, pods, budget, allows, files)
}

fn choose<'a>(
    snapshot: &Snapshot,
    pods: impl Iterator<Item = &'a Pod>,
    budget: &Budget,
    allows: &dyn Fn(&str) -> bool,
    files: &[AdminFile],
) -> Choice {
    let mut choice = Choice::default();
    let mut of_workload: BTreeMap<ObjectRef, usize> = BTreeMap::new();
    for pod in pods {
        let Some(port) = admin_port(pod, snapshot) else { continue };
        let namespace = pod.object.namespace();
        if !allows(namespace) {
            if !choice.not_allowed.iter().any(|known| known == namespace) {
                choice.not_allowed.push(namespace.to_owned());
            }
            continue;
        }
        let key = (namespace.to_owned(), pod.object.name().to_owned());
        if choice.requests.iter().any(|known| (&known.namespace, &known.pod) == (&key.0, &key.1)) {
            continue;
        }
        let count = of_workload.entry(snapshot.owner(pod)).or_default();
        *count += 1;
        // A further pod of the same workload is no loss.
        if *count > budget.proxies_per_workload {
            continue;
        }
        if choice.requests.len() >= budget.proxies {
            choice.left_out += 1;
            continue;
        }
        choice.requests.push(AdminRequest { namespace: key.0, pod: key.1, port, files: files.to_vec() });
    }
    choice
}

/// The admin port of a pod's proxy; `None` where it has none that runs.
fn admin_port(pod: &Pod, snapshot: &Snapshot) -> Option<u16> {
    let (name, usual) = PROXIES.iter().find(|(name, _)| pod.template.has_running_container(name))?;
    if pod.phase != "Running" {
        return None;
    }
    if *name != "istio-proxy" {
        return Some(*usual);
    }
    let annotation = pod.object.annotations.get("proxy.istio.io/config");
    let own = annotation.and_then(|text| serde_saphyr::from_str::<crate::model::json::Value>(text).ok());
    let port = own.and_then(|config| config.int("proxyAdminPort"));
    let port = port.or_else(|| snapshot.istio.mesh_config.int("defaultConfig.proxyAdminPort"));
    Some(port.and_then(|port| u16::try_from(port).ok()).unwrap_or(*usual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::assemble::assemble;
    use crate::collect::material::Material;
    use crate::collect::plan::{Asker, Question};
    use crate::collect::proxy::CHEAP;
    use crate::model::json::{Value, json};

    fn pod(name: &str, owner: &str, container: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name,
            "annotations": if name == "odd" { json!({"proxy.istio.io/config": "proxyAdminPort: 15900\n"}) } else { json!({}) },
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": owner, "controller": true}]},
            "spec": {"containers": [{"name": "app"}, {"name": container}]}, "status": {"phase": phase}})
    }

    fn chosen(pods: &[Value], budget: &Budget, allowed: &str) -> (Vec<String>, usize, Vec<String>) {
        let snapshot = assemble(Material { objects: pods.to_vec(), ..Material::default() });
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let plan = Plan::new(Question::about("shop", Asker::Person), now, budget).unwrap();
        let keys: Vec<PodKey> =
            pods.iter().map(|pod| ("shop".to_owned(), pod.string("metadata.name"))).collect();
        let choice = of(&snapshot, &keys, &plan, budget, &|namespace| namespace == allowed, CHEAP);
        let names = choice.requests.iter().map(|r| format!("{}:{}", r.pod, r.port)).collect();
        (names, choice.left_out, choice.not_allowed)
    }

    #[test]
    fn a_few_of_each_workload_with_the_port_that_they_listen_on() {
        let pods = [
            pod("a-1", "a", "istio-proxy", "Running"),
            pod("a-2", "a", "istio-proxy", "Running"),
            pod("a-3", "a", "istio-proxy", "Running"),
            pod("b-1", "b", "consul-dataplane", "Running"),
            pod("c-1", "c", "other", "Running"),
            pod("d-1", "d", "istio-proxy", "Pending"),
            pod("odd", "e", "istio-proxy", "Running"),
        ];
        let budget = Budget::default();
        assert_eq!(
            chosen(&pods, &budget, "shop"),
            (vec!["a-1:15000".into(), "a-2:15000".into(), "b-1:19000".into(), "odd:15900".into()], 0, vec![])
        );
        let few = Budget { proxies: 1, ..budget.clone() };
        assert_eq!(chosen(&pods, &few, "shop"), (vec!["a-1:15000".into()], 3, vec![]));
        assert_eq!(chosen(&pods, &budget, "other"), (vec![], 0, vec!["shop".to_owned()]));
    }
}
