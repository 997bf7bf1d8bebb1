//! GWAPI119.

use super::prelude::*;
use crate::analyze::rules::istio::support::{parts, since};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, all, text};
use crate::model::mesh::istio::full_host;
use crate::model::traffic::Reporter;

crate::rule! {
    /// Proxies speak TLS to a Service because a BackendTLSPolicy says so, and the handshakes fail.
    ///
    /// ## What it detects
    /// A BackendTLSPolicy whose target is a Service that callers' proxies fail at with an error of TLS, where no DestinationRule
    /// says how to connect to it.
    /// ## Why it matters
    /// Every connection to the backend ends in its handshake: clients get `503` from the proxy, and the application sees no request.
    /// ## Evidence
    /// The transport failure in the callers' access logs (`TLS_error`), and the policy's target.
    /// ## How to confirm
    /// `openssl s_client -connect POD_IP:PORT -servername HOSTNAME` from a pod shows whether the backend speaks TLS, and with which
    /// certificate.
    /// ## How to fix
    /// Delete the policy where the backend speaks plaintext; else correct the host name and the authorities that it is verified with.
    /// ## False positives
    /// Handshakes that fail for another reason, such as a backend that is overloaded, while the policy is right.
    /// ## References
    /// <https://gateway-api.sigs.k8s.io/api-types/backendtlspolicy/>
    BackendTlsFails {
        code: "GWAPI119", name: "backend-tls-fails", family: Gateway, severity: Error,
        needs: [GatewayApi, AccessLogs], aliases: [],
    }
}

/// A policy, and what fails because of it.
#[derive(Debug)]
pub struct Fact<'a> {
    policy: &'a Object,
    service: ServiceName,
    /// Whether a certificate came and was not the one that is wanted.
    refused: bool,
    failures: Failures,
}

impl Check for BackendTlsFails {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let policies: Vec<&Object> =
            snapshot.objects_of("BackendTLSPolicy").filter(|p| seen::configured(p.namespace())).collect();
        if policies.is_empty() {
            return vec![];
        }
        let ways = [Way::TlsToPlaintext, Way::Certificate, Way::ConnectionFailed, Way::UpstreamClosed];
        let mut out = vec![];
        for failures in all(snapshot, |way| ways.contains(&way)) {
            let said = |words: &[&str]| {
                failures.parts.iter().any(|part| words.iter().any(|word| part.details.contains(word)))
            };
            let Some(service) = failures.callee.service.clone() else { continue };
            if failures.callee.reporter != Reporter::Source
                || failures.severity().is_none()
                || !said(&["TLS_error", "TLS error"])
                || ruled(snapshot, &service)
            {
                continue;
            }
            let refused = said(&["CERTIFICATE_VERIFY_FAILED", "verify_cert", "SAN matcher"]);
            let targets = |policy: &&&Object| {
                policy.namespace() == service.namespace
                    && policy.body.list("spec.targetRefs").iter().any(|target| {
                        target.text("kind") == Some("Service")
                            && target.text("name") == Some(service.name.as_str())
                    })
            };
            if let Some(policy) = policies.iter().find(targets).copied() {
                out.push(Fact { policy, service, refused, failures });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let (policy, service) = (&fact.policy.reference, &fact.service);
        let host = text::plain(fact.policy.body.text("spec.validation.hostname").unwrap_or_default(), 60);
        let share = text::share(fact.failures.count, fact.failures.requests, "requests");
        let (field, title, why, mechanism) = if fact.refused {
            (
                "spec.validation",
                format!("{policy} refuses the certificate of Service {}: {share} fail", service.name),
                format!("and verifies a certificate for {host} that the backend does not have"),
                "backend TLS: the backend's certificate is not verified by the BackendTLSPolicy",
            )
        } else {
            (
                "spec.targetRefs",
                format!(
                    "{policy} makes proxies speak TLS to Service {}, which does not: {share} fail",
                    service.name
                ),
                "and the backend ends the handshake: it does not speak TLS at this port".to_owned(),
                "backend TLS: BackendTLSPolicy makes proxies speak TLS to a plaintext backend",
            )
        };
        let subject = policy.field(field);
        let correct = fact.refused.then(|| {
            Remedy::manual(format!(
                "Correct spec.validation of {policy}: hostname is a name in the backend's certificate, caCertificateRefs hold its authority"
            ))
        });
        Finding::new(Self::META, subject.clone(), &[&service.to_string()])
            .title(title)
            .message(format!(
                "{policy} makes proxies speak TLS to Service {service}, {why}. {share} to it failed in the handshake{}.",
                since(fact.failures.onset)
            ))
            .mechanism(mechanism)
            .severity(fact.failures.severity().unwrap_or(Severity::Error))
            .role(Role::Cause, Confidence::Observed)
            .service(Some(service.clone()))
            .onset(fact.failures.onset)
            .evidence(Evidence::object(&subject, format!("targets Service {service}, hostname {host}")))
            .evidences(parts(&fact.failures))
            .effect(Effect::requests(service, &["UF", "UC", "URX", "NR", "tls", "reset", "5xx"]))
            .maybe_remedy(correct)
            .remedy(Remedy::delete(
                fact.policy,
                format!("Delete {policy}: proxies speak plaintext to Service {} again, or the mesh's own TLS", service.name),
            ))
            .prevention(Prevention::alert(
                "Alert on failing handshakes with backends",
                format!("sum(rate(envoy_cluster_ssl_connection_error{{cluster_name=~\"outbound.*{}\\\\.{}\\\\..*\"}}[5m])) > 0", service.name, service.namespace),
            ))
            .prevention(Prevention::of("Test", "After each change of a BackendTLSPolicy: one request through the gateway reaches the backend"))
    }
}

/// Whether a DestinationRule says how to connect to a Service: it comes before a policy.
fn ruled(snapshot: &Snapshot, service: &ServiceName) -> bool {
    let full = full_host(&service.name, &service.namespace);
    snapshot
        .istio
        .destination_rules_for(&full, &service.namespace)
        .iter()
        .any(|rule| rule.policy(None, "tls").is_some())
}
