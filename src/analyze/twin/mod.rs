//! The twin: a pure model of what the mesh does with a request.
//!
//! ```text
//! ask ──> source's proxy: listener ──> filter chain ──> route ──> cluster ──> pods ──> policies ──> answer
//! ```
//!
//! Configuration of each kind is translated into one model, of listeners and route tables, and that is evaluated as Envoy
//! would. What is not modelled is answered with [`answer::Outcome::NotModelled`] and a reason, never with a guess.

pub mod address;
pub mod answer;
pub mod ask;
mod backend;
pub mod beyond;
pub mod deliver;
pub mod endpoints;
pub mod gateway_api;
pub mod http;
pub mod istio;
pub mod listener;
pub mod party;
pub mod policy;
pub mod probe;
pub mod reach;
pub mod registry;
pub mod resolve;
mod respond;
pub mod simulate;
mod source;
mod walk;
pub mod waypoint;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::mesh::gateway_api::Gateway;
use crate::model::mesh::istio::Policy;
use crate::model::network::{Service, ServicePort};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::PodTemplate;
use answer::Answer;
use ask::Ask;
use endpoints::Behind;
use gateway_api::gateway::Door;
use istio::destination_rule::DestinationRules;
use istio::gateway::Declaration;
use istio::proxy::{Proxy, ProxyKey};
use istio::virtual_services::VirtualServices;
use party::Party;
use registry::Registry;

/// Configurations of proxies that are kept. More sources than this in one reading are made again when they come back.
const MAX_PROXIES: usize = 4_096;

/// Namespace, name and port of a Service, and the labels of a subset of its pods.
type PortKey = (String, String, i64, Labels);

/// A snapshot that requests can be asked of. What answers need is indexed once, and each proxy's configuration made when it
/// is first asked for; asking is cheap.
#[derive(Debug)]
pub struct Twin<'a> {
    /// What was seen.
    pub snapshot: &'a Snapshot,
    /// The mesh's hosts.
    pub registry: Registry<'a>,
    /// VirtualServices in effect, with what Ingresses stand for.
    pub virtual_services: VirtualServices,
    /// DestinationRules by host.
    pub destination_rules: DestinationRules<'a>,
    /// Gateways, with what Ingresses stand for, in the order in which they count.
    pub gateways: Vec<Declaration>,
    /// EnvoyFilters: what one changes is not modelled.
    pub envoy_filters: &'a [Policy],
    /// What a pod is made of of which nothing was seen.
    blank: PodTemplate,
    proxies: Mutex<BTreeMap<ProxyKey, Arc<Proxy<'a>>>>,
    /// What stands behind ports of Services.
    endpoints: Mutex<HashMap<PortKey, Arc<Behind<'a>>>>,
    /// What serves Gateways of Istio's, by name, and waypoints.
    serving: Mutex<HashMap<String, Option<Party<'a>>>>,
    /// What Gateways of the Gateway API listen on, by namespace, name and port.
    doors: Mutex<HashMap<(String, String, u16), Arc<Door<'a>>>>,
}

impl<'a> Twin<'a> {
    /// The twin of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let (ingress_gateways, ingress_routes) = istio::ingress::translate(snapshot);
        Twin {
            snapshot,
            registry: Registry::new(snapshot),
            virtual_services: VirtualServices::new(snapshot, ingress_routes),
            destination_rules: DestinationRules::new(snapshot),
            gateways: istio::gateway::declarations(snapshot, ingress_gateways),
            envoy_filters: &snapshot.istio.envoy_filters,
            blank: PodTemplate::read(&Arc::default()),
            proxies: Mutex::default(),
            endpoints: Mutex::default(),
            serving: Mutex::default(),
            doors: Mutex::default(),
        }
    }

    /// The twin as if nobody had written an EnvoyFilter: what the rest of the mesh's configuration does with a request.
    pub fn without_envoy_filters(snapshot: &'a Snapshot) -> Self {
        Twin { envoy_filters: &[], ..Twin::new(snapshot) }
    }

    /// What becomes of a request.
    pub fn answer(&self, ask: &Ask) -> Answer {
        walk::answer(self, ask)
    }

    /// What stands behind a port of a Service, of the pods that carry labels.
    pub fn behind(&self, service: &'a Service, port: &ServicePort, labels: &Labels) -> Arc<Behind<'a>> {
        let name = service.service_name();
        let key = (name.namespace, name.name, port.number, labels.clone());
        let known = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return known;
        }
        let found = Arc::new(endpoints::behind(self, service, port, labels));
        let mut all = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_insert(found).clone()
    }

    /// What serves a Gateway of Istio's: a pod that its selector picks, or what would make one.
    pub fn serving(&self, gateway: &Declaration) -> Option<Party<'a>> {
        self.served_by(&gateway.name, |twin| source::serving(twin, gateway))
    }

    /// What serves something of a name, looked for once.
    fn served_by(&self, name: &str, find: impl FnOnce(&Self) -> Option<Party<'a>>) -> Option<Party<'a>> {
        let known = self.serving.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(known) = known {
            return known;
        }
        let found = find(self);
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), found.clone());
        found
    }

    /// What a Gateway of the Gateway API listens on at a port.
    pub(crate) fn door(&self, gateway: &'a Gateway, port: u16) -> Arc<Door<'a>> {
        let key = (gateway.object.namespace().to_owned(), gateway.object.name().to_owned(), port);
        let known = self.doors.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return known;
        }
        let made = Arc::new(Door::new(self.snapshot, gateway, port));
        let mut all = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        // Anybody can ask for any port.
        if all.len() >= MAX_PROXIES {
            all.clear();
        }
        all.entry(key).or_insert(made).clone()
    }

    /// The configuration of a proxy.
    pub fn proxy(&self, key: ProxyKey) -> Arc<Proxy<'a>> {
        let known = self.proxies.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(proxy) = known {
            return proxy;
        }
        let proxy = Arc::new(Proxy::new(self, key.clone()));
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        if proxies.len() >= MAX_PROXIES {
            proxies.clear();
        }
        proxies.entry(key).or_insert(proxy).clone()
    }
}
