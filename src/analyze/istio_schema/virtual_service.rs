//! VirtualService: hosts, gateways, and routes of TLS and TCP.

use crate::model::json::Value;

use super::Faults;
use super::destination_rule::subset_name;
use super::http_route;
use super::words::{
    DOMAIN, LABEL, block, domain, export_to, full_name, is_address, is_label, items, labels, port, shown,
    word,
};
use crate::model::fields::Fields;

/// The name by which all sidecars are meant among gateways.
const MESH: &str = "mesh";

pub(super) fn check(out: &mut Faults, namespace: &str, spec: &Value) {
    let delegate = spec.list("hosts").is_empty();
    if delegate {
        for key in ["gateways", "tls", "tcp"] {
            if !spec.list(key).is_empty() {
                out.error(
                    format!("spec.{key}"),
                    format!("a VirtualService without hosts has {key}"),
                    "hosts, or only HTTP for others to delegate to",
                );
            }
        }
    }
    gateways(out, spec, "spec");
    let entries = spec.list("gateways");
    let at_gateways = !entries.is_empty() && !entries.iter().any(|gateway| gateway.as_str() == Some(MESH));
    if !at_gateways {
        for (path, route) in items(spec, "http", "spec") {
            for (path, one) in items(route, "match", &path) {
                for key in ["headers", "withoutHeaders"] {
                    for name in
                        one.map(key).into_iter().flatten().map(|(name, _)| name).filter(|name| is_claim(name))
                    {
                        let what = format!("requests inside the mesh are routed by claim {}", shown(name));
                        out.error(format!("{path}.{key}"), what, "claims of tokens only at gateways");
                    }
                }
            }
        }
    }
    hosts(out, spec, at_gateways);
    if ["http", "tls", "tcp"].iter().all(|key| spec.list(key).is_empty()) {
        out.error("spec", "a VirtualService has no routes", "http, tls or tcp");
    }
    for (path, route) in items(spec, "http", "spec") {
        http_route::check(out, route, delegate, &path);
    }
    for (path, route) in items(spec, "tls", "spec") {
        if route.list("match").is_empty() {
            out.error(format!("{path}.match"), "a route of TLS has no match", "a match with sniHosts");
        }
        for (path, one) in items(route, "match", &path) {
            if one.list("sniHosts").is_empty() {
                out.error(format!("{path}.sniHosts"), "a match of TLS has no names", "at least one name");
            }
            for (path, name) in items(one, "sniHosts", &path) {
                server_name(
                    out,
                    path,
                    name.as_str().unwrap_or_default(),
                    spec,
                    !entries.iter().any(|gateway| gateway.as_str() == Some(MESH)),
                );
            }
            connection(out, one, &path);
        }
        targets(out, route, &path, "TLS");
    }
    for (path, route) in items(spec, "tcp", "spec") {
        let before = out.0.len();
        for (path, one) in items(route, "match", &path) {
            connection(out, one, &path);
        }
        out.forget_warnings(before);
        targets(out, route, &path, "TCP");
    }
    export_to(out, namespace, spec, false);
}

/// Whether a header's name is a claim of a token.
pub(super) fn is_claim(name: &str) -> bool {
    let prefix = "@request.auth.claims";
    let Some((start, rest)) = name.split_at_checked(prefix.len()) else { return false };
    let square = rest.len() > 2 && rest.starts_with('[') && rest.ends_with(']');
    start.eq_ignore_ascii_case(prefix) && (rest.len() > 1 && rest.starts_with('.') || square)
}

/// Names of gateways. After one without a namespace Istio looks no further.
pub(super) fn gateways(out: &mut Faults, value: &Value, base: &str) {
    for (path, name) in items(value, "gateways", base) {
        let name = name.as_str().unwrap_or_default();
        let Some((namespace, own)) = name.split_once('/') else {
            if name.contains('.') {
                out.warn(
                    path.clone(),
                    format!("gateway {} is named as a host", shown(name)),
                    "namespace/name",
                );
            }
            out.unless(path, full_name(name), "namespace/name, or a name");
            return;
        };
        if namespace.is_empty() || own.is_empty() {
            out.error(path.clone(), "the name of a gateway has an empty part", "namespace/name");
        }
        for (what, part) in [("namespace", namespace), ("name", own)] {
            if !is_label(part) {
                out.error(path.clone(), format!("the {what} of a gateway is \"{}\"", shown(part)), LABEL);
            }
        }
    }
}

fn hosts(out: &mut Faults, spec: &Value, at_gateways: bool) {
    let names = routed_names(spec);
    let mut good = true;
    for (path, host) in items(spec, "hosts", "spec") {
        let host = host.as_str().unwrap_or_default();
        let wrong = if at_gateways { at_gateway(names, host) } else { domain(host) };
        if wrong.is_some() && !is_address(host) {
            good = false;
            out.unless(path, wrong, DOMAIN);
        } else if wrong.is_none() && !at_gateways && host == "*" {
            good = false;
            out.error(
                path,
                "inside the mesh a VirtualService is for all hosts",
                "names, or * only at gateways",
            );
        }
    }
    let all: Vec<&str> = spec.list("hosts").iter().filter_map(Value::as_str).collect();
    for (at, one) in all.iter().enumerate().filter(|_| good) {
        for (later, other) in all.iter().enumerate().skip(at + 1).filter(|(_, other)| overlap(one, other)) {
            let what = format!("hosts {} and {} overlap", shown(one), shown(other));
            out.error(format!("spec.hosts[{later}]"), what, "hosts of which none holds another");
        }
    }
}

