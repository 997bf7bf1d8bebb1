//! ENVOY120.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// The rate limit service does not answer.
    ///
    /// ## What it detects
    /// `RLSE`: the proxy could not ask it.
    /// ## Why it matters
    /// Depending on its configuration the proxy lets requests through or fails them.
    /// ## Evidence
    /// The flag `RLSE` in access logs.
    /// ## How to confirm
    /// Pods and endpoints of the rate limit service.
    /// ## How to fix
    /// Bring the service back, or let requests pass while it is away (`failure_mode_deny: false`).
    /// ## False positives
    /// Single time-outs.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    RateLimitService {
        code: "ENVOY120", name: "rate-limit-service-failing", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for RateLimitService {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::RateLimitService)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "rate limit service error",
            means: "The proxy could not ask its rate limit service.".to_owned(),
            look: (
                "See the configuration that names the service",
                vec![kubectl(group, "get envoyfilters -o yaml")],
            ),
            flag: "RLSE",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
