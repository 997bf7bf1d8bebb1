//! ENVOY125.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Clients send what is not the protocol that was expected.
    ///
    /// ## What it detects
    /// `DPE`: malformed HTTP, TLS on a plaintext port, or headers that are too large.
    /// ## Why it matters
    /// The proxy rejects such requests before anybody sees them.
    /// ## Evidence
    /// The flag `DPE` with its details in access logs.
    /// ## How to confirm
    /// What the client sends to that port: the details say `http1.codec_error`, `headers too large` and the like.
    /// ## How to fix
    /// Let the client speak the port's protocol; raise limits for large headers.
    /// ## False positives
    /// Scanners at a public gateway.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    DownstreamProtocol {
        code: "ENVOY125", name: "downstream-protocol-error", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for DownstreamProtocol {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::DownstreamProtocol)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "downstream protocol error",
            means: "Clients send something that is not valid HTTP on this port.".to_owned(),
            look: ("Read the proxy's log", reporters_log(group)),
            flag: "DPE",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
