//! Objects of the target's namespace and of its neighbours.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::LiveRun;
use crate::collect::kubernetes::gather::{Job, kinds};
use crate::collect::kubernetes::kinds::{Kind, OTHER_MESHES, Place};
use crate::collect::kubernetes::neighbours::{label_query, retain_related, selectors};
use crate::collect::plan::is_label;
use crate::model::fields::Fields;
use crate::model::gap::{Gap, GapReason};

impl LiveRun {
    /// Reads the target's whole namespace: it is one or two pages of each kind, and a cause is often not where one looks.
    pub(super) async fn read_target(&mut self) {
        let namespace = self.plan.namespace.clone();
        self.enter(&namespace).await;
        let cap = self.reader.budget().objects_per_kind;
        // ConfigMaps come second: which words in them are names of Services must be known by then.
        for config_maps in [false, true] {
            let wanted = self.wanted(|kind| (kind.resource == "configmaps") == config_maps);
            let jobs = wanted.into_iter().map(|kind| Job::all(kind, Some(&namespace), cap)).collect();
            let objects = self.batch(Some(&namespace), jobs).await;
            self.keep(objects);
        }
    }

    /// Reads the neighbours, hop by hop: what one hop shows leads to the next. Namespaces that were read are not read again.
    pub(super) async fn read_neighbours(&mut self) {
        for _ in 0..=self.plan.depth {
            self.look_around().await;
            let known = |name: &String| self.read.contains(name) || self.beyond.contains(name);
            let elsewhere = self.around.elsewhere.iter().filter(|(name, _)| is_label(name) && !known(name));
            let new: Vec<(String, BTreeSet<String>)> =
                elsewhere.map(|(name, services)| (name.clone(), services.clone())).collect();
            if new.is_empty() {
                return;
            }
            for (namespace, services) in new {
                self.read_neighbour(&namespace, &services).await;
            }
        }
        self.look_around().await;
    }

    async fn read_neighbour(&mut self, namespace: &str, services: &BTreeSet<String>) {
        if !self.plan.reaches(namespace) {
            self.read_unreached(namespace);
            return;
        }
        if self.read.len() > self.reader.budget().neighbour_namespaces {
            let what = format!("objects of the neighbour namespace {namespace}");
            let hint = "ask about fewer services, or with a smaller dependencyDepth";
            self.ledger.gap("Neighbours", Gap::new("Objects", what, GapReason::Truncated).hint(hint));
            self.beyond.insert(namespace.to_owned());
            return;
        }
        if !self.namespaces.is_empty() && !self.namespaces.contains(namespace) {
            // That it does not exist shows in the rules that follow the reference.
            self.beyond.insert(namespace.to_owned());
            return;
        }
        self.enter(namespace).await;
        let cap = self.reader.budget().objects_per_kind;
        let related = |kind: &Kind| {
            kind.collector == "Workloads"
                && !matches!(kind.resource, "pods" | "jobs" | "cronjobs" | "controllerrevisions")
        };
        let whole = |kind: &Kind| {
            matches!(kind.collector, "Networking" | "Istio" | "GatewayAPI")
                || OTHER_MESHES.contains(&kind.collector)
        };
        let wanted = self.wanted(|kind| whole(kind) || (related(kind) && !services.is_empty()));
        let jobs = wanted.into_iter().map(|kind| Job::all(kind, Some(namespace), cap)).collect();
        let mut objects = self.batch(Some(namespace), jobs).await;
        let all_services: Vec<Value> =
            objects.iter().filter(|object| object.text("kind") == Some("Service")).cloned().collect();
        let selectors = selectors(&all_services, services);
        retain_related(&mut objects, services, &selectors);
        self.keep(objects);
        let pods = self.wanted(|kind| kind.resource == "pods");
        for selector in &selectors {
            let jobs =
                pods.iter().map(|kind| Job::all(kind, Some(namespace), cap).labels(label_query(selector)));
            let jobs = jobs.collect();
            let objects = self.batch(Some(namespace), jobs).await;
            self.keep(objects);
        }
    }

    /// A neighbour whose namespace was not granted: known by name only.
    fn read_unreached(&mut self, namespace: &str) {
        self.beyond.insert(namespace.to_owned());
        let what =
            format!("objects, logs and series of namespace {namespace}, where the target's neighbours live");
        let hint = format!(
            "a session looks into its own namespace only: create one in namespace {namespace} as well"
        );
        self.ledger.gap("Neighbours", Gap::new("Objects", what, GapReason::Forbidden).hint(hint));
    }

    /// Notes that a namespace is being read, and reads the namespace itself where it is not known yet.
    async fn enter(&mut self, namespace: &str) {
        self.read.insert(namespace.to_owned());
        if !self.namespace_objects.contains_key(namespace) && self.namespaces.is_empty() {
            let found = self.get("", "namespaces", None, namespace).await;
            if let Some(object) = found {
                self.namespace_objects.insert(namespace.to_owned(), object);
            }
        }
    }

    /// The kinds of a namespace that the plan wants, events left out.
    fn wanted(&self, test: impl Fn(&Kind) -> bool) -> Vec<&'static Kind> {
        kinds(|kind| {
            kind.place != Place::Cluster
                && kind.collector != "Events"
                && kind.source.is_none_or(|source| self.plan.reads(source))
                && test(kind)
        })
        .filter(|kind| !OTHER_MESHES.contains(&kind.collector) || self.catalogue.served(kind).is_some())
        .collect()
    }
}
