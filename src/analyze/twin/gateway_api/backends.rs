//! Where a `backendRef` leads.

use crate::analyze::rules::gateway_api::{attach, grants};
use crate::analyze::rules::istio::hosts::{Hosts, Known};
use crate::analyze::twin::answer::Backend;
use crate::analyze::twin::http::table::Destination;
use crate::model::fields::Fields;
use crate::model::mesh::gateway_api::{Reference, Route};
use crate::model::mesh::istio::full_host;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::selector::Selector;
use crate::model::snapshot::Snapshot;

/// The status for requests to a backend that cannot be resolved.
pub const INVALID: u16 = 500;
/// What an InferencePool is called where hosts are: no name server has it.
pub const POOL: &str = ".inferencepool";

/// Who stands behind a host that no Service and no ServiceEntry has: an outside backend, or an InferencePool. The error says
/// why a pool has nobody to take requests.
pub fn apart(snapshot: &Snapshot, host: &str, port: u16) -> Option<Result<Backend, String>> {
    if let Some((name, namespace)) = host.strip_suffix(POOL).and_then(|bare| bare.rsplit_once('.')) {
        let pool = snapshot.object("InferencePool", namespace, name)?;
        let labels = pool.body.text_map("spec.selector.matchLabels");
        let selector =
            Selector::labels(if labels.is_empty() { pool.body.text_map("spec.selector") } else { labels });
        let own = snapshot.pods.iter().filter(|pod| {
            pod.object.namespace() == namespace && !pod.ended() && selector.matches(&pod.template.labels)
        });
        let ready: Vec<String> = own
            .filter(|pod| pod.ready() || !pod.has_status())
            .map(|pod| pod.object.name().to_owned())
            .collect();
        if ready.is_empty() && snapshot.runs() {
            return Some(Err(format!("no ready pod backs {}", pool.reference)));
        }
        let (namespace, service) = (namespace.to_owned(), name.to_owned());
        return Some(Ok(Backend { namespace, service, port, weight: 1, pods: ready, ..Backend::default() }));
    }
    let mut outside = snapshot.objects_of("XBackend");
    let named = outside.any(|object| {
        object.body.text("spec.externalHostname.hostname") == Some(host)
            && object.body.int("spec.port.port") == Some(i64::from(port))
    });
    named.then(|| Ok(Backend { service: host.to_owned(), port, weight: 1, ..Backend::default() }))
}

/// Where a reference leads. In the mesh no grant is asked for: a consumer's route concerns the consumer's own requests.
pub fn destination(snapshot: &Snapshot, route: &Route, backend: &Reference, mesh: bool) -> Destination {
    let to = ObjectRef::new(&backend.kind, &backend.namespace, &backend.name);
    let broken = |why: String| Destination::Broken(INVALID, why);
    if !mesh
        && backend.kind != "Hostname"
        && !grants::unread(snapshot)
        && !grants::granted(snapshot, route.reference(), &backend.group, &to)
    {
        return broken(format!(
            "no ReferenceGrant in namespace {} admits the reference to {to}",
            to.namespace
        ));
    }
    let port = backend.port.and_then(|port| u16::try_from(port).ok());
    let host = |host: String, port: u16| Destination::Host { host, subset: String::new(), port };
    match (backend.group.as_str(), backend.kind.as_str()) {
        ("" | "core", "Service") | ("multicluster.x-k8s.io", "ServiceImport") => {
            let Some(service) = snapshot.service(&ServiceName::new(&to.namespace, &to.name)) else {
                return broken(format!("{to} does not exist"));
            };
            let Some(port) = port else { return broken(format!("the reference to {to} names no port")) };
            if service.kind != "ExternalName" && service.port(i64::from(port)).is_none() {
                return broken(format!("{to} has no port {port}"));
            }
            host(full_host(&to.name, &to.namespace), port)
        }
        ("networking.istio.io", "Hostname") => {
            let Some(port) = port else {
                return broken(format!("the reference to {} names no port", to.name));
            };
            match Hosts::new(snapshot).look_up(&to.name, &to.namespace) {
                Known::Nothing => broken(format!("nothing in the mesh has the host {}", to.name)),
                Known::Service(service) => {
                    host(full_host(service.object.name(), service.object.namespace()), port)
                }
                Known::Entry(_) | Known::Unseen => host(to.name, port),
            }
        }
        (_, "XBackend") => {
            let Some(object) = snapshot.object("XBackend", &to.namespace, &to.name) else {
                return broken(format!("{to} does not exist"));
            };
            let own = object.body.int("spec.port.port").and_then(|p| u16::try_from(p).ok());
            match (own, port) {
                (Some(own), Some(port)) if own != port => broken(format!("{to} has port {own}, not {port}")),
                (Some(own), _) => host(object.body.string("spec.externalHostname.hostname"), own),
                (None, _) => broken(format!("{to} names no port")),
            }
        }
        (_, "InferencePool") => match snapshot.object("InferencePool", &to.namespace, &to.name) {
            Some(pool) => {
                let first = pool.body.list("spec.targetPorts").first().and_then(|p| p.int("number"));
                let own = first.or_else(|| pool.body.int("spec.targetPortNumber"));
                let port = own.and_then(|p| u16::try_from(p).ok()).or(port).unwrap_or(80);
                host(format!("{}.{}{POOL}", to.name, to.namespace), port)
            }
            None => broken(format!("{to} does not exist")),
        },
        (group, kind) => broken(format!(
            "{kind}{} is no kind of backend",
            if group.is_empty() || group == attach::GROUP {
                String::new()
            } else {
                format!(" of group {group}")
            }
        )),
    }
}
