//! The mesh's edge: the gateways that the target's configuration is bound to, wherever their pods run. What a request from
//! outside ends with is written down there and nowhere else.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::LiveRun;
use crate::collect::kubernetes::gather::Job;
use crate::collect::kubernetes::kinds::find;
use crate::collect::kubernetes::neighbours::{label_query, retain_related};
use crate::collect::logs::choose::LogRequest;
use crate::collect::logs::claim::Claim;
use crate::collect::plan::Source;
use crate::model::fields::Fields;
use crate::model::selector::Labels;
use crate::model::workload::is_proxy_container;

/// Different selectors of Gateways that are followed; a cluster has one or two kinds of gateway pods.
const SELECTORS: usize = 4;
/// Gateway pods whose access logs are read.
const LOGS: usize = 4;
/// The label that every pod of Istio's own gateways carries: by its key, a misspelt value still finds them.
const ISTIO: &str = "istio";
/// The label of the pods that are made for a Gateway of the Gateway API.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// What stands around a gateway's pods.
const AROUND: &[(&str, &str)] = &[
    ("", "services"),
    ("discovery.k8s.io", "endpointslices"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("apps", "replicasets"),
];

impl LiveRun {
    /// Reads the pods of the gateways in question, and the Services and workloads that belong to them. In a namespace that
    /// the plan does not reach, what they are set to is left out.
    pub(super) async fn read_edge(&mut self) {
        if !self.plan.reads(Source::Mesh) {
            return;
        }
        let cap = self.reader.budget().objects_per_kind;
        let queries = queries(self.objects.values(), &self.plan.namespace);
        let Some(kind) = find("", "pods") else { return };
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (namespace, query) in queries.into_iter().take(SELECTORS) {
            // Where only some namespaces may be read, a list of all is refused: those of the mesh itself are tried.
            let places: Vec<Option<String>> = match namespace {
                Some(namespace) => vec![Some(namespace)],
                None if self.plan.watched.is_empty() => vec![None],
                None => self.control_planes.iter().cloned().map(Some).collect(),
            };
            for place in places {
                let job = Job::all(kind, place.as_deref(), cap).labels(query.clone());
                for pod in self.batch(place.as_deref(), vec![job]).await {
                    let namespace = pod.string("metadata.namespace");
                    if !self.read.contains(&namespace) && is_gateway(&pod) {
                        found.entry(namespace).or_default().push(pod);
                    }
                }
            }
        }
        for (namespace, pods) in found {
            self.read_gateway(&namespace, pods).await;
        }
    }

    async fn read_gateway(&mut self, namespace: &str, pods: Vec<Value>) {
        let cap = self.reader.budget().objects_per_kind;
        let jobs = AROUND.iter().filter_map(|(group, resource)| find(group, resource));
        let jobs = jobs.map(|kind| Job::all(kind, Some(namespace), cap)).collect();
        let mut objects = self.batch(Some(namespace), jobs).await;
        let carried: Vec<Labels> = pods.iter().map(|pod| pod.text_map("metadata.labels")).collect();
        let (names, selectors) = before(&objects, &carried);
        objects.retain(|object| {
            object.text("kind") != Some("Service") || names.contains(&object.string("metadata.name"))
        });
        retain_related(&mut objects, &names, &selectors);
        objects.extend(pods);
        if !self.plan.reaches(namespace) {
            objects.iter_mut().for_each(outline);
        }
        self.keep(objects);
    }

    /// The access logs of these gateways. Of a namespace that is not reached, `claim` says which lines are kept.
    pub(super) fn edge_logs(&self) -> Vec<LogRequest> {
        let (queries, lines) =
            (queries(self.objects.values(), &self.plan.namespace), self.plan.logs.tail_lines);
        let queries: Vec<_> = queries.into_iter().take(SELECTORS).collect();
        let gateways = self.objects.iter().filter(|((group, kind, namespace, _), pod)| {
            let elsewhere = group.is_empty() && kind == "Pod" && !self.read.contains(namespace);
            let labels = pod.text_map("metadata.labels");
            elsewhere
                && is_gateway(pod)
                && queries.iter().any(|(place, query)| {
                    place.as_ref().is_none_or(|place| place == namespace) && carries(&labels, query)
                })
        });
        let request = |namespace: &String, name: &String, container: String| LogRequest {
            namespace: namespace.clone(),
            pod: name.clone(),
            container,
            previous: false,
            // Other namespaces' requests lie between: all that may be asked for, of which only own lines are kept.
            lines: self.reader.budget().log_lines_per_container.max(lines),
        };
        let logs = gateways.filter_map(|((_, _, namespace, name), pod)| {
            let containers = pod.list("spec.containers").iter().map(|container| container.string("name"));
            let proxy = containers.into_iter().find(|name| is_proxy_container(name))?;
            Some(request(namespace, name, proxy))
        });
        logs.take(LOGS).collect()
    }

    /// What the target's namespace may see of a gateway's log.
    pub(super) fn claim(&self) -> Claim {
        let config = self.istio.as_ref().map(|istio| &istio.mesh_config);
        Claim::of(&self.plan.namespace, self.objects.values(), config)
    }
}

/// Where to look for gateway pods: a namespace (`None`: all of them) and a label selector.
fn queries<'a>(
    objects: impl Iterator<Item = &'a Value>,
    namespace: &str,
) -> BTreeSet<(Option<String>, String)> {
    let mut out = BTreeSet::new();
    for object in objects {
        let version = object.text("apiVersion").unwrap_or_default();
        let (istio, api) =
            (version.starts_with("networking.istio.io/"), version.starts_with("gateway.networking.k8s.io/"));
        match object.text("kind").unwrap_or_default() {
            "Gateway" if istio => {
                let selector = object.text_map("spec.selector");
                if selector.contains_key(ISTIO) {
                    out.insert((None, ISTIO.to_owned()));
                } else if !selector.is_empty() {
                    out.insert((None, label_query(&selector)));
                }
            }
            _ if api && object.text("metadata.namespace") == Some(namespace) => {
                for parent in object.list("spec.parentRefs") {
                    let of = parent.text("namespace").filter(|of| *of != namespace);
                    if let Some(of) = of.filter(|_| matches!(parent.text("kind"), None | Some("Gateway"))) {
                        let query = format!("{GATEWAY_NAME}={}", parent.string("name"));
                        out.insert((Some(of.to_owned()), query));
                    }
                }
            }
            _ => {}
        }
    }
    out
}

