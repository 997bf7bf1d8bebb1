//! GWAPI106.

use std::collections::BTreeSet;

use super::prelude::*;
use super::{classes, listener_sets, status};
use crate::analyze::rules::istio::hosts::{Hosts, Known};
use crate::model::mesh::istio::full_host;

crate::rule! {
    /// A Gateway that no Service makes reachable.
    ///
    /// ## What it detects
    /// A Gateway of one of Istio's classes whose address names a Service that does not exist, is in another namespace or has
    /// no pods, or one without the port of a listener; an address that is no host name; and, in a cluster, a Gateway without addresses for which the controller has
    /// made no Service.
    /// ## Why it matters
    /// The controller does not program the Gateway, or programs it without that port: clients cannot connect.
    /// ## Evidence
    /// The addresses and listeners against the Services and their ports.
    /// ## How to confirm
    /// `kubectl get gateways.gateway.networking.k8s.io NAME -o jsonpath='{.status.conditions}'` shows `Programmed=False` with
    /// `AddressNotUsable`.
    /// ## How to fix
    /// Name an existing Service in `spec.addresses`, or none at all; add the listener's port to that Service.
    /// ## False positives
    /// Manifests alone hold no Service that a controller has yet to make: there only written addresses are looked at. A
    /// Gateway whose status says that it is programmed is not reported.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/ingress/gateway-api/#manual-deployment>
    GatewayNotServed {
        code: "GWAPI106", name: "gateway-not-served", family: Gateway, severity: Warning,
        needs: [Objects, GatewayApi], aliases: ["IST0171"],
    }
}

/// What is wrong.
#[derive(Debug)]
enum Wrong {
    /// No such Service: its full name.
    NoService(String),
    /// A Service without a listener's port: its full name, the port, its own ports.
    NoPort(String, i64, Vec<i64>),
    /// A Service of other namespaces than the Gateway's: its full name, and where it is.
    Elsewhere(String, String),
    /// A name outside of the cluster, behind which there is no pod.
    NoPods(String),
    /// An address of a type that is not understood.
    Unsupported(String),
}

/// A Gateway, or a set of listeners of one, that nobody reaches.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    object: &'a Object,
    path: String,
    wrong: Wrong,
}

