//! Deployments behind several Services at once, and applications that run as the proxy's user.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::context::{Context, DEPLOYMENT, POD, SERVICE, covers, full_name, is_control_plane};
use super::message::Messages;
use crate::model::fields::Fields;
use crate::model::object::Object;
use crate::model::selector::Labels;

/// IST0116 and IST0137.
pub(super) fn services(context: &Context<'_>, out: &mut Messages) {
    let mut beside: BTreeMap<&str, Vec<(&Object, Labels)>> = BTreeMap::new();
    for service in context.all(SERVICE) {
        let selector = service.body.text_map("spec.selector");
        if !selector.is_empty() {
            beside.entry(service.namespace()).or_default().push((service, selector));
        }
    }
    for deployment in context.all(DEPLOYMENT) {
        let managed = deployment.labels.get("gateway.istio.io/managed");
        let waypoint = managed.is_some_and(|controller| controller == "istio.io-mesh-controller");
        if waypoint || !context.deployment_in_mesh(deployment) {
            continue;
        }
        let labels = deployment.body.text_map("spec.template.metadata.labels");
        let in_front: Vec<&Object> = beside
            .get(deployment.namespace())
            .into_iter()
            .flatten()
            .filter(|(_, selector)| covers(selector, &labels))
            .map(|(service, _)| *service)
            .collect();
        protocols(deployment, &in_front, out);
        target_ports(deployment, &in_front, out);
    }
}

/// One port number, several transport protocols.
fn protocols(deployment: &Object, services: &[&Object], out: &mut Messages) {
    let mut ports: BTreeMap<i64, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
    for service in services {
        for port in service.body.list("spec.ports") {
            let protocol = port.text("protocol").filter(|text| !text.is_empty()).unwrap_or("TCP");
            let known = ports.entry(port.int("port").unwrap_or_default()).or_default();
            known.entry(protocol).or_default().push(full_name(service));
        }
    }
    for (port, protocols) in ports.into_iter().filter(|(_, protocols)| protocols.len() > 1) {
        let names: Vec<String> = protocols.into_values().flatten().collect();
        let text = format!("Services {} use port {port} with different protocols", sorted(names));
        out.push("IST0116", deployment, "metadata.name", text);
    }
}

/// One target port behind several ports.
fn target_ports(deployment: &Object, services: &[&Object], out: &mut Messages) {
    let mut targets: BTreeMap<String, BTreeMap<i64, String>> = BTreeMap::new();
    for service in services {
        for entry in service.body.list("spec.ports") {
            let port = entry.int("port").unwrap_or_default();
            let target = match entry.at("targetPort") {
                Some(Value::String(name)) => name.to_string(),
                Some(number) => number.to_string(),
                None => String::new(),
            };
            let target = if target.is_empty() || target == "0" { port.to_string() } else { target };
            targets.entry(target).or_default().insert(port, full_name(service));
        }
    }
    for (target, ports) in targets.into_iter().filter(|(_, ports)| ports.len() > 1) {
        let numbers: Vec<i64> = ports.keys().copied().collect();
        let names = sorted(ports.into_values().collect());
        let text = format!("Services {names} lead to target port {target} from different ports {numbers:?}");
        out.push("IST0137", deployment, "metadata.name", text);
    }
}

fn sorted(mut names: Vec<String>) -> String {
    names.sort();
    names.join(", ")
}

/// The user that redirection lets through without the proxy.
const PROXY_USER: i64 = 1337;

/// IST0144.
pub(super) fn user(context: &Context<'_>, out: &mut Messages) {
    for (kind, spec_at) in [(POD, "spec"), (DEPLOYMENT, "spec.template.spec")] {
        for object in context.all(kind).filter(|object| !is_control_plane(object)) {
            let Some(spec) = object.body.at(spec_at) else { continue };
            let runs_as_proxy = |value: &Value| value.int("securityContext.runAsUser") == Some(PROXY_USER);
            let in_containers = spec.list("containers").iter().any(|container| {
                !matches!(container.text("name"), Some("istio-proxy" | "istio-operator"))
                    && runs_as_proxy(container)
            });
            // Said once, however many containers do it.
            if in_containers || runs_as_proxy(spec) {
                out.push(
                    "IST0144",
                    object,
                    "",
                    "user 1337 is the proxy's own: what runs as it is not redirected",
                );
            }
        }
    }
}
