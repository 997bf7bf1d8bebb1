//! ISTIO130.

use crate::model::json::{Value, json};
use std::collections::BTreeSet;

use super::support::{parts, said, since, take_out_policy};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::fields::Fields;
use crate::model::log::LogStream;
use crate::model::mesh::istio::{DestinationRule, ServiceEntry, host_matches};
use crate::model::object::{Object, ObjectRef};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;
use crate::model::workload::is_proxy_container;

crate::rule! {
    /// An outside host gets TLS twice, or none where it expects it.
    ///
    /// ## What it detects
    /// For the host of a ServiceEntry: a port declared as HTTPS or TLS, which the application encrypts itself, and a
    /// DestinationRule that encrypts it once more; a DestinationRule that encrypts a plaintext port; a port 443 declared as
    /// HTTP that nothing encrypts.
    /// ## Why it matters
    /// The handshake fails on every connection (`WRONG_VERSION_NUMBER`), or the host answers
    /// `400 The plain HTTP request was sent to HTTPS port`.
    /// ## Evidence
    /// Protocol and `targetPort` of the ServiceEntry's port, `tls.mode` of the DestinationRule, failing calls to the host in
    /// access logs of callers or in their own logs.
    /// ## How to confirm
    /// `istioctl proxy-config cluster POD --fqdn HOST -o yaml` shows the transport socket of the cluster.
    /// ## How to fix
    /// Either the application speaks TLS (protocol TLS, no `tls` in the DestinationRule), or the proxy does (protocol HTTP,
    /// `targetPort: 443`, `tls.mode: SIMPLE`).
    /// ## False positives
    /// A host that really speaks TLS inside TLS: a proxy that is called with CONNECT.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/egress/egress-tls-origination/>
    TlsOriginationMismatch {
        code: "ISTIO130", name: "tls-origination-mismatch", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// The application encrypts, and the proxy does so once more.
    Twice,
    /// The proxy encrypts towards a port that speaks plaintext.
    ToPlaintext,
    /// Nobody encrypts towards a port that speaks TLS.
    None,
}

/// A port of an outside host.
#[derive(Debug)]
pub struct Fact<'a> {
    wrong: Wrong,
    entry: &'a ServiceEntry,
    host: &'a str,
    port: i64,
    /// The index of the port in the ServiceEntry.
    index: usize,
    protocol: String,
    /// The DestinationRule that encrypts, where, and how.
    rule: Option<(&'a DestinationRule, String, String)>,
    seen: Option<Failures>,
    logged: Vec<Evidence>,
    callers: BTreeSet<ObjectRef>,
}

impl Check for TlsOriginationMismatch {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let mut out = vec![];
        for entry in &snapshot.istio.service_entries {
            let inside = entry.object.body.text("spec.location") == Some("MESH_INTERNAL");
            if inside || !snapshot.in_scope(entry.object.namespace()) {
                continue;
            }
            for host in entry.hosts.iter().filter(|host| !host.contains(".svc")) {
                for (index, body) in entry.object.body.list("spec.ports").iter().enumerate() {
                    out.extend(judge(snapshot, entry, host, index, body));
                }
            }
        }
        if !out.is_empty() {
            observe(snapshot, &mut out);
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, snapshot: &Snapshot) -> Finding {
        let host = text::plain(fact.host, 60);
        let port_ref = fact.entry.object.reference.field(format!("spec.ports[{}]", fact.index));
        let (subject, mechanism, why) = match (&fact.rule, fact.wrong) {
            (Some((rule, path, mode)), Wrong::Twice) => (
                rule.reference().field(path),
                "TLS origination: double TLS (WRONG_VERSION_NUMBER)",
                format!(
                    "{} declares port {} as {}, which applications encrypt themselves, and {} adds tls {mode}: the host gets TLS inside TLS",
                    fact.entry.object.reference,
                    fact.port,
                    fact.protocol,
                    rule.reference()
                ),
            ),
            (Some((rule, path, mode)), _) => (
                rule.reference().field(path),
                "TLS origination: TLS to a plaintext port (WRONG_VERSION_NUMBER)",
                format!(
                    "{} makes the proxy speak tls {mode} to port {} of the host, which speaks plaintext there",
                    rule.reference(),
                    fact.port
                ),
            ),
            (None, _) => (
                port_ref.field(format!("spec.ports[{}].protocol", fact.index)),
                "TLS origination missing: plain HTTP to an HTTPS port",
                format!(
                    "{} declares port {} as {}, and no DestinationRule adds TLS: the proxy reads and sends plain HTTP where the host speaks TLS",
                    fact.entry.object.reference, fact.port, fact.protocol
                ),
            ),
        };
        let observed = fact.seen.is_some() || !fact.logged.is_empty();
        let severity = fact.seen.as_ref().and_then(Failures::severity);
        let severity = severity.unwrap_or(if observed { Severity::Error } else { Severity::Warning });
        let figures = fact.seen.as_ref().map(|group| {
            format!(
                " Callers' proxies saw {} to it fail{}.",
                text::share(group.count, group.requests, "requests"),
                since(group.onset)
            )
        });
        let mut finding = Finding::new(Self::META, subject.clone(), &[&host, &fact.port.to_string()])
            .title(match fact.wrong {
                Wrong::Twice => {
                    format!("{host}:{} gets TLS twice: from the application and from {}", fact.port, subject)
                }
                Wrong::ToPlaintext => {
                    format!("{} makes proxies speak TLS to {host}:{}, which is plaintext", subject, fact.port)
                }
                Wrong::None => format!("{host}:{} is declared as HTTP and nothing adds TLS", fact.port),
            })
            .message(format!("{why}.{}", figures.unwrap_or_default()))
            .mechanism(mechanism)
            .severity(severity)
            .role(Role::Cause, if observed { Confidence::Observed } else { Confidence::Configured })
            .onset(
                fact.seen
                    .as_ref()
                    .and_then(|g| g.onset)
                    .or_else(|| fact.logged.iter().filter_map(|e| e.time).min()),
            )
            .evidence(Evidence::object(&subject, why))
            .evidence(Evidence::object(&port_ref, format!("port {}, protocol {}", fact.port, fact.protocol)))
            .evidences(fact.seen.iter().flat_map(parts))
            .evidences(fact.logged.iter().cloned())
            .related(fact.entry.object.reference.clone());
        for caller in &fact.callers {
            let services: Vec<_> = snapshot.graph.services_of(caller).cloned().collect();
            finding = finding.effect(Effect::calls(caller));
            finding.service = finding.service.or_else(|| services.first().cloned());
            finding = finding.effects(services.iter().map(|s| Effect::requests(s, &["5xx"])));
        }
        finding
            .remedies(remedies(fact))
            .prevention(Prevention::alert(
                "Alert on failing handshakes with outside hosts",
                format!("sum(rate(envoy_cluster_ssl_connection_error{{cluster_name=~\"outbound.*{}.*\"}}[5m])) > 0", text::plain(fact.host, 60).replace('*', "")),
            ))
            .prevention(Prevention::of("Test", "Call each outside host once from a pod after a change of its ServiceEntry or DestinationRule"))
    }
}

fn judge<'a>(
    snapshot: &'a Snapshot,
    entry: &'a ServiceEntry,
    host: &'a str,
    index: usize,
    body: &'a Value,
) -> Option<Fact<'a>> {
    let port = body.int("number")?;
    let protocol = body.string("protocol").to_ascii_uppercase();
    let encrypted = matches!(protocol.as_str(), "HTTPS" | "TLS");
    let to_443 = body.int("targetPort").unwrap_or(port) == 443;
    let rule = snapshot.istio.destination_rules.iter().find_map(|rule| {
        let (path, mode) =
            host_matches(&rule.host, host).then(|| rule.policy(Some(port), "tls.mode")).flatten()?;
        let mode = mode.as_str().filter(|mode| matches!(*mode, "SIMPLE" | "MUTUAL"))?;
        Some((rule, path, mode.to_owned()))
    });
    let wrong = match (&rule, encrypted) {
        (Some(_), true) => Wrong::Twice,
        (Some(_), false) if port == 80 && !to_443 => Wrong::ToPlaintext,
        (None, false) if to_443 && matches!(protocol.as_str(), "HTTP" | "HTTP2" | "GRPC") => Wrong::None,
        _ => return None,
    };
    Some(Fact {
        wrong,
        entry,
        host,
        port,
        index,
        protocol,
        rule,
        seen: None,
        logged: vec![],
        callers: BTreeSet::new(),
    })
}

