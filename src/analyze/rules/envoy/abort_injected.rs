//! ENVOY117.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests are aborted because a fault is configured.
    ///
    /// ## What it detects
    /// `FI fault_filter_abort`: the caller's proxy answers with the configured code.
    /// ## Why it matters
    /// These failures are made on purpose; nothing is wrong with the callee.
    /// ## Evidence
    /// The flag `FI` in access logs.
    /// ## How to confirm
    /// `fault` in the VirtualService for the host.
    /// ## How to fix
    /// Take `fault` out of the route.
    /// ## False positives
    /// A test that is running.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    AbortInjected {
        code: "ENVOY117", name: "requests-aborted-by-fault-injection", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for AbortInjected {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::AbortInjected)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "fault injection: abort",
            means: "A fault that somebody configured aborts them; the callee is never asked.".to_owned(),
            look: ("Find the route with a fault", vec![kubectl(group, "get virtualservices -o yaml")]),
            flag: "FI",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
