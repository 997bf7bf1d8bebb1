//! GWAPI101.

use super::prelude::*;
use super::references;
use crate::analyze::rules::istio::hosts::{Hosts, Known};
use crate::model::mesh::istio::full_host;

crate::rule! {
    /// A route sends requests to a backend, or to a port of it, that does not exist.
    ///
    /// ## What it detects
    /// A `backendRef` of a route, or of its mirror filters, that names a Service, host, ServiceImport or XBackend which does
    /// not exist, or a port that the backend does not have.
    /// ## Why it matters
    /// The gateway answers requests for this backend with `500`, in Istio with `NC cluster_not_found`. A wrong port does not
    /// always show in the route's status: Istio writes `ResolvedRefs=True` for it.
    /// ## Evidence
    /// The reference against the Services and their ports, the route's status, access-log records of the gateway.
    /// ## How to confirm
    /// `kubectl get service NAME -o jsonpath='{.spec.ports[*].port}'` in the backend's namespace.
    /// ## How to fix
    /// Write the Service's name, and the Service's port number, not the container's.
    /// ## False positives
    /// Backends of namespaces that were not read, and of kinds that only another controller knows, are not reported.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/reference/spec/#backendref>
    BackendNotFound {
        code: "GWAPI101", name: "backend-not-found", family: Gateway, severity: Error,
        needs: [Objects, GatewayApi], aliases: ["IST0101", "KIA1402"],
    }
}

/// What is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Missing {
    /// The backend itself; a name that was probably meant.
    Backend(Option<String>),
    /// The port; the ports that there are.
    Port(Vec<i64>),
}

/// A backend that leads nowhere.
#[derive(Debug)]
pub struct Fact<'a> {
    route: &'a Route,
    backend: Reference,
    missing: Missing,
    seen: Seen,
}

