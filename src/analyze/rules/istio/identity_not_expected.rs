//! ISTIO176.

use crate::model::json::json;
use std::collections::BTreeSet;

use super::support::parts;
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, pointer};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::analyze::twin::policy::{identity, is_among};
use crate::model::fields::Fields;
use crate::model::mesh::istio::{DestinationRule, full_host};
use crate::model::network::Service;
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// A DestinationRule expects an identity of whoever answers that no pod of the Service has, or that some of them do not have.
    ///
    /// ## What it detects
    /// `tls.mode: ISTIO_MUTUAL` with `subjectAltNames` among which the SPIFFE identity of no pod behind the Service stands: service accounts that
    /// were renamed, another namespace or trust domain, DNS names, which certificates of the mesh do not carry. Or that of some pods is missing: a
    /// second version with a service account of its own.
    /// ## Why it matters
    /// Callers' proxies refuse the certificates of these pods: requests that go to them end with `503 UF` and CERTIFICATE_VERIFY_FAILED.
    /// ## Evidence
    /// The names in the DestinationRule against namespace and service account of the pods; failed handshakes in access logs of callers.
    /// ## How to confirm
    /// `istioctl proxy-config secret POD` shows the identity in the certificate that a pod has.
    /// ## How to fix
    /// Take `subjectAltNames` out: of Services in the mesh proxies know by themselves whom to expect. Or name the identities that the pods have.
    /// ## False positives
    /// A Service whose pods are to be refused.
    /// ## References
    /// <https://istio.io/latest/docs/reference/config/networking/destination-rule/#ClientTLSSettings>
    IdentityNotExpected {
        code: "ISTIO176", name: "identity-not-expected", family: Mesh, severity: Error,
        needs: [Istio], aliases: [],
    }
}

/// A list of names that fits nobody behind a Service.
#[derive(Debug)]
pub struct Fact<'a> {
    rule: &'a DestinationRule,
    /// Where the names stand: `spec.trafficPolicy.tls.subjectAltNames`.
    path: String,
    /// The names.
    names: Vec<String>,
    service: &'a Service,
    /// The identities that the pods have, in order.
    shown: Vec<String>,
    /// Those of them that are refused.
    strangers: Vec<String>,
    /// What callers' proxies saw of it.
    seen: Option<Failures>,
}

