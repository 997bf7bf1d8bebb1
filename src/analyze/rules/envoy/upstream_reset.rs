//! ENVOY115.

use super::symptom::{Words, kubectl, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The other side resets the stream.
    ///
    /// ## What it detects
    /// `503 UR upstream_reset_before_response_started{remote_reset}`: an HTTP/2 or gRPC stream is reset by the callee.
    /// ## Why it matters
    /// Such requests are lost unless they are tried again.
    /// ## Evidence
    /// The flag `UR` in access logs, with the endpoints.
    /// ## How to confirm
    /// Limits of the callee's HTTP/2 server (streams, age of connections), and its restarts.
    /// ## How to fix
    /// Raise the server's limits, drain gracefully, retry on `refused-stream`.
    /// ## False positives
    /// Single streams while a pod is stopped.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    UpstreamReset {
        code: "ENVOY115", name: "upstream-reset", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for UpstreamReset {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::UpstreamReset)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "upstream reset: the callee resets streams",
            means: "The callee resets the streams: it shuts down, refuses more of them, or gives up on these requests.".to_owned(),
            look: ("See restarts, and both proxies' logs", [vec![kubectl(group, "get pods -o wide")], reporters_log(group)].concat()),
            flag: "UR",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