impl Check for BackendNotFound {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hosts = Hosts::new(snapshot);
        let mut out = vec![];
        for route in &snapshot.gateway_api.routes {
            if !seen::configured(route.object.namespace()) {
                continue;
            }
            for backend in references::all(route) {
                if let Some(missing) = missing(snapshot, &hosts, &backend) {
                    let seen = attach::requests(snapshot, route, |o| {
                        o.has_flag("NC") || (o.code == 500 && o.details != "via_upstream")
                    });
                    out.push(Fact { route, backend, missing, seen });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = fact.route.reference();
        let backend = &fact.backend;
        let named = ObjectRef::new(&backend.kind, &backend.namespace, &backend.name);
        let idle = backend.weight == 0;
        let observed = fact.seen.any() && !idle;
        let (path, title, why, words) = match &fact.missing {
            Missing::Backend(better) => {
                let hint = better.as_ref().map(|b| format!("; {b} was probably meant")).unwrap_or_default();
                (
                    format!("{}.name", backend.path),
                    format!("{reference} sends requests to {named}, which does not exist{hint}"),
                    format!("{named} does not exist{hint}"),
                    "backendRef not found: the backend does not exist",
                )
            }
            Missing::Port(ports) => {
                let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let port = backend.port.map_or("none".to_owned(), |p| p.to_string());
                (
                    format!("{}.port", backend.path),
                    format!("{reference} sends requests to port {port} of {named}, which has {ports}"),
                    format!("{named} has no port {port}; its ports are {ports}"),
                    "backendRef port not found: the Service has no such port",
                )
            }
        };
        let severity = match (observed, idle || snapshot.runs()) {
            (true, _) | (false, false) => Severity::Error,
            (false, true) => Severity::Warning,
        };
        let seen_words = if observed {
            format!(" {} requests were answered with an error by the gateway itself.", fact.seen.count)
        } else {
            String::new()
        };
        Finding::new(Self::META, reference.field(&path), &[&backend.namespace, &backend.name])
            .title(title)
            .message(format!("{why}. The gateway has no place to send these requests to and answers them with 500.{seen_words}"))
            .mechanism(words)
            .severity(severity)
            .role(if idle { Role::Context } else { Role::Cause }, if observed { Confidence::Observed } else { Confidence::Configured })
            .service(attach::service(snapshot, fact.route))
            .evidence(Evidence::object(&reference.field(&path), why))
            .evidences(if idle { vec![] } else { fact.seen.evidence.clone() })
            .onset(fact.seen.onset.filter(|_| !idle))
            .effects(attach::effects(snapshot, fact.route, &["NC", "5xx"]))
            .maybe_remedy(correct(fact, snapshot, &path))
            .prevention(Prevention::of("Test", "In the pipeline: every backendRef names an existing Service and one of its ports (meshscope analyze on the manifests)"))
            .prevention(Prevention::alert(
                "Alert when proxies have routes to clusters that do not exist",
                "sum by (source_workload) (rate(istio_requests_total{reporter=\"source\",response_flags=~\".*NC.*\"}[1m])) > 0",
            ))
    }
}

fn missing(snapshot: &Snapshot, hosts: &Hosts<'_>, backend: &Reference) -> Option<Missing> {
    match (backend.group.as_str(), backend.kind.as_str()) {
        ("" | "core", "Service") => {
            let name = ServiceName::new(&backend.namespace, &backend.name);
            let Some(service) = snapshot.service(&name) else {
                let beside = snapshot.services.iter().filter(|s| s.object.namespace() == backend.namespace);
                let better = nearest(&backend.name, beside.map(|s| s.object.name())).map(str::to_owned);
                // Without any Service of that namespace the route itself says that it belongs to what was read.
                let known = attach::knows_namespace(snapshot, &backend.namespace)
                    || !snapshot.runs() && !snapshot.services.is_empty();
                return known.then_some(Missing::Backend(better));
            };
            // A port is needed wherever the backend is a Service; one that stands for a name elsewhere has any.
            let there = backend.port.is_some_and(|port| service.port(port).is_some());
            (service.kind != "ExternalName" && !there).then(|| Missing::Port(numbers(service)))
        }
        ("networking.istio.io", "Hostname") => match hosts.look_up(&backend.name, &backend.namespace) {
            Known::Nothing => Some(Missing::Backend(None)),
            // A name in full, of the route's own namespace: others are not looked up.
            Known::Service(service)
                if service.object.namespace() != backend.namespace
                    || backend.name != full_host(service.object.name(), service.object.namespace()) =>
            {
                Some(Missing::Backend(None))
            }
            Known::Service(service) => {
                let there = backend.port.is_some_and(|port| service.port(port).is_some());
                (!there).then(|| Missing::Port(numbers(service)))
            }
            Known::Entry(entry) => {
                let numbers = || entry.ports.iter().map(|(number, _)| *number).collect();
                backend.port.is_none().then(|| Missing::Port(numbers()))
            }
            Known::Unseen => None,
        },
        (_, "XBackend") if snapshot.knows_kind("XBackend") => {
            let Some(object) = snapshot.object("XBackend", &backend.namespace, &backend.name) else {
                return Some(Missing::Backend(None));
            };
            let own = object.body.int("spec.port.port")?;
            backend.port.filter(|p| *p != own).map(|_| Missing::Port(vec![own]))
        }
        (_, kind @ ("ServiceImport" | "InferencePool")) if snapshot.knows_kind(kind) => snapshot
            .object(kind, &backend.namespace, &backend.name)
            .is_none()
            .then_some(Missing::Backend(None)),
        _ => None,
    }
}

fn numbers(service: &Service) -> Vec<i64> {
    service.ports.iter().map(|p| p.number).collect()
}

/// The value before the last edit, the near name, or the port that the wrong one probably stood for.
fn correct(fact: &Fact<'_>, snapshot: &Snapshot, path: &str) -> Option<Remedy> {
    let before = applied(&fact.route.object, path);
    let value = match &fact.missing {
        Missing::Backend(better) => {
            let name =
                |text: &str| snapshot.service(&ServiceName::new(&fact.backend.namespace, text)).is_some();
            let before = before.and_then(|b| b.as_str().map(str::to_owned)).filter(|b| name(b));
            json!(before.or_else(|| better.clone())?)
        }
        Missing::Port(ports) => {
            let before = before.and_then(|b| b.as_i64()).filter(|b| ports.contains(b));
            let target = || {
                let service =
                    snapshot.service(&ServiceName::new(&fact.backend.namespace, &fact.backend.name))?;
                let wrong = fact.backend.port?;
                service
                    .ports
                    .iter()
                    .find(|p| p.target == crate::model::network::TargetPort::Number(wrong))
                    .map(|p| p.number)
            };
            json!(before.or_else(target).or_else(|| ports.first().copied().filter(|_| ports.len() == 1))?)
        }
    };
    let field = path.rsplit('.').next().unwrap_or(path);
    Remedy::patch(
        &fact.route.object,
        &json!([{"op": "replace", "path": pointer(path), "value": value}]),
        format!("Set the {field} of the backendRef to {value}"),
    )
}
