//! In which way a request failed: the flag and its detail, read as one.

use crate::model::access_log::is_http_limit;
use crate::model::network::ServiceName;
use crate::model::traffic::{ClusterName, Outcome, Reporter};

/// A way in which proxies see requests fail. Every failing outcome belongs to exactly one: of several flags the one
/// that decides (`URX,UF` is a failed connection that was retried).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// `UH`: the cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// `UF`, refused: nothing listens there.
    Refused,
    /// `UF`, no answer to the connection attempt.
    ConnectTimeout,
    /// `UF`, the other side does not speak TLS.
    TlsToPlaintext,
    /// `UF`, a certificate was not accepted.
    Certificate,
    /// `UF`, reset or anything else while connecting.
    ConnectionFailed,
    /// `UO`: a limit of the connection pool.
    Overflow,
    /// `NR` with `route_not_found`.
    NoRoute,
    /// `NR` with `filter_chain_not_found`: a connection that no listener takes, mostly plaintext to strict mutual TLS.
    NoFilterChain,
    /// `NR` with `route_configuration_not_found`: the proxy never got its routes.
    NoRouteConfiguration,
    /// `NC`: the route leads to a cluster that the proxy does not know.
    NoCluster,
    /// `URX` without another flag.
    RetriesExhausted,
    /// `UT`: a route's time-out.
    Timeout,
    /// `UC`: the other side closed the connection before it answered.
    UpstreamClosed,
    /// `UR`: the other side reset the stream.
    UpstreamReset,
    /// `DC`: the client gave up.
    ClientGaveUp,
    /// `FI`: an abort that somebody configured.
    AbortInjected,
    /// `DI`: a delay that somebody configured. Such requests may succeed.
    DelayInjected,
    /// `RL`: over a rate limit.
    RateLimited,
    /// `RLSE`: the rate limit service failed.
    RateLimitService,
    /// `UAEX`: an external authorizer said no, or failed.
    ExternalAuthorization,
    /// `rbac_access_denied…`: an AuthorizationPolicy said no.
    Rbac,
    /// `jwt_authn_access_denied…`: a token is missing or not accepted.
    Jwt,
    /// `UPE`: the other side's bytes are not the protocol that was expected.
    UpstreamProtocol,
    /// `DPE`: the client's bytes are not the protocol that was expected.
    DownstreamProtocol,
    /// `LR`: the proxy itself reset the stream.
    LocalReset,
    /// `LH` or `OM`: the proxy is draining or at its own limits.
    ProxyOverloaded,
    /// `SI`, `UMSDR` or `DT`: a stream or connection lived too long or too still.
    StreamCut,
    /// `DF`: a name was not resolved.
    DnsFailed,
    /// 5xx from the application behind the last proxy.
    Application,
    /// A limit of HTTP itself: version, headers, body.
    HttpLimit,
    /// Sent to nowhere: `block_all`, `BlackHoleCluster`.
    EgressBlocked,
    /// A direct response that a route configures.
    DirectResponse,
    /// Any other flag or detail.
    Other,
}

impl Way {
    /// The words by which causes predict it: Envoy's flags and the vocabulary of [`Effect`](crate::analyze::finding::Effect).
    pub fn words(self) -> &'static [&'static str] {
        match self {
            Way::NoHealthyUpstream => &["UH"],
            Way::Refused => &["UF", "refused"],
            Way::ConnectTimeout => &["UF", "timeout"],
            Way::TlsToPlaintext | Way::Certificate => &["UF", "tls"],
            Way::ConnectionFailed => &["UF", "reset"],
            Way::Overflow => &["UO"],
            Way::NoRoute => &["NR", "404"],
            Way::NoFilterChain => &["NR", "tls"],
            Way::NoRouteConfiguration => &["NR"],
            Way::NoCluster => &["NC"],
            Way::RetriesExhausted => &["URX"],
            Way::Timeout => &["UT", "timeout", "slow"],
            Way::UpstreamClosed => &["UC", "reset"],
            Way::UpstreamReset => &["UR", "reset"],
            Way::ClientGaveUp => &["DC"],
            Way::AbortInjected => &["FI", "fault"],
            Way::DelayInjected => &["DI", "fault", "slow"],
            Way::RateLimited => &["RL"],
            Way::RateLimitService => &["RLSE"],
            Way::ExternalAuthorization => &["UAEX", "ext_authz"],
            Way::Rbac => &["rbac"],
            Way::Jwt => &["jwt"],
            Way::UpstreamProtocol => &["UPE"],
            Way::DownstreamProtocol => &["DPE"],
            Way::LocalReset => &["LR"],
            Way::ProxyOverloaded => &["LH", "OM"],
            Way::StreamCut => &["SI", "UMSDR", "DT"],
            Way::DnsFailed => &["DF", "dns"],
            Way::Application => &["5xx"],
            Way::HttpLimit => &["413", "426", "431", "DPE"],
            Way::EgressBlocked => &["direct_response", "blackhole"],
            Way::DirectResponse => &["direct_response"],
            Way::Other => &[],
        }
    }
}

