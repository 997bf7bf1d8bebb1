//! Sidecar.

use crate::model::json::Value;
use std::collections::{BTreeMap, BTreeSet};

use super::words::{
    DOMAIN, Protocol, alpha_selector, full_name, host_name, is_address, is_label, items, port, port_name,
    protocol, protocol_of_port, set, shown, socket, warn_unlabelled, word,
};
use super::{By, Faults, Fix, destination_rule, gateway, virtual_service};
use crate::model::fields::Fields;

const HOST: &str = "namespace/name, where the namespace can be `.`, `*` or `~`";
const ENDPOINT: &str = "127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or unix://PATH";
const ONCE: &str = "each port once";

pub(super) fn check(out: &mut Faults, namespace: &str, spec: &Value) {
    if !alpha_selector(out, spec) {
        return;
    }
    if spec.list("egress").is_empty()
        && spec.list("ingress").is_empty()
        && !set(spec, "outboundTrafficPolicy")
        && !set(spec, "inboundConnectionPool")
    {
        out.error("spec", "a Sidecar says nothing", "egress, ingress or outboundTrafficPolicy");
        return;
    }
    warn_unlabelled(out, spec);
    let mut seen = BTreeSet::new();
    for (path, listener) in items(spec, "ingress", "spec") {
        ingress(out, listener, &path, &mut seen);
    }
    if let Some(pool) = spec.at("inboundConnectionPool").filter(|pool| pool.is_object()) {
        destination_rule::pools(out, pool, "spec.inboundConnectionPool");
    }
    egress(out, namespace, spec);
    if let Some(policy) = spec.at("outboundTrafficPolicy").filter(|policy| policy.is_object()) {
        outbound(out, policy);
    }
}

fn ingress(out: &mut Faults, listener: &Value, path: &str, seen: &mut BTreeSet<i64>) {
    let Some(own) = listener.at("port").filter(|port| port.is_object()) else {
        out.error(format!("{path}.port"), "a listener has no port", "number and protocol");
        return;
    };
    let at = format!("{path}.port");
    target_port(out, own, &at);
    let (number, speaks) = (own.int("number").unwrap_or(0), word(own, "protocol"));
    name_and_protocol(out, own, &at);
    port(out, format!("{at}.number"), number);
    bind(out, listener, path);
    if !seen.insert(number) {
        out.error(format!("{at}.number"), "two listeners have the same port", ONCE);
    }
    default_endpoint(out, word(listener, "defaultEndpoint"), format!("{path}.defaultEndpoint"));
    if let Some(tls) = listener.at("tls").filter(|tls| tls.is_object()) {
        tls_of(out, tls, &format!("{path}.tls"), speaks);
    }
    if let Some(pool) = listener.at("connectionPool").filter(|pool| pool.is_object()) {
        let at = format!("{path}.connectionPool");
        destination_rule::pools(out, pool, &at);
        if set(pool, "http") && protocol(speaks) != Protocol::Http {
            let name = shown(word(own, "name"));
            let what =
                format!("limits of HTTP are at port {number} (\"{name}\"), which is {}", shown(speaks));
            out.warn(format!("{at}.http"), what, "limits of TCP, or a port of HTTP");
        }
    }
}

fn target_port(out: &mut Faults, port: &Value, path: &str) {
    if port.int("targetPort").unwrap_or(0) > 0 {
        out.error(format!("{path}.targetPort"), "a Sidecar has a targetPort", "a port without targetPort")
            .fix(Fix::Remove);
    }
}

fn name_and_protocol(out: &mut Faults, port: &Value, path: &str) {
    let name = word(port, "name");
    if !name.is_empty() {
        port_name(out, format!("{path}.name"), name);
    }
    protocol_of_port(out, format!("{path}.protocol"), word(port, "protocol"));
}

