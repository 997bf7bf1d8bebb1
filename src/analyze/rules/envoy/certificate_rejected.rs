//! ENVOY105.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A certificate is not accepted between two proxies, or between a proxy and its upstream.
    ///
    /// ## What it detects
    /// `503 UF` with `CERTIFICATE_VERIFY_FAILED`, an unknown authority, or a TLS alert about a certificate.
    /// ## Why it matters
    /// Every request on this edge fails in the handshake.
    /// ## Evidence
    /// The transport failure reason in access logs of callers.
    /// ## How to confirm
    /// Which `tls.mode` a DestinationRule sets (SIMPLE checks against public authorities, not the mesh's), the expiry
    /// of `istio-ca-root-cert`, and the names in the certificate.
    /// ## How to fix
    /// Use `ISTIO_MUTUAL` (or no `tls` at all) inside the mesh; name the right `caCertificates`, `sni` and
    /// `subjectAltNames` outside; renew what has expired.
    /// ## False positives
    /// A few handshakes while the authority is rotated.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    CertificateRejected {
        code: "ENVOY105", name: "certificate-rejected", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for CertificateRejected {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Certificate)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "certificate verify failed: TLS handshake rejected",
            means: "The TLS handshake fails on a certificate: the callers check it against the wrong authority or name, it has expired, or the callee wants one that the caller does not show.".to_owned(),
            look: ("Compare what callers are told to speak with what the callee accepts", vec![kubectl(group, "get peerauthentications,destinationrules,authorizationpolicies -o yaml")]),
            flag: "UF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
