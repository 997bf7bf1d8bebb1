//! Which hosts the mesh knows: Services, and what ServiceEntries add.

use std::collections::BTreeSet;

use crate::analyze::rules::near::nearest;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{
    CLUSTER_DOMAIN, Gateway, Route, ServiceEntry, VirtualService, full_host, host_matches, service_of_host,
    visible,
};
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome};

/// What a host is to the mesh.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// A Service of the cluster.
    Service(&'a Service),
    /// An address that a ServiceEntry declares.
    Entry(&'a ServiceEntry),
    /// Nothing, and the place where it would be was seen.
    Nothing,
    /// Nobody can say: the namespace where it would be was not seen, or it is a pattern.
    Unseen,
}

/// The hosts of a snapshot.
#[derive(Debug)]
pub struct Hosts<'a> {
    snapshot: &'a Snapshot,
    /// Namespaces of which Services or pods were seen.
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Hosts<'a> {
    /// The hosts of a snapshot.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let services = snapshot.services.iter().map(|s| s.object.namespace());
        let workloads = snapshot.workloads.iter().map(|w| w.object.namespace());
        Hosts { snapshot, namespaces: services.chain(workloads).collect() }
    }

    /// Whether Services or workloads of a namespace were seen: only then does it mean something that one is not there.
    pub fn seen(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }

    /// What a host is that stands in an object of `namespace`. As Istio reads it: a name without a dot is a Service beside
    /// the object, a name with one is complete.
    pub fn look_up(&self, host: &str, namespace: &str) -> Known<'a> {
        let full = full_host(host, namespace);
        let entry = self.snapshot.istio.service_entries_for(&full, host).find(|entry| {
            visible(&entry.export_to, entry.object.namespace(), namespace)
                && entry
                    .hosts
                    .iter()
                    .any(|known| known == &full || known == host || host_matches(known, &full))
        });
        if let Some(entry) = entry {
            return Known::Entry(entry);
        }
        if host.contains('*') || host.is_empty() {
            return Known::Unseen;
        }
        let name = if host.contains('.') {
            match service_of_host(host) {
                Some((ns, name)) => ServiceName::new(ns, name),
                // A host outside: Istio's objects were seen, its ServiceEntry was not.
                None => return if self.foreign_domain(host) { Known::Unseen } else { Known::Nothing },
            }
        } else {
            ServiceName::new(namespace, host)
        };
        match self.snapshot.service(&name) {
            Some(service) => Known::Service(service),
            None if !host.contains('.') || self.seen(&name.namespace) => {
                if self.seen(&name.namespace) {
                    Known::Nothing
                } else {
                    Known::Unseen
                }
            }
            // `example.com` looks like a Service of namespace `com`: outside the cluster, where no namespace is that.
            None if host.ends_with(CLUSTER_DOMAIN) || host.ends_with(".svc") => Known::Unseen,
            None => Known::Nothing,
        }
    }

    /// Whether a host that stands in an object of `namespace` is not there, and would have been seen in namespace `own`.
    pub fn missing(&self, host: &str, namespace: &str, own: &str) -> bool {
        self.seen(own) && matches!(self.look_up(host, namespace), Known::Nothing)
    }

    /// The host that was probably meant by one that is not there.
    pub fn near(&self, host: &str, namespace: &str) -> Option<String> {
        let candidates = self.candidates(host, namespace);
        nearest(&full_host(host, namespace), candidates.iter().map(String::as_str)).map(str::to_owned)
    }

    /// A Service name in another domain than Istio's default: the cluster's own domain was changed.
    fn foreign_domain(&self, host: &str) -> bool {
        host.contains(".svc.") && !host.ends_with(CLUSTER_DOMAIN)
    }

    /// The full names of Services that `host` probably meant: those of its namespace, and those of the same name elsewhere.
    pub fn candidates(&self, host: &str, namespace: &str) -> Vec<String> {
        let (ns, name) = service_of_host(&full_host(host, namespace)).unwrap_or_default();
        let services = self.snapshot.services.iter();
        let mut out: Vec<String> = services
            .filter(|s| s.object.namespace() == ns || s.object.name() == name)
            .map(|s| host_of(&s.service_name()))
            .collect();
        out.extend(self.snapshot.istio.service_entries.iter().flat_map(|e| e.hosts.clone()));
        out
    }
}

/// The full host of a Service.
pub fn host_of(name: &ServiceName) -> String {
    full_host(&name.name, &name.namespace)
}

/// The Service whose callers feel a VirtualService: the one that it speaks for, else the first that it sends requests to.
pub fn service_of(snapshot: &Snapshot, virtual_service: &VirtualService) -> Option<ServiceName> {
    let namespace = virtual_service.object.namespace();
    let known = |host: &str| {
        let (ns, name) = service_of_host(&full_host(host, namespace))?;
        let name = ServiceName::new(ns, name);
        snapshot.service(&name).map(|_| name)
    };
    let own = virtual_service.hosts.iter().find_map(|host| known(host));
    own.or_else(|| virtual_service.destinations().find_map(|(_, destination)| known(&destination.host)))
}

