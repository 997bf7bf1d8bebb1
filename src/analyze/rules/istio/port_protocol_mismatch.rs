//! ISTIO111.

use crate::model::json::json;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::hosts;
use crate::analyze::rules::near::applied;
use crate::analyze::rules::seen::{self, Seen};
use crate::model::mesh::istio::VirtualService;
use crate::model::network::{Protocol, Service, ServicePort};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{EdgeTraffic, Outcome, Reporter};

crate::rule! {
    /// The name of a Service's port says another protocol than its servers speak.
    ///
    /// ## What it detects
    /// A port that is declared as TCP (`tcp-…`, `appProtocol: tcp`) while HTTP routes exist for its Service or HTTP requests
    /// to it leave the mesh's routing; a port declared as gRPC or HTTP/2 whose server answers in HTTP/1; a port declared as HTTP
    /// on which proxies cannot read a single request; and ports whose name names no protocol at all, for information.
    /// ## Why it matters
    /// The protocol decides how the proxies handle the port. An HTTP service declared as TCP loses its routes, retries and
    /// identity: requests pass through in plaintext and are cut by `STRICT` peers. A server spoken to in the wrong version of
    /// HTTP answers with a protocol error (`UPE`). Bytes of another protocol on an HTTP port are answered with `400` by the proxy.
    /// ## Evidence
    /// The port's name and `appProtocol`, HTTP routes for the Service, requests on `PassthroughCluster`, connections that the
    /// server's proxy cut, `UPE` with `protocol_error`, `DPE` with `http1.codec_error` for all requests of a port.
    /// ## How to confirm
    /// `istioctl proxy-config listeners POD --port PORT` shows whether a TCP or an HTTP filter handles the port.
    /// ## How to fix
    /// Name the port after its protocol (`http`, `grpc-…`, `tcp-…`) or set `appProtocol`.
    /// ## False positives
    /// A port without a recognised name works by detection for most protocols: that is information only. A client that sends
    /// rubbish to a port on which others are answered is that client's fault.
    /// ## References
    /// <https://istio.io/latest/docs/ops/configuration/traffic-management/protocol-selection/>
    PortProtocolMismatch {
        code: "ISTIO111", name: "port-protocol-mismatch", family: Mesh, severity: Error,
        needs: [Objects, Istio], aliases: ["IST0118", "KIA0601", "KIA0602"],
    }
}

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch {
    /// Declared as TCP; HTTP is spoken.
    HttpAsTcp,
    /// Declared as gRPC or HTTP/2; HTTP/1 is spoken.
    Http1AsHttp2,
    /// Declared as HTTP; something else is spoken.
    TcpAsHttp,
    /// Nothing is declared.
    Undeclared,
}

/// A port whose name does not fit.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
    mismatch: Mismatch,
    routed_by: Option<&'a VirtualService>,
    seen: Seen,
}

