//! ISTIO107.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen;
use crate::model::fields::Fields;
use crate::model::json::json;
use crate::model::mesh::istio::{Gateway, VirtualService};
use crate::model::network::{ServiceName, TargetPort};
use crate::model::selector::Labels;
use crate::model::snapshot::Snapshot;
use crate::model::workload::PodTemplate;

crate::rule! {
    /// An Istio Gateway that no gateway pod serves, or that listens on a port which its Service does not offer.
    ///
    /// ## What it detects
    /// A Gateway whose selector matches no pod and no pod template, and a server whose port is neither a port nor a target
    /// port of any Service in front of the pods that it selects.
    /// ## Why it matters
    /// Without pods nothing listens for the Gateway's hosts. With a port that no Service offers the proxy listens, and nobody
    /// outside reaches it.
    /// ## Evidence
    /// The selector against the labels of gateway pods; the server's port against the Services' ports.
    /// ## How to confirm
    /// `kubectl get pods -A -l SELECTOR` and `kubectl get services -A` for what stands in front of them.
    /// ## How to fix
    /// Write the labels that the gateway pods carry; add the port to the gateway's Service.
    /// ## False positives
    /// Gateway pods of a namespace that was not read: without any pod or workload of the Gateway's or the root namespace, or
    /// where listing pods was refused, nothing is reported.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/gateway/>
    GatewaySelectsNothing {
        code: "ISTIO107", name: "gateway-selects-nothing", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0101", "IST0162", "KIA0302"],
    }
}

/// What is wrong.
#[derive(Debug)]
enum Wrong<'a> {
    /// No pod carries the selector's labels; a gateway's pods carry these.
    Nobody(Option<&'a Labels>),
    /// A server's port that no Service offers: its place, the port, the ports that are offered.
    Port(String, i64, BTreeSet<i64>),
}

/// A Gateway that nobody reaches.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    wrong: Wrong<'a>,
    routed: BTreeSet<ServiceName>,
}

impl Check for GatewaySelectsNothing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        let pods = snapshot.pods.iter().map(|p| (p.object.namespace(), &p.template));
        let workloads = snapshot.workloads.iter().map(|w| (w.object.namespace(), &w.template));
        let templates: Vec<(&str, &PodTemplate)> = pods.chain(workloads).collect();
        let places: BTreeSet<&str> = templates.iter().map(|(namespace, _)| *namespace).collect();
        let near = LazyCell::new(|| templates.iter().find(|(_, t)| is_gateway(t)).map(|(_, t)| &t.labels));
        let routed = LazyCell::new(|| Routed::new(snapshot));
        // Most gateways select the same few pods.
        let mut carried: BTreeMap<&Labels, bool> = BTreeMap::new();
        for gateway in &snapshot.istio.gateways {
            let namespace = gateway.object.namespace();
            // Gateways that a controller makes belong to the object that it made them from.
            if !seen::configured(namespace)
                || gateway.selector.is_empty()
                || !gateway.object.owners.is_empty()
            {
                continue;
            }
            let carries = |labels: &Labels| gateway.selector.iter().all(|(k, v)| labels.get(k) == Some(v));
            let selects = || templates.iter().any(|(_, t)| carries(&t.labels));
            if !*carried.entry(&gateway.selector).or_insert_with(selects) {
                let read =
                    places.contains(namespace) || places.contains(snapshot.istio.root_namespace.as_str());
                let known = read && !hosts::unread(snapshot, "list pods");
                if known {
                    out.push(Fact { gateway, wrong: Wrong::Nobody(*near), routed: routed.at(gateway) });
                }
                continue;
            }
            let services = hosts::gateway_services(snapshot, gateway);
            let offered: BTreeSet<i64> = services
                .iter()
                .filter_map(|name| snapshot.service(name))
                .flat_map(|s| &s.ports)
                .flat_map(|p| match p.target {
                    TargetPort::Number(target) => vec![p.number, target],
                    TargetPort::Name(_) => vec![p.number],
                })
                .collect();
            if offered.is_empty() {
                continue;
            }
            for server in gateway.servers.iter().filter(|s| s.port != 0 && !offered.contains(&s.port)) {
                let wrong = Wrong::Port(format!("{}.port.number", server.path), server.port, offered.clone());
                out.push(Fact { gateway, wrong, routed: routed.at(gateway) });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let reference = &fact.gateway.object.reference;
        let selector = words(&fact.gateway.selector);
        let (subject, title, message, fix) = match &fact.wrong {
            Wrong::Nobody(near) => (
                reference.field("spec.selector"),
                format!("{reference} selects {selector}, and no pod carries it"),
                format!(
                    "The selector {selector} of {reference} matches no pod: no proxy listens for its {} servers.",
                    fact.gateway.servers.len()
                ),
                reselect(fact.gateway, *near),
            ),
            Wrong::Port(path, port, offered) => {
                let listed = offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                (
                    reference.field(path),
                    format!("{reference} listens on port {port}, which no Service of its gateway offers"),
                    format!(
                        "{path} is {port}; the Services in front of the pods with {selector} have {listed}. Nobody outside the pods reaches that port."
                    ),
                    port_before(fact.gateway, path).or_else(|| usual_port(fact.gateway, path, offered)),
                )
            }
        };
        // Whether anybody calls it is not seen by the proxies that are missing.
        let nobody_reaches = match &fact.wrong {
            Wrong::Nobody(near) => near.is_some(),
            // With a server that is reached, what is bound to the Gateway has another way in.
            Wrong::Port(_, _, offered) => fact.gateway.servers.iter().all(|s| !offered.contains(&s.port)),
        };
        let severity = if nobody_reaches && snapshot.runs() && !fact.routed.is_empty() {
            Severity::Error
        } else {
            Severity::Warning
        };
        Finding::new(Self::META, subject.clone(), &[])
            .title(title)
            .message(message.clone())
            .mechanism("gateway selects no workload, or its port is not on the gateway's Service")
            .severity(severity)
            .role(Role::Cause, Confidence::Configured)
            .service(fact.routed.first().cloned())
            .evidence(Evidence::object(&subject, message))
            .effects(fact.routed.iter().map(|s| Effect::requests(s, &["refused", "timeout", "404", "NR"])))
            .maybe_remedy(fix)
            .prevention(Prevention::of("Test", "In the pipeline: every Gateway selects pods, and its ports are on their Service (meshscope analyze on the manifests)"))
    }
}

