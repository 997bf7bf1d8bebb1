//! ENVOY131.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests to a host that the mesh does not know are sent nowhere.
    ///
    /// ## What it detects
    /// `502 direct_response` on the route `block_all`, or the cluster `BlackHoleCluster`: the outbound policy is
    /// `REGISTRY_ONLY` and nothing declares host and port.
    /// ## Why it matters
    /// The caller gets an error although the host may be well.
    /// ## Evidence
    /// The route's name and host in access logs of callers.
    /// ## How to confirm
    /// ServiceEntries for the host: their ports, protocols and `exportTo`; the Sidecar's `egress`.
    /// ## How to fix
    /// Declare host and port in a ServiceEntry, or correct the one that is there.
    /// ## False positives
    /// Destinations that must not be reached.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    EgressBlocked {
        code: "ENVOY131", name: "sent-to-the-black-hole", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for EgressBlocked {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::EgressBlocked)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "egress blocked: BlackHoleCluster, REGISTRY_ONLY",
            means: "The outbound policy is REGISTRY_ONLY, and no Service or ServiceEntry in sight of the caller has this host with this port.".to_owned(),
            look: ("See what is declared", vec![kubectl(group, "get serviceentries,sidecars -A -o yaml")]),
            flag: "",
            codes: "502",
        };
        symptom(Self::META, group, words)
    }
}