/// Whether a request for this authority is one that a VirtualService speaks for.
pub fn speaks_for(virtual_service: &VirtualService, edge: &EdgeTraffic, outcome: &Outcome) -> bool {
    let namespace = virtual_service.object.namespace();
    if let Some(service) = &edge.service
        && virtual_service.covers(&host_of(service))
    {
        return true;
    }
    let hosts = outcome.authorities.keys().map(String::as_str).chain([edge.authority.as_str()]);
    hosts.filter(|host| !host.is_empty()).any(|host| {
        let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
        virtual_service.covers(bare) || virtual_service.covers(&full_host(bare, namespace))
    })
}

/// Requests for the hosts of a VirtualService for which the caller's proxy had a route to a cluster that does not exist.
pub fn no_cluster(snapshot: &Snapshot, virtual_service: &VirtualService, route: &Route) -> Seen {
    seen::outcomes(snapshot.traffic.iter(), |edge, outcome| {
        outcome.has_flag("NC")
            && speaks_for(virtual_service, edge, outcome)
            && (route.name.is_empty() || outcome.route.is_empty() || outcome.route.contains(&route.name))
    })
}

/// Requests for the hosts of a VirtualService for which a proxy had no route at all. A gateway is called at its own address:
/// without a cluster it looks like a destination, so that both reporters count.
pub fn no_route(snapshot: &Snapshot, virtual_service: &VirtualService) -> Seen {
    seen::outcomes(snapshot.traffic.iter(), |edge, outcome| {
        outcome.has_flag("NR") && !outcome.connection && speaks_for(virtual_service, edge, outcome)
    })
}

/// The workloads whose proxies reported that.
pub fn unrouted_at(snapshot: &Snapshot, virtual_service: &VirtualService) -> BTreeSet<ObjectRef> {
    snapshot
        .traffic
        .iter()
        .filter(|edge| {
            edge.outcomes
                .iter()
                .any(|o| o.has_flag("NR") && !o.connection && speaks_for(virtual_service, edge, o))
        })
        .map(|edge| edge.workload.clone())
        .collect()
}

/// An Istio Gateway by the name that a VirtualService gives it: `name` beside it, or `namespace/name`.
pub fn gateway<'a>(snapshot: &'a Snapshot, reference: &str, namespace: &str) -> Option<&'a Gateway> {
    let (namespace, name) = gateway_name(reference, namespace);
    snapshot.istio.gateway(namespace, name)
}

/// Namespace and name of a gateway reference.
pub fn gateway_name<'a>(reference: &'a str, namespace: &'a str) -> (&'a str, &'a str) {
    reference.split_once('/').unwrap_or((namespace, reference))
}

/// A host of a Gateway's server without the namespace before it, where that namespace admits `client`.
pub fn server_host<'a>(written: &'a str, owner: &str, client: &str) -> Option<&'a str> {
    match written.split_once('/') {
        None => Some(written),
        Some((namespace, host)) => {
            let admits = namespace == "*" || namespace == client || (namespace == "." && owner == client);
            admits.then_some(host)
        }
    }
}

/// Services in front of the pods that a Gateway's selector picks.
pub fn gateway_services(snapshot: &Snapshot, gateway: &Gateway) -> BTreeSet<ServiceName> {
    if gateway.selector.is_empty() {
        return BTreeSet::new();
    }
    let carries = |labels: &crate::model::selector::Labels| {
        gateway.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let pods = snapshot.pods.iter().filter(|p| carries(&p.template.labels));
    let of_pods = pods.flat_map(|pod| snapshot.services_before_pod(pod));
    let workloads = snapshot.workloads.iter().filter(|w| carries(&w.template.labels));
    let of_workloads = workloads.flat_map(|workload| snapshot.services_before(workload));
    of_pods.chain(of_workloads).map(Service::service_name).collect()
}

/// Effects of routes that a gateway does not have: requests to the gateway and to what stands behind the routes fail.
pub fn ingress_effects(
    snapshot: &Snapshot,
    virtual_service: &VirtualService,
) -> Vec<crate::analyze::finding::Effect> {
    let flags = ["NR", "404", "NC"];
    let mut services: BTreeSet<ServiceName> = service_of(snapshot, virtual_service).into_iter().collect();
    for workload in unrouted_at(snapshot, virtual_service) {
        services.extend(snapshot.graph.services_of(&workload).cloned());
    }
    services.iter().map(|service| crate::analyze::finding::Effect::requests(service, &flags)).collect()
}

/// Whether objects of this Istio kind could not be read: then nothing follows from their absence.
pub fn unread(snapshot: &Snapshot, resource: &str) -> bool {
    snapshot.gaps.iter().any(|gap| gap.what.contains(resource))
}

/// A route's mirrors: host, subset, port and where each stands.
pub fn mirrors(route: &Route) -> Vec<(String, String, Option<i64>, String)> {
    let one = |value: &crate::model::json::Value, path: String| {
        (value.string("host"), value.string("subset"), value.int("port.number"), path)
    };
    let body: &crate::model::json::Value = &route.body;
    let single = body.at("mirror").map(|mirror| one(mirror, format!("{}.mirror", route.path)));
    let several = body.list("mirrors").iter().enumerate().filter_map(|(index, entry)| {
        Some(one(entry.at("destination")?, format!("{}.mirrors[{index}].destination", route.path)))
    });
    single.into_iter().chain(several).collect()
}
