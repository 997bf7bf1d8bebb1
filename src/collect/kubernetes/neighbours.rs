//! Who matters to the target: its callers and callees on the service graph, and the namespaces that its configuration
//! leads to. Pure: it reads what was collected so far and says what to collect next.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::strip::{host_words, service_of_word};
use crate::collect::plan::{Plan, Target};
use crate::model::fields::Fields;
use crate::model::mesh::istio;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::selector::{Labels, Selector};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{EnvSource, PodTemplate, Workload};

/// The target, and what lies within the plan's depth of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Neighbourhood {
    /// Services, with their hops from the target: 0 is the target itself.
    pub services: BTreeMap<ServiceName, u8>,
    /// Workloads, with their hops from the target.
    pub workloads: BTreeMap<ObjectRef, u8>,
    /// Other namespaces that matter, with the Services in them that do. No Service means that only configuration there is
    /// referred to, such as a Gateway.
    pub elsewhere: BTreeMap<String, BTreeSet<String>>,
}

/// Services that ConfigMaps name, by the ConfigMap's namespace and name.
pub type Mentions = BTreeMap<(String, String), BTreeSet<ServiceName>>;

/// Draws the neighbourhood. `namespaces` are the names of those that exist, as far as known: a word such as `pay.example`
/// is a Service only if there is such a namespace.
pub fn neighbourhood(
    snapshot: &Snapshot,
    plan: &Plan,
    mentions: &Mentions,
    namespaces: &BTreeSet<String>,
) -> Neighbourhood {
    let mut found = Neighbourhood::default();
    let (services, workloads) = target(snapshot, plan);
    let mut edge: BTreeSet<ServiceName> = services;
    let mut edge_workloads: BTreeSet<ObjectRef> = workloads;
    for hop in 0..=plan.depth {
        for service in &edge {
            edge_workloads.extend(snapshot.graph.backing.get(service).into_iter().flatten().cloned());
        }
        for workload in &edge_workloads {
            edge.extend(snapshot.graph.services_of(workload).cloned());
        }
        edge.retain(|service| !found.services.contains_key(service));
        edge_workloads.retain(|workload| !found.workloads.contains_key(workload));
        found.services.extend(edge.iter().map(|service| (service.clone(), hop)));
        found.workloads.extend(edge_workloads.iter().map(|workload| (workload.clone(), hop)));
        if hop == plan.depth {
            break;
        }
        for workload in &edge_workloads {
            if let Some(workload) = snapshot.workload(workload) {
                for name in named_elsewhere(workload, mentions, namespaces) {
                    note(&mut found.elsewhere, &name);
                }
            }
        }
        let callees: Vec<ServiceName> =
            edge_workloads.iter().flat_map(|w| snapshot.graph.callees(w)).cloned().collect();
        let callers: Vec<ObjectRef> = edge.iter().flat_map(|s| snapshot.graph.callers(s)).cloned().collect();
        let allowed = allowed_callers(snapshot, &edge_workloads);
        edge = callees.into_iter().collect();
        edge_workloads = callers.into_iter().chain(allowed).collect();
    }
    for service in found.services.keys() {
        note(&mut found.elsewhere, service);
    }
    for workload in found.workloads.keys() {
        found.elsewhere.entry(workload.namespace.clone()).or_default();
    }
    referred(snapshot, &plan.namespace, namespaces, &mut found.elsewhere);
    found.elsewhere.remove(&plan.namespace);
    found.elsewhere.remove("");
    found
}

fn note(elsewhere: &mut BTreeMap<String, BTreeSet<String>>, service: &ServiceName) {
    elsewhere.entry(service.namespace.clone()).or_default().insert(service.name.clone());
}

/// The Services and workloads that the plan names.
fn target(snapshot: &Snapshot, plan: &Plan) -> (BTreeSet<ServiceName>, BTreeSet<ObjectRef>) {
    let here = |namespace: &str| namespace == plan.namespace;
    match &plan.target {
        Target::Namespace => {
            let services =
                snapshot.services.iter().filter(|s| here(s.object.namespace())).map(|s| s.service_name());
            let workloads = snapshot
                .workloads
                .iter()
                .filter(|w| here(w.object.namespace()) && w.object.owners.is_empty());
            (services.collect(), workloads.map(|w| w.reference().clone()).collect())
        }
        Target::Services(names) => {
            (names.iter().map(|name| ServiceName::new(&plan.namespace, name)).collect(), BTreeSet::new())
        }
        Target::Workloads(wanted) => {
            let named = |w: &&Workload| {
                let r = w.reference();
                here(&r.namespace) && wanted.iter().any(|(kind, name)| *kind == r.kind && *name == r.name)
            };
            (
                BTreeSet::new(),
                snapshot.workloads.iter().filter(named).map(|w| w.reference().clone()).collect(),
            )
        }
        Target::Pods(selector) => {
            let pods = snapshot
                .pods
                .iter()
                .filter(|p| here(p.object.namespace()) && selector.matches(&p.object.labels));
            (BTreeSet::new(), pods.map(|pod| snapshot.owner(pod)).collect())
        }
    }
}

