//! What follows in a cluster from a change of an object: pods of a scaled workload, endpoints of a Service.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::analyze::twin::party::injected;
use crate::model::fields::Fields;
use crate::model::network::{Service, ServiceName};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::workload::{Pod, Workload};

/// New pods that are stood in for; a request is no better answered by more of them.
const MAX_NEW_PODS: usize = 8;

/// A change of objects, and what must hold for it to come out as tried.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Objects as they would stand.
    pub put: Vec<Object>,
    /// Objects that would be gone.
    pub gone: Vec<ObjectRef>,
    /// What is taken for granted: that new pods become ready.
    pub assumes: Vec<String>,
}

/// What an object's new form brings about. `Err` says why objects alone do not tell.
pub(super) fn put(before: &Snapshot, new: Object) -> Result<Settled, String> {
    let kind = new.reference.kind.clone();
    let old = before.find(&new.reference);
    let changed = |path: &str| old.is_some_and(|old| old.body.at(path) != new.body.at(path));
    let mut settled = Settled::default();
    match kind.as_str() {
        "Pod" => return Err("a pod is made anew by what owns it".to_owned()),
        "ConfigMap" if new.namespace() == before.istio.root_namespace && new.name().starts_with("istio") => {
            return Err("what the control plane makes of its own configuration is not modelled".to_owned());
        }
        "Namespace" if changed("metadata.labels") && before.runs() => {
            return Err("pods take over what their namespace's labels say when they are made anew".to_owned());
        }
        kind if Workload::KINDS.contains(&kind) => {
            let workload = Workload::read(new.clone());
            let pods: Vec<&Pod> =
                before.pods_of(&workload.object.reference).filter(|pod| !pod.ended()).collect();
            if changed("spec.template") && !pods.is_empty() {
                let old = old.map(|old| &*old.body).unwrap_or(&Value::Null);
                let relabelled = relabelled(old, &new.body, &pods)
                    .ok_or("whether pods of the new template run shows when they run")?;
                settled.put.extend(relabelled);
            } else if changed("spec.replicas") && before.runs() {
                let wanted = usize::try_from(workload.replicas.unwrap_or(1)).unwrap_or(0);
                scale(before, &workload, &pods, wanted, &mut settled)?;
                settled.put.push(scaled_status(&new, wanted));
                return Ok(settled);
            }
        }
        _ => {}
    }
    settled.put.push(new);
    Ok(settled)
}

/// What the end of an object brings about.
pub(super) fn remove(before: &Snapshot, reference: &ObjectRef) -> Result<Settled, String> {
    if reference.kind == "Pod" {
        return Err("a pod that is deleted is made anew by what owns it".to_owned());
    }
    let mut gone = vec![reference.clone()];
    gone.extend(before.pods_of(reference).map(|pod| pod.object.reference.clone()));
    Ok(Settled { gone, ..Settled::default() })
}