impl Check for IdentityNotExpected {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let naming = |rule: &DestinationRule| {
            let policy = rule.object.body.at("spec.trafficPolicy");
            let ports = policy.map_or(&[][..], |policy| policy.list("portLevelSettings"));
            policy.into_iter().chain(ports).any(|policy| !policy.list("tls.subjectAltNames").is_empty())
        };
        if !snapshot.istio.destination_rules.iter().any(naming) {
            return vec![];
        }
        let groups = failures(snapshot, Way::Certificate);
        let mut out: Vec<Fact<'a>> = vec![];
        for service in snapshot.services.iter().filter(|s| snapshot.in_scope(s.object.namespace())) {
            let shown = shown(snapshot, service);
            if shown.is_empty() {
                continue;
            }
            let name = service.service_name();
            let host = full_host(&name.name, &name.namespace);
            let callers = snapshot.graph.callers(&name).map(|caller| caller.namespace.as_str());
            let clients: BTreeSet<&str> = callers.chain([name.namespace.as_str()]).collect();
            for rule in clients.iter().flat_map(|client| snapshot.istio.destination_rules_for(&host, client))
            {
                for port in &service.ports {
                    let Some((path, tls)) = rule.policy(Some(port.number), "tls") else { continue };
                    let names = tls.texts("subjectAltNames");
                    let mutual = tls.text("mode") == Some("ISTIO_MUTUAL");
                    let fits = |own: &String| is_among(&snapshot.istio, &names, own);
                    let strangers: Vec<String> = shown.iter().filter(|own| !fits(own)).cloned().collect();
                    let path = format!("{path}.subjectAltNames");
                    let known = out.iter().any(|f| {
                        f.rule.reference() == rule.reference()
                            && f.path == path
                            && f.service.service_name() == name
                    });
                    if !mutual || names.is_empty() || strangers.is_empty() || known {
                        continue;
                    }
                    let of_callers = |group: &&Failures| {
                        group.callee.service.as_ref() == Some(&name)
                            && group.callee.reporter == Reporter::Source
                            && group.severity().is_some()
                    };
                    let seen = groups.iter().find(of_callers).cloned();
                    out.push(Fact { rule, path, names, service, shown: shown.clone(), strangers, seen });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let name = fact.service.service_name();
        let subject = fact.rule.reference().field(fact.path.clone());
        let (names, shown, strangers) = (list(&fact.names), list(&fact.shown), list(&fact.strangers));
        let all = fact.strangers.len() == fact.shown.len();
        let whose =
            if all { format!("the pods of {}", name.name) } else { format!("some pods of {}", name.name) };
        let figures = fact.seen.as_ref().map_or(String::new(), |seen| {
            format!(" {} failed in the handshake.", text::share(seen.count, seen.requests, "requests"))
        });
        let confidence = if fact.seen.is_some() { Confidence::Observed } else { Confidence::Configured };
        let finding = Finding::new(Self::META, subject.clone(), &[&name.namespace, &name.name])
            .title(format!("{} refuses the certificates of {whose}", fact.rule.reference()))
            .message(format!(
                "Callers' proxies accept a certificate that carries one of the names in {}, and nothing else. The certificates of {whose} in {} carry {strangers}: the handshake with them fails (CERTIFICATE_VERIFY_FAILED).{figures}",
                fact.path,
                name.namespace,
            ))
            .mechanism(if all {
                "subjectAltNames fit no pod: certificate verify failed in mutual TLS (503 UF)"
            } else {
                "subjectAltNames fit only some pods: certificate verify failed in mutual TLS with the others (503 UF)"
            })
            .severity(fact.seen.as_ref().and_then(Failures::severity).unwrap_or(if all { Severity::Error } else { Severity::Warning }))
            .role(Role::Cause, confidence)
            .service(Some(name.clone()))
            .onset(fact.seen.as_ref().and_then(|seen| seen.onset))
            .evidence(Evidence::object(&subject, names))
            .evidence(Evidence::object(fact.service.reference(), format!("its pods are {shown}")))
            .evidences(fact.seen.iter().flat_map(parts))
            .effect(Effect::requests(&name, &["UF", "tls", "503"]))
            .related(fact.service.reference().clone());
        finding
            .maybe_remedy(Remedy::patch(
                &fact.rule.object,
                &json!([{"op": "remove", "path": pointer(&fact.path)}]),
                format!(
                    "Take subjectAltNames out of {}: proxies know the identities of a Service in the mesh by themselves",
                    fact.rule.reference()
                ),
            ))
            .maybe_remedy(Remedy::patch(
                &fact.rule.object,
                &json!([{"op": "replace", "path": pointer(&fact.path), "value": fact.shown}]),
                format!("Name in {} whom the pods are", fact.rule.reference()),
            ))
            .prevention(Prevention::of(
                "Policy",
                "Refuse subjectAltNames beside ISTIO_MUTUAL for hosts of the cluster: they go stale with every renamed service account",
            ))
    }
}

/// The identities of the pods behind a Service, or of its workloads where no pod was seen; none where one of them has no proxy, for then no
/// mutual TLS is to be expected.
fn shown(snapshot: &Snapshot, service: &Service) -> Vec<String> {
    let own = |account: &str| identity(&snapshot.istio, service.object.namespace(), account);
    let mut pods = snapshot.pods_behind(service).filter(|pod| !pod.ended()).peekable();
    let all: BTreeSet<String> = if pods.peek().is_some() {
        let shown = pods.map(|pod| snapshot.has_istio_proxy(pod).then(|| own(&pod.template.service_account)));
        shown.collect::<Option<_>>().unwrap_or_default()
    } else {
        snapshot.workloads_behind(service).map(|workload| own(&workload.template.service_account)).collect()
    };
    all.into_iter().collect()
}

/// Names as a reader takes them in: the first two, and how many more.
fn list(names: &[String]) -> String {
    let told: Vec<String> = names.iter().take(2).map(|name| text::plain(name, 120)).collect();
    match names.len().saturating_sub(told.len()) {
        0 => told.join(" and "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}
