//! ENVOY113.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, text};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route's time-out ends requests before the callee has answered.
    ///
    /// ## What it detects
    /// `504 UT response_timeout` (older: `upstream_response_timeout`), or `upstream_per_try_timeout`.
    /// ## Why it matters
    /// The callee goes on working for a client that is gone; it logs `0 DC`.
    /// ## Evidence
    /// Durations of the failing requests gather at one value, the configured time-out; the callee's own durations tell
    /// how long it would take.
    /// ## How to confirm
    /// `timeout` and `retries.perTryTimeout` of the route against the callee's latency.
    /// ## How to fix
    /// Raise the time-out above the callee's 99th percentile, or make the callee fast again where its latency is new.
    /// ## False positives
    /// A few slow outliers are what a time-out is for.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    UpstreamTimeout {
        code: "ENVOY113", name: "upstream-request-timeout", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for UpstreamTimeout {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Timeout)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "request timeout",
            means: durations(group),
            look: (
                "See the configured time-outs",
                vec![kubectl(group, "get virtualservices,httproutes -o yaml")],
            ),
            flag: "UT",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}

/// Whether the durations gather at one value, as they do where a time-out ends requests.
fn durations(group: &Failures) -> String {
    match group.parts.first().and_then(|part| part.durations) {
        Some((low, middle, high)) if middle >= 20 && high.saturating_sub(low) <= middle / 3 => format!(
            "They end after {} almost alike (5th to 95th percentile {} to {}): that is a route's time-out.",
            text::milliseconds(middle),
            text::milliseconds(low),
            text::milliseconds(high)
        ),
        Some((_, middle, _)) => format!(
            "They end after {} in the middle. The callee takes longer than a route allows.",
            text::milliseconds(middle)
        ),
        None => "The callee takes longer than a route allows.".to_owned(),
    }
}