/// What decides the way: one outcome, reduced to what a log or a counter can say.
#[derive(Debug, Clone, Copy)]
pub struct Signs<'a> {
    /// The response code; 0 where there was none.
    pub code: u16,
    /// Flags joined by commas.
    pub flags: &'a str,
    /// `RESPONSE_CODE_DETAILS`; empty for counters and old versions.
    pub details: &'a str,
    /// The transport's failure; empty where there is none.
    pub transport: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The raw name of the cluster.
    pub cluster: &'a str,
}

impl<'a> Signs<'a> {
    /// Those of an outcome on a cluster.
    pub fn of(outcome: &'a Outcome, cluster: &'a ClusterName) -> Self {
        Signs {
            code: outcome.code,
            flags: &outcome.flags,
            details: &outcome.details,
            transport: &outcome.transport_failure,
            route: &outcome.route,
            cluster: &cluster.raw,
        }
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split([',', '|']).any(|own| own.trim() == flag)
    }

    /// Whether the words of either field hold one of these, whatever joins them and whatever their case.
    fn says(&self, words: &[&str]) -> bool {
        let holds = |text: &str, word: &str| {
            text.len() >= word.len()
                && text.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()))
        };
        words.iter().any(|word| holds(self.details, word) || holds(self.transport, word))
    }

    /// The way in which this failed; `None` where it did not, or where nothing tells.
    pub fn way(&self) -> Option<Way> {
        if self.details.starts_with("rbac_access_denied") {
            return Some(Way::Rbac);
        }
        if self.details.starts_with("jwt_authn") {
            return Some(Way::Jwt);
        }
        if is_http_limit(self.details) || (self.code == 431 && self.has("DPE")) {
            return Some(Way::HttpLimit);
        }
        if self.cluster == "BlackHoleCluster" || (self.details == "direct_response" && self.code >= 500) {
            let blocked = self.cluster == "BlackHoleCluster" || self.route == "block_all" || self.code == 502;
            return Some(if blocked { Way::EgressBlocked } else { Way::DirectResponse });
        }
        const FLAGS: &[(&str, Way)] = &[
            ("UAEX", Way::ExternalAuthorization),
            ("FI", Way::AbortInjected),
            ("RLSE", Way::RateLimitService),
            ("RL", Way::RateLimited),
            ("OM", Way::ProxyOverloaded),
            ("LH", Way::ProxyOverloaded),
            ("NC", Way::NoCluster),
            ("UH", Way::NoHealthyUpstream),
            ("UO", Way::Overflow),
            ("DF", Way::DnsFailed),
            ("UMSDR", Way::StreamCut),
            ("UT", Way::Timeout),
        ];
        if let Some((_, way)) = FLAGS.iter().find(|(flag, _)| self.has(flag)) {
            return Some(*way);
        }
        if self.has("NR") {
            return Some(if self.says(&["filter_chain"]) || (self.code == 0 && self.details.is_empty()) {
                Way::NoFilterChain
            } else if self.says(&["route_configuration"]) {
                Way::NoRouteConfiguration
            } else {
                Way::NoRoute
            });
        }
        if self.has("UF") {
            return Some(self.connection());
        }
        const LATER: &[(&str, Way)] = &[
            ("UC", Way::UpstreamClosed),
            ("UPE", Way::UpstreamProtocol),
            ("UR", Way::UpstreamReset),
            ("DPE", Way::DownstreamProtocol),
            ("SI", Way::StreamCut),
            ("DT", Way::StreamCut),
            ("LR", Way::LocalReset),
            ("URX", Way::RetriesExhausted),
        ];
        if let Some((_, way)) = LATER.iter().find(|(flag, _)| self.has(flag)) {
            return Some(*way);
        }
        // A client that leaves in the middle of an answer got one.
        if self.has("DC") {
            return (self.code == 0 || self.code >= 400).then_some(Way::ClientGaveUp);
        }
        if self.has("DI") {
            return Some(Way::DelayInjected);
        }
        let flagged = !matches!(self.flags, "" | "-");
        match self.code {
            code if code >= 500 && (matches!(self.details, "via_upstream" | "") && !flagged) => {
                Some(Way::Application)
            }
            code if code >= 500 || (flagged && (code == 0 || code >= 400)) => Some(Way::Other),
            _ => None,
        }
    }

    /// The ways of `UF`: newer versions write words joined by `|`, older ones an error number after a comma.
    fn connection(&self) -> Way {
        if self.says(&["WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE"]) {
            Way::TlsToPlaintext
        } else if self.says(&["CERTIFICATE", "TLSV1_ALERT", "UNKNOWN_CA", "BAD_CERT", "SAN_matcher"]) {
            Way::Certificate
        } else if self.says(&["refused", "delayed_connect_error:_111", "connect error: 111"]) {
            Way::Refused
        } else if self.says(&["timeout", "timed_out", "timed out", "delayed_connect_error:_110"]) {
            Way::ConnectTimeout
        } else {
            Way::ConnectionFailed
        }
    }
}

