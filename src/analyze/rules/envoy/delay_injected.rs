//! ENVOY118.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests are delayed because a fault is configured.
    ///
    /// ## What it detects
    /// `DI`: the caller's proxy holds the request back for the configured time.
    /// ## Why it matters
    /// Everything above it becomes slow and runs into its time-outs.
    /// ## Evidence
    /// The flag `DI` in access logs, also on requests that succeed.
    /// ## How to confirm
    /// `fault.delay` in the VirtualService for the host.
    /// ## How to fix
    /// Take `fault` out of the route.
    /// ## False positives
    /// A test that is running.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    DelayInjected {
        code: "ENVOY118", name: "requests-delayed-by-fault-injection", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for DelayInjected {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::DelayInjected)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "fault injection: delay",
            means:
                "A fault that somebody configured delays them before they are sent; the callee is not slow."
                    .to_owned(),
            look: ("Find the route with a fault", vec![kubectl(group, "get virtualservices -o yaml")]),
            flag: "DI",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