fn bind(out: &mut Faults, listener: &Value, path: &str) {
    let bind = word(listener, "bind");
    if !bind.is_empty() && !is_address(bind) {
        out.error(format!("{path}.bind"), format!("{} is no address", shown(bind)), "an address of IP");
    }
}

fn default_endpoint(out: &mut Faults, endpoint: &str, path: String) {
    if let Some(place) = endpoint.strip_prefix("unix://") {
        socket(out, &path, place);
        return;
    }
    if endpoint.is_empty() {
        return;
    }
    let (host, number) = match split(endpoint) {
        Some(parts) => parts,
        None => {
            let what = format!("\"{}\" is no address with a port", shown(endpoint));
            out.error(path.clone(), what, ENDPOINT);
            ("", "")
        }
    };
    if !matches!(host, "" | "127.0.0.1" | "0.0.0.0" | "::1" | "::") {
        out.error(path.clone(), "the application is at another address", ENDPOINT);
    }
    match number.parse::<i64>() {
        Ok(number) => port(out, path, number),
        Err(_) => {
            out.error(path, format!("port \"{}\" is no number", shown(number)), ENDPOINT);
        }
    }
}

/// Host and port as Go's `net.SplitHostPort` has them.
fn split(endpoint: &str) -> Option<(&str, &str)> {
    let (host, port) = match endpoint.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']')?;
            (host, behind.strip_prefix(':')?)
        }
        None => endpoint.rsplit_once(':').filter(|(host, _)| !host.contains(':'))?,
    };
    (!host.contains(['[', ']']) && !port.contains([':', '[', ']'])).then_some((host, port))
}

fn tls_of(out: &mut Faults, tls: &Value, path: &str, speaks: &str) {
    let lists = ["subjectAltNames", "credentialNames", "tlsCertificates"];
    let there = |key: &str| {
        if lists.contains(&key) {
            !tls.list(key).is_empty()
        } else {
            !word(tls, key).is_empty() || tls.flag(key)
        }
    };
    for key in ["subjectAltNames", "httpsRedirect", "credentialName", "credentialNames", "tlsCertificates"] {
        if there(key) {
            out.error(
                format!("{path}.{key}"),
                format!("a Sidecar has {key}"),
                "files of certificate and key",
            )
            .fix(Fix::Remove);
        }
    }
    let mode = word(tls, "mode");
    if matches!(mode, "ISTIO_MUTUAL" | "AUTO_PASSTHROUGH") {
        out.error(
            format!("{path}.mode"),
            format!("a Sidecar has mode {mode}"),
            "SIMPLE, MUTUAL or OPTIONAL_MUTUAL",
        );
    }
    if protocol(speaks) != Protocol::Tls {
        out.error(
            path,
            "a port of neither HTTPS nor TLS has TLS settings",
            "TLS settings at ports of HTTPS and TLS",
        );
    }
    gateway::settings(out, tls, path);
}

fn egress(out: &mut Faults, namespace: &str, spec: &Value) {
    let (mut numbers, mut sockets) = (BTreeSet::new(), BTreeSet::new());
    let last = spec.list("egress").len().saturating_sub(1);
    let mut for_all = false;
    for (index, (path, listener)) in items(spec, "egress", "spec").enumerate() {
        match listener.at("port").filter(|port| port.is_object()) {
            None if for_all => {
                out.error(path, "two listeners have no port", "one listener for all other ports");
                continue;
            }
            None if index == last => for_all = true,
            None => {
                out.error(
                    path.clone(),
                    "a listener without a port is not the last",
                    "the listener for all other ports last",
                );
            }
            Some(own) => {
                let at = format!("{path}.port");
                target_port(out, own, &at);
                name_and_protocol(out, own, &at);
                let number = own.int("number").unwrap_or(0);
                let place = word(listener, "bind");
                if number == 0 {
                    match place.strip_prefix("unix://") {
                        Some(place) => socket(out, &format!("{path}.bind"), place),
                        None => {
                            out.error(
                                format!("{path}.bind"),
                                "a listener has neither port nor socket",
                                "a port, or unix://PATH",
                            );
                        }
                    }
                    if !matches!(word(listener, "captureMode"), "" | "DEFAULT" | "NONE") {
                        out.error(
                            format!("{path}.captureMode"),
                            "traffic of a socket is to be captured",
                            "DEFAULT or NONE",
                        );
                    }
                    if !sockets.insert(place) {
                        out.error(
                            format!("{path}.bind"),
                            "two listeners have the same socket",
                            "each socket once",
                        );
                    }
                } else {
                    port(out, format!("{at}.number"), number);
                    bind(out, listener, &path);
                    if !numbers.insert(number) {
                        out.error(format!("{at}.number"), "two listeners have the same port", ONCE);
                    }
                }
            }
        }
        hosts(out, namespace, !set(spec, "workloadSelector"), listener, &path);
    }
}

