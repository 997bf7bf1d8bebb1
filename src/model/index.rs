//! Where to look: positions in a snapshot's lists by namespace, owner and name, so that no question walks a whole cluster.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::event::Event;
use super::network::{EndpointSlice, Service};
use super::object::{Object, ObjectRef};
use super::selector::Labels;
use super::workload::{Pod, Workload};

/// Kind, namespace and name.
type Key = (String, String, String);

fn key(reference: &ObjectRef) -> Key {
    (reference.kind.clone(), reference.namespace.clone(), reference.name.clone())
}

/// Positions in the lists of one snapshot; made when the lists are complete.
#[derive(Debug, Clone, Default)]
pub struct Index {
    pods: BTreeMap<String, Range<usize>>,
    workloads: BTreeMap<String, Vec<usize>>,
    workload: BTreeMap<Key, Vec<usize>>,
    pods_of: BTreeMap<Key, Vec<usize>>,
    slices: BTreeMap<(String, String), Vec<usize>>,
    events: BTreeMap<Key, Vec<usize>>,
    templates: Labelled,
    pod_labels: Labelled,
    /// Services, each under the first label of its selector alone.
    selectors: Labelled,
    /// Namespaces by name.
    namespaces: BTreeMap<String, Arc<Object>>,
}

/// Positions by namespace, label and value.
type Labelled = HashMap<String, HashMap<String, HashMap<String, Vec<usize>>>>;

fn labelled<'a>(all: impl Iterator<Item = (&'a str, &'a Labels)>, first: bool) -> Labelled {
    let mut out = Labelled::new();
    for (at, (namespace, labels)) in all.enumerate() {
        for (key, value) in labels.iter().take(if first { 1 } else { usize::MAX }) {
            if !out.contains_key(namespace) {
                out.insert(namespace.to_owned(), HashMap::new());
            }
            let Some(own) = out.get_mut(namespace) else { continue };
            own.entry(key.to_owned()).or_default().entry(value.to_owned()).or_default().push(at);
        }
    }
    out
}

/// Of the labels of a selector, those that the fewest carry: whoever carries all of them is among these. In order.
fn fewest<'a>(all: &'a Labelled, namespace: &str, selector: &Labels) -> &'a [usize] {
    let own = all.get(namespace);
    let carriers = |(key, value): (&str, &str)| {
        own.and_then(|own| own.get(key)?.get(value)).map_or(&[][..], Vec::as_slice)
    };
    selector.iter().map(carriers).min_by_key(|carriers| carriers.len()).unwrap_or_default()
}

/// The runs of equal namespaces in a list that is sorted by them.
fn runs<'a>(namespaces: impl Iterator<Item = &'a str>) -> BTreeMap<String, Range<usize>> {
    let mut out: BTreeMap<String, Range<usize>> = BTreeMap::new();
    for (at, namespace) in namespaces.enumerate() {
        match out.get_mut(namespace) {
            Some(range) => range.end = at + 1,
            None => {
                out.insert(namespace.to_owned(), at..at + 1);
            }
        }
    }
    out
}

impl Index {
    /// Indexes the lists. Pods are sorted by namespace; `owner` says what a pod belongs to.
    pub fn new<'o>(
        namespaces: impl Iterator<Item = &'o Arc<Object>>,
        (pods, services): (&[Pod], &[Service]),
        workloads: &[Workload],
        slices: &[EndpointSlice],
        events: &[Event],
        owner: &dyn Fn(&Pod) -> ObjectRef,
    ) -> Self {
        let mut index = Index {
            pods: runs(pods.iter().map(|pod| pod.object.namespace())),
            templates: labelled(workloads.iter().map(|w| (w.object.namespace(), &w.template.labels)), false),
            pod_labels: labelled(
                pods.iter().map(|pod| (pod.object.namespace(), &pod.template.labels)),
                false,
            ),
            selectors: labelled(services.iter().map(|s| (s.object.namespace(), &s.selector)), true),
            namespaces: namespaces.map(|space| (space.name().to_owned(), Arc::clone(space))).collect(),
            ..Index::default()
        };
        for (at, workload) in workloads.iter().enumerate() {
            index.workloads.entry(workload.object.namespace().to_owned()).or_default().push(at);
            index.workload.entry(key(workload.reference())).or_default().push(at);
        }
        for (at, pod) in pods.iter().enumerate() {
            index.pods_of.entry(key(&owner(pod))).or_default().push(at);
        }
        for (at, slice) in slices.iter().enumerate() {
            let key = (slice.object.namespace().to_owned(), slice.service.clone());
            index.slices.entry(key).or_default().push(at);
        }
        for (at, event) in events.iter().enumerate() {
            index.events.entry(key(&event.about)).or_default().push(at);
        }
        index
    }

    /// The pods of a namespace.
    pub fn pods_in<'a>(&self, pods: &'a [Pod], namespace: &str) -> &'a [Pod] {
        self.pods.get(namespace).and_then(|range| pods.get(range.clone())).unwrap_or_default()
    }

    /// A namespace by its name.
    pub fn namespace(&self, name: &str) -> Option<&Object> {
        self.namespaces.get(name).map(|object| &**object)
    }

    /// Positions of the Services that can select these labels; in order.
    pub fn services_with(&self, namespace: &str, labels: &Labels) -> Vec<usize> {
        let Some(own) = self.selectors.get(namespace) else { return vec![] };
        let named = labels.iter().filter_map(|(key, value)| own.get(key)?.get(value));
        let mut out: Vec<usize> = named.flatten().copied().collect();
        out.sort_unstable();
        out
    }

    /// Positions of the workloads that a selector, one that is not empty, can select; in order.
    pub fn workloads_with(&self, namespace: &str, selector: &Labels) -> &[usize] {
        fewest(&self.templates, namespace, selector)
    }

    /// Positions of the pods that a selector, one that is not empty, can select; in order.
    pub fn pods_with(&self, namespace: &str, selector: &Labels) -> &[usize] {
        fewest(&self.pod_labels, namespace, selector)
    }

    /// Positions of the workloads of a namespace.
    pub fn workloads_in(&self, namespace: &str) -> &[usize] {
        self.workloads.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Positions of the workloads of this kind and name, whatever their group.
    pub fn workload(&self, reference: &ObjectRef) -> &[usize] {
        self.workload.get(&key(reference)).map_or(&[], Vec::as_slice)
    }

    /// Positions of the pods that belong to a workload of this kind and name.
    pub fn pods_of(&self, workload: &ObjectRef) -> &[usize] {
        self.pods_of.get(&key(workload)).map_or(&[], Vec::as_slice)
    }

    /// Positions of the EndpointSlices of a Service.
    pub fn slices_of(&self, namespace: &str, service: &str) -> &[usize] {
        self.slices.get(&(namespace.to_owned(), service.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Positions of the events about an object.
    pub fn events_about(&self, object: &ObjectRef) -> &[usize] {
        self.events.get(&key(object)).map_or(&[], Vec::as_slice)
    }
}
