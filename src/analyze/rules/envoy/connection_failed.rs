//! ENVOY106.

use super::symptom::{Words, kubectl, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Connections to a Service fail before they carry a request.
    ///
    /// ## What it detects
    /// `503 UF` without a refusal, a time-out or a TLS error in its details; or
    /// `envoy_cluster_upstream_cx_connect_fail`.
    /// ## Why it matters
    /// The request never reaches the application.
    /// ## Evidence
    /// The flag `UF` with its details in access logs; the counter of failed connections.
    /// ## How to confirm
    /// The details in the access log, and the same second in the callee's proxy log: `filter_chain_not_found` there
    /// means plaintext to strict mutual TLS.
    /// ## How to fix
    /// Follow the details: a reset during the handshake is mutual TLS or a policy, anything else is the network.
    /// ## False positives
    /// Connections lost while pods are replaced.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ConnectionFailed {
        code: "ENVOY106", name: "upstream-connection-failed", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for ConnectionFailed {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::ConnectionFailed)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "connection failed: reset while connecting",
            means: "The connection is reset or fails while it is being made.".to_owned(),
            look: (
                "Read both proxies' logs of the same second",
                [
                    vec![kubectl(group, "get endpointslices -l kubernetes.io/service-name=NAME -o wide")],
                    reporters_log(group),
                ]
                .concat(),
            ),
            flag: "UF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
