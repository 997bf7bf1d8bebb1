//! ServiceEntry.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::words::{
    DOMAIN, Protocol, WHOLE_LABEL, alpha_selector, block, domain, export_to_with_nobody, full_name,
    is_address, items, labels, part_wildcard, port, port_name, protocol, protocol_of_port, set, shown,
    warn_unlabelled, word,
};
use super::{By, Faults, Fix, workload};
use crate::model::fields::Fields;
use crate::model::object::Object;

const RESOLVABLE: &str = "whole names, or endpoints with addresses";

pub(super) fn check(out: &mut Faults, object: &Object, spec: &Value) {
    if !alpha_selector(out, spec) {
        return;
    }
    warn_unlabelled(out, spec);
    if set(spec, "workloadSelector") && !spec.list("endpoints").is_empty() {
        out.error("spec.endpoints", "endpoints are selected and listed", "workloadSelector or endpoints");
    }
    let resolution = match word(spec, "resolution") {
        "" => "NONE",
        other => other,
    };
    hosts(out, spec, resolution);
    let mut blocks = false;
    for (path, address) in items(spec, "addresses", "spec") {
        let address = address.as_str().unwrap_or_default();
        blocks |= address.contains('/');
        block(out, path, address);
    }
    if blocks && !matches!(resolution, "NONE" | "STATIC") {
        out.error(
            "spec.addresses",
            "blocks of addresses are to be resolved by DNS",
            "blocks with resolution NONE or STATIC",
        );
    }
    let names = ports(out, object, spec, resolution);
    match resolution {
        "NONE" => {
            if !spec.list("endpoints").is_empty() {
                out.error("spec.endpoints", "resolution NONE has endpoints", "resolution STATIC or DNS");
            }
            if set(spec, "workloadSelector") {
                out.warn("spec.workloadSelector", "resolution NONE has a selector", "resolution STATIC");
            }
        }
        "STATIC" => {
            for (path, endpoint) in items(spec, "endpoints", "spec") {
                workload::entry(out, endpoint, &path, Some(&names));
            }
        }
        "DNS" | "DNS_ROUND_ROBIN" => by_dns(out, spec, resolution, &names),
        "DYNAMIC_DNS" => dynamic(out, object, spec),
        _ => {}
    }
    if resolution != "NONE" && spec.list("hosts").len() > 1 {
        let bytes = |(path, one): (String, &Value)| {
            matches!(protocol(word(one, "protocol")), Protocol::Other | Protocol::Unknown).then_some(path)
        };
        if let Some(path) = items(spec, "ports", "spec").find_map(bytes) {
            out.error(
                path,
                "several hosts share a port without names in its traffic",
                "one host, or ports of HTTP or TLS",
            );
        }
    }
    export_to_with_nobody(out, object.namespace(), spec);
}

fn hosts(out: &mut Faults, spec: &Value, resolution: &str) {
    if spec.list("hosts").is_empty() {
        out.error("spec.hosts", "there is no host", "at least one host");
    }
    for (path, host) in items(spec, "hosts", "spec") {
        let host = host.as_str().unwrap_or_default();
        if host == "*" {
            out.error(path, "a host is *", "a name, or a wildcard with a domain");
            continue;
        }
        out.unless(path.clone(), domain(host), DOMAIN);
        if resolution != "DYNAMIC_DNS"
            && let Some(what) = part_wildcard(host)
        {
            out.warn(path, what, WHOLE_LABEL);
        }
    }
}