/// The pods as they would be if their template differed in labels, annotations, ports and account alone; `None` where more
/// differs.
fn relabelled(old: &Value, new: &Value, pods: &[&Pod]) -> Option<Vec<Object>> {
    const SWITCH: &str = "sidecar.istio.io/inject";
    let bare = |body: &Value| {
        let mut template = body.at("spec.template").cloned().unwrap_or_default();
        for path in
            ["/metadata/labels", "/metadata/annotations", "/spec/serviceAccountName", "/spec/serviceAccount"]
        {
            let (parent, key) = path.rsplit_once('/').unwrap_or_default();
            if let Some(parent) = template.pointer_mut(parent).and_then(Value::as_object_mut) {
                parent.remove(key);
            }
        }
        if let Some(containers) = template.pointer_mut("/spec/containers").and_then(Value::as_array_mut) {
            for container in containers.iter_mut().filter_map(Value::as_object_mut) {
                container.remove("ports");
            }
        }
        template
    };
    let labels = |body: &Value| body.text_map("spec.template.metadata.labels");
    let annotations = |body: &Value| body.text_map("spec.template.metadata.annotations");
    let switched = labels(old).get(SWITCH) != labels(new).get(SWITCH)
        || annotations(old).get(SWITCH) != annotations(new).get(SWITCH);
    if bare(old) != bare(new) || switched {
        return None;
    }
    let (before, after) = (labels(old), labels(new));
    let notes = (annotations(old), annotations(new));
    let made = pods.iter().filter_map(|pod| {
        let mut body = Value::clone(&pod.object.body);
        for (key, before, after) in [("labels", &before, &after), ("annotations", &notes.0, &notes.1)] {
            let mut own = body.text_map(&format!("metadata.{key}"));
            before.keys().for_each(|name| drop(own.remove(name)));
            own.extend(after.clone());
            *body.pointer_mut("/metadata")?.as_object_mut()?.entry(key).or_insert(Value::Null) = json!(own);
        }
        if let Some(account) = new.text("spec.template.spec.serviceAccountName") {
            body.pointer_mut("/spec")?
                .as_object_mut()?
                .insert("serviceAccountName".to_owned(), json!(account));
        }
        for container in body.pointer_mut("/spec/containers")?.as_array_mut()? {
            let named = new.list("spec.template.spec.containers").iter();
            let ports =
                named.filter(|c| c.text("name") == container.text("name")).find_map(|c| c.get("ports"));
            if let (Some(ports), Some(container)) = (ports, container.as_object_mut()) {
                container.insert("ports".to_owned(), ports.clone());
            }
        }
        Some(altered(&pod.object, body))
    });
    Some(made.collect())
}

/// An object with another body; who edited it when stays known.
fn altered(object: &Object, body: Value) -> Object {
    match Object::read(body.clone()) {
        Some(read) => Object { edits: object.edits.clone(), ..read },
        None => Object { body: Arc::new(body), ..object.clone() },
    }
}

/// Makes or ends pods until there are as many as wanted.
fn scale(
    before: &Snapshot,
    workload: &Workload,
    pods: &[&Pod],
    wanted: usize,
    out: &mut Settled,
) -> Result<(), String> {
    let r = workload.reference();
    if wanted <= pods.len() {
        let mut ending = pods.to_vec();
        ending.sort_by_key(|pod| pod.ready());
        out.gone.extend(ending.iter().take(pods.len() - wanted).map(|pod| pod.object.reference.clone()));
        return Ok(());
    }
    if !pods.is_empty() && !pods.iter().any(|pod| pod.ready()) {
        return Err(format!("none of the pods of {r} that run is ready, and more of them are alike"));
    }
    let new = wanted - pods.len();
    let what = if new == 1 { "the new pod".to_owned() } else { format!("the {new} new pods") };
    out.assumes.push(format!("{what} of {r} become{} ready", if new == 1 { "s" } else { "" }));
    let node = before.objects_of("Node").next().map(|node| node.name().to_owned()).unwrap_or_default();
    out.put.extend((1..=new.min(MAX_NEW_PODS)).filter_map(|at| new_pod(before, workload, &node, at)));
    Ok(())
}

/// A pod as the workload would make it, ready.
fn new_pod(before: &Snapshot, workload: &Workload, node: &str, at: usize) -> Option<Object> {
    let r = workload.reference();
    let template = workload.object.body.at("spec.template")?;
    let mut spec = template.at("spec").cloned().unwrap_or_else(|| json!({}));
    let running = json!({"name": "istio-proxy", "image": "auto"});
    let proxied = injected(before, &r.namespace, &workload.template)
        && !workload.template.has_running_container("istio-proxy");
    if proxied && let Some(containers) = spec.get_mut("containers").and_then(Value::as_array_mut) {
        containers.push(running);
    }
    let statuses: Vec<Value> = spec
        .list("containers")
        .iter()
        .map(|c| {
            json!({"name": c.string("name"), "image": c.string("image"), "ready": true, "started": true, "restartCount": 0,
                "state": {"running": {"startedAt": before.now.to_string()}}})
        })
        .collect();
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": "True"}));
    spec.as_object_mut()?.insert("nodeName".to_owned(), json!(node));
    // An address out of those that are for documentation alone (RFC 5737): no pod has it.
    let ip = format!("192.0.2.{at}");
    Object::read(json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("{}-tried-{at}", r.name), "namespace": r.namespace,
            "labels": template.at("metadata.labels").cloned().unwrap_or_else(|| json!({})),
            "annotations": template.at("metadata.annotations").cloned().unwrap_or_else(|| json!({})),
            "ownerReferences": [{"apiVersion": r.api_version, "kind": r.kind, "name": r.name, "controller": true}]},
        "spec": spec,
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions, "containerStatuses": statuses}
    }))
}

