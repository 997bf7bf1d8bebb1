//! Gateway: servers and their TLS.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::words::{
    LABEL, Protocol, host_name, is_address, is_label, items, port, protocol, set, shown, word,
};
use super::{Faults, Fix, words};
use crate::model::fields::Fields;

const ADDRESS: &str = "an address of IP, or a path after unix://";
const ONE_SOURCE: &str = "one source of certificates";

/// Ciphers that Istio passes on to Envoy: those of BoringSSL without pre-shared keys.
const CIPHERS: &[&str] = &[
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];

pub(super) fn check(out: &mut Faults, name: &str, spec: &Value) {
    if !is_label(name) {
        out.error("metadata.name", "the name of a Gateway is no DNS label", LABEL);
    }
    if spec.list("servers").is_empty() {
        out.error("spec.servers", "a Gateway has no servers", "at least one server");
    }
    for (path, one) in items(spec, "servers", "spec") {
        server(out, one, &path);
    }
    let mut names = BTreeSet::new();
    for (path, server) in items(spec, "servers", "spec").filter(|(_, server)| set(server, "port")) {
        let name = word(server, "port.name");
        if !names.insert(name) {
            out.error(
                format!("{path}.port.name"),
                format!("two ports are called \"{}\"", shown(name)),
                "a name for each port",
            );
        }
        if protocol(word(server, "port.protocol")) != Protocol::Http && server.flag("tls.httpsRedirect") {
            out.warn(
                format!("{path}.tls.httpsRedirect"),
                "a redirect to HTTPS is at a port that is not HTTP",
                "httpsRedirect at ports of HTTP",
            )
            .fix(Fix::Remove);
        }
    }
}

fn server(out: &mut Faults, server: &Value, path: &str) {
    if server.list("hosts").is_empty() {
        out.error(format!("{path}.hosts"), "a server has no hosts", "at least one host");
    }
    for (path, name) in items(server, "hosts", path) {
        host(out, path, name.as_str().unwrap_or_default());
    }
    let before = out.0.len();
    ports(out, server, path);
    let known = out.0.len() == before;
    bind(out, server, path);
    let tls = server.at("tls").filter(|tls| tls.is_object());
    let at = format!("{path}.tls");
    if let Some(tls) = tls {
        settings(out, tls, &at);
    }
    let kind = protocol(word(server, "port.protocol"));
    match tls {
        _ if !known => {}
        None if kind == Protocol::Tls => {
            out.error(
                at,
                "a port of HTTPS or TLS has no TLS settings",
                "a mode, and certificates where it takes them",
            );
        }
        Some(tls) if kind == Protocol::Http => {
            let own = ["caCertificates", "privateKey", "serverCertificate"]
                .iter()
                .any(|key| !word(tls, key).is_empty());
            if own || !passes(tls) {
                out.error(
                    at,
                    "a port of plain HTTP has TLS settings",
                    "TLS settings at ports of HTTPS and TLS",
                );
            }
        }
        Some(_) if kind != Protocol::Tls => {
            out.error(
                at,
                "a port of neither HTTPS nor TLS has TLS settings",
                "TLS settings at ports of HTTPS and TLS",
            );
        }
        _ => {}
    }
}

/// The mode of proto's default is the first: PASSTHROUGH.
fn passes(tls: &Value) -> bool {
    matches!(word(tls, "mode"), "" | "PASSTHROUGH" | "AUTO_PASSTHROUGH")
}

fn host(out: &mut Faults, path: String, host: &str) {
    let name = match host.split_once('/') {
        None => host,
        Some((namespace, name)) => {
            if namespace.is_empty() || name.is_empty() {
                out.error(path.clone(), "a host has an empty part", "namespace/name");
            }
            if namespace != "*" && namespace != "." && !is_label(namespace) {
                let what = format!("a host has \"{}\" for a namespace", shown(namespace));
                out.error(path.clone(), what, "the name of a namespace, `.` or `*`");
            }
            name
        }
    };
    host_name(out, path, name, true);
}

fn ports(out: &mut Faults, server: &Value, path: &str) {
    let Some(own) = server.at("port").filter(|port| port.is_object()) else {
        out.error(format!("{path}.port"), "a server has no port", "number, name and protocol");
        return;
    };
    let name = word(own, "protocol");
    if protocol(name) == Protocol::Unknown {
        let what = format!("\"{}\" is no protocol", shown(name));
        out.error(
            format!("{path}.port.protocol"),
            what,
            "HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, MONGO, REDIS, MYSQL, TCP or TLS",
        );
    }
    let number = own.int("number").unwrap_or(0);
    if number > 0 || !word(server, "bind").starts_with("unix://") {
        port(out, format!("{path}.port.number"), number);
    }
    if own.int("targetPort").unwrap_or(0) > 0 {
        out.error(
            format!("{path}.port.targetPort"),
            "a Gateway has a targetPort",
            "a port without targetPort",
        )
        .fix(Fix::Remove);
    }
    if word(own, "name").is_empty() {
        let what = format!("port {number} of \"{}\" has no name", shown(name));
        out.error(format!("{path}.port.name"), what, "a name that no other port of the Gateway has");
    }
}

