//! ENVOY128.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Streams are cut because they last too long or are silent for too long.
    ///
    /// ## What it detects
    /// `SI stream_idle_timeout`, `UMSDR` (maximum duration of a stream), `DT` (maximum duration of a connection).
    /// ## Why it matters
    /// Long downloads, WebSockets, server-sent events and gRPC streams end at the same age.
    /// ## Evidence
    /// Durations gather at one value.
    /// ## How to confirm
    /// The time-outs of the route and of the connection pool, and the idle time of the load balancer before it.
    /// ## How to fix
    /// `timeout: 0s` for the route of the stream, a longer idle time-out, or a heartbeat of the application.
    /// ## False positives
    /// Streams that nobody reads any more.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    StreamCut {
        code: "ENVOY128", name: "stream-cut-by-a-limit", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for StreamCut {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::StreamCut)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "stream timeout",
            means: durations(group),
            look: (
                "See the configured time-outs",
                vec![kubectl(group, "get virtualservices,destinationrules -o yaml")],
            ),
            flag: "(SI|UMSDR|DT)",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}

/// Whether the durations gather at one value, as they do where a time-out ends requests.
fn durations(group: &Failures) -> String {
    match group.parts.first().and_then(|part| part.durations) {
        Some((low, middle, high)) if middle >= 20 && high.saturating_sub(low) <= middle / 3 => format!(
            "They end after {} almost alike (5th to 95th percentile {} to {}): that is a limit of the proxy.",
            text::milliseconds(middle),
            text::milliseconds(low),
            text::milliseconds(high)
        ),
        Some((_, middle, _)) => format!(
            "They end after {} in the middle. A limit on the age or the silence of streams ends them.",
            text::milliseconds(middle)
        ),
        None => "A limit on the age or the silence of streams ends them.".to_owned(),
    }
}