/// What clients say that find no TLS where they expect it, or the other way round.
const MISMATCH: &[&str] = &[
    "wrong version number",
    "WRONG_VERSION_NUMBER",
    "first record does not look like a TLS handshake",
    "plain HTTP request was sent to HTTPS port",
    "nsupported or unrecognized SSL message",
];

/// Adds what proxies and applications saw of the calls to each host.
fn observe(snapshot: &Snapshot, facts: &mut [Fact<'_>]) {
    let groups = all(snapshot, |way| {
        matches!(
            way,
            Way::TlsToPlaintext
                | Way::ConnectionFailed
                | Way::UpstreamClosed
                | Way::DownstreamProtocol
                | Way::UpstreamProtocol
        )
    });
    let of_application =
        |log: &LogStream| !is_proxy_container(&log.container) && snapshot.in_scope(&log.namespace);
    let lines = said(snapshot, of_application, MISMATCH);
    for fact in facts {
        let seen = groups
            .iter()
            .filter(|group| group.callee.reporter == Reporter::Source && group.severity().is_some())
            .filter(|group| group.callee.service.is_none() && group.callee.host == fact.host)
            .max_by_key(|group| group.count);
        fact.callers.extend(seen.iter().flat_map(|group| group.callers()));
        fact.seen = seen.cloned();
        // Of several hosts that fail alike only the one that the line names is meant.
        for (workload, said) in lines.iter().filter(|(_, said)| said.text.contains(fact.host)) {
            fact.logged.push(said.evidence(format!("log of {workload}")));
            fact.callers.insert(workload.clone());
        }
    }
}

fn remedies(fact: &Fact<'_>) -> Vec<Remedy> {
    let entry = &fact.entry.object;
    let at = format!("/spec/ports/{}", fact.index);
    let patch =
        |object: &Object, operations: Value, summary: &str| Remedy::patch(object, &operations, summary);
    let plain = |rule: &DestinationRule, path: &str| {
        let whole = path.trim_end_matches(".mode");
        take_out_policy(
            &rule.object,
            whole,
            "Remove tls from the DestinationRule: the application's own TLS goes through as it is",
        )
    };
    let origin = || {
        patch(
            entry,
            json!([{"op": "add", "path": format!("{at}/targetPort"), "value": 443}]),
            "Set targetPort to 443, where the host speaks TLS: applications call plain HTTP and the proxy encrypts",
        )
    };
    match (&fact.rule, fact.wrong) {
        (Some((rule, path, _)), Wrong::Twice) => plain(rule, path).into_iter().collect(),
        (Some((rule, path, _)), _) => origin().into_iter().chain(plain(rule, path)).collect(),
        (None, _) => patch(
            entry,
            json!([{"op": "replace", "path": format!("{at}/protocol"), "value": "TLS"}]),
            "Declare the port with protocol TLS, so that TLS of the applications goes through as it is",
        )
        .into_iter()
        .collect(),
    }
}