/// The workload with the status that it has when all its pods are there.
fn scaled_status(new: &Object, wanted: usize) -> Object {
    let mut body = Value::clone(&new.body);
    if let Some(status) = body.get_mut("status").and_then(Value::as_object_mut) {
        for field in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "currentReplicas"]
        {
            status.insert(field.to_owned(), json!(wanted));
        }
        status.remove("unavailableReplicas");
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                let well = condition.get("type").and_then(Value::as_str) != Some("ReplicaFailure");
                condition.insert("status".to_owned(), json!(if well { "True" } else { "False" }));
            }
        }
    }
    altered(new, body)
}

/// The endpoints of Services, made anew where their pods, selector or ports differ between the two. Nothing where the
/// snapshot knows no EndpointSlices: pods then speak for themselves.
pub(super) fn endpoints(before: &Snapshot, after: &Snapshot) -> Settled {
    let mut settled = Settled::default();
    if before.slices.is_empty() {
        return settled;
    }
    let pods = |snapshot: &Snapshot, service: &Service| -> BTreeSet<(String, bool)> {
        snapshot.pods_behind(service).map(|pod| (pod.object.name().to_owned(), pod.ready())).collect()
    };
    for service in &after.services {
        let old = before.service(&service.service_name());
        let same = old.is_some_and(|old| {
            old.object.body.at("spec") == service.object.body.at("spec")
                && pods(before, old) == pods(after, service)
        });
        // Endpoints of a Service without a selector are somebody else's to write.
        if same || service.selector.is_empty() {
            continue;
        }
        settled.gone.extend(after.slices_of(service).map(|slice| slice.object.reference.clone()));
        settled.put.extend(slice(after, service));
    }
    let names: BTreeSet<ServiceName> = after.services.iter().map(Service::service_name).collect();
    let ended = before.services.iter().filter(|service| !names.contains(&service.service_name()));
    settled.gone.extend(ended.flat_map(|s| before.slices_of(s)).map(|slice| slice.object.reference.clone()));
    settled
}

/// The slice that the cluster would make of the pods behind a Service.
fn slice(snapshot: &Snapshot, service: &Service) -> Option<Object> {
    let pods: Vec<&Pod> = snapshot.pods_behind(service).filter(|pod| !pod.ips.is_empty()).collect();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .filter_map(|port| {
            let number = pods.iter().find_map(|pod| port.on(&pod.template))?;
            Some(json!({"name": port.name, "port": number, "protocol": port.transport}))
        })
        .collect();
    let even_unready = service.object.body.flag("spec.publishNotReadyAddresses");
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let ready = pod.ready() || even_unready;
            json!({"addresses": pod.ips, "conditions": {"ready": ready, "serving": ready, "terminating": pod.object.deleted.is_some()},
                "targetRef": {"kind": "Pod", "namespace": pod.object.namespace(), "name": pod.object.name()}})
        })
        .collect();
    Object::read(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{}-tried", service.object.name()), "namespace": service.object.namespace(),
            "labels": {"kubernetes.io/service-name": service.object.name()}},
        "ports": ports, "endpoints": endpoints
    }))
}