fn bind(out: &mut Faults, server: &Value, path: &str) {
    let bind = word(server, "bind");
    let path = format!("{path}.bind");
    if let Some(socket) = bind.strip_prefix("unix://") {
        words::socket(out, &path, socket);
        if server.int("port.number").unwrap_or(0) != 0 {
            out.error(path, "a socket has a port", "port number 0 beside unix://");
        }
    } else if !bind.is_empty() && !is_address(bind) {
        out.error(path, format!("{} is no address", shown(bind)), ADDRESS);
    }
}

#[rustfmt::skip]
const WITH_MUTUAL: &[&str] = &["serverCertificate", "privateKey", "caCertificates", "tlsCertificates", "credentialName", "credentialNames"];

/// Whether text or a list is there and not empty.
fn given(value: &Value, key: &str) -> bool {
    !word(value, key).is_empty() || !value.list(key).is_empty()
}

/// The settings of a server's TLS.
pub(super) fn settings(out: &mut Faults, tls: &Value, path: &str) {
    if matches!(word(tls, "minProtocolVersion"), "TLSV1_0" | "TLSV1_1") && tls.list("cipherSuites").is_empty()
    {
        out.warn(
            format!("{path}.minProtocolVersion"),
            "TLS below 1.2 has no ciphers",
            "ciphers of old versions beside an old version",
        );
    }
    ciphers(out, tls, path);
    let mode = word(tls, "mode");
    if mode == "ISTIO_MUTUAL" {
        for key in WITH_MUTUAL.iter().filter(|key| given(tls, key)) {
            out.error(
                format!("{path}.{key}"),
                format!("mode ISTIO_MUTUAL has {key}"),
                "the mesh's own certificates",
            )
            .fix(Fix::Remove);
        }
        return;
    }
    if passes(tls) && (given(tls, "caCrl") || WITH_MUTUAL.iter().any(|key| given(tls, key))) {
        out.warn(
            path,
            format!("a mode that passes TLS through has certificates: {}", shown(mode)),
            "no certificates where TLS is passed through",
        );
    }
    let pair = given(tls, "serverCertificate") && given(tls, "privateKey");
    let sources =
        ["credentialName", "credentialNames", "tlsCertificates"].iter().filter(|key| given(tls, key)).count();
    if sources + usize::from(pair) > 1 {
        out.error(path, "certificates come from several sources", ONE_SOURCE);
    }
    let mutual = matches!(mode, "MUTUAL" | "OPTIONAL_MUTUAL");
    let ends = mutual || mode == "SIMPLE";
    if ends && (given(tls, "credentialName") || given(tls, "credentialNames")) {
        return;
    }
    if ends {
        certificates(out, tls, path, mutual);
    }
    if given(tls, "caCrl") {
        if given(tls, "credentialName") {
            out.error(
                format!("{path}.caCrl"),
                "a revocation list is beside credentialName",
                "the list in the Secret itself",
            );
        }
        if mode == "SIMPLE" {
            out.error(
                format!("{path}.caCrl"),
                "a revocation list is in mode SIMPLE",
                "a list where clients show certificates",
            )
            .fix(Fix::Remove);
        }
    }
}

fn ciphers(out: &mut Faults, tls: &Value, path: &str) {
    let (mut unknown, mut twice, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for cipher in tls.list("cipherSuites").iter().filter_map(Value::as_str) {
        let whole = cipher.chars().next().is_some_and(char::is_alphanumeric) && cipher != "ALL";
        if whole && !CIPHERS.contains(&cipher) {
            unknown.insert(shown(cipher));
        } else if !seen.insert(cipher) {
            twice.insert(shown(cipher));
        }
    }
    for (list, words) in [(unknown, "does not know"), (twice, "has already")] {
        if !list.is_empty() {
            let list = list.into_iter().collect::<Vec<_>>().join(", ");
            out.warn(
                format!("{path}.cipherSuites"),
                format!("Istio leaves out ciphers that it {words}: {list}"),
                "names of ciphers as BoringSSL has them, each once",
            );
        }
    }
}

fn certificates(out: &mut Faults, tls: &Value, path: &str, mutual: bool) {
    let mode = if mutual { "mutual" } else { "simple" };
    if mutual && !given(tls, "caCertificates") {
        out.error(
            format!("{path}.caCertificates"),
            "mutual TLS has no authority for clients",
            "credentialName, or files of all three",
        );
    }
    if tls.list("tlsCertificates").len() > 2 {
        out.warn(
            format!("{path}.tlsCertificates"),
            format!("{mode} TLS has more than 2 certificates"),
            "one of RSA and one of ECDSA",
        );
    }
    let several: Vec<(String, &Value)> = items(tls, "tlsCertificates", path).collect();
    let all = if several.is_empty() { vec![(path.to_owned(), tls)] } else { several };
    for (path, pair) in all {
        for (key, words) in [("serverCertificate", "certificate"), ("privateKey", "private key")] {
            if !given(pair, key) {
                out.error(
                    format!("{path}.{key}"),
                    format!("{mode} TLS has no {words}"),
                    "credentialName, or files of certificate and key",
                );
            }
        }
    }
}