/// The names of the ports.
fn ports<'a>(out: &mut Faults, object: &Object, spec: &'a Value, resolution: &str) -> BTreeSet<&'a str> {
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    // Addresses are given out to entries that have none, but for those without resolution.
    let off = object.labels.get("networking.istio.io/enable-autoallocate-ip");
    let given_out = resolution != "NONE" && !off.is_some_and(|off| off.eq_ignore_ascii_case("false"));
    for (path, one) in items(spec, "ports", "spec") {
        let (name, number, speaks) =
            (word(one, "name"), one.int("number").unwrap_or(0), word(one, "protocol"));
        if !names.insert(name) {
            out.error(
                format!("{path}.name"),
                format!("two ports are called \"{}\"", shown(name)),
                "a name for each port",
            );
        }
        if !numbers.insert(number) {
            out.error(format!("{path}.number"), format!("port {number} is there twice"), "each port once");
        }
        let target = one.int("targetPort").unwrap_or(0);
        if target != 0 {
            port(out, format!("{path}.targetPort"), target);
        }
        if spec.list("addresses").is_empty() && !given_out && matches!(speaks, "" | "TCP") {
            out.warn(
                "spec.addresses",
                "a port of TCP has no addresses",
                "addresses, by which such traffic is known",
            );
            if resolution != "NONE" {
                out.by(By::Meshscope);
            }
        }
        port_name(out, format!("{path}.name"), name);
        protocol_of_port(out, format!("{path}.protocol"), speaks);
        port(out, format!("{path}.number"), number);
    }
    names
}

fn by_dns(out: &mut Faults, spec: &Value, resolution: &str, names: &BTreeSet<&str>) {
    let endpoints = spec.list("endpoints");
    if endpoints.is_empty() {
        let wrong =
            |(path, host): (String, &Value)| Some((path, full_name(host.as_str().unwrap_or_default())?));
        if let Some((path, what)) = items(spec, "hosts", "spec").find_map(wrong) {
            out.error(path, format!("resolution {resolution} without endpoints: {what}"), RESOLVABLE);
        }
    }
    if resolution == "DNS_ROUND_ROBIN" && endpoints.len() > 1 {
        out.error(
            "spec.endpoints",
            "resolution DNS_ROUND_ROBIN has several endpoints",
            "one endpoint, or none",
        );
    }
    for (path, endpoint) in items(spec, "endpoints", "spec") {
        let address = word(endpoint, "address");
        if !is_address(address) && full_name(address).is_some() {
            let what = format!("\"{}\" is neither an address nor a name", shown(address));
            out.error(format!("{path}.address"), what, RESOLVABLE);
        }
        labels(out, endpoint, "labels", &path);
        workload::ports(out, endpoint, &path, Some(names));
    }
    let streams = |one: &Value| {
        let name = word(one, "protocol");
        protocol(name) == Protocol::Tls
            || protocol(name) == Protocol::Other && !name.eq_ignore_ascii_case("udp")
    };
    if !spec.list("addresses").is_empty()
        && spec.list("hosts").len() > 1
        && spec.list("ports").iter().any(streams)
    {
        out.warn("spec.hosts", "several hosts share addresses and a port of TCP", "an entry for each host");
    }
}

fn dynamic(out: &mut Faults, object: &Object, spec: &Value) {
    if spec.list("hosts").is_empty() {
        out.error("spec.hosts", "resolution DYNAMIC_DNS has no host", "a host with a wildcard");
    }
    let whole = |(path, host): (String, &Value)| {
        let host = host.as_str().unwrap_or_default();
        (!host.starts_with('*')).then_some(path)
    };
    if let Some(path) = items(spec, "hosts", "spec").find_map(whole) {
        out.error(path, "a host of resolution DYNAMIC_DNS has no wildcard", "a host with a wildcard");
    }
    for key in ["addresses", "endpoints"] {
        if !spec.list(key).is_empty() {
            out.error(format!("spec.{key}"), format!("resolution DYNAMIC_DNS has {key}"), "hosts alone")
                .fix(Fix::Remove);
        }
    }
    let speaks = |one: &Value| {
        ["http", "tls", "grpc", "http2"].iter().any(|name| word(one, "protocol").eq_ignore_ascii_case(name))
    };
    if let Some((path, _)) = items(spec, "ports", "spec").find(|(_, one)| !speaks(one)) {
        out.error(
            format!("{path}.protocol"),
            "a port of resolution DYNAMIC_DNS speaks another protocol",
            "HTTP, HTTP2, GRPC or TLS",
        );
    }
    let waypoint = object.labels.get("istio.io/use-waypoint");
    let waypoint = waypoint.is_some_and(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
    if word(spec, "location") == "MESH_INTERNAL" && waypoint {
        out.error(
            "spec.location",
            "resolution DYNAMIC_DNS is inside of the mesh and behind a waypoint",
            "location MESH_EXTERNAL, or no waypoint",
        )
        .by(By::Meshscope);
    }
}
