//! ENVOY116.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, failures_of, text};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Clients close the connection before they have their answer.
    ///
    /// ## What it detects
    /// `0 DC downstream_remote_disconnect`: the request is under way when its client leaves.
    /// ## Why it matters
    /// The client's time-out is shorter than what it waits for: it sees a failure, and the callee works in vain.
    /// ## Evidence
    /// Durations gather at one value where a time-out of the client does it; a caller's proxy that logs `UT` for the
    /// same requests is that client and is reported instead.
    /// ## How to confirm
    /// The time-out in the client's configuration against the durations.
    /// ## How to fix
    /// Raise the client's time-out above the callee's latency, or make the callee faster.
    /// ## False positives
    /// People who close a page, and clients that cancel on purpose.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ClientGaveUp {
        code: "ENVOY116", name: "client-gave-up", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

/// Some clients always leave; below this share of the requests that is their own affair.
const GIVEN_UP: f64 = 0.02;

impl Check for ClientGaveUp {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        // A caller's proxy that timed out is this client, and says so itself with UT.
        let timed_out = |group: &Failures| {
            group.callee.service.as_ref().is_some_and(|service| {
                failures_of(snapshot, service).iter().any(|other| other.way == Way::Timeout)
            })
        };
        let mut found = failures(snapshot, Way::ClientGaveUp);
        found.retain(|group| group.share() >= GIVEN_UP && !timed_out(group));
        found
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "client timeout: downstream disconnect",
            means: durations(group),
            look: ("See how long requests take", reporters_log(group)),
            flag: "DC",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}

/// Whether the durations gather at one value, as they do where a time-out ends requests.
fn durations(group: &Failures) -> String {
    match group.parts.first().and_then(|part| part.durations) {
        Some((low, middle, high)) if middle >= 20 && high.saturating_sub(low) <= middle / 3 => format!(
            "They end after {} almost alike (5th to 95th percentile {} to {}): that is a time-out of the client.",
            text::milliseconds(middle),
            text::milliseconds(low),
            text::milliseconds(high)
        ),
        Some((_, middle, _)) => format!(
            "They end after {} in the middle. Clients leave before they have an answer.",
            text::milliseconds(middle)
        ),
        None => "Clients leave before they have an answer.".to_owned(),
    }
}
