//! ENVOY104.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy speaks TLS to something that does not.
    ///
    /// ## What it detects
    /// `503 UF` with `WRONG_VERSION_NUMBER`: the answer to the TLS handshake is no TLS.
    /// ## Why it matters
    /// Every request on this edge fails before it is sent.
    /// ## Evidence
    /// The transport failure reason in access logs of callers.
    /// ## How to confirm
    /// Whether the callee's pods carry `istio-proxy`, whether the port is excluded from it, which `tls.mode` a
    /// DestinationRule sets and which mode the PeerAuthentication has.
    /// ## How to fix
    /// Take `tls` out of the DestinationRule (mutual TLS is automatic), or inject the proxy into the callee's pods.
    /// ## False positives
    /// None known: this message has one meaning.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    TlsToPlaintext {
        code: "ENVOY104", name: "tls-to-plaintext", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for TlsToPlaintext {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::TlsToPlaintext)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "TLS to a plaintext port: wrong version number",
            means: "The callers' proxies start TLS and the other side answers with something else: a DestinationRule asks for TLS that the callee does not speak.".to_owned(),
            look: ("Compare what callers are told to speak with what the callee accepts", vec![kubectl(group, "get peerauthentications,destinationrules,authorizationpolicies -o yaml"), kubectl(group, "get pods -o wide")]),
            flag: "UF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
