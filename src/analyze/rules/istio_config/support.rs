//! What several rules about written configuration share.

use std::collections::BTreeMap;

use crate::model::object::Object;
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;

/// Whose labels a selector is held against: pods that have not ended, and the templates of what makes pods.
#[derive(Debug)]
pub struct Carriers<'a> {
    snapshot: &'a Snapshot,
    beside: BTreeMap<&'a str, Vec<(&'a Object, &'a Labels)>>,
}

impl<'a> Carriers<'a> {
    /// All of a snapshot, by namespace.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        let mut all: BTreeMap<&str, Vec<(&Object, &Labels)>> = BTreeMap::new();
        for pod in snapshot.pods.iter().filter(|pod| !pod.ended()) {
            all.entry(pod.object.namespace()).or_default().push((&pod.object, &pod.object.labels));
        }
        for workload in snapshot.workloads.iter().filter(|workload| workload.object.owners.is_empty()) {
            let template = &workload.template.labels;
            all.entry(workload.object.namespace()).or_default().push((&workload.object, template));
        }
        Carriers { snapshot, beside: all }
    }

    /// Those of a namespace.
    pub fn beside(&self, namespace: &str) -> &[(&'a Object, &'a Labels)] {
        self.beside.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Those of a namespace that carry all of a selector's labels.
    pub fn selected<'s>(
        &'s self,
        namespace: &str,
        selector: &'s Labels,
    ) -> impl Iterator<Item = &'a Object> + 's {
        let all = if selector.is_empty() { self.beside(namespace) } else { &[] };
        let pods = self.snapshot.pods_with(namespace, selector).map(|pod| &*pod.object);
        let workloads = self.snapshot.workloads_with(namespace, selector).map(|workload| &*workload.object);
        all.iter().map(|(object, _)| *object).chain(pods).chain(workloads)
    }
}

/// A selector of labels as text: `app=a,version=v1`.
pub fn labels_text(labels: &Labels) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// All objects of an Istio kind in namespaces that are asked about.
pub fn of_istio<'a>(snapshot: &'a Snapshot, kind: &'a str) -> impl Iterator<Item = &'a Object> {
    let own = snapshot.objects_of(kind).filter(|object| object.reference.group().ends_with("istio.io"));
    own.filter(|object| asked_about(snapshot, object))
}

/// Whether an object is asked about: its namespace is, or it has none, or it is the mesh's own configuration.
pub fn asked_about(snapshot: &Snapshot, object: &Object) -> bool {
    let namespace = object.namespace();
    let of_mesh = snapshot.target.is_none() && namespace == snapshot.istio.root_namespace;
    namespace.is_empty() || of_mesh || snapshot.in_scope(namespace)
}
