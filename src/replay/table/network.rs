//! Services and what routes to them.

use crate::model::json::{Value, json};

use super::{Printer, created, labels, name, or_none, selector};
use crate::model::fields::Fields;

pub(super) const SERVICES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Type", "string", 0),
        ("Cluster-IP", "string", 0),
        ("External-IP", "string", 0),
        ("Port(s)", "string", 0),
        ("Age", "string", 0),
        ("Selector", "string", 1),
    ],
    cells: |object, now| {
        vec![
            name(object),
            json!(object.text("spec.type").unwrap_or("ClusterIP")),
            or_none(object.text("spec.clusterIP").unwrap_or_default()),
            json!(external(object)),
            json!(service_ports(object)),
            created(object, now),
            labels(object, "spec.selector"),
        ]
    },
};

fn external(service: &Value) -> String {
    let own = service.texts("spec.externalIPs").join(",");
    match service.text("spec.type").unwrap_or("ClusterIP") {
        "ExternalName" => service.string("spec.externalName"),
        "LoadBalancer" => {
            let mut addresses = load_balancer(service);
            addresses.extend(service.texts("spec.externalIPs"));
            if addresses.is_empty() { "<pending>".to_owned() } else { addresses.join(",") }
        }
        _ if own.is_empty() => "<none>".to_owned(),
        _ => own,
    }
}

fn load_balancer(object: &Value) -> Vec<String> {
    let ingress = object.list("status.loadBalancer.ingress").iter();
    let address = |entry: &Value| entry.text("ip").or(entry.text("hostname")).map(str::to_owned);
    ingress.filter_map(address).collect()
}

fn service_ports(service: &Value) -> String {
    let ports: Vec<String> = service
        .list("spec.ports")
        .iter()
        .map(|port| {
            let (number, protocol) =
                (port.int("port").unwrap_or_default(), port.text("protocol").unwrap_or("TCP"));
            match port.int("nodePort").unwrap_or_default() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") }
}

/// The first three, and how many more there are.
fn some(all: &[String]) -> String {
    match all {
        [] => "<none>".to_owned(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        all => all.join(","),
    }
}

pub(super) const ENDPOINTS: Printer = Printer {
    columns: &[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)],
    cells: |object, now| {
        let mut all = vec![];
        for subset in object.list("subsets") {
            for address in subset.list("addresses").iter().map(|address| address.string("ip")) {
                let ports = subset.list("ports");
                if ports.is_empty() {
                    all.push(address.clone());
                }
                all.extend(
                    ports.iter().map(|port| format!("{address}:{}", port.int("port").unwrap_or_default())),
                );
            }
        }
        vec![name(object), json!(some(&all)), created(object, now)]
    },
};

pub(super) const ENDPOINT_SLICES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("AddressType", "string", 0),
        ("Ports", "string", 0),
        ("Endpoints", "string", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now| {
        let ports: Vec<String> = object
            .list("ports")
            .iter()
            .map(|p| p.int("port").map_or("*".to_owned(), |n| n.to_string()))
            .collect();
        let addresses: Vec<String> =
            object.list("endpoints").iter().flat_map(|endpoint| endpoint.texts("addresses")).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { some(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { some(&addresses) };
        vec![
            name(object),
            json!(object.string("addressType")),
            json!(ports),
            json!(addresses),
            created(object, now),
        ]
    },
};

pub(super) const INGRESSES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Class", "string", 0),
        ("Hosts", "string", 0),
        ("Address", "string", 0),
        ("Ports", "string", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now| {
        let hosts: Vec<String> = object
            .list("spec.rules")
            .iter()
            .filter_map(|rule| rule.text("host").filter(|host| !host.is_empty()))
            .map(str::to_owned)
            .collect();
        let hosts = if hosts.is_empty() { "*".to_owned() } else { some(&hosts) };
        let ports = if object.list("spec.tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(object),
            or_none(object.text("spec.ingressClassName").unwrap_or_default()),
            json!(hosts),
            json!(load_balancer(object).join(",")),
            json!(ports),
            created(object, now),
        ]
    },
};

pub(super) const INGRESS_CLASSES: Printer = Printer {
    columns: &[
        ("Name", "string", 0),
        ("Controller", "string", 0),
        ("Parameters", "string", 0),
        ("Age", "string", 0),
    ],
    cells: |object, now| {
        let parameters = object.at("spec.parameters").map_or("<none>".to_owned(), |parameters| {
            let kind = match parameters.text("apiGroup") {
                Some(group) => format!("{}.{group}", parameters.string("kind")),
                None => parameters.string("kind"),
            };
            format!("{kind}/{}", parameters.string("name"))
        });
        vec![name(object), json!(object.string("spec.controller")), json!(parameters), created(object, now)]
    },
};

pub(super) const NETWORK_POLICIES: Printer = Printer {
    columns: &[("Name", "string", 0), ("Pod-Selector", "string", 0), ("Age", "string", 0)],
    cells: |object, now| vec![name(object), selector(object, "spec.podSelector"), created(object, now)],
};
