//! ENVOY108.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// No route matches a request.
    ///
    /// ## What it detects
    /// `404 NR route_not_found`: the proxy has the host's listener and no route for this host and path.
    /// ## Why it matters
    /// The request is answered by the proxy; no application sees it.
    /// ## Evidence
    /// The flag `NR` with host and path in access logs of a gateway or of callers.
    /// ## How to confirm
    /// Hosts, gateways and matches of the VirtualServices and HTTPRoutes for this host; whether the VirtualService
    /// names the gateway.
    /// ## How to fix
    /// Add the host or path to the route, name the gateway in `spec.gateways`, or correct `match`.
    /// ## False positives
    /// Scanners that try paths and hosts at a public gateway.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    NoRoute {
        code: "ENVOY108", name: "route-not-found", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for NoRoute {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::NoRoute)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "route not found",
            means: "No route of the proxy matches host and path: a VirtualService or HTTPRoute does not match, is not bound to the gateway, or is gone.".to_owned(),
            look: ("See which hosts and matches are routed", vec![kubectl(group, "get virtualservices,destinationrules,sidecars -o yaml")]),
            flag: "NR",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
