//! ENVOY123.

use super::symptom::{Words, kubectl, symptom};
use crate::analyze::finding::Finding;
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Tokens are missing or not accepted.
    ///
    /// ## What it detects
    /// `401 jwt_authn_access_denied{…}` at the proxy: the words in braces say what is wrong.
    /// ## Why it matters
    /// No application sees these requests.
    /// ## Evidence
    /// The details: missing, expired, unknown key, wrong audience or issuer, keys not fetched.
    /// ## How to confirm
    /// `issuer`, `audiences` and `jwksUri` of the RequestAuthentication against a token; istiod's log where keys could
    /// not be fetched.
    /// ## How to fix
    /// Correct the issuer, audience or keys; renew the clients' tokens; make `jwksUri` reachable for istiod.
    /// ## False positives
    /// Clients that are not allowed in.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage#response-flags>
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    JwtDenied {
        code: "ENVOY123", name: "token-rejected", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for JwtDenied {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::Jwt)
    }

    fn describe(&self, group: &Failures, _: &Snapshot) -> Finding {
        let words = Words {
            mechanism: "JWT rejected",
            means: which(group).to_owned(),
            look: (
                "See what is demanded of tokens",
                vec![kubectl(group, "get requestauthentications -o yaml")],
            ),
            flag: "",
            codes: "401",
        };
        symptom(Self::META, group, words)
    }
}

/// What the details say, in our words.
fn which(group: &Failures) -> &'static str {
    let says = |words: &[&str]| {
        words
            .iter()
            .any(|word| group.parts.iter().any(|part| part.details.to_ascii_lowercase().contains(word)))
    };
    if says(&["missing"]) {
        "The requests carry no token."
    } else if says(&["expired"]) {
        "The tokens have expired."
    } else if says(&["remote_fetch", "fetch"]) {
        "The issuer's keys could not be fetched."
    } else if says(&["jwks", "kid"]) {
        "No key of the issuer fits the tokens: keys were rotated or belong to another issuer."
    } else if says(&["audience"]) {
        "The tokens are meant for another audience."
    } else if says(&["issuer"]) {
        "The tokens come from an issuer that is not configured."
    } else {
        "The tokens are not accepted; the details say why."
    }
}
