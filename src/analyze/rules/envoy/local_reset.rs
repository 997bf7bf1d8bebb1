//! ENVOY126.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy resets streams itself.
    ///
    /// ## What it detects
    /// `503 LR`: an error in the proxy's own handling, such as a buffer or a filter.
    /// ## Why it matters
    /// The request is lost although both sides are there.
    /// ## Evidence
    /// The flag `LR` with its details in access logs.
    /// ## How to confirm
    /// The proxy's own log in the same second.
    /// ## How to fix
    /// Follow the details; filters of EnvoyFilters and limits of buffers are the usual causes.
    /// ## False positives
    /// Single streams while listeners drain.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    LocalReset {
        code: "ENVOY126", name: "local-reset", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for LocalReset {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::LocalReset)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "local reset",
            means: "The proxy itself reset the streams.".to_owned(),
            look: ("Read the proxy's log", reporters_log(group)),
            flag: "LR",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
