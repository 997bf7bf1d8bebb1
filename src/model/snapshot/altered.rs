//! A snapshot as it would be if objects stood otherwise. What was seen of the past (logs, series, events, what proxies said)
//! belongs to the objects as they were, and is left out.

use crate::model::json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Builder, Snapshot};
use crate::model::network::ServiceName;
use crate::model::object::{Object, ObjectRef};

impl Snapshot {
    /// What configuration and objects alone say if these objects stood there, new or in place of those of their names, and
    /// those were gone. Who calls whom, and who changed what when, stay known. What a controller wrote into the status of
    /// routes, gateways and mesh objects is its word about them as they were, and is left out with the rest of the past.
    #[must_use]
    pub fn altered(&self, put: &[Object], gone: &[ObjectRef]) -> Snapshot {
        let stays = |object: &&Arc<Object>| !gone.iter().any(|r| r.same_object(&object.reference));
        let put = put.iter().cloned().map(Arc::new);
        let mut altered = self.rebuilt(self.objects.iter().filter(stays).cloned().chain(put));
        altered.changes.clone_from(&self.changes);
        Arc::make_mut(&mut altered.graph).edges.clone_from(&self.graph.edges);
        altered
    }

    /// Whether anything was seen of what [`Snapshot::altered`] leaves out.
    pub fn has_past(&self) -> bool {
        let empty = self.logs.is_empty()
            && self.series.is_empty()
            && self.spans.is_empty()
            && self.events.is_empty()
            && self.traffic.is_empty()
            && self.proxies.is_empty()
            && self.proxy_syncs.is_empty();
        !empty || self.objects.iter().any(|object| is_judged(object))
    }

    /// What configuration and objects of these namespaces, and those that stand in none, alone say: the past is left out as in
    /// [`Snapshot::altered`].
    #[must_use]
    pub fn within(&self, namespaces: &BTreeSet<String>) -> Snapshot {
        let inside = |namespace: &str| namespace.is_empty() || namespaces.contains(namespace);
        let own = self.objects.iter().filter(|object| inside(object.namespace()));
        let mut part = self.rebuilt(own.cloned());
        let known = |(caller, callee): &(ObjectRef, ServiceName)| {
            inside(&caller.namespace) && inside(&callee.namespace)
        };
        let edges = self.graph.edges.iter().filter(|(edge, _)| known(edge));
        Arc::make_mut(&mut part.graph).edges = edges.map(|(edge, of)| (edge.clone(), of.clone())).collect();
        part.changes =
            self.changes.iter().filter(|change| inside(&change.subject.namespace)).cloned().collect();
        part
    }

    /// A snapshot of these objects, asked the same and without a past.
    fn rebuilt(&self, objects: impl Iterator<Item = Arc<Object>>) -> Snapshot {
        let mut builder = Builder::new();
        builder.captured_at(Some(self.now));
        builder.window(self.window);
        builder.onset(self.onset);
        builder.target(self.target.clone());
        builder.istio(&self.istio.root_namespace, self.istio.mesh_config.clone());
        for object in objects {
            builder.read_object(without_judgement(object));
        }
        let mut rebuilt = builder.finish();
        rebuilt.window = self.window;
        rebuilt.istio.present |= self.istio.present;
        rebuilt.gaps.clone_from(&self.gaps);
        rebuilt
    }

    /// An object by what names it, of kinds that two APIs share the one of its group.
    pub fn find(&self, reference: &ObjectRef) -> Option<&Object> {
        let ObjectRef { kind, namespace, name, .. } = reference;
        let own = self.object(&format!("{}/{kind}", reference.group()), namespace, name);
        own.or_else(|| self.object(kind, namespace, name))
            .filter(|object| object.reference.same_object(reference))
    }
}

/// Whether a controller of the mesh or of the Gateway API wrote a status into the object.
fn is_judged(object: &Object) -> bool {
    let group = object.reference.group();
    (group == "gateway.networking.k8s.io" || group.ends_with("istio.io"))
        && object.body.get("status").is_some()
}

/// The object without the status that a controller of the mesh or of the Gateway API wrote.
fn without_judgement(object: Arc<Object>) -> Arc<Object> {
    if is_judged(&object) {
        let mut body = Value::clone(&object.body);
        if let Some(top) = body.as_object_mut() {
            top.remove("status");
        }
        return Arc::new(Object { body: Arc::new(body), ..Object::clone(&object) });
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::log::LogStream;

    fn service(selector: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"selector": {"app": selector}, "ports": [{"port": 80}]}})
    }

    fn snapshot() -> Snapshot {
        let mut builder = Builder::new();
        builder.object(service("wrong"));
        builder.object(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"template": {"metadata": {"labels": {"app": "right"}}}}}),
        );
        builder.object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "n"},
            "spec": {}, "status": {"conditions": [{"type": "Accepted", "status": "False"}]}}));
        builder.log(LogStream::read("n", "a", "c", false, b"words", false));
        builder.edge("n/x", "n/a");
        builder.finish()
    }

    #[test]
    fn an_object_stands_otherwise_and_what_follows_from_it_does() {
        let before = snapshot();
        let put = Object::read(service("right")).unwrap();
        let after = before.altered(&[put], &[]);
        let behind = |s: &Snapshot| s.graph.backing.values().next().unwrap().len();
        assert_eq!((behind(&before), behind(&after)), (0, 1));
        assert_eq!(after.graph.edges.len(), 1, "who calls whom stays known");
        assert!(after.logs.is_empty() && !before.logs.is_empty());
        assert!(after.gateway_api.gateways[0].object.body.get("status").is_none());
        assert_eq!((after.now, after.window), (before.now, before.window));
    }

    #[test]
    fn a_part_holds_what_stands_there_and_who_calls_whom_there() {
        let before = snapshot();
        let part = before.within(&["n".to_owned()].into());
        assert_eq!((part.objects.len(), part.graph.edges.len()), (before.objects.len(), 1));
        assert!(part.logs.is_empty() && part.gateway_api.gateways[0].object.body.get("status").is_none());
        let elsewhere = before.within(&["other".to_owned()].into());
        assert!(elsewhere.objects.is_empty() && elsewhere.graph.edges.is_empty());
    }

    #[test]
    fn an_object_is_gone_and_others_of_its_name_stay() {
        let before = snapshot();
        let after = before.altered(&[], &[ObjectRef::new("Service", "n", "a")]);
        assert!(after.services.is_empty() && after.workloads.len() == 1);
        let gateway =
            ObjectRef { api_version: "networking.istio.io/v1".into(), ..ObjectRef::new("Gateway", "n", "g") };
        assert!(before.find(&gateway).is_none(), "it is one of another API");
        assert_eq!(before.altered(&[], &[gateway]).gateway_api.gateways.len(), 1);
    }
}
