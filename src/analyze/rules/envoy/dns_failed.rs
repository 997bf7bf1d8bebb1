//! ENVOY129.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy cannot resolve the name of an upstream.
    ///
    /// ## What it detects
    /// `503 DF dns_resolution_failure`.
    /// ## Why it matters
    /// Requests to this host fail as long as its name does not resolve.
    /// ## Evidence
    /// The flag `DF` in access logs.
    /// ## How to confirm
    /// The host of the ServiceEntry, resolved from a pod; CoreDNS and NetworkPolicies for port 53.
    /// ## How to fix
    /// Correct the host, or repair DNS.
    /// ## False positives
    /// A name server that restarts.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    DnsFailed {
        code: "ENVOY129", name: "proxy-dns-failed", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for DnsFailed {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::DnsFailed)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "DNS resolution failed",
            means: "The proxy cannot resolve the host's name.".to_owned(),
            look: ("See which hosts are registered", vec![kubectl(group, "get serviceentries -o yaml")]),
            flag: "DF",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