/// Services in other namespaces that a workload's environment, arguments or ConfigMaps name.
fn named_elsewhere(
    workload: &Workload,
    mentions: &Mentions,
    namespaces: &BTreeSet<String>,
) -> BTreeSet<ServiceName> {
    let namespace = workload.object.namespace();
    let mut found = BTreeSet::new();
    let mut read = |text: &str| {
        let named = host_words(text).filter_map(|word| service_of_word(word, namespace, namespaces));
        found.extend(named.filter(|name| name.namespace != namespace));
    };
    for container in &workload.template.containers {
        for var in &container.env {
            if let EnvSource::Literal(value) = &var.source {
                read(value);
            }
        }
        for text in container.body.texts("args").iter().chain(&container.body.texts("command")) {
            read(text);
        }
    }
    for name in config_maps(&workload.template) {
        let named = mentions.get(&(namespace.to_owned(), name)).into_iter().flatten();
        found.extend(named.filter(|service| service.namespace != namespace).cloned());
    }
    found
}

fn config_maps(template: &PodTemplate) -> BTreeSet<String> {
    let references =
        template.config_references().into_iter().filter(|reference| reference.kind == "ConfigMap");
    references.map(|reference| reference.name).collect()
}

/// The calls that ConfigMaps tell of: caller and callee as a manifest's `edges` have them. Only callers behind a Service
/// can be named there.
pub fn mentioned_calls(snapshot: &Snapshot, mentions: &Mentions) -> Vec<(String, String)> {
    let mut calls = BTreeSet::new();
    for workload in snapshot.workloads.iter().filter(|w| w.object.owners.is_empty()) {
        let namespace = workload.object.namespace();
        for name in config_maps(&workload.template) {
            for callee in mentions.get(&(namespace.to_owned(), name)).into_iter().flatten() {
                for caller in
                    snapshot.graph.services_of(workload.reference()).filter(|caller| *caller != callee)
                {
                    calls.insert((caller.to_string(), callee.to_string()));
                }
            }
        }
    }
    calls.into_iter().collect()
}

/// Workloads that a NetworkPolicy lets in by name: somebody meant them to call. A peer without a selector says nothing.
fn allowed_callers(snapshot: &Snapshot, callees: &BTreeSet<ObjectRef>) -> BTreeSet<ObjectRef> {
    let mut found = BTreeSet::new();
    for policy in snapshot.network_policies.iter().filter(|policy| policy.ingress) {
        let namespace = policy.object.namespace();
        let selects =
            |w: &&Workload| w.object.namespace() == namespace && policy.selector.matches(&w.template.labels);
        let about = snapshot.workloads.iter().filter(selects).any(|w| callees.contains(w.reference()));
        if !about {
            continue;
        }
        for peer in policy.object.body.list("spec.ingress").iter().flat_map(|rule| rule.list("from")) {
            let selector = peer.at("podSelector").map(Selector::read).unwrap_or_default();
            if selector.is_empty() || peer.at("namespaceSelector").is_some() {
                continue;
            }
            let callers = snapshot.workloads.iter().filter(|w| {
                w.object.owners.is_empty()
                    && w.object.namespace() == namespace
                    && selector.matches(&w.template.labels)
            });
            found.extend(callers.map(|w| w.reference().clone()));
        }
    }
    found
}

