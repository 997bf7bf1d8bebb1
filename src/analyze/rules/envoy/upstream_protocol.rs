//! ENVOY124.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The callee's answer is not the protocol that was expected.
    ///
    /// ## What it detects
    /// `502 UPE` or `503 UPE` with `protocol_error`: mostly HTTP/2 or gRPC sent to a server of HTTP/1.
    /// ## Why it matters
    /// Every request on this port fails.
    /// ## Evidence
    /// The flag `UPE` in access logs, on the inbound side where the Service's port decides.
    /// ## How to confirm
    /// Name and `appProtocol` of the Service's port against what the application serves.
    /// ## How to fix
    /// Name the port after what the application speaks (`http-…`), or let it speak HTTP/2.
    /// ## False positives
    /// Answers with headers beyond Envoy's limits.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    UpstreamProtocol {
        code: "ENVOY124", name: "upstream-protocol-error", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for UpstreamProtocol {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::UpstreamProtocol)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "upstream protocol error: the port's protocol is not what the application speaks",
            means: "The callee answers in another protocol than its port's name or appProtocol says, or with headers beyond the limits.".to_owned(),
            look: ("See which protocol the port declares", vec![kubectl(group, "get service NAME -o yaml")]),
            flag: "UPE",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