/// Whether a pod is a gateway: its proxy runs as a router and not beside an application. Whoever writes a Gateway chooses its selector
/// freely, so a selector alone must not open other namespaces' pods.
fn is_gateway(pod: &Value) -> bool {
    pod.list("spec.containers").iter().any(|container| {
        is_proxy_container(&container.string("name"))
            && container.texts("args").iter().any(|arg| arg == "router")
    })
}

/// Whether labels have what a query of [`queries`] asks for.
fn carries(labels: &Labels, query: &str) -> bool {
    query.split(',').all(|part| match part.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
        None => labels.contains_key(part),
    })
}

/// The Services in front of pods with these labels: their names and selectors.
fn before(objects: &[Value], carried: &[Labels]) -> (BTreeSet<String>, Vec<Labels>) {
    let services = objects.iter().filter(|object| object.text("kind") == Some("Service"));
    let in_front = services.filter_map(|service| {
        let selector = service.text_map("spec.selector");
        let selects = |labels: &Labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let fits = !selector.is_empty() && carried.iter().any(selects);
        fits.then(|| (service.string("metadata.name"), selector))
    });
    in_front.unzip()
}

/// Leaves of a pod or a workload what shows that it is a gateway and how it fares: not how it is set.
fn outline(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
    }
    for spec in ["/spec", "/spec/template/spec"] {
        let Some(spec) = object.pointer_mut(spec).and_then(Value::as_object_mut) else { continue };
        spec.remove("volumes");
        for list in ["containers", "initContainers"] {
            let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
            for container in containers.filter_map(Value::as_object_mut) {
                for field in ["env", "envFrom", "command", "volumeMounts"] {
                    container.remove(field);
                }
                let proxy = container.get("name").and_then(Value::as_str).is_some_and(is_proxy_container);
                if !proxy {
                    container.remove("args");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn gateways_are_looked_for_by_what_their_configuration_names() {
        let gateway = |selector: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"namespace": "shop", "name": "g"}, "spec": {"selector": selector}});
        let route = |namespace: &str| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"namespace": namespace, "name": "r"},
            "spec": {"parentRefs": [{"name": "public", "namespace": "edge"}, {"name": "own"}, {"kind": "Service", "name": "s", "namespace": "x"}]}})
        };
        let objects = [
            gateway(json!({"istio": "ingres"})),
            gateway(json!({"app": "edge", "tier": "1"})),
            gateway(json!({})),
            route("shop"),
            route("bank"),
        ];
        let found: Vec<_> = queries(objects.iter(), "shop").into_iter().collect();
        let edge = Some("edge".to_owned());
        let name = "gateway.networking.k8s.io/gateway-name=public".to_owned();
        assert_eq!(found, [(None, "app=edge,tier=1".to_owned()), (None, "istio".to_owned()), (edge, name)]);
        let labels: Labels = [("app", "edge"), ("tier", "1")].into();
        assert!(carries(&labels, "app=edge,tier=1") && carries(&labels, "app"));
        assert!(!carries(&labels, "istio") && !carries(&labels, "app=edge,tier=2"));
    }

    #[test]
    fn an_outline_shows_what_runs_and_not_how_it_is_set() {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "g", "labels": {"istio": "i"}, "annotations": {"a": "secret"}},
            "spec": {"volumes": [{}], "containers": [{"name": "istio-proxy", "args": ["proxy", "router"], "env": [{"name": "A", "value": "secret"}]},
                {"name": "extra", "args": ["--password=secret"]}]}, "status": {"phase": "Running"}});
        outline(&mut pod);
        assert!(!pod.to_string().contains("secret"));
        assert_eq!(pod.pointer("/spec/containers/0/args"), Some(&json!(["proxy", "router"])));
        assert_eq!(pod.text("status.phase"), Some("Running"));
    }
}
