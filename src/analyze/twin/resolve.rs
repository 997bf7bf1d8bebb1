//! Where a client's connection goes: what its name server answers, and what stands at that address.

use core::net::IpAddr;

use super::Twin;
use super::address::Block;
use super::ask::{Request, Target};
use super::party::{Party, Peer};
use super::registry::{Host, Origin, Resolution};
use crate::model::mesh::istio::{CLUSTER_DOMAIN, full_host};
use crate::model::network::{Service, ServiceName};

/// The dots of a name from which on a pod's resolver takes it as it stands first (`ndots`).
const NDOTS: usize = 5;

/// Where a connection goes.
#[derive(Debug, Clone)]
pub enum Place<'a> {
    /// A Service, at its own address.
    Service(&'a Service),
    /// A pod, or what would make it.
    Pod(Box<Party<'a>>),
    /// An address of nothing that was seen.
    Address(IpAddr),
    /// A host outside, whose address nobody here knows.
    Outside(String),
}

/// What the client asks the name server for, answered.
#[derive(Debug, Clone)]
pub struct Resolved<'a> {
    /// Where it goes.
    pub place: Place<'a>,
    /// The address as far as it is known; a placeholder for Services of plain manifests.
    pub ip: Option<IpAddr>,
    /// Whether the mesh's own name server answered.
    pub by_mesh: bool,
}

/// Why a name leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unresolved {
    /// There is no such name.
    NoSuchName(String),
    /// Nobody here can say, and why.
    Unknown(String),
}

/// Where a request of a pod in `namespace` goes. `mesh_dns`: whether its proxy answers for the name server.
pub fn resolve<'a>(
    twin: &Twin<'a>,
    request: &Request,
    namespace: &str,
    mesh_dns: bool,
) -> Result<Resolved<'a>, Unresolved> {
    match &request.to {
        Some(Target::Ip { ip }) => match ip.parse() {
            Ok(ip) => Ok(at(twin, ip)),
            Err(_) => Err(Unresolved::Unknown(format!("{ip:?} is no address"))),
        },
        Some(Target::Object(named)) if named.kind == "Service" => {
            let name = ServiceName::new(&named.namespace, &named.name);
            match twin.snapshot.service(&name) {
                Some(service) => Ok(of_service(twin, service, MAX_ALIASES)),
                None => Err(Unresolved::Unknown(format!("Service {name} is not among what was read"))),
            }
        }
        Some(Target::Object(named)) => match Party::find(twin.snapshot, named) {
            Some(party) => {
                let ip = party.ips().first().and_then(|ip| ip.parse().ok());
                Ok(Resolved { place: Place::Pod(Box::new(party)), ip, by_mesh: false })
            }
            None => Err(Unresolved::Unknown(format!(
                "the destination {} is not among what was read",
                named.reference()
            ))),
        },
        None => by_name(twin, &request.authority().0, namespace, mesh_dns),
    }
}

fn by_name<'a>(
    twin: &Twin<'a>,
    host: &str,
    namespace: &str,
    mesh_dns: bool,
) -> Result<Resolved<'a>, Unresolved> {
    if host.is_empty() {
        return Err(Unresolved::Unknown(
            "the request names neither a host nor a destination (`to`)".to_owned(),
        ));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(at(twin, ip));
    }
    let bare = host.trim_end_matches('.');
    for candidate in &candidates(host, namespace) {
        if let Some(found) = full_name(twin, candidate, MAX_ALIASES) {
            return Ok(found);
        }
        if let Some(entry) =
            twin.registry.find(candidate, namespace).filter(|h| matches!(h.origin, Origin::Entry(_)))
        {
            return Ok(of_entry(entry, bare, mesh_dns));
        }
    }
    // A name inside of the cluster that is not there.
    let inside = match bare.split('.').collect::<Vec<_>>().as_slice() {
        [name] => Some((namespace, *name)),
        [name, own, "svc"] | [name, own, "svc", "cluster", "local"] => Some((*own, *name)),
        _ => None,
    };
    match inside {
        Some((own, name)) if knows(twin, own) => {
            Err(Unresolved::NoSuchName(format!("there is no Service {own}/{name}: {host} does not resolve")))
        }
        Some((own, name)) => Err(Unresolved::Unknown(format!(
            "nothing of namespace {own} was read, so whether Service {name} exists is not known"
        ))),
        None => Ok(Resolved { place: Place::Outside(bare.to_owned()), ip: None, by_mesh: false }),
    }
}

/// The full names that a pod in `namespace` asks its name server for, in turn.
fn candidates(host: &str, namespace: &str) -> Vec<String> {
    let bare = host.trim_end_matches('.');
    let absolute = host.ends_with('.') || bare.matches('.').count() >= NDOTS;
    // A client outside of the cluster has no such domains to search.
    let domains = if namespace.is_empty() {
        vec![]
    } else {
        vec![
            format!("{namespace}.svc.{CLUSTER_DOMAIN}"),
            format!("svc.{CLUSTER_DOMAIN}"),
            CLUSTER_DOMAIN.to_owned(),
        ]
    };
    let mut candidates: Vec<String> = domains.iter().map(|domain| format!("{bare}.{domain}")).collect();
    let last = if absolute { 0 } else { candidates.len() };
    candidates.insert(last, bare.to_owned());
    candidates
}

