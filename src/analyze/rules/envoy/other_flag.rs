//! ENVOY133.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests fail with a flag that no other rule knows.
    ///
    /// ## What it detects
    /// Any flag or detail of a failing response beyond those of the other rules: `IH`, `NFCF`, `DO`, or a flag of a
    /// newer Envoy.
    /// ## Why it matters
    /// A proxy decided about these requests, and its flag says why.
    /// ## Evidence
    /// The flag and its details in access logs.
    /// ## How to confirm
    /// The flag's meaning in the documentation of the Envoy version that runs.
    /// ## How to fix
    /// Follow the flag and its details.
    /// ## False positives
    /// Flags of extensions that mark requests which are meant to end so.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    OtherFlag {
        code: "ENVOY133", name: "failed-with-another-flag", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for OtherFlag {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Other)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "response flag",
            means: "The proxy decided this; its flag and details say why.".to_owned(),
            look: ("Read the proxy's log", reporters_log(group)),
            flag: "",
            codes: "5..",
        };
        symptom(Self::META, group, words)
    }
}