/// What a counter of requests is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Callee {
    /// The Service, where one is known.
    pub service: Option<ServiceName>,
    /// The host that was asked for, where no Service is known.
    pub host: String,
    /// Who speaks.
    pub reporter: Reporter,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(code: u16, flags: &str, details: &str, transport: &str) -> Option<Way> {
        Signs { code, flags, details, transport, route: "", cluster: "" }.way()
    }

    #[test]
    fn old_and_new_spellings_mean_the_same() {
        let new = "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
        let old =
            "upstream_reset_before_response_started{remote_connection_failure,delayed_connect_error:_111}";
        assert_eq!(way(503, "URX,UF", new, ""), Some(Way::Refused));
        assert_eq!(way(503, "UF,URX", old, ""), Some(Way::Refused));
        let tls = "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end";
        assert_eq!(way(503, "UF", "upstream_reset", tls), Some(Way::TlsToPlaintext));
        let certificate = "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED";
        assert_eq!(way(503, "URX,UF", certificate, ""), Some(Way::Certificate));
    }

    #[test]
    fn the_deciding_flag_wins_and_success_is_no_failure() {
        assert_eq!(way(504, "URX,UT", "upstream_per_try_timeout", ""), Some(Way::Timeout));
        assert_eq!(way(503, "URX", "", ""), Some(Way::RetriesExhausted));
        assert_eq!(way(200, "-", "via_upstream", ""), None);
        assert_eq!(way(200, "DI", "via_upstream", ""), Some(Way::DelayInjected));
        assert_eq!(way(200, "DC", "via_upstream", ""), None);
        assert_eq!(way(404, "", "via_upstream", ""), None);
        assert_eq!(way(500, "", "via_upstream", ""), Some(Way::Application));
        assert_eq!(way(0, "NR", "filter_chain_not_found", ""), Some(Way::NoFilterChain));
        assert_eq!(way(502, "", "direct_response", ""), Some(Way::EgressBlocked));
        assert_eq!(way(500, "NFCF", "", ""), Some(Way::Other));
        assert_eq!(way(426, "", "low_version", ""), Some(Way::HttpLimit));
        assert_eq!(way(431, "DPE", "http1.headers_too_large", ""), Some(Way::HttpLimit));
        assert_eq!(way(413, "", "request_payload_too_large", ""), Some(Way::HttpLimit));
        // The application's own limit is the application's.
        assert_eq!(way(413, "", "via_upstream", ""), None);
        assert_eq!(way(503, "XYZ", "", ""), Some(Way::Other));
    }
}
