//! ENVOY122.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// An AuthorizationPolicy denies requests.
    ///
    /// ## What it detects
    /// `403 rbac_access_denied_matched_policy[…]` at the callee's proxy. `[none]` means that policies which allow exist
    /// and none matched.
    /// ## Why it matters
    /// Callers get `403 RBAC: access denied`, and their own proxies show no flag.
    /// ## Evidence
    /// The details in the callee's access log name the policy and the rule that denied.
    /// ## How to confirm
    /// `kubectl get authorizationpolicies` for the callee: principals, namespaces, paths and methods against what the
    /// caller presents.
    /// ## How to fix
    /// Add the caller, path or method to the rule, or restore the caller's identity.
    /// ## False positives
    /// Requests that must be denied.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    RbacDenied {
        code: "ENVOY122", name: "requests-denied-by-policy", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for RbacDenied {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Rbac)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "authorization denied: RBAC access denied",
            means: which(group).to_owned(),
            look: (
                "See the policies that cover the callee",
                vec![kubectl(group, "get authorizationpolicies -o yaml")],
            ),
            flag: "",
            codes: "403",
        };
        symptom(Self::META, group, words)
    }
}

/// What the details say, in our words.
fn which(group: &Failures) -> &'static str {
    let says = |word: &str| group.parts.iter().any(|part| part.details.contains(word));
    if says("bad-CUSTOM-action") {
        "A policy with action CUSTOM names a provider that the mesh does not know, so everything it covers is denied."
    } else if says("[none]") {
        "Policies that allow cover the callee, and none of their rules matches these requests."
    } else {
        "A policy that denies matches these requests; the details name it."
    }
}
