//! Hosts from Services and ServiceEntries.

use super::{Host, HostPort, Origin, Resolution};
use crate::analyze::twin::address::Block;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{ServiceEntry, full_host};
use crate::model::network::{Protocol, Service, TargetPort};
use crate::model::snapshot::Snapshot;

/// The annotation that limits who sees a Service.
const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// All hosts, in no order.
pub(super) fn hosts(snapshot: &Snapshot) -> Vec<Host<'_>> {
    let services = snapshot.services.iter().map(of_service);
    let default = &snapshot.istio.mesh_config;
    let mut out: Vec<Host<'_>> =
        services.chain(snapshot.istio.service_entries.iter().flat_map(of_entry)).collect();
    for host in &mut out {
        if host.export_to.is_empty() {
            host.export_to = default.texts("defaultServiceExportTo");
        }
    }
    out
}

fn of_service(service: &Service) -> Host<'_> {
    let ports = service.ports.iter().filter_map(|port| {
        Some(HostPort {
            name: port.name.clone(),
            number: u16::try_from(port.number).ok()?,
            protocol: port.protocol(),
            target: port.target.clone(),
        })
    });
    let resolution = match service.kind.as_str() {
        "ExternalName" => Resolution::Alias,
        _ if service.headless() => Resolution::Original,
        _ => Resolution::Registry,
    };
    let export_to = service.object.annotations.get(EXPORT_TO).unwrap_or_default();
    Host {
        name: full_host(service.object.name(), service.object.namespace()),
        namespace: service.object.namespace(),
        origin: Origin::Service(service),
        ports: ports.collect(),
        addresses: service.cluster_ips.iter().filter_map(|ip| Block::parse(ip)).collect(),
        allocated: None,
        placeholder: None,
        resolution,
        external: resolution == Resolution::Alias,
        export_to: export_to
            .split(',')
            .map(str::trim)
            .filter(|to| !to.is_empty())
            .map(str::to_owned)
            .collect(),
    }
}

fn of_entry(entry: &ServiceEntry) -> Vec<Host<'_>> {
    let body = &entry.object.body;
    let ports: Vec<HostPort> = body
        .list("spec.ports")
        .iter()
        .filter_map(|port| {
            let number = u16::try_from(port.int("number")?).ok()?;
            Some(HostPort {
                name: port.string("name"),
                number,
                protocol: declared(port.text("protocol").unwrap_or_default()),
                target: TargetPort::Number(
                    port.int("targetPort").filter(|p| *p > 0).unwrap_or(i64::from(number)),
                ),
            })
        })
        .collect();
    let endpoints = !body.list("spec.endpoints").is_empty() || body.at("spec.workloadSelector").is_some();
    let resolution = match body.text("spec.resolution").unwrap_or("NONE") {
        "STATIC" => Resolution::Registry,
        "DNS" | "DNS_ROUND_ROBIN" => Resolution::Dns,
        "DYNAMIC_DNS" => Resolution::DynamicDns,
        _ => Resolution::Original,
    };
    let addresses: Vec<Block> =
        body.texts("spec.addresses").iter().filter_map(|text| Block::parse(text)).collect();
    let mut out = vec![];
    for name in &entry.hosts {
        // What the control plane wrote down as allocated for this host.
        let allocated = body.list("status.addresses").iter().find_map(|given| {
            let own = given.text("host").is_none_or(|host| host == name);
            own.then(|| given.text("value")?.parse().ok()).flatten()
        });
        let host = Host {
            name: name.clone(),
            namespace: entry.object.namespace(),
            origin: Origin::Entry(entry),
            ports: ports.clone(),
            addresses: vec![],
            allocated: if addresses.is_empty() { allocated } else { None },
            placeholder: None,
            // Without endpoints of its own a DNS entry for a pattern cannot be looked up.
            resolution: if resolution == Resolution::Dns && name.starts_with('*') && !endpoints {
                Resolution::Original
            } else {
                resolution
            },
            external: body.text("spec.location") != Some("MESH_INTERNAL"),
            export_to: entry.export_to.clone(),
        };
        if addresses.is_empty() {
            out.push(host);
        } else {
            // One listener stands for each address.
            out.extend(addresses.iter().map(|address| Host { addresses: vec![*address], ..host.clone() }));
        }
    }
    out
}

/// The protocol that Istio's own objects declare; nothing, or a word that it does not know, is looked up in the first bytes.
pub fn declared(word: &str) -> Protocol {
    match word.to_ascii_uppercase().as_str() {
        "HTTP" => Protocol::Http,
        "HTTP2" => Protocol::Http2,
        "GRPC" | "GRPC-WEB" | "GRPC_WEB" => Protocol::Grpc,
        "HTTPS" | "TLS" => Protocol::Tls,
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "MONGO" | "MYSQL" | "REDIS" => Protocol::OtherTcp,
        _ => Protocol::Unknown,
    }
}