/// Whether TLS is routed by names of servers.
fn routed_names(spec: &Value) -> bool {
    spec.list("tls").iter().flat_map(|route| route.list("match")).any(|one| !one.list("sniHosts").is_empty())
}

/// What is wrong with a host at a gateway. Names that Istio made for clusters (`outbound_.80_._.host`) are those of TLS.
fn at_gateway(tls: bool, host: &str) -> Option<String> {
    if host.is_empty() || host.len() > 255 || !tls || !host.starts_with("outbound_") {
        return domain(host);
    }
    let mut parts = host.split('_').skip(1);
    let (port, name) = (parts.next().unwrap_or_default(), parts.nth(1));
    let good = port.contains(|c: char| c.is_ascii_digit())
        && name.is_some_and(|name| name.contains(|c: char| c.is_ascii_alphabetic()));
    (!good).then(|| format!("host name {} is no name of a cluster", shown(host)))
}

fn tail(name: &str) -> Option<&str> {
    name.strip_prefix('*')
}

fn overlap(one: &str, other: &str) -> bool {
    match (tail(one), tail(other)) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(a), None) => other.ends_with(a),
        (None, Some(b)) => one.ends_with(b),
        (None, None) => one == other,
    }
}

fn within(name: &str, host: &str) -> bool {
    match (tail(name), tail(host)) {
        (Some(a), Some(b)) => name.len() >= host.len() && a.ends_with(b),
        (Some(_), None) => false,
        (None, Some(b)) => name.ends_with(b),
        (None, None) => name == host,
    }
}

fn server_name(out: &mut Faults, path: String, name: &str, spec: &Value, at_gateways: bool) {
    if let Some(wrong) = if at_gateways { at_gateway(true, name) } else { domain(name) } {
        if is_address(name) {
            out.warn(
                path,
                format!("{} stands for a name of TLS", shown(name)),
                "a name: clients send no addresses",
            );
        } else {
            out.error(path, wrong, DOMAIN);
        }
    } else if !spec.list("hosts").iter().filter_map(Value::as_str).any(|host| within(name, host)) {
        out.error(path, format!("{} is none of the hosts", shown(name)), "a name within one of spec.hosts");
    }
}

/// What matches of TLS and of TCP have in common.
fn connection(out: &mut Faults, one: &Value, path: &str) {
    for (path, subnet) in items(one, "destinationSubnets", path) {
        block(out, path, subnet.as_str().unwrap_or_default());
    }
    if let Some(number) = one.int("port").filter(|number| *number != 0) {
        port(out, format!("{path}.port"), number);
    }
    labels(out, one, "sourceLabels", path);
    gateways(out, one, path);
}

fn targets(out: &mut Faults, route: &Value, path: &str, of: &str) {
    if route.list("route").is_empty() {
        out.error(
            format!("{path}.route"),
            format!("a route of {of} leads nowhere"),
            "at least one destination",
        );
    }
    weighted(out, route, path, |_, _, _| {});
}

/// Destinations with their weights. `more` is what a kind of route has besides.
pub(super) fn weighted(
    out: &mut Faults,
    route: &Value,
    path: &str,
    more: impl Fn(&mut Faults, &Value, &str),
) {
    let mut sum = 0;
    for (path, one) in items(route, "route", path) {
        let to = one.at("destination").filter(|to| to.is_object());
        if to.is_none() {
            out.error(format!("{path}.destination"), "a route has no destination", "destination.host");
        }
        more(out, one, &path);
        if let Some(to) = to {
            destination(out, to, &format!("{path}.destination"));
        }
        let weight = one.int("weight").unwrap_or(0);
        if weight < 0 {
            out.error(format!("{path}.weight"), format!("weight {weight} is negative"), "0 or more");
        }
        sum += weight;
    }
    if route.list("route").len() > 1 && sum == 0 {
        out.error(format!("{path}.route"), "weights make 0", "weights of which one is above 0");
    }
}

/// Where requests go.
pub(super) fn destination(out: &mut Faults, destination: &Value, path: &str) {
    if !destination.is_object() {
        return;
    }
    match word(destination, "host") {
        "*" => {
            out.error(format!("{path}.host"), "a destination is *", "the name of a host");
        }
        host => {
            if let Some(wrong) = domain(host) {
                out.error(format!("{path}.host"), wrong, DOMAIN);
            }
        }
    }
    let subset = word(destination, "subset");
    if !subset.is_empty() {
        subset_name(out, format!("{path}.subset"), subset);
    }
    if let Some(own) = destination.at("port").filter(|port| port.is_object()) {
        port(out, format!("{path}.port.number"), own.int("number").unwrap_or(0));
    }
}