impl Check for GatewayNotServed {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let hosts = Hosts::new(snapshot);
        // Slices are made by a cluster: with them the absence of a generated Service means something.
        let cluster = snapshot.runs() || !snapshot.slices.is_empty();
        let mut out = vec![];
        for gateway in &snapshot.gateway_api.gateways {
            if !seen::configured(gateway.object.namespace())
                || !classes::is_istios(snapshot, gateway)
                || programmed(gateway)
            {
                continue;
            }
            let namespace = gateway.object.namespace();
            let written = gateway.object.body.list("spec.addresses");
            if written.is_empty() {
                let name = ServiceName::new(namespace, generated(gateway));
                if cluster && snapshot.service(&name).is_none() {
                    let host = full_host(&name.name, namespace);
                    let path = "spec.addresses".to_owned();
                    out.push(Fact { gateway, object: &gateway.object, path, wrong: Wrong::NoService(host) });
                }
                continue;
            }
            let parts = parts(snapshot, gateway);
            for (index, address) in written.iter().enumerate() {
                let value = address.string("value");
                let path = format!("spec.addresses[{index}].value");
                if address.text("type").unwrap_or("IPAddress") != "Hostname" {
                    out.extend(parts.iter().map(|object| Fact {
                        gateway,
                        object,
                        path: path.clone(),
                        wrong: Wrong::Unsupported(value.clone()),
                    }));
                    continue;
                }
                let host = full_host(&value, namespace);
                let all = |wrong: &dyn Fn() -> Wrong| -> Vec<Fact<'a>> {
                    let fact =
                        |object: &&'a Object| Fact { gateway, object, path: path.clone(), wrong: wrong() };
                    parts.iter().map(fact).collect()
                };
                // Only the name in full is one: `pay.shop` is none of Service pay in namespace shop.
                let whole =
                    |service: &Service| host == full_host(service.object.name(), service.object.namespace());
                let ports: Vec<i64> = match hosts.look_up(&host, namespace) {
                    Known::Service(service) if !whole(service) => {
                        out.extend(all(&|| Wrong::NoService(host.clone())));
                        continue;
                    }
                    Known::Service(service) if service.object.namespace() != namespace => {
                        let there = service.object.namespace().to_owned();
                        out.extend(all(&|| Wrong::Elsewhere(host.clone(), there.clone())));
                        continue;
                    }
                    Known::Service(service) if service.kind == "ExternalName" => {
                        out.extend(all(&|| Wrong::NoPods(host.clone())));
                        continue;
                    }
                    Known::Service(service) => service.ports.iter().map(|p| p.number).collect(),
                    Known::Entry(entry) if entry.object.namespace() == namespace => {
                        entry.ports.iter().map(|(number, _)| *number).collect()
                    }
                    // A short name is a Service beside the Gateway, and the Gateway's namespace was read; and in a namespace
                    // that the cluster does not have there is no Service.
                    Known::Unseen if cluster && (!value.contains('.') || nowhere(snapshot, &host)) => {
                        out.extend(all(&|| Wrong::NoService(host.clone())));
                        continue;
                    }
                    Known::Nothing => {
                        out.extend(all(&|| Wrong::NoService(host.clone())));
                        continue;
                    }
                    Known::Entry(_) | Known::Unseen => continue,
                };
                for part in &parts {
                    for listener in attach::listeners(part).into_iter().filter(|l| !ports.contains(&l.port)) {
                        let wrong = || Wrong::NoPort(host.clone(), listener.port, ports.clone());
                        let path = format!("{}.port", listener.path);
                        out.push(Fact { gateway, object: part, path: path.clone(), wrong: wrong() });
                        // A port of a ListenerSet leaves its Gateway partly without an address as well.
                        if !std::ptr::eq(*part, &*gateway.object) {
                            out.push(Fact {
                                gateway,
                                object: &gateway.object,
                                path: "spec.addresses".to_owned(),
                                wrong: wrong(),
                            });
                        }
                    }
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.object.reference;
        let (title, message, key, fix) = match &fact.wrong {
            Wrong::NoService(host) => (
                format!("{reference} is served by no Service: {host} does not exist"),
                format!(
                    "{reference} is to be reached at Service {host}, which does not exist. The controller does not program it."
                ),
                host.clone(),
                None,
            ),
            Wrong::NoPort(host, port, ports) => {
                let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                (
                    format!("{reference} listens on port {port}, which Service {host} lacks"),
                    format!(
                        "{reference} is reached at Service {host}, whose ports are {ports}: nobody reaches port {port} of the listener."
                    ),
                    format!("{host}:{port}"),
                    add_port(snapshot, host, *port),
                )
            }
            Wrong::Elsewhere(host, there) => (
                format!("{reference} asks for Service {host}, which is in another namespace"),
                format!(
                    "Istio takes the Service of a Gateway from the Gateway's own namespace, {}. {host} is in namespace {there}, so it counts as not found.",
                    fact.gateway.object.namespace()
                ),
                host.clone(),
                None,
            ),
            Wrong::NoPods(host) => (
                format!("{reference} asks for Service {host}, which has no pods: it is of type ExternalName"),
                format!(
                    "Service {host} stands for a name outside of the cluster (ExternalName). No pod behind it serves {reference}."
                ),
                host.clone(),
                None,
            ),
            Wrong::Unsupported(value) => (
                format!("{reference} asks for address {value}, which is no host name"),
                format!(
                    "Istio takes addresses of type Hostname only. Address {value} is of another type, so {reference} has no usable address."
                ),
                value.clone(),
                Remedy::patch(
                    &fact.gateway.object,
                    &json!([{"op": "remove", "path": "/spec/addresses"}]),
                    "Remove the addresses: the controller makes a Service for the Gateway",
                ),
            ),
        };
        Finding::new(Self::META, reference.field(&fact.path), &[&key])
            .title(title)
            .message(message.clone())
            .mechanism("gateway address not usable: no Service, or a Service without the listener's port")
            .severity(Severity::Warning)
            .role(Role::Cause, Confidence::Configured)
            .evidence(Evidence::object(&reference.field(&fact.path), message))
            .maybe_remedy(fix)
            .prevention(Prevention::of("Test", "In the pipeline: the Service of every Gateway exists and has the ports of its listeners (meshscope analyze on the manifests)"))
    }
}

/// Whether the controller says that it serves the Gateway as it is now.
fn programmed(gateway: &Gateway) -> bool {
    status::says(&gateway.object, gateway.object.body.list("status.conditions"), "Programmed", "True")
}

/// The name of the Service that Istio makes for a Gateway.
fn generated(gateway: &Gateway) -> String {
    let name = gateway.object.name();
    match gateway.object.annotations.get("gateway.istio.io/name-override") {
        Some(other) => other.to_owned(),
        None if gateway.class == "istio" => format!("{name}-istio"),
        None if classes::ISTIO_CLASSES.contains(&gateway.class.as_str()) => name.to_owned(),
        None => format!("{name}-{}", gateway.class),
    }
}

/// Whether a Service's full name has a namespace that is not among those of the cluster.
fn nowhere(snapshot: &Snapshot, host: &str) -> bool {
    let namespace = crate::model::mesh::istio::service_of_host(host).map(|(namespace, _)| namespace);
    namespace.is_some_and(|namespace| {
        snapshot.knows_kind("Namespace") && snapshot.object("Namespace", "", &namespace).is_none()
    })
}

/// The Gateway itself and the ListenerSets that it takes.
fn parts<'a>(snapshot: &'a Snapshot, gateway: &'a Gateway) -> Vec<&'a Object> {
    let mut out: Vec<&Object> = vec![&gateway.object];
    out.extend(
        listener_sets::of(snapshot, gateway)
            .into_iter()
            .filter(|set| listener_sets::refused(snapshot, gateway, set).is_none()),
    );
    out
}

/// Adds the port to the Service.
fn add_port(snapshot: &Snapshot, host: &str, port: i64) -> Option<Remedy> {
    let (namespace, name) = crate::model::mesh::istio::service_of_host(host)?;
    let service = snapshot.service(&ServiceName::new(namespace, name))?;
    let names: BTreeSet<&str> = service.ports.iter().map(|p| p.name.as_str()).collect();
    let fresh = format!("port-{port}");
    let value: Value = json!({"name": fresh, "port": port, "targetPort": port});
    (!names.contains(fresh.as_str())).then(|| {
        Remedy::patch(
            &service.object,
            &json!([{"op": "add", "path": format!("{}/-", pointer("spec.ports")), "value": value}]),
            format!("Add port {port} to {}", service.reference()),
        )
    })?
}
