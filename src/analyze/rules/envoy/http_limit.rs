//! ENVOY134.

use super::symptom::{Words, reporters_log, symptom};
use crate::analyze::finding::{Confidence, Finding, Role};
use crate::analyze::remedy::{Remedy, quote};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::traffic::way::Way;
use crate::analyze::traffic::{Failures, failures};
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests are refused because of a limit of HTTP itself: its version, its headers or its body.
    ///
    /// ## What it detects
    /// `426 low_version`, `431` or details that name too many or too large headers, `413 request_payload_too_large`, and
    /// answers that are too large.
    /// ## Why it matters
    /// The application never sees these requests. They fail for one kind of client, or once cookies or bodies have grown.
    /// ## Evidence
    /// The details: the proxy and not the application refused (`via_upstream` would be the application's own limit).
    /// ## How to confirm
    /// One request with `curl --http1.0`, or with the headers or the body of a failing client.
    /// ## How to fix
    /// HTTP/1.1 in the proxy before (`proxy_http_version 1.1` in nginx); a larger limit where one of ours is too small; smaller
    /// cookies and bodies where they are not meant to be that large.
    /// ## False positives
    /// Scanners that send what nobody means.
    /// ## References
    /// <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_conn_man/response_code_details>
    HttpLimit {
        code: "ENVOY134", name: "http-limit-exceeded", family: Traffic, severity: Error,
        needs: [Requests], aliases: [],
    }
}

impl Check for HttpLimit {
    type Fact<'a> = Failures;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Failures> {
        failures(snapshot, Way::HttpLimit)
    }

    fn describe(&self, group: &Failures, snapshot: &Snapshot) -> Finding {
        let limit = Limit::of(group);
        let words = Words {
            mechanism: limit.mechanism(),
            means: limit.means().to_owned(),
            look: (limit.look(), reporters_log(group)),
            flag: "",
            codes: limit.codes(),
        };
        let finding = symptom(Self::META, group, words);
        let root = quote(&snapshot.istio.root_namespace);
        // Nothing else decides it: the request as it is sent, and this limit.
        let role = if finding.role == Role::Symptom { Role::Cause } else { finding.role };
        let finding = finding.role(role, Confidence::Configured);
        match limit {
            Limit::Version => finding.remedy(Remedy::commands(
                "Let proxies of the mesh take HTTP/1.0 (PILOT_HTTP10), where the client cannot be changed",
                vec![format!("kubectl -n {root} set env deployment/istiod PILOT_HTTP10=1")],
                vec![format!("kubectl -n {root} set env deployment/istiod PILOT_HTTP10-")],
            )),
            _ => finding,
        }
    }
}

/// Which limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    Version,
    Headers,
    Body,
    Answer,
}

impl Limit {
    fn of(group: &Failures) -> Self {
        let says = |word: &str| group.parts.iter().any(|part| part.details.contains(word));
        if says("low_version") {
            Limit::Version
        } else if says("response_payload_too_large") {
            Limit::Answer
        } else if says("payload_too_large") {
            Limit::Body
        } else {
            Limit::Headers
        }
    }

    fn mechanism(self) -> &'static str {
        match self {
            Limit::Version => "HTTP/1.0 refused: 426 Upgrade Required",
            Limit::Headers => "request headers too large or too many: 431",
            Limit::Body => "request body too large for a buffering filter: 413",
            Limit::Answer => "response body too large for a buffering filter",
        }
    }

    fn means(self) -> &'static str {
        match self {
            Limit::Version => {
                "The clients speak HTTP/1.0, which Envoy refuses; nginx does so to its backends unless it is told otherwise."
            }
            Limit::Headers => {
                "Their headers exceed 60 KiB or 100 in number, Envoy's limits where nothing else is configured: mostly cookies or tokens that have grown."
            }
            Limit::Body => {
                "A filter of the proxy (external authorization, Lua) buffers whole bodies, and these are larger than its limit; without such a filter bodies stream through at any size."
            }
            Limit::Answer => {
                "A filter of the proxy buffers whole answers, and these are larger than its limit."
            }
        }
    }

    fn look(self) -> &'static str {
        match self {
            Limit::Version => {
                "Set HTTP/1.1 at the client (nginx: proxy_http_version 1.1), and see in the log which it is"
            }
            Limit::Headers => {
                "See which clients send them; raise max_request_headers_kb or common_http_protocol_options.max_headers_count with an EnvoyFilter where they are right"
            }
            Limit::Body => {
                "See which filter buffers: with_request_body.max_request_bytes of the authorizer, or per_connection_buffer_limit_bytes"
            }
            Limit::Answer => "See which filter buffers answers, and raise per_connection_buffer_limit_bytes",
        }
    }

    fn codes(self) -> &'static str {
        match self {
            Limit::Version => "426",
            Limit::Headers => "431|400",
            Limit::Body => "413",
            Limit::Answer => "500|502",
        }
    }
}
