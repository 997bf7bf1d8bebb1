//! LINKERD103.

use crate::model::json::json;
use std::collections::BTreeMap;

use super::lines::{Call, calls};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, Risk, pointer_segment};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::istio::support::{Said, since};
use crate::analyze::traffic::text;
use crate::model::network::{Service, ServiceName};
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Linkerd's proxy waits ten seconds for the first bytes of a protocol in which the server speaks first.
    ///
    /// ## What it detects
    /// `protocol detection timed out` in logs of Linkerd's proxies, on a port of a Service that is not marked opaque.
    /// ## Why it matters
    /// Each new connection to a database, mail or message server stands still for ten seconds before it is passed on, and clients
    /// with a shorter time-out never connect.
    /// ## Evidence
    /// The lines with their port, and the annotation of the Service.
    /// ## How to confirm
    /// The first answer on a new connection takes ten seconds, those that follow do not.
    /// ## How to fix
    /// Name the port in `config.linkerd.io/opaque-ports` of the Service and of the pods behind it.
    /// ## False positives
    /// Connections that clients open in advance and do not use yet time out alike: a few lines say nothing.
    /// ## References
    /// <https://linkerd.io/2-edge/features/protocol-detection/>
    ProtocolNotDetected {
        code: "LINKERD103", name: "linkerd-protocol-not-detected", family: Mesh, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Fewer lines are connections that were opened in advance.
const FEW: u64 = 3;
const OPAQUE: &str = "config.linkerd.io/opaque-ports";

/// A port whose protocol is waited for.
#[derive(Debug)]
pub struct Fact<'a> {
    service: &'a Service,
    port: i64,
    said: Said,
    workload: ObjectRef,
}

impl Check for ProtocolNotDetected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut found: BTreeMap<(ObjectRef, i64), (Said, ObjectRef)> = BTreeMap::new();
        for Call { workload, pod, service, at, line, outbound } in
            calls(snapshot, &["rotocol detection timed out"])
        {
            let Some(port) = port(line) else { continue };
            let known = match service.filter(|_| outbound) {
                Some(name) => snapshot.service(&name),
                None => snapshot.workload(&workload).and_then(|own| {
                    let mut before = snapshot.services_before(own);
                    before.find(|s| s.ports.iter().any(|p| leads(snapshot, s, p.number, port)))
                }),
            };
            let Some(known) = known else { continue };
            let Some(own) =
                known.ports.iter().find(|p| p.number == port || leads(snapshot, known, p.number, port))
            else {
                continue;
            };
            let (said, _) = found
                .entry((known.reference().clone(), own.number))
                .or_insert_with(|| (Said::default(), workload));
            said.add(pod, at, line);
        }
        let facts = found.into_iter().filter(|(_, (said, _))| said.count >= FEW);
        facts
            .filter_map(|((reference, port), (said, workload))| {
                let name = ServiceName::new(&reference.namespace, &reference.name);
                let service = snapshot.service(&name)?;
                let marked = service.object.annotations.get(OPAQUE).is_some_and(|list| covers(list, port));
                (!marked).then_some(Fact { service, port, said, workload })
            })
            .collect()
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.service.reference().field(format!("metadata.annotations[{OPAQUE}]"));
        Finding::new(Self::META, subject.clone(), &[&fact.port.to_string()])
            .title(format!("Linkerd waits 10 s for the protocol of {name} port {}, which is not marked opaque", fact.port))
            .message(format!(
                "Proxies logged {} times{} that they could not tell the protocol of connections to {name} port {}: there the server speaks first, and the proxy waits ten seconds for the client. {OPAQUE} does not name the port.",
                text::number(fact.said.count),
                since(fact.said.first),
                fact.port
            ))
            .mechanism("protocol detection timeout: server-first protocol, port not opaque")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(Some(name.clone()))
            .onset(fact.said.first)
            .evidence(Evidence::object(&subject, format!("port {} is not named", fact.port)))
            .evidence(fact.said.evidence(format!("linkerd-proxy of {}", fact.workload)))
            .effect(Effect::requests(&name, &["slow", "timeout", "UT", "5xx"]))
            .maybe_remedy(mark(fact))
            .prevention(Prevention::alert(
                "Alert when protocols are not detected",
                "sum by (namespace, pod) (rate(inbound_tcp_errors_total{error=\"tls detection timeout\"}[5m])) > 0",
            ))
            .prevention(Prevention::of("Setting", "Opaque ports for every server that speaks first: MySQL, SMTP, NATS and their like"))
    }
}

/// Whether a Service's port leads to this port of its pods.
fn leads(snapshot: &Snapshot, service: &Service, number: i64, port: i64) -> bool {
    let Some(own) = service.port(number) else { return false };
    let pod = snapshot.pods_behind(service).next();
    pod.and_then(|pod| service.pod_port(own, pod)) == Some(port)
}

/// The port that a line is about: `server{port=3306}`, `port=3306`, or the end of `server.addr=10.0.0.7:3306`.
fn port(line: &str) -> Option<i64> {
    let digits = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest.get(..end)?.parse::<u16>().ok().map(i64::from)
    };
    let after = |key: &str| line.split_once(key).and_then(|(_, rest)| digits(rest));
    after("port=").or_else(|| {
        let (_, rest) = line.split_once("server.addr=").or_else(|| line.split_once("addr="))?;
        let address = rest.split([' ', '}', ',']).next()?;
        digits(address.rsplit_once(':')?.1)
    })
}

/// Whether a list of ports and ranges (`25,3306,4000-4100`) holds a port.
fn covers(list: &str, port: i64) -> bool {
    list.split(',').map(str::trim).any(|part| match part.split_once('-') {
        Some((from, to)) => {
            from.parse::<i64>().is_ok_and(|from| from <= port) && to.parse::<i64>().is_ok_and(|to| port <= to)
        }
        None => part.parse() == Ok(port),
    })
}

/// Names the port.
fn mark(fact: &Fact<'_>) -> Option<Remedy> {
    let object = &fact.service.object;
    let before = object.annotations.get(OPAQUE);
    let value = before.map_or_else(|| fact.port.to_string(), |list| format!("{list},{}", fact.port));
    let path = format!("/metadata/annotations/{}", pointer_segment(OPAQUE));
    let operations = if object.body.pointer("/metadata/annotations").is_some() {
        json!([{"op": "add", "path": path, "value": value}])
    } else {
        json!([{"op": "add", "path": "/metadata/annotations", "value": {OPAQUE: value}}])
    };
    let remedy = Remedy::patch(
        object,
        &operations,
        format!(
            "Mark port {} of {} opaque ({OPAQUE}); the pods behind it need the same annotation",
            fact.port, object.reference
        ),
    )?;
    Some(remedy.risk(Risk::Medium))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_lines_and_lists() {
        assert_eq!(port("inbound:server{port=3306}: protocol detection timed out after 10s"), Some(3306));
        assert_eq!(
            port("outbound:accept{client.addr=10.0.0.1:5 server.addr=10.9.0.2:3306}: timed out"),
            Some(3306)
        );
        assert_eq!(port("nothing"), None);
        assert!(covers("25, 3000-4000", 3306) && !covers("25,3307", 3306) && !covers("", 1));
    }
}
