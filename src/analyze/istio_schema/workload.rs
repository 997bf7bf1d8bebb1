//! WorkloadEntry, WorkloadGroup and the endpoints of a ServiceEntry.

use crate::model::json::Value;
use std::collections::BTreeSet;

use super::Faults;
use super::words::{full_name, is_address, items, labels, port, port_name, set, shown, socket, word};
use crate::model::fields::Fields;

const ADDRESS: &str = "an address of IP, a whole name, or a path after unix://";

/// An endpoint with its address, ports and labels; `names` are the ports of the ServiceEntry with resolution STATIC that has it.
pub(super) fn entry(out: &mut Faults, entry: &Value, path: &str, names: Option<&BTreeSet<&str>>) {
    let address = word(entry, "address");
    let at = format!("{path}.address");
    if address.is_empty() {
        if word(entry, "network").is_empty() {
            out.error(at, "there is no address", ADDRESS);
            return;
        }
        let what = format!("network {} has no address", shown(word(entry, "network")));
        out.warn(at.clone(), what, ADDRESS);
    }
    let unix = address.strip_prefix("unix://");
    if let Some(place) = unix {
        socket(out, &at, place);
        if entry.map("ports").is_some_and(|ports| !ports.is_empty()) {
            let what = format!("the socket {} has ports", shown(address));
            out.error(format!("{path}.ports"), what, "no ports beside a socket");
        }
    } else if !address.is_empty() && !is_address(address) && (names.is_some() || full_name(address).is_some())
    {
        out.error(at.clone(), format!("\"{}\" is no address", shown(address)), ADDRESS);
    }
    ports(out, entry, path, names);
    labels(out, entry, "labels", path);
    if unix.is_some() && names.is_some_and(|names| names.len() != 1) {
        out.error(at, "a socket serves several ports", "one port beside a socket");
    }
}

/// The ports of an endpoint by their names, of which a ServiceEntry has to know each.
pub(super) fn ports(out: &mut Faults, endpoint: &Value, path: &str, names: Option<&BTreeSet<&str>>) {
    for (name, number) in endpoint.map("ports").into_iter().flatten() {
        let number = number.as_i64().unwrap_or(0);
        let at = format!("{path}.ports[{}]", shown(name));
        if names.is_some_and(|names| !names.contains(name.as_str())) {
            out.error(
                at.clone(),
                format!("port {number} of an endpoint is none of the entry's"),
                "names of the entry's ports",
            );
        }
        port_name(out, at.clone(), name);
        port(out, at, number);
    }
}

/// A WorkloadGroup.
pub(super) fn group(out: &mut Faults, spec: &Value) {
    if !set(spec, "template") {
        out.error("spec.template", "there is no template", "a template for WorkloadEntries");
        return;
    }
    let mut own = Faults::default();
    if let Some(metadata) = spec.at("metadata") {
        labels(&mut own, metadata, "labels", "spec.metadata");
    }
    // All that is wrong with the labels is one statement, and the last.
    if let Some(first) = own.0.into_iter().next() {
        out.0.push(first);
        return;
    }
    if let Some(probe) = spec.at("probe").filter(|probe| probe.is_object()) {
        probe_of(out, probe);
    }
}

fn probe_of(out: &mut Faults, probe: &Value) {
    for key in
        ["periodSeconds", "initialDelaySeconds", "timeoutSeconds", "successThreshold", "failureThreshold"]
    {
        if probe.int(key).is_some_and(|figure| figure < 0) {
            out.error(format!("spec.probe.{key}"), format!("{key} is negative"), "0 or more");
        }
    }
    let ask = |kind: &str| probe.at(kind).filter(|body| body.is_object());
    if let Some(http) = ask("httpGet") {
        port(out, "spec.probe.httpGet.port".to_owned(), http.int("port").unwrap_or(0));
        if !matches!(word(http, "scheme"), "" | "HTTP" | "HTTPS") {
            out.error("spec.probe.httpGet.scheme", "the scheme of a probe is another", "HTTP or HTTPS");
        }
        for (path, header) in items(http, "httpHeaders", "spec.probe.httpGet") {
            let name = word(header, "name");
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                let what = format!("\"{}\" is no name of a header", shown(name));
                out.error(format!("{path}.name"), what, "letters, digits and hyphens");
            }
        }
    } else if let Some(tcp) = ask("tcpSocket") {
        port(out, "spec.probe.tcpSocket.port".to_owned(), tcp.int("port").unwrap_or(0));
    } else if let Some(exec) = ask("exec") {
        if exec.list("command").is_empty() {
            out.error("spec.probe.exec.command", "there is no command", "a command");
        }
    } else {
        out.error("spec.probe", "the probe does nothing", "httpGet, tcpSocket or exec");
    }
}
