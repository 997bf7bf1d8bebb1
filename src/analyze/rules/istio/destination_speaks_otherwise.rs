//! ISTIO170.

use super::support::{parts, since, take_out_policy, traffic_policy};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::{ClusterName, Reporter};

crate::rule! {
    /// A DestinationRule makes callers' proxies begin connections in a way that the callee does not understand.
    ///
    /// ## What it detects
    /// Requests that fail at the callee's first bytes while the DestinationRule that counts for them sets `h2UpgradePolicy: UPGRADE`
    /// (`UPE protocol_error`: the server speaks HTTP/1 alone) or `proxyProtocol` (the header of the PROXY protocol comes before the
    /// handshake, which then fails).
    /// ## Why it matters
    /// The pods are well and other callers get through; each request of these callers fails, whatever it asks for.
    /// ## Evidence
    /// The field of the DestinationRule, and the flag and detail in access logs of callers.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --fqdn HOST -o json` shows `http2ProtocolOptions` or an upstream PROXY protocol transport.
    /// ## How to fix
    /// Take the field out, or have the server speak what it asks for.
    /// ## False positives
    /// A port that is itself named after HTTP/2 or gRPC is another rule's (ISTIO111). A callee without any answer to connections at all
    /// is not looked at.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/>
    DestinationSpeaksOtherwise {
        code: "ISTIO170", name: "destination-speaks-otherwise", family: Mesh, severity: Error,
        needs: [Istio, AccessLogs], aliases: [],
    }
}

/// What callers' proxies begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// HTTP/2 in plaintext, without asking.
    Http2,
    /// The header of the PROXY protocol.
    ProxyProtocol,
}

impl Start {
    const ALL: [Start; 2] = [Start::Http2, Start::ProxyProtocol];

    /// The ways in which a server fails such connections that does not understand them.
    fn fits(self, way: Way) -> bool {
        match self {
            Start::Http2 => way == Way::UpstreamProtocol,
            Start::ProxyProtocol => matches!(
                way,
                Way::TlsToPlaintext | Way::ConnectionFailed | Way::UpstreamClosed | Way::UpstreamProtocol
            ),
        }
    }

    /// Where a rule asks for it, for a cluster.
    fn asked(self, rule: &DestinationRule, cluster: &ClusterName) -> Option<String> {
        match self {
            Start::Http2 => {
                let (path, pool) = traffic_policy(rule, cluster, "connectionPool")?;
                (pool.text("http.h2UpgradePolicy") == Some("UPGRADE"))
                    .then(|| format!("{path}.http.h2UpgradePolicy"))
            }
            Start::ProxyProtocol => traffic_policy(rule, cluster, "proxyProtocol").map(|(path, _)| path),
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Start::Http2 => ("HTTP/2 (h2UpgradePolicy)", "its server speaks HTTP/1 alone"),
            Start::ProxyProtocol => {
                ("the PROXY protocol (proxyProtocol)", "its server does not expect that header")
            }
        }
    }
}

/// A rule that callers follow and the callee does not understand.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    path: String,
    start: Start,
    service: ServiceName,
    seen: Failures,
}

impl Check for DestinationSpeaksOtherwise {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out: Vec<Fact<'a>> = vec![];
        let wanted = |way: Way| Start::ALL.iter().any(|start| start.fits(way));
        for seen in all(snapshot, wanted) {
            if seen.callee.reporter != Reporter::Source || seen.severity().is_none() {
                continue;
            }
            let Some(service) = &seen.callee.service else { continue };
            let host = full_host(&service.name, &service.namespace);
            for part in &seen.parts {
                let cluster = ClusterName::read(&part.cluster);
                let rules = snapshot.istio.destination_rules_for(&host, &part.workload.namespace);
                for (start, rule) in
                    Start::ALL.iter().flat_map(|start| rules.iter().map(move |rule| (*start, *rule)))
                {
                    let Some(path) = start.asked(rule, &cluster).filter(|_| start.fits(seen.way)) else {
                        continue;
                    };
                    let known =
                        |fact: &Fact<'_>| fact.rule.reference() == rule.reference() && fact.start == start;
                    if !out.iter().any(known) {
                        let (service, seen) = (service.clone(), seen.clone());
                        out.push(Fact { rule, path, start, service, seen });
                    }
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let rule: &ObjectRef = fact.rule.reference();
        let subject = rule.field(&fact.path);
        let name = &fact.service.name;
        let (begins, but) = fact.start.words();
        let field = fact.path.rsplit('.').next().unwrap_or_default();
        let value =
            fact.rule.object.body.pointer(&pointer(&fact.path)).map(ToString::to_string).unwrap_or_default();
        Finding::new(Self::META, subject.clone(), &[name])
            .title(format!("{rule} makes callers of {name} speak {begins}, and {but}"))
            .message(format!(
                "{} of {rule} makes callers' proxies begin connections to {name} with {begins}; {but}: {} failed{}.",
                fact.path,
                text::share(fact.seen.count, fact.seen.requests, "requests"),
                since(fact.seen.onset)
            ))
            .mechanism(format!("{field}: callers' proxies speak another protocol than the callee, protocol error"))
            .severity(fact.seen.severity().unwrap_or(Severity::Error))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(fact.service.clone()))
            .onset(fact.seen.onset)
            .evidence(Evidence::object(&subject, format!("{field} {}", text::plain(&value.replace('"', ""), 60))))
            .evidences(parts(&fact.seen))
            .effect(Effect::requests(&fact.service, &["UPE", "UF", "UC", "URX", "tls", "reset", "5xx"]))
            .maybe_remedy(take_out_policy(
                &fact.rule.object,
                &fact.path,
                format!("Take {field} out of {rule}: callers speak to {name} as its port is declared"),
            ))
            .prevention(Prevention::alert(
                "Alert when callers' proxies cannot speak to a service",
                format!("sum by (source_workload) (rate(istio_requests_total{{reporter=\"source\",response_flags=~\".*(UPE|UF).*\",destination_service_name=\"{}\"}}[1m])) > 0", text::plain(name, 63)),
            ))
            .prevention(Prevention::of("Test", format!("In the pipeline, after a change of {field}: one request through a caller's proxy")))
    }
}
