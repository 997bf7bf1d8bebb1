//! ENVOY109.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Connections arrive that no listener takes: mostly plaintext where mutual TLS is demanded.
    ///
    /// ## What it detects
    /// `0 NR filter_chain_not_found` in the log of the callee's proxy: it closes the connection without an answer.
    /// ## Why it matters
    /// Clients see a reset connection and nothing else; a client without a proxy logs nothing at all.
    /// ## Evidence
    /// The callee's log with the address of the client: a pod without a proxy, or one whose proxy was told to speak
    /// plaintext.
    /// ## How to confirm
    /// The mode of the PeerAuthentication that covers the callee, and whether the client's pod carries `istio-proxy`.
    /// ## How to fix
    /// Inject the proxy into the client, let its DestinationRule speak `ISTIO_MUTUAL`, or accept both with
    /// `PERMISSIVE`.
    /// ## False positives
    /// Health checks of a cloud load balancer, and port scans.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    NoFilterChain {
        code: "ENVOY109", name: "filter-chain-not-found", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for NoFilterChain {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::NoFilterChain)
    }

    fn describe(&self, group: &Failures, snapshot: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "filter chain not found: plaintext to strict mTLS",
            means: clients(group, snapshot).to_owned(),
            look: (
                "See who demands mutual TLS and who calls",
                vec![
                    kubectl(group, "get peerauthentications,destinationrules,authorizationpolicies -o yaml"),
                    kubectl(group, "get pods -o wide"),
                ],
            ),
            flag: "NR",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}

/// Who the refused clients are: pods without a proxy decide for a caller outside the mesh.
fn clients(group: &Failures, snapshot: &Snapshot) -> &'static str {
    let pods: Vec<_> = group.clients().keys().filter_map(|ip| snapshot.pod_by_ip(ip)).collect();
    if !pods.is_empty() && pods.iter().all(|pod| !snapshot.has_istio_proxy(pod)) {
        "The clients are pods without a proxy, so they speak plaintext, and the callee's proxy takes mutual TLS only."
    } else if pods.is_empty() {
        "The callee's proxy closes these connections because none of its filter chains takes them: mostly plaintext where it demands mutual TLS."
    } else {
        "The clients have a proxy of their own that sends plaintext here (a DestinationRule, a port that is not read as HTTP, or a host outside their Sidecar's scope), and the callee's proxy takes mutual TLS only."
    }
}
