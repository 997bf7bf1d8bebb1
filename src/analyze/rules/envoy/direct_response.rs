//! ENVOY132.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route answers with an error itself.
    ///
    /// ## What it detects
    /// `direct_response` with a 5xx code: `directResponse` of a VirtualService or a route without backends.
    /// ## Why it matters
    /// No application sees these requests.
    /// ## Evidence
    /// The details `direct_response` and the route's name in access logs.
    /// ## How to confirm
    /// `directResponse` in the VirtualService, or an HTTPRoute whose backends cannot be resolved.
    /// ## How to fix
    /// Take it out, or repair the reference to the backend.
    /// ## False positives
    /// A maintenance page.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    DirectResponse {
        code: "ENVOY132", name: "answered-by-the-route-itself", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for DirectResponse {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::DirectResponse)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "direct response",
            means: "The route itself answers with this code: it is configured so, or its backends cannot be resolved.".to_owned(),
            look: ("See the routes", vec![kubectl(group, "get virtualservices,httproutes -o yaml")]),
            flag: "",
            codes: "5..",
        };
        symptom(Self::META, group, words)
    }
}
