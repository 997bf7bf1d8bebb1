//! ENVOY127.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A proxy turns requests away because it drains or is at its own limits.
    ///
    /// ## What it detects
    /// `OM overload` (memory or connections) and `LH` (its health check fails, or it drains).
    /// ## Why it matters
    /// The application behind it may be well and is not asked.
    /// ## Evidence
    /// The flags in access logs.
    /// ## How to confirm
    /// Memory of the container `istio-proxy` against its limit, and its restarts.
    /// ## How to fix
    /// More memory for the proxy (`sidecar.istio.io/proxyMemoryLimit`), or less configuration (a Sidecar with fewer
    /// hosts).
    /// ## False positives
    /// Pods that are being stopped.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ProxyOverloaded {
        code: "ENVOY127", name: "proxy-overloaded", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for ProxyOverloaded {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::ProxyOverloaded)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "proxy overloaded",
            means: "The proxy turns them away: it is short of memory or connections, or it drains."
                .to_owned(),
            look: ("See the proxies' resources", vec![kubectl(group, "top pods --containers")]),
            flag: "OM|.*LH",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