/// What the configuration of a namespace refers to in others: hosts and gateways of VirtualServices, hosts of
/// DestinationRules, parents and backends of routes. Without these namespaces a reference would look dangling.
fn referred(
    snapshot: &Snapshot,
    namespace: &str,
    namespaces: &BTreeSet<String>,
    out: &mut BTreeMap<String, BTreeSet<String>>,
) {
    let mut host = |host: &str| {
        if let Some((of, name)) = istio::service_of_host(&istio::full_host(host, namespace))
            && (namespaces.contains(&of) || host.contains(".svc"))
        {
            note(out, &ServiceName::new(of, name));
        }
    };
    for service in snapshot.istio.virtual_services.iter().filter(|v| v.object.namespace() == namespace) {
        service.object.body.texts("spec.hosts").iter().for_each(|name| host(name));
        service.destinations().for_each(|(_, destination)| host(&destination.host));
    }
    for rule in snapshot.istio.destination_rules.iter().filter(|r| r.object.namespace() == namespace) {
        host(rule.object.body.text("spec.host").unwrap_or_default());
    }
    for service in snapshot.istio.virtual_services.iter().filter(|v| v.object.namespace() == namespace) {
        for gateway in service.object.body.texts("spec.gateways") {
            if let Some((of, _)) = gateway.split_once('/') {
                out.entry(of.to_owned()).or_default();
            }
        }
    }
    for route in snapshot.gateway_api.routes.iter().filter(|r| r.object.namespace() == namespace) {
        for parent in &route.parents {
            out.entry(parent.namespace.clone()).or_default();
        }
        for backend in route.backends.iter().filter(|backend| backend.kind == "Service") {
            note(out, &ServiceName::new(&backend.namespace, &backend.name));
        }
    }
}

/// The label selectors of the named Services among `services`: what to ask pods for.
pub fn selectors(services: &[Value], names: &BTreeSet<String>) -> Vec<Labels> {
    let named =
        services.iter().filter(|service| names.contains(service.text("metadata.name").unwrap_or_default()));
    named.map(|service| service.text_map("spec.selector")).filter(|selector| !selector.is_empty()).collect()
}

