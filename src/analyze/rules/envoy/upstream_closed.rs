//! ENVOY114.

use super::symptom::{Words, kubectl, reporters_log, spread, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures, failures_of};
use crate::model::snapshot::Snapshot;
use crate::model::traffic::Reporter;

crate::rule! {
    /// The other side closes the connection before it answers.
    ///
    /// ## What it detects
    /// `503 UC upstream_reset_before_response_started{connection_termination}`.
    /// ## Why it matters
    /// Requests that arrive while the other side closes its connection are lost.
    /// ## Evidence
    /// Spread over all pods without restarts it is a race with a keep-alive time-out; on one pod or around restarts it
    /// is a crash; together with `filter_chain_not_found` at the callee it is mutual TLS.
    /// ## How to confirm
    /// Restarts of the callee's pods, the idle time-out of its server, and the other proxy's log.
    /// ## How to fix
    /// A longer keep-alive at the server than at the client, `idleTimeout` in the DestinationRule below the server's,
    /// retries on `reset-before-request`.
    /// ## False positives
    /// Single requests while a pod is stopped.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    UpstreamClosed {
        code: "ENVOY114", name: "upstream-connection-terminated", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for UpstreamClosed {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::UpstreamClosed)
    }

    fn describe(&self, group: &Failures, snapshot: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "upstream connection termination",
            means: how(group, snapshot),
            look: (
                "See restarts, and both proxies' logs",
                [vec![kubectl(group, "get pods -o wide")], reporters_log(group)].concat(),
            ),
            flag: "UC",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}

/// What tells a keep-alive race from a crash and from mutual TLS: where they went, and whether pods restarted.
fn how(group: &Failures, snapshot: &Snapshot) -> String {
    let restarts: i64 =
        group.callee.service.as_ref().and_then(|name| snapshot.service(name)).map_or(0, |service| {
            snapshot.pods_behind(service).flat_map(|pod| &pod.statuses).map(|status| status.restarts).sum()
        });
    let refused = group.callee.service.as_ref().is_some_and(|service| {
        group.callee.reporter == Reporter::Source
            && failures_of(snapshot, service).iter().any(|other| other.way == Way::NoFilterChain)
    });
    let why = if refused {
        "At the same time the callee's proxy finds no filter chain for connections: mutual TLS does not match."
    } else if restarts > 0 {
        "The callee's pods have restarted; a process that dies closes its connections."
    } else {
        "No pod of the callee has restarted: the other side closes connections that the proxy still counts as usable, as a server with a short keep-alive time-out does."
    };
    format!("{}{why}", spread(group, snapshot))
}