impl Check for PortProtocolMismatch {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for service in &snapshot.services {
            if !seen::wanted(snapshot, service.object.namespace())
                || service.object.labels.contains_key("istio")
            {
                continue;
            }
            for (index, port) in service.ports.iter().enumerate().filter(|(_, p)| p.transport == "TCP") {
                out.extend(mismatch(snapshot, service, index, port));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let service = fact.service.reference();
        let explicit = !fact.port.app_protocol.is_empty();
        let path = format!("spec.ports[{}].{}", fact.index, if explicit { "appProtocol" } else { "name" });
        let written = if explicit { &fact.port.app_protocol } else { &fact.port.name };
        let observed = fact.seen.any();
        let number = fact.port.number;
        let (title, message, severity, role, confidence, flags): (
            String,
            String,
            Severity,
            Role,
            Confidence,
            &[&str],
        ) = match fact.mismatch {
            Mismatch::HttpAsTcp => (
                format!(
                    "{service} port {number} is declared as TCP (\"{written}\"), and its clients speak HTTP"
                ),
                format!(
                    "Port {number} of {service} is called \"{written}\", so proxies treat it as bytes: HTTP routes for it do not apply and requests leave without the mesh's identity.{}",
                    if observed {
                        format!(" {} requests and connections were cut because of it.", fact.seen.count)
                    } else {
                        String::new()
                    }
                ),
                if observed { Severity::Error } else { Severity::Warning },
                Role::Cause,
                if observed { Confidence::Observed } else { Confidence::Configured },
                &["UC", "NR", "reset", "tls", "5xx"],
            ),
            Mismatch::Http1AsHttp2 => (
                format!("{service} port {number} is declared as \"{written}\", and its server speaks HTTP/1"),
                format!(
                    "Proxies speak HTTP/2 to port {number} of {service} because it is called \"{written}\"; the server answered {} times with something that is none (UPE protocol_error).",
                    fact.seen.count
                ),
                Severity::Error,
                Role::Cause,
                Confidence::Observed,
                &["UPE", "5xx"],
            ),
            Mismatch::TcpAsHttp => (
                format!(
                    "{service} port {number} is declared as HTTP (\"{written}\"), and its clients speak something else"
                ),
                format!(
                    "Port {number} of {service} is called \"{written}\", so proxies read HTTP there. Not one of {} requests could be read; the proxy answered them with 400 in the place of the server (DPE codec_error).",
                    fact.seen.count
                ),
                Severity::Error,
                Role::Cause,
                Confidence::Observed,
                &["DPE", "400", "4xx", "reset", "5xx"],
            ),
            Mismatch::Undeclared => (
                format!("{service} port {number} names no protocol: its name is \"{}\"", fact.port.name),
                format!(
                    "Without a protocol in its name or appProtocol, proxies look at the first bytes of each connection to port {number}. Protocols in which the server speaks first are not recognised that way."
                ),
                Severity::Info,
                Role::Context,
                Confidence::Configured,
                &[],
            ),
        };
        let mut finding = Finding::new(Self::META, service.field(&path), &[&fact.port.name, &number.to_string()])
            .title(title)
            .message(message)
            .mechanism("port name and protocol disagree: protocol selection by port name (tcp, http, grpc)")
            .severity(severity)
            .role(role, confidence)
            .service(Some(name.clone()))
            .evidence(Evidence::object(&service.field(&path), format!("port {number} is declared as \"{written}\"")))
            .evidences(fact.routed_by.map(|vs| Evidence::object(&vs.reference().field("spec.http"), "holds HTTP routes for this Service")))
            .evidences(fact.seen.evidence.clone())
            .onset(fact.seen.onset)
            .prevention(Prevention::of("Test", "In the pipeline: every port of a Service in the mesh is named after its protocol (meshscope analyze on the manifests)"));
        if role == Role::Cause {
            finding = finding.effect(Effect::requests(&name, flags)).prevention(Prevention::alert(
                "Alert on HTTP services that are only seen as TCP",
                format!("sum(rate(istio_tcp_connections_opened_total{{destination_service_name=\"{}\"}}[5m])) > 0", name.name),
            ));
        }
        finding.maybe_remedy(rename(fact, &path))
    }
}

fn mismatch<'a>(
    snapshot: &'a Snapshot,
    service: &'a Service,
    index: usize,
    port: &'a ServicePort,
) -> Option<Fact<'a>> {
    let fact = |mismatch, routed_by, seen| Some(Fact { service, index, port, mismatch, routed_by, seen });
    let name = service.service_name();
    match port.protocol() {
        Protocol::Unknown => fact(Mismatch::Undeclared, None, Seen::default()),
        Protocol::Grpc | Protocol::Http2 => {
            let errors = snapshot.traffic.iter().filter(|e| e.service.as_ref() == Some(&name));
            let seen = seen::outcomes(errors, |e, o| {
                let here = e.cluster.port == Some(port.number) || e.reporter == Reporter::Destination;
                o.has_flag("UPE") && o.details.contains("protocol_error") && here
            });
            if seen.any() { fact(Mismatch::Http1AsHttp2, None, seen) } else { None }
        }
        Protocol::Tcp => {
            let full = hosts::host_of(&name);
            let routed_by = snapshot.istio.virtual_services_for(&full).find(|vs| {
                vs.hosts.iter().any(|h| !h.contains('*')) && vs.routes.iter().any(|r| r.protocol == "http")
            });
            let was_http = applied(&service.object, &format!("spec.ports[{index}].name"))
                .and_then(|old| old.as_str().map(|old| Protocol::of("", old, "TCP").is_http()))
                .unwrap_or(false);
            // HTTP requests for this Service that a proxy did not know as such.
            let passed = seen::outcomes(snapshot.traffic_to(&name, Reporter::Source), |e, o| {
                o.failed && !o.connection && e.cluster.raw == "PassthroughCluster"
            });
            let behind = snapshot.graph.backing.get(&name);
            let cut = snapshot.traffic.iter().filter(|e| {
                e.reporter == Reporter::Destination && behind.is_some_and(|w| w.contains(&e.workload))
            });
            let seen = if passed.any() {
                passed.and(seen::outcomes(cut, |_, o| o.details.contains("filter_chain_not_found")))
            } else {
                passed
            };
            // Another port of the Service that is HTTP is the one that the routes are for.
            let only = service.ports.iter().filter(|p| p.protocol().is_http()).count() == 0;
            let suspicious = (routed_by.is_some() && only) || was_http;
            if seen.any() || suspicious { fact(Mismatch::HttpAsTcp, routed_by, seen) } else { None }
        }
        Protocol::Http => {
            let own = snapshot.traffic.iter().filter(|e| e.service.as_ref() == Some(&name));
            let here: Vec<_> =
                own.filter(|e| e.cluster.port == Some(port.number) || service.ports.len() == 1).collect();
            let unread =
                |_: &EdgeTraffic, o: &Outcome| o.has_flag("DPE") && o.details.contains("codec_error");
            let seen = seen::outcomes(here.iter().copied(), unread);
            let read = here.iter().flat_map(|e| &e.outcomes).any(|o| !o.connection && !o.has_flag("DPE"));
            if seen.any() && !read { fact(Mismatch::TcpAsHttp, None, seen) } else { None }
        }
        _ => None,
    }
}

