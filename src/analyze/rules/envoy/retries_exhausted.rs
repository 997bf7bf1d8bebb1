//! ENVOY112.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// All attempts of a request failed.
    ///
    /// ## What it detects
    /// `URX` without another flag: the route's retries are used up, or the connection attempts of a TCP route.
    /// ## Why it matters
    /// Retries hide a first failure; here they no longer do.
    /// ## Evidence
    /// The flag `URX` in access logs; each attempt stands in the callee's log.
    /// ## How to confirm
    /// The callee's own access log and application log in the same second.
    /// ## How to fix
    /// Heal what fails at the callee; fewer retries where they only add load.
    /// ## False positives
    /// None known: the last attempt has failed.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    RetriesExhausted {
        code: "ENVOY112", name: "retries-exhausted", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for RetriesExhausted {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::RetriesExhausted)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "retries exhausted",
            means: "Every attempt failed; what failed stands with the callee.".to_owned(),
            look: ("Read the proxies' logs", reporters_log(group)),
            flag: "URX",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
