//! ISTIO114.

use std::collections::BTreeSet;

use super::hosts::{gateway_services, server_host};
use super::support::{Said, of_control_plane, of_proxy, said};
use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::remedy::{Prevention, Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::text;
use crate::model::fields::Fields;
use crate::model::mesh::istio::{Gateway, GatewayServer, hosts_overlap};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Gateway's server has no certificate: its Secret is missing or not usable.
    ///
    /// ## What it detects
    /// A server with `tls.credentialName` of which istiod or the gateway's proxy logs that the Secret was not found, has the
    /// wrong keys, or was rejected.
    /// ## Why it matters
    /// The listener never comes up: clients see their connection closed during the handshake, and nothing is logged for them.
    /// ## Evidence
    /// `failed to fetch key and certificate for kubernetes://NAME` of istiod, `Secret rejected` of the gateway. Secrets
    /// themselves are never read.
    /// ## How to confirm
    /// `istioctl proxy-config secret POD` of the gateway shows the certificate as WARMING.
    /// ## How to fix
    /// Make the Secret in the namespace of the gateway's *pods*, not in that of the Gateway, with `tls.crt` and `tls.key`.
    /// ## False positives
    /// A Secret that was made after these lines; then they end.
    /// ## References
    /// <https://istio.io/latest/docs/tasks/traffic-management/ingress/secure-ingress/>
    GatewayCertificateMissing {
        code: "ISTIO114", name: "gateway-certificate-missing", family: Gateway, severity: Error,
        needs: [Istio, Logs], aliases: ["IST0101", "IST0161"],
    }
}

/// A server without its certificate.
#[derive(Debug)]
pub struct Fact<'a> {
    gateway: &'a Gateway,
    server: &'a GatewayServer,
    credential: String,
    /// Where the gateway's pods run, and so where the Secret must be.
    namespaces: BTreeSet<String>,
    services: BTreeSet<ServiceName>,
    /// Whether the Secret is there and was refused.
    rejected: bool,
    lines: Vec<(ObjectRef, Said)>,
}

impl Check for GatewayCertificateMissing {
    type Fact<'a> = Fact<'a>;

    fn detect<'a>(&self, snapshot: &'a Snapshot) -> Vec<Fact<'a>> {
        let missing = said(
            snapshot,
            of_control_plane,
            &["ailed to fetch key and certificate", "ailed to fetch ca certificate"],
        );
        let refused = said(
            snapshot,
            of_proxy,
            &["Secret rejected", "ailed to load certificate chain", "ailed to load private key"],
        );
        let mut out = vec![];
        for gateway in &snapshot.istio.gateways {
            for server in &gateway.servers {
                let Some(credential) = server.body.text("tls.credentialName").filter(|name| !name.is_empty())
                else {
                    continue;
                };
                // `kubernetes://name`, `kubernetes-gateway://namespace/name`, `secret namespace/name not found`.
                let forms = [format!("://{credential}"), format!("/{credential}")];
                let about = |said: &Said| names(&said.text, &forms);
                let rejected = refused.values().any(about);
                let lines: Vec<_> = missing
                    .iter()
                    .chain(&refused)
                    .filter(|(_, said)| about(said))
                    .map(|(workload, said)| (workload.clone(), said.clone()))
                    .collect();
                if lines.is_empty() {
                    continue;
                }
                let carries = |labels: &crate::model::selector::Labels| {
                    !gateway.selector.is_empty()
                        && gateway.selector.iter().all(|(k, v)| labels.get(k) == Some(v))
                };
                let pods = snapshot.pods.iter().filter(|pod| carries(&pod.template.labels));
                let namespaces: BTreeSet<String> =
                    pods.map(|pod| pod.object.namespace().to_owned()).collect();
                let mut services = gateway_services(snapshot, gateway);
                services.extend(behind(snapshot, gateway, server));
                out.push(Fact {
                    gateway,
                    server,
                    credential: credential.to_owned(),
                    namespaces,
                    services,
                    rejected,
                    lines,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact<'_>, _: &Snapshot) -> Finding {
        let object = &fact.gateway.object.reference;
        let subject = object.field(format!("{}.tls.credentialName", fact.server.path));
        let credential = text::plain(&fact.credential, 60);
        let place = fact.namespaces.iter().next().cloned().unwrap_or_else(|| object.namespace.clone());
        let what = if fact.rejected { "is not usable" } else { "is missing" };
        let hosts = text::plain(&fact.server.hosts.join(", "), 80);
        Finding::new(Self::META, subject.clone(), &[&credential])
            .title(format!("{object} port {}: the certificate {credential} {what}, so TLS for {hosts} fails", fact.server.port))
            .message(format!(
                "The server on port {} takes its certificate from Secret {credential}, which {what} for the gateway. The Secret has to be in namespace {place}, where the gateway's pods run. Clients see the connection closed during the handshake.",
                fact.server.port
            ))
            .mechanism("TLS credential missing: Secret of credentialName not found or rejected")
            .severity(Severity::Error)
            .role(Role::Cause, Confidence::Observed)
            .service(fact.services.iter().next().cloned())
            .onset(fact.lines.iter().filter_map(|(_, said)| said.first).min())
            .evidence(Evidence::object(&subject, format!("credentialName {credential}")))
            .evidences(fact.lines.iter().take(3).map(|(workload, said)| said.evidence(format!("log of {workload}"))))
            .effects(fact.services.iter().map(|service| Effect::requests(service, &["tls", "reset"])))
            .remedy(Remedy::commands(
                format!("Make Secret {credential} in namespace {place} from the certificate and its key"),
                vec![format!("kubectl -n {} create secret tls {} --cert=tls.crt --key=tls.key", quote(&place), quote(&fact.credential))],
                vec![format!("kubectl -n {} delete secret {}", quote(&place), quote(&fact.credential))],
            ))
            .prevention(Prevention::alert(
                "Alert when istiod cannot deliver a certificate",
                "sum(increase(pilot_sds_certificate_errors_total[5m])) > 0",
            ))
    }
}

/// Whether a line names one of these, and not only as the beginning of another name.
fn names(line: &str, forms: &[String]) -> bool {
    forms.iter().any(|form| {
        line.match_indices(form.as_str()).any(|(at, _)| {
            let after = line.get(at + form.len()..).unwrap_or_default();
            !after.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        })
    })
}

/// Services that routes behind the server lead to.
fn behind(snapshot: &Snapshot, gateway: &Gateway, server: &GatewayServer) -> Vec<ServiceName> {
    let own = gateway.object.namespace();
    let bound = snapshot.istio.virtual_services.iter().filter(|vs| {
        let namespace = vs.object.namespace();
        vs.gateways
            .iter()
            .any(|name| super::hosts::gateway_name(name, namespace) == (own, gateway.object.name()))
            && server
                .hosts
                .iter()
                .filter_map(|host| server_host(host, own, namespace))
                .any(|host| vs.hosts.iter().any(|h| hosts_overlap(h, host)))
    });
    bound.filter_map(|vs| super::hosts::service_of(snapshot, vs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_the_beginning_of_another() {
        let forms = ["://shop-cert".to_owned()];
        assert!(names("failed to fetch key and certificate for kubernetes://shop-cert: not found", &forms));
        assert!(!names(
            "failed to fetch key and certificate for kubernetes://shop-cert-2: not found",
            &forms
        ));
    }
}