/// Whether a list has a name, which it then gets, or one of the two is a wildcard for the other.
fn twice<'a>(names: &mut BTreeSet<&'a str>, name: &'a str) -> bool {
    let there = if name == "*" { !names.is_empty() } else { names.contains(name) || names.contains("*") };
    names.insert(name);
    there
}

fn hosts(out: &mut Faults, own: &str, for_all: bool, listener: &Value, path: &str) {
    if listener.list("hosts").is_empty() {
        out.error(format!("{path}.hosts"), "a listener has no hosts", "at least one host");
    }
    let mut seen: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut written: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (path, host) in items(listener, "hosts", path) {
        let host = host.as_str().unwrap_or_default();
        let parts = host.split_once('/');
        if let Some((namespace, name)) = parts.filter(|(namespace, _)| !namespace.starts_with('~')) {
            let again = twice(written.entry(namespace).or_default(), name);
            if twice(seen.entry(if namespace == "." { own } else { namespace }).or_default(), name) {
                out.warn(path.clone(), format!("{} is there twice", shown(host)), "each host once");
                // For the pods of every namespace, as in the mesh's default, `.` is the namespace of each.
                if !again && for_all {
                    out.by(By::Istioctl);
                }
            }
        }
        let Some((namespace, name)) = parts else {
            out.error(path, "a host has no namespace", HOST);
            continue;
        };
        if namespace.is_empty() || name.is_empty() {
            out.error(path.clone(), "a host has an empty part", HOST);
        }
        let plain = namespace.strip_prefix('~').unwrap_or(namespace);
        if !matches!(plain, "" | "*" | ".") && !is_label(plain) {
            out.error(path.clone(), format!("a host has \"{}\" for a namespace", shown(namespace)), HOST);
        }
        host_name(out, path, name, false);
    }
    if seen.get("*").is_some_and(|names| names.contains("*")) && seen.len() != 1 {
        out.warn(format!("{path}.hosts"), "*/* is beside other hosts", "*/* alone");
    }
}

fn outbound(out: &mut Faults, policy: &Value) {
    let mode = word(policy, "mode");
    if mode == "ALLOW_ANY_DYNAMIC_DNS" {
        out.error(
            "spec.outboundTrafficPolicy.mode",
            "a Sidecar has a mode of the mesh",
            "REGISTRY_ONLY or ALLOW_ANY",
        );
        return;
    }
    let Some(proxy) = policy.at("egressProxy").filter(|proxy| proxy.is_object()) else { return };
    let path = "spec.outboundTrafficPolicy.egressProxy";
    // REGISTRY_ONLY is what an empty word means.
    if mode != "ALLOW_ANY" {
        out.error(path, "traffic goes to a proxy where none is let out", "mode ALLOW_ANY");
        return;
    }
    out.unless(format!("{path}.host"), full_name(word(proxy, "host")), DOMAIN);
    if !set(proxy, "port") {
        out.error(format!("{path}.port"), "the proxy has no port", "the port of the proxy");
        return;
    }
    virtual_service::destination(out, proxy, path);
}
