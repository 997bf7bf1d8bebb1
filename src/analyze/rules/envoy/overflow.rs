//! ENVOY107.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A caller's proxy rejects requests because a limit of its connection pool is reached.
    ///
    /// ## What it detects
    /// `503 UO` with `overflow`: more connections, pending or parallel requests than `connectionPool` allows.
    /// ## Why it matters
    /// The callee may be well: these requests are never sent. The limits count for each proxy of the callers and not in
    /// total.
    /// ## Evidence
    /// The flag `UO` in access logs; `envoy_cluster_upstream_rq_pending_overflow`.
    /// ## How to confirm
    /// `trafficPolicy.connectionPool` of the DestinationRule for the host; the parallel requests are rate × latency.
    /// ## How to fix
    /// Raise `maxConnections`, `http1MaxPendingRequests` or `http2MaxRequests`, add callers or callees, or make the
    /// callee faster.
    /// ## False positives
    /// A limit that is meant to shed load, during a load that is meant to be shed.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    Overflow {
        code: "ENVOY107", name: "circuit-breaker-overflow", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for Overflow {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Overflow)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "connection pool overflow: circuit breaker open",
            means: "The callers' own proxies reject them: the connection pool to the callee is full (limits of the DestinationRule) or the callee has become too slow for it.".to_owned(),
            look: ("See the limits", vec![kubectl(group, "get destinationrules -o yaml")]),
            flag: "UO",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