/// A plain selector as the API's `labelSelector` parameter has it.
pub fn label_query(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Of a neighbour's objects those that belong to its named Services: what backs them, scales them and guards them.
pub fn retain_related(objects: &mut Vec<Value>, names: &BTreeSet<String>, selectors: &[Labels]) {
    let backs = |labels: &Labels| {
        selectors.iter().any(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    };
    let workload = |object: &Value| {
        object.at("spec.template").is_some() && backs(&object.text_map("spec.template.metadata.labels"))
    };
    let kept: BTreeSet<(String, String)> = objects
        .iter()
        .filter(|object| workload(object))
        .map(|object| (object.string("kind"), object.string("metadata.name")))
        .collect();
    let templates: Vec<Labels> = objects
        .iter()
        .filter(|object| workload(object))
        .map(|object| object.text_map("spec.template.metadata.labels"))
        .collect();
    objects.retain(|object| match object.text("kind").unwrap_or_default() {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => workload(object),
        "HorizontalPodAutoscaler" => {
            let of = (object.string("spec.scaleTargetRef.kind"), object.string("spec.scaleTargetRef.name"));
            kept.contains(&of)
        }
        "PodDisruptionBudget" => {
            let selector = object.at("spec.selector").map(Selector::read).unwrap_or_default();
            templates.iter().any(|labels| selector.matches(labels))
        }
        "EndpointSlice" => {
            let labels = object.text_map("metadata.labels");
            labels.get("kubernetes.io/service-name").is_some_and(|name| names.contains(name))
        }
        _ => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::assemble::assemble;
    use crate::collect::budget::Budget;
    use crate::collect::material::Material;
    use crate::collect::plan::{Asker, Question};
    use crate::model::json::json;

    fn deployment(namespace: &str, name: &str, env: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": namespace, "name": name},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "app", "env": [{"name": "URL", "value": env}],
                    "envFrom": [{"configMapRef": {"name": format!("{name}-config")}}]}]}}}})
    }

    fn service(namespace: &str, name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}})
    }

    fn chain() -> Vec<Value> {
        let env = [
            ("web", "http://cart:80"),
            ("cart", "http://pay"),
            ("pay", "bank.money.svc.cluster.local:443"),
            ("other", ""),
        ];
        env.iter().flat_map(|(name, url)| [deployment("shop", name, url), service("shop", name)]).collect()
    }

    fn found(objects: Vec<Value>, target: Target, depth: u8, mentions: &Mentions) -> Neighbourhood {
        let mut question = Question::about("shop", Asker::Person);
        (question.target, question.dependency_depth) = (target, depth);
        let plan = Plan::new(question, "2026-11-21T10:00:00Z".parse().unwrap(), &Budget::default()).unwrap();
        let snapshot = assemble(Material { objects, ..Material::default() });
        neighbourhood(&snapshot, &plan, mentions, &["shop".to_owned(), "money".to_owned()].into())
    }

    fn names(found: &Neighbourhood) -> Vec<(&str, u8)> {
        found.services.iter().map(|(service, hop)| (service.name.as_str(), *hop)).collect()
    }

    #[test]
    fn depth_counts_hops_both_ways() {
        let cart = || Target::Services(vec!["cart".into()]);
        assert_eq!(names(&found(chain(), cart(), 0, &Mentions::new())), [("cart", 0)]);
        let one = found(chain(), cart(), 1, &Mentions::new());
        assert_eq!(names(&one), [("cart", 0), ("pay", 1), ("web", 1)]);
        assert!(one.elsewhere.is_empty(), "the bank is two hops away");
        let two = found(chain(), cart(), 2, &Mentions::new());
        assert_eq!(two.elsewhere, [("money".to_owned(), ["bank".to_owned()].into())].into());
    }

    #[test]
    fn a_target_is_a_service_a_workload_a_selector_or_everything() {
        let workload = Target::Workloads(vec![("Deployment".into(), "cart".into())]);
        assert_eq!(names(&found(chain(), workload, 0, &Mentions::new())), [("cart", 0)]);
        assert_eq!(found(chain(), Target::Namespace, 0, &Mentions::new()).services.len(), 4);
        let mut objects = chain();
        objects.push(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "pay-1-a", "labels": {"app": "pay", "pod-template-hash": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "pay-1", "controller": true}]}}));
        let selector = Target::Pods(Selector::parse("app=pay").unwrap());
        assert_eq!(names(&found(objects, selector, 0, &Mentions::new())), [("pay", 0)]);
    }

    #[test]
    fn a_config_map_names_neighbours_elsewhere() {
        let mentions: Mentions =
            [(("shop".to_owned(), "other-config".to_owned()), [ServiceName::new("money", "mint")].into())]
                .into();
        let other = Target::Services(vec!["other".into()]);
        let found = found(chain(), other, 1, &mentions);
        assert_eq!(found.elsewhere, [("money".to_owned(), ["mint".to_owned()].into())].into());
        let snapshot = assemble(Material { objects: chain(), ..Material::default() });
        assert_eq!(
            mentioned_calls(&snapshot, &mentions),
            [("shop/other".to_owned(), "money/mint".to_owned())]
        );
    }

    #[test]
    fn configuration_leads_to_other_namespaces_at_any_depth() {
        let mut objects = chain();
        objects.push(json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"namespace": "shop", "name": "v"},
            "spec": {"hosts": ["shop.example.com"], "gateways": ["ingress/public", "mesh"],
                "http": [{"route": [{"destination": {"host": "mint.money.svc.cluster.local"}}]}]}}));
        objects.push(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": "shop", "name": "r"},
            "spec": {"parentRefs": [{"name": "g", "namespace": "edge"}], "rules": [{"backendRefs": [{"name": "b", "namespace": "back"}]}]}}));
        let found = found(objects, Target::Services(vec!["cart".into()]), 0, &Mentions::new());
        let expected = [("back", vec!["b"]), ("edge", vec![]), ("ingress", vec![]), ("money", vec!["mint"])];
        let expected =
            expected.map(|(ns, names)| (ns.to_owned(), names.into_iter().map(str::to_owned).collect()));
        assert_eq!(found.elsewhere, expected.into());
    }

    #[test]
    fn of_a_neighbour_only_what_belongs_to_its_service_stays() {
        let mut objects =
            vec![deployment("money", "bank", ""), deployment("money", "till", ""), service("money", "bank")];
        let names: BTreeSet<String> = ["bank".to_owned()].into();
        objects.push(json!({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "till"}}}));
        objects.push(json!({"kind": "PodDisruptionBudget", "metadata": {"name": "p"}, "spec": {"selector": {"matchLabels": {"app": "bank"}}}}));
        let selectors = selectors(&objects, &names);
        assert_eq!(label_query(&selectors[0]), "app=bank");
        retain_related(&mut objects, &names, &selectors);
        let kept: Vec<_> = objects.iter().map(|object| object.string("metadata.name")).collect();
        assert_eq!(kept, ["bank", "bank", "p"]);
    }
}