fn words(labels: &Labels) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// Whether pods run a proxy of their own and no application: a gateway.
fn is_gateway(template: &PodTemplate) -> bool {
    template
        .containers
        .iter()
        .any(|c| c.name == "istio-proxy" && c.body.texts("args").iter().any(|a| a == "router"))
}

/// VirtualServices by namespace and name of the gateways that they are bound to.
struct Routed<'a> {
    snapshot: &'a Snapshot,
    bound: BTreeMap<(&'a str, &'a str), Vec<&'a VirtualService>>,
}

impl<'a> Routed<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let mut bound: BTreeMap<(&str, &str), Vec<&VirtualService>> = BTreeMap::new();
        for vs in &snapshot.istio.virtual_services {
            for name in &vs.gateways {
                bound.entry(hosts::gateway_name(name, vs.object.namespace())).or_default().push(vs);
            }
        }
        Routed { snapshot, bound }
    }

    /// Services that VirtualServices at this Gateway send requests to.
    fn at(&self, gateway: &Gateway) -> BTreeSet<ServiceName> {
        let bound = self.bound.get(&(gateway.object.namespace(), gateway.object.name()));
        bound.into_iter().flatten().filter_map(|vs| hosts::service_of(self.snapshot, vs)).collect()
    }
}

/// Select what the gateway's pods carry, by the same keys.
fn reselect(gateway: &Gateway, near: Option<&Labels>) -> Option<Remedy> {
    let before = applied(&gateway.object, "spec.selector").filter(|old| *old != json!(gateway.selector));
    let operations = match (before, near) {
        (Some(before), _) => json!([{"op": "replace", "path": "/spec/selector", "value": before}]),
        (None, Some(labels)) => {
            let wrong: Vec<_> = gateway.selector.iter().filter(|(k, v)| labels.get(k) != Some(*v)).collect();
            let steps: Option<Vec<_>> = wrong
                .iter()
                .map(|(key, _)| {
                    let value = labels.get(key)?;
                    Some(json!({"op": "replace", "path": format!("/spec/selector/{}", pointer_segment(key)), "value": value}))
                })
                .collect();
            json!(steps?)
        }
        (None, None) => return None,
    };
    Remedy::patch(
        &gateway.object,
        &operations,
        format!("Correct the selector of {}", gateway.object.reference),
    )
}

fn port_before(gateway: &Gateway, path: &str) -> Option<Remedy> {
    let at = pointer(path);
    let before =
        applied(&gateway.object, path).filter(|old| gateway.object.body.pointer(&at) != Some(old))?;
    Remedy::patch(
        &gateway.object,
        &json!([{"op": "replace", "path": at, "value": before}]),
        format!("Set the port of {} back to {before}", gateway.object.reference),
    )
}

/// The port that clients of the server's protocol use by themselves, where it is offered.
fn usual_port(gateway: &Gateway, path: &str, offered: &BTreeSet<i64>) -> Option<Remedy> {
    let server = gateway.servers.iter().find(|server| path.starts_with(&server.path))?;
    let usual = match server.protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" => 80,
        "HTTPS" | "TLS" => 443,
        _ => return None,
    };
    if !offered.contains(&usual) || gateway.servers.iter().any(|server| server.port == usual) {
        return None;
    }
    Remedy::patch(
        &gateway.object,
        &json!([{"op": "replace", "path": pointer(path), "value": usual}]),
        format!(
            "Set the port of {} to {usual}, which its Service offers for {}",
            gateway.object.reference, server.protocol
        ),
    )
}