/// The Service or pod that an address or a name leads to, as a proxy in `namespace` looks it up; none where it leads out of the cluster.
pub fn inside<'a>(twin: &Twin<'a>, address: &str, namespace: &str) -> Option<Place<'a>> {
    let found = match address.parse() {
        Ok(ip) => Some(at(twin, ip)),
        Err(_) => candidates(address, namespace).iter().find_map(|name| full_name(twin, name, MAX_ALIASES)),
    };
    found.map(|found| found.place).filter(|place| matches!(place, Place::Service(_) | Place::Pod(_)))
}

/// Whether Services or workloads of a namespace were read: only then does it mean something that one is not there.
fn knows(twin: &Twin<'_>, namespace: &str) -> bool {
    let snapshot = twin.snapshot;
    snapshot.services.iter().any(|s| s.object.namespace() == namespace)
        || snapshot.workloads.iter().any(|w| w.object.namespace() == namespace)
}

/// A full name of the cluster's: a Service's, or a pod's of a headless one.
fn full_name<'a>(twin: &Twin<'a>, name: &str, aliases: usize) -> Option<Resolved<'a>> {
    let bare = name.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}"))?;
    match bare.split('.').collect::<Vec<_>>().as_slice() {
        [service, namespace] => twin
            .snapshot
            .service(&ServiceName::new(*namespace, *service))
            .map(|service| of_service(twin, service, aliases)),
        [pod, service, namespace] => {
            let service =
                twin.snapshot.service(&ServiceName::new(*namespace, *service)).filter(|s| s.headless())?;
            let mut pods = twin.snapshot.pods_behind(service);
            let found = pods.find(|p| p.object.name() == *pod)?;
            let ip = found.ips.first().and_then(|ip| ip.parse().ok());
            Some(Resolved {
                place: Place::Pod(Box::new(Party::of_pod(twin.snapshot, found))),
                ip,
                by_mesh: false,
            })
        }
        _ => None,
    }
}

/// Names that lead to names, as far as they are followed: a chain that is longer is a loop.
const MAX_ALIASES: usize = 8;

/// A Service's own address, or what stands behind the name that it is an alias of.
fn of_service<'a>(twin: &Twin<'a>, service: &'a Service, aliases: usize) -> Resolved<'a> {
    if service.kind == "ExternalName" {
        let name = service.external_name.trim_end_matches('.');
        let inside = || full_name(twin, &name.to_ascii_lowercase(), aliases - 1);
        let outside = || Resolved { place: Place::Outside(name.to_owned()), ip: None, by_mesh: false };
        return (aliases > 0).then(inside).flatten().unwrap_or_else(outside);
    }
    let full = full_host(service.object.name(), service.object.namespace());
    let host = twin.registry.named(&full).find(|host| matches!(host.origin, Origin::Service(_)));
    let own = host.and_then(|host| host.addresses.first().and_then(Block::single).or(host.placeholder));
    // The name server answers for a headless Service with its ready pods.
    let pod = || {
        let ready = twin.snapshot.pods_behind(service).find(|pod| pod.ready() || !pod.has_status());
        ready.and_then(|pod| pod.ips.first()).and_then(|ip| ip.parse().ok())
    };
    Resolved { place: Place::Service(service), ip: own.or_else(pod), by_mesh: false }
}

/// A host of a ServiceEntry: the mesh's name server gives it an address, any other asks the world outside.
fn of_entry<'a>(host: &Host<'_>, name: &str, mesh_dns: bool) -> Resolved<'a> {
    let own = host.addresses.first().and_then(Block::single);
    let ip = if mesh_dns {
        own.or(host.allocated)
    } else {
        own.filter(|_| host.resolution == Resolution::Registry)
    };
    Resolved { place: Place::Outside(name.to_owned()), ip, by_mesh: mesh_dns && ip.is_some() }
}

/// What has an address.
pub fn at<'a>(twin: &Twin<'a>, ip: IpAddr) -> Resolved<'a> {
    let services = twin.registry.at(ip);
    let service = services.iter().find_map(|host| match host.origin {
        Origin::Service(service) => Some(service),
        _ => None,
    });
    let place = match (service, Peer::at(twin.snapshot, &ip.to_string())) {
        (Some(service), _) => Place::Service(service),
        (None, Peer::Pod(party)) => Place::Pod(Box::new(party)),
        (None, _) => Place::Address(ip),
    };
    Resolved { place, ip: Some(ip), by_mesh: twin.registry.is_allocated(ip) }
}
