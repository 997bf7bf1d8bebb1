//! ENVOY121.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An external authorizer denies requests, or does not answer.
    ///
    /// ## What it detects
    /// `403 UAEX` with `ext_authz_denied` (it said no) or `ext_authz_error` (it could not be asked).
    /// ## Why it matters
    /// An authorizer that is away takes every service with it that asks it.
    /// ## Evidence
    /// The details tell which of the two it is.
    /// ## How to confirm
    /// Endpoints and log of the provider in `meshConfig.extensionProviders`.
    /// ## How to fix
    /// For an error: bring the authorizer back or raise its time-out. For a denial: correct its policy.
    /// ## False positives
    /// Requests that must be denied.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    ExternalAuthorization {
        code: "ENVOY121", name: "external-authorization-denied", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for ExternalAuthorization {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::ExternalAuthorization)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "external authorization",
            means: {
                let means = if group.parts.iter().any(|part| part.details.contains("error")) {
                    "The external authorizer could not be asked: it is away, too slow or not reachable."
                } else {
                    "The external authorizer answered and said no."
                };
                means.to_owned()
            },
            look: (
                "See which provider is asked",
                vec![
                    kubectl(group, "get authorizationpolicies -o yaml"),
                    "kubectl -n istio-system get configmap istio -o yaml".to_owned(),
                ],
            ),
            flag: "UAEX",
            codes: "",
        };
        symptom(Self::META, group, words)
    }
}
