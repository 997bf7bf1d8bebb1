//! ENVOY119.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests are over a rate limit.
    ///
    /// ## What it detects
    /// `429 RL` with `local_rate_limited` or `request_rate_limited`.
    /// ## Why it matters
    /// The proxy refuses them before the application sees them.
    /// ## Evidence
    /// The flag `RL` in access logs.
    /// ## How to confirm
    /// `token_bucket` of the EnvoyFilter: it counts for each proxy, not for the Service.
    /// ## How to fix
    /// Raise the limit, or find the client that sends too much.
    /// ## False positives
    /// A limit that does its work.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    RateLimited {
        code: "ENVOY119", name: "requests-rate-limited", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for RateLimited {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::RateLimited)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "rate limit",
            means: "A rate limit of the proxy rejects them.".to_owned(),
            look: ("See the limits", vec![kubectl(group, "get envoyfilters -o yaml")]),
            flag: "RL",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
