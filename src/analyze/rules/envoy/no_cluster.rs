//! ENVOY111.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A route leads to a cluster that the caller's proxy does not know.
    ///
    /// ## What it detects
    /// `503 NC cluster_not_found` (500 from routes of the Gateway API): a host, port or subset of a route exists in no
    /// configuration that the proxy has.
    /// ## Why it matters
    /// The share of requests that takes this route fails.
    /// ## Evidence
    /// The flag `NC` with the cluster and route in access logs.
    /// ## How to confirm
    /// Whether the subset is defined in the DestinationRule that counts for the caller, whether the port is one of the
    /// Service's, and whether a Sidecar leaves the host out.
    /// ## How to fix
    /// Define the subset, name an existing host and port, or widen the Sidecar's `egress`.
    /// ## False positives
    /// A moment while route and destination are changed together.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    NoCluster {
        code: "ENVOY111", name: "cluster-not-found", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for NoCluster {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::NoCluster)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "cluster not found: route to an undefined subset, host or port",
            means: "A route leads to a host, port or subset that the proxy does not know.".to_owned(),
            look: (
                "Compare the routes' destinations with what is defined",
                vec![
                    kubectl(group, "get virtualservices,destinationrules,sidecars -o yaml"),
                    kubectl(group, "get service NAME -o yaml"),
                ],
            ),
            flag: "NC",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
