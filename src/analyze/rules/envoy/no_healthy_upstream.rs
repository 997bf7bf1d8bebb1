//! ENVOY101.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Callers find no endpoint for a Service that may be used.
    ///
    /// ## What it detects
    /// Requests that the caller's proxy answers itself with `503 UH no_healthy_upstream`, or bare connections closed
    /// with `UH`.
    /// ## Why it matters
    /// None of these requests reaches a pod. They fail in less than a millisecond, and retries do not help.
    /// ## Evidence
    /// The flag `UH` in access logs of callers, the flag in `istio_requests_total`, or the counter
    /// `envoy_cluster_upstream_cx_none_healthy`.
    /// ## How to confirm
    /// `kubectl get endpointslices -l kubernetes.io/service-name=NAME` shows how many endpoints are ready; the name of
    /// the cluster in the log shows whether one subset alone is empty.
    /// ## How to fix
    /// Find out which of four it is: no pod is ready, the selector or the labels of a subset match none, the control
    /// plane refuses the endpoint, or outlier detection has taken all of them out.
    /// ## False positives
    /// Some seconds during the start of a Service that is called before its first pod is ready.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    NoHealthyUpstream {
        code: "ENVOY101", name: "no-healthy-upstream", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for NoHealthyUpstream {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::NoHealthyUpstream)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "no healthy upstream: the callee has no endpoint that may be used",
            means: "The callers' proxies found no endpoint to send them to: no pod is ready, nothing matches the selector or the subset, or all are ejected.".to_owned(),
            look: ("See which endpoints are ready", vec![kubectl(group, "get endpointslices -l kubernetes.io/service-name=NAME -o wide"), kubectl(group, "get pods -o wide")]),
            flag: "UH",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
