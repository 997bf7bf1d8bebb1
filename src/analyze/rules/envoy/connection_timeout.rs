//! ENVOY103.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Connections to a Service are never answered.
    ///
    /// ## What it detects
    /// `503 UF` after the connect time-out: packets to the endpoint are dropped.
    /// ## Why it matters
    /// Each such request waits for the whole connect time-out (10 s by default) before it fails.
    /// ## Evidence
    /// `UF` with a time-out in its details; durations near the connect time-out.
    /// ## How to confirm
    /// `kubectl exec` into a caller and connect to the endpoint's address and port: a hanging connection is dropped, a
    /// refused one is not.
    /// ## How to fix
    /// Allow the port in the NetworkPolicies that select caller or callee, remove endpoints that no longer exist, or
    /// repair the network between the nodes.
    /// ## False positives
    /// A node that has just died: its endpoints disappear by themselves.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ConnectionTimeout {
        code: "ENVOY103", name: "upstream-connection-timeout", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for ConnectionTimeout {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::ConnectTimeout)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "connection timeout: packets to the callee are dropped",
            means: "Packets are dropped on the way: a NetworkPolicy or firewall, an address that no longer exists, or a dead node.".to_owned(),
            look: ("See which policies select the callee, and where its endpoints are", vec![kubectl(group, "get networkpolicies -o yaml"), kubectl(group, "get endpointslices -l kubernetes.io/service-name=NAME -o wide")]),
            flag: "UF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
