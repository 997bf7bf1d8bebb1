//! PROXY107.

use std::collections::{BTreeMap, BTreeSet};

use super::{MAX_PROXIES, ask, concerns, evidence, service_of};
use crate::analyze::finding::{Confidence, Effect, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text::plain;
use crate::model::mesh::istio::service_of_host;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::proxy::Proxy;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::ClusterName;

crate::rule! {
    /// A route in a proxy leads to a cluster that the proxy does not have.
    ///
    /// ## What it detects
    /// In one proxy's configuration, a route with a cluster that is missing among its clusters.
    /// ## Why it matters
    /// Requests that follow the route end at once as `503 NC cluster_not_found` (500 with some routes of the Gateway API),
    /// although each object was accepted when it was applied.
    /// ## Evidence
    /// The route configuration, the virtual host and the cluster's name: port, subset and host of what is missing.
    /// ## How to confirm
    /// `istioctl proxy-config routes POD` names the cluster, `istioctl proxy-config clusters POD` lacks it.
    /// ## How to fix
    /// Correct what the route names: the subset (no DestinationRule defines it), the port (the Service lacks it) or the host
    /// (no such Service, or a Sidecar hides it from this workload).
    /// ## False positives
    /// A dump that was cut, or taken in the moment of an update; routes with weight 0 are left out.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    RouteWithoutCluster {
        code: "PROXY107", name: "route-without-cluster", family: Traffic, severity: Error,
        needs: [Proxies], aliases: [],
    }
}

/// Where a missing cluster is named.
#[derive(Debug)]
struct Place<'a> {
    proxy: &'a Proxy,
    routes: &'a str,
    host: &'a str,
}

/// A cluster that routes name and proxies lack.
#[derive(Debug)]
pub struct Fact<'a> {
    cluster: ClusterName,
    service: Option<ServiceName>,
    places: Vec<Place<'a>>,
}

impl Check for RouteWithoutCluster {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut missing: BTreeMap<&str, Vec<Place<'a>>> = BTreeMap::new();
        for proxy in &snapshot.proxies {
            let Some(config) = proxy.config.as_ref().filter(|config| config.complete) else { continue };
            let mut known: BTreeSet<&str> =
                config.clusters.iter().map(|c| c.resource.name.as_str()).collect();
            known.extend(proxy.clusters.iter().map(|cluster| cluster.name.as_str()));
            for (routes, host, route) in config.all_routes() {
                for (name, weight) in &route.clusters {
                    let named = ClusterName::read(name);
                    if *weight == 0 || named.direction != "outbound" || known.contains(name.as_str()) {
                        continue;
                    }
                    let place = Place { proxy, routes: &routes.resource.name, host: &host.name };
                    missing.entry(name).or_default().push(place);
                }
            }
        }
        let facts = missing.into_iter().filter_map(|(name, places)| {
            let cluster = ClusterName::read(name);
            let service = service_of(snapshot, places.first()?.proxy, &cluster);
            let wanted = places.iter().any(|place| concerns(snapshot, place.proxy, service.as_ref()));
            wanted.then_some(Fact { cluster, service, places })
        });
        facts.collect()
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let cluster = &fact.cluster;
        let named = service_of_host(&cluster.host).map(|(namespace, name)| ServiceName::new(namespace, name));
        let callers: BTreeSet<ObjectRef> =
            fact.places.iter().map(|p| snapshot.owner_by_name(&p.proxy.namespace, &p.proxy.pod)).collect();
        let caller = callers.first().cloned();
        let subject =
            fact.service.as_ref().map(ServiceName::reference).or_else(|| caller.clone()).unwrap_or_default();
        let host = plain(&cluster.host, 80);
        let port = cluster.port.map(|port| port.to_string()).unwrap_or_default();
        let lacks = match (&fact.service, cluster.subset.is_empty()) {
            (None, _) => {
                format!("no Service {host} is known to the proxy: it does not exist, or a Sidecar hides it")
            }
            (Some(_), false) => format!(
                "subset \"{}\" of {host} is defined by no DestinationRule that counts here",
                plain(&cluster.subset, 40)
            ),
            (Some(_), true) => format!("port {port} of {host} does not exist, or a Sidecar hides it"),
        };
        let who = caller.as_ref().map(|caller| caller.name.clone()).unwrap_or_default();
        let first = fact.places.first();
        let look = first.map(|p| ask(&p.proxy.namespace, &p.proxy.pod, "config_dump")).into_iter().collect();
        let mut finding = Finding::new(Self::META, subject, &[&cluster.raw])
            .title(format!("{who} has a route to {}, a cluster that its proxy lacks", plain(&cluster.raw, 70)))
            .message(format!("The route leads to port {port} of {host}, and {lacks}. Requests that follow it end as 503 NC cluster_not_found."))
            .mechanism("cluster not found: route to a cluster that does not exist")
            .severity(Severity::Error)
            .role(Role::Symptom, Confidence::Observed)
            .service(named.clone())
            .evidences(fact.places.iter().take(MAX_PROXIES).map(|place| {
                let value = format!("routes {}, virtual host {}: cluster {} is missing", plain(place.routes, 60), plain(place.host, 80), plain(&cluster.raw, 120));
                evidence(&place.proxy.namespace, &place.proxy.pod, "config_dump", value)
            }))
            .remedy(Remedy::commands("See the proxy's routes and clusters", look, vec![]))
            .prevention(Prevention::of("Test", "In the pipeline: every host, port and subset that a route names exists (meshscope analyze on the manifests)"));
        if let Some(name) = &named {
            finding = finding.effect(Effect::requests(name, &["NC"]));
        }
        for caller in callers.into_iter().take(MAX_PROXIES) {
            finding = finding.effect(Effect::calls(&caller)).related(caller);
        }
        finding
    }
}