/// The name before the last edit, or one that names the protocol.
fn rename(fact: &Fact<'_>, path: &str) -> Option<Remedy> {
    if fact.mismatch == Mismatch::Undeclared {
        return None;
    }
    let wanted = |text: &str| match fact.mismatch {
        Mismatch::HttpAsTcp => Protocol::of("", text, "TCP").is_http(),
        Mismatch::TcpAsHttp => !Protocol::of("", text, "TCP").is_http(),
        _ => Protocol::of("", text, "TCP") == Protocol::Http,
    };
    let before = applied(&fact.service.object, path)
        .and_then(|old| old.as_str().map(str::to_owned))
        .filter(|old| wanted(old));
    let taken = |name: &str| fact.service.ports.iter().any(|p| p.name == name);
    let rest = fact.port.name.split_once('-').map(|(_, rest)| rest.to_owned());
    let protocol = if fact.mismatch == Mismatch::TcpAsHttp { "tcp" } else { "http" };
    let fresh = match rest {
        _ if path.ends_with("appProtocol") => protocol.to_owned(),
        Some(rest) if taken(protocol) => format!("{protocol}-{rest}"),
        _ if taken(protocol) => format!("{protocol}-{}", fact.port.number),
        _ => protocol.to_owned(),
    };
    let value = before.unwrap_or(fresh);
    let op = if fact.service.object.body.pointer(&pointer(path)).is_some() { "replace" } else { "add" };
    let field = path.rsplit('.').next().unwrap_or(path);
    Remedy::patch(
        &fact.service.object,
        &json!([{"op": op, "path": pointer(path), "value": value}]),
        format!(
            "Set the port's {field} to \"{value}\", so that proxies treat it as {}",
            protocol.to_uppercase()
        ),
    )
}
