//! Time-outs and retries of routes along the ways that requests take through the service graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::fields::Fields;
use crate::model::mesh::istio::{Route, VirtualService, full_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

/// How often a route tries again where it names no number.
const DEFAULT_ATTEMPTS: i64 = 2;

/// The first route of a VirtualService that takes requests to a Service without conditions, else its last one.
#[derive(Debug, Clone, Copy)]
pub struct Hop<'a> {
    /// The VirtualService.
    pub virtual_service: &'a VirtualService,
    /// The route.
    pub route: &'a Route,
}

impl Hop<'_> {
    /// `spec.http[0].timeout` in seconds; zero means none.
    pub fn timeout(&self) -> Option<f64> {
        self.route.timeout.filter(|seconds| *seconds > 0.0)
    }

    /// How often a request is tried again: what the route says, or Istio's own where it has `retries` without a number.
    pub fn attempts(&self) -> Option<i64> {
        let retries = self.route.body.at("retries")?;
        Some(retries.int("attempts").unwrap_or(DEFAULT_ATTEMPTS).max(0))
    }

    /// Whether a failure that the application answered with is tried again.
    pub fn tries_answers_again(&self) -> bool {
        tries_answers_again(self.route.body.text("retries.retryOn"))
    }

    /// The longest that a request can take here, in seconds: all attempts, or the whole time-out where that is shorter.
    pub fn longest(&self) -> Option<f64> {
        let per_try = self.route.body.seconds("retries.perTryTimeout").filter(|seconds| *seconds > 0.0);
        let tries = per_try.map(|seconds| seconds * (self.attempts().unwrap_or(0) + 1) as f64);
        match (tries, self.timeout()) {
            (Some(tries), Some(whole)) => Some(tries.min(whole)),
            (tries, whole) => tries.or(whole),
        }
    }
}

/// Whether `retryOn` names failures that the application answered with. Without it only what never arrived is tried again, and
/// 503 of proxies.
pub fn tries_answers_again(retry_on: Option<&str>) -> bool {
    retry_on.is_some_and(|on| {
        on.split(',').map(str::trim).any(|word| {
            matches!(word, "5xx" | "gateway-error" | "reset" | "retriable-4xx" | "retriable-status-codes")
                || word.bytes().all(|b| b.is_ascii_digit()) && !word.is_empty()
        })
    })
}

/// The route to each Service inside the mesh.
pub fn hops(snapshot: &Snapshot) -> BTreeMap<ServiceName, Hop<'_>> {
    let mut out = BTreeMap::new();
    for service in &snapshot.services {
        let name = service.service_name();
        let host = full_host(&name.name, &name.namespace);
        let Some(virtual_service) = snapshot.istio.virtual_services_for(&host).next() else { continue };
        let http = || virtual_service.routes.iter().filter(|route| route.protocol == "http");
        if let Some(route) = http().find(|route| route.matches.is_empty()).or_else(|| http().next_back()) {
            out.insert(name, Hop { virtual_service, route });
        }
    }
    out
}

/// Which Services the workloads behind each Service call.
pub fn calls(snapshot: &Snapshot) -> BTreeMap<ServiceName, BTreeSet<ServiceName>> {
    let mut services: BTreeMap<&ObjectRef, Vec<&ServiceName>> = BTreeMap::new();
    for (service, workloads) in &snapshot.graph.backing {
        for workload in workloads {
            services.entry(workload).or_default().push(service);
        }
    }
    let mut out: BTreeMap<ServiceName, BTreeSet<ServiceName>> = BTreeMap::new();
    for (caller, callee) in snapshot.graph.edges.keys() {
        for service in services.get(caller).into_iter().flatten().filter(|service| **service != callee) {
            out.entry((*service).clone()).or_default().insert(callee.clone());
        }
    }
    out
}
