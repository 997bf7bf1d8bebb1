//! ENVOY102.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// Nothing listens where a proxy connects.
    ///
    /// ## What it detects
    /// `503 UF` with `delayed_connect_error:_Connection_refused` (older: `_111`): the connection to an endpoint is
    /// refused at once.
    /// ## Why it matters
    /// The pod is there and its port is closed: every request to it fails without being seen by the application.
    /// ## Evidence
    /// Which side reports it decides. On the callee's own proxy (cluster `inbound|PORT||`) the application does not
    /// listen on that port or only on localhost; on the caller's proxy the proxy or the pod itself is gone.
    /// ## How to confirm
    /// `kubectl exec` into the pod and list its sockets (`ss -ltn`); compare with the Service's `targetPort`.
    /// ## How to fix
    /// Point `targetPort` at the port that the application serves, let it listen on `0.0.0.0`, or bring it back where
    /// it crashes.
    /// ## False positives
    /// A few refused connections while pods are replaced; retries cover them.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ConnectionRefused {
        code: "ENVOY102", name: "upstream-connection-refused", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for ConnectionRefused {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Refused)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "connection refused: nothing listens on the port that is called",
            means: {
                let means = if group.callee.reporter == Reporter::Destination {
                    "The pod's own proxy is refused by its application: nothing listens on that port of the pod's address (wrong port, bound to localhost, or not running)."
                } else {
                    "Nothing accepts connections at the endpoints that were called: the pods are gone or crashed, or the port is not the one they serve."
                };
                means.to_owned()
            },
            look: (
                "Compare the port that is called with the ports that the pods serve",
                vec![
                    kubectl(group, "get service NAME -o yaml"),
                    kubectl(group, "get endpointslices -l kubernetes.io/service-name=NAME -o wide"),
                ],
            ),
            flag: "UF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
