//! What error texts of clients mean: how a call failed, which limit it hit, what its pool held.

use regex::Regex;
use std::sync::LazyLock;

use super::grpc;
pub use super::kind::Kind;

/// Texts and what they mean. Of two that begin at the same place the longer one comes first.
const TEXTS: &[(&str, Kind)] = &[
    // Pools of the caller.
    ("connection is not available, request timed out", Kind::Pool),
    ("timeout waiting for connection from pool", Kind::Pool),
    ("connectionpooltimeoutexception", Kind::Pool),
    ("poolacquiretimeoutexception", Kind::Pool),
    ("pending acquire queue has reached its maximum", Kind::Pool),
    ("pool timed out while waiting", Kind::Pool),
    ("timed out fetching a new connection from the connection pool", Kind::Pool),
    ("obtaining a connection from the pool", Kind::Pool),
    ("timeout waiting for idle object", Kind::Pool),
    ("unable to fetch a connection in", Kind::Pool),
    ("queuepool limit of size", Kind::Pool),
    ("connection pool exhausted", Kind::Pool),
    ("pool exhausted", Kind::Pool),
    ("waiting for a free connection", Kind::Pool),
    ("waiting for available connection", Kind::Pool),
    ("timeout acquiring a connection", Kind::Pool),
    ("timed out acquiring connection", Kind::Pool),
    ("timeout exceeded when trying to connect", Kind::Pool),
    ("pooltimeout", Kind::Pool),
    ("query_wait_timeout", Kind::Pool),
    // A server's own limit.
    ("too many clients already", Kind::TooMany),
    ("remaining connection slots are reserved", Kind::TooMany),
    ("too many connections", Kind::TooMany),
    ("max number of clients reached", Kind::TooMany),
    // Names.
    ("no such host", Kind::NoSuchHost),
    ("unknownhostexception", Kind::NoSuchHost),
    ("name or service not known", Kind::NoSuchHost),
    ("nodename nor servname provided", Kind::NoSuchHost),
    ("enotfound", Kind::NoSuchHost),
    ("nxdomain", Kind::NoSuchHost),
    ("could not resolve host", Kind::NoSuchHost),
    ("name does not resolve", Kind::NoSuchHost),
    ("no address associated with hostname", Kind::NoSuchHost),
    ("no such host is known", Kind::NoSuchHost),
    ("getaddrinfo failed", Kind::NoSuchHost),
    ("domain name not found", Kind::NoSuchHost),
    ("host not found (authoritative)", Kind::NoSuchHost),
    ("host not found in upstream", Kind::NoSuchHost),
    ("produced zero addresses", Kind::NoAddresses),
    ("returned no usable address", Kind::NoAddresses),
    ("empty address list", Kind::NoAddresses),
    ("nameresolutionerror", Kind::NoSuchHost),
    ("failed to resolve", Kind::NoSuchHost),
    ("could not translate host name", Kind::NoSuchHost),
    ("failed to lookup address information", Kind::NoSuchHost),
    ("temporary failure in name resolution", Kind::Resolver),
    ("eai_again", Kind::Resolver),
    ("server misbehaving", Kind::Resolver),
    ("servfail", Kind::Resolver),
    ("could not contact dns servers", Kind::Resolver),
    ("timeout while contacting dns servers", Kind::Resolver),
    ("dns resolution timed out", Kind::Resolver),
    ("name resolution timed out", Kind::Resolver),
    ("[errno -3]", Kind::Resolver),
    // Messages and methods.
    ("received message larger than max", Kind::TooLarge),
    ("sent message larger than max", Kind::TooLarge),
    ("trying to send message larger than max", Kind::TooLarge),
    ("grpc message exceeds maximum size", Kind::TooLarge),
    ("message length too large", Kind::TooLarge),
    ("too_many_pings", Kind::Pings),
    ("too many pings", Kind::Pings),
    ("enhance_your_calm", Kind::Pings),
    // Connections.
    ("connection refused", Kind::Refused),
    ("econnrefused", Kind::Refused),
    ("actively refused", Kind::Refused),
    ("can't connect to mysql server", Kind::Refused),
    ("no route to host", Kind::Unreachable),
    ("ehostunreach", Kind::Unreachable),
    ("enetunreach", Kind::Unreachable),
    ("network is unreachable", Kind::Unreachable),
    ("host is unreachable", Kind::Unreachable),
    ("no available connection", Kind::Unreachable),
    ("all host(s) tried", Kind::Unreachable),
    ("communications link failure", Kind::Unreachable),
    // TLS.
    ("wrong version number", Kind::Scheme),
    ("first record does not look like a tls handshake", Kind::Scheme),
    ("server gave http response to https client", Kind::Scheme),
    ("http request to an https server", Kind::Scheme),
    ("plain http request was sent to https port", Kind::Scheme),
    ("unsupported or unrecognized ssl message", Kind::Scheme),
    ("http2: frame too large", Kind::Scheme),
    ("http/2 client preface string missing or corrupt", Kind::Scheme),
    ("http2 exception: unexpected http/1.x request", Kind::Scheme),
    ("err_ssl_wrong_version_number", Kind::Scheme),
    ("packet length too long", Kind::Scheme),
    ("cannot determine the frame size or a corrupted frame was received", Kind::Scheme),
    ("x509: ", Kind::Tls),
    ("certificate verify failed", Kind::Tls),
    ("certificate_verify_failed", Kind::Tls),
    ("cert_has_expired", Kind::Tls),
    ("tls: failed to verify certificate", Kind::Tls),
    ("self-signed certificate", Kind::Tls),
    ("unable to get local issuer certificate", Kind::Tls),
    ("unable to verify the first certificate", Kind::Tls),
    ("the ssl connection could not be established", Kind::Tls),
    ("certificate has expired", Kind::Tls),
    ("sslhandshakeexception", Kind::Tls),
    ("pkix path building failed", Kind::Tls),
    ("unable_to_verify_leaf_signature", Kind::Tls),
    ("self_signed_cert_in_chain", Kind::Tls),
    ("depth_zero_self_signed_cert", Kind::Tls),
    ("err_tls_cert_altname_invalid", Kind::Tls),
    ("tls: handshake failure", Kind::Tls),
    ("tls: bad certificate", Kind::Tls),
    ("invalid peer certificate", Kind::Tls),
    ("the remote certificate is invalid", Kind::Tls),
    // Waiting.
    ("connecttimeout", Kind::ConnectTimeout),
    ("und_err_connect_timeout", Kind::ConnectTimeout),
    ("connect timed out", Kind::ConnectTimeout),
    ("connection timed out", Kind::ConnectTimeout),
    ("connect timeout", Kind::ConnectTimeout),
    ("etimedout", Kind::ConnectTimeout),
    ("i/o timeout", Kind::Timeout),
    ("context deadline exceeded", Kind::Timeout),
    ("deadlineexceeded", Kind::Timeout),
    ("deadline exceeded", Kind::Timeout),
    ("deadline_exceeded", Kind::Timeout),
    ("deadline has elapsed", Kind::Timeout),
    ("awaiting headers", Kind::Timeout),
    ("und_err_headers_timeout", Kind::Timeout),
    ("und_err_body_timeout", Kind::Timeout),
    ("taskcanceledexception", Kind::Timeout),
    ("sockettimeoutexception", Kind::Timeout),
    ("httptimeoutexception", Kind::Timeout),
    ("readtimeout", Kind::Timeout),
    ("read timed out", Kind::Timeout),
    ("esockettimedout", Kind::Timeout),
    ("httpclient.timeout", Kind::Timeout),
    ("operation timed out", Kind::Timeout),
    ("request timed out", Kind::Timeout),
    ("the operation was aborted due to timeout", Kind::Timeout),
    ("timeout of ", Kind::Timeout),
    ("timeouterror", Kind::Timeout),
    ("timed out after", Kind::Timeout),
    // Closed connections.
    ("connection reset", Kind::Reset),
    ("econnreset", Kind::Reset),
    ("socket hang up", Kind::Reset),
    ("remote end closed connection", Kind::Reset),
    ("remotedisconnected", Kind::Reset),
    ("remoteprotocolerror", Kind::Reset),
    ("other side closed", Kind::Reset),
    ("closed by the remote host", Kind::Reset),
    ("err_stream_premature_close", Kind::Reset),
    ("transport is closing", Kind::Reset),
    ("rst_stream", Kind::Reset),
    ("nohttpresponseexception", Kind::Reset),
    ("server disconnected", Kind::Reset),
    ("connection closed before message completed", Kind::Reset),
    ("premature close", Kind::Reset),
    ("prematurely closed connection", Kind::Reset),
    ("broken pipe", Kind::Reset),
    ("epipe", Kind::Reset),
    ("unexpected eof", Kind::Reset),
    (": eof", Kind::Reset),
    ("error reading server preface", Kind::Reset),
];

/// Words before a status code.
const STATUS_TEXTS: &[&str] = &[
    "unexpected status",
    "status code",
    "response status",
    "responded with",
    "http status",
    "bad status",
    "returned http",
    "returned status",
    "status code received from server",
    "server error",
    "client error",
    "httperror",
    "http error",
    "status=",
    "status:",
    "returned",
    "answered",
];

static MEANING: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let texts = TEXTS.iter().map(|(text, _)| regex::escape(text)).collect::<Vec<_>>().join("|");
    let before = STATUS_TEXTS.iter().map(|text| regex::escape(text)).collect::<Vec<_>>().join("|");
    let after = "server error|client error|internal server error|service unavailable|bad gateway|gateway time-?out|too many requests|not found for url|unauthorized|forbidden";
    let thrown = "http(?:server|client)errorexception";
    Regex::new(&format!(
        r"(?i)({texts})|(?:{before})[ :=(]{{0,3}}(?:code )?([45]\d\d)\b|{thrown}\S{{0,32}} ([45]\d\d)\b|\b([45]\d\d) (?:{after}|from [a-z]+://)"
    ))
    .ok()
});

/// The first of these texts in an error, and where it stands. Beside a status of gRPC the more exact text counts, but for
/// answers in which the callee quotes what failed behind it.
pub(super) fn meaning(text: &str) -> Option<(Kind, usize)> {
    let exact = exact(text);
    let Some((kind, at)) = grpc::code(text) else { return exact };
    match (exact, kind) {
        (Some((_, exact)), _) if exact < at => {}
        // Only a server answers with these: what stands behind them is its own trouble.
        (Some((inner, _)), Some(Kind::Status(400 | 404 | 409 | 500) | Kind::Unimplemented))
            if inner.is_of_connection() =>
        {
            return kind.map(|kind| (kind, at));
        }
        (Some((Kind::Status(_), _)) | None, _) => return kind.map(|kind| (kind, at)),
        _ => {}
    }
    exact
}

fn exact(text: &str) -> Option<(Kind, usize)> {
    let found = MEANING.as_ref()?.captures(text)?;
    let at = found.get(0)?.start();
    if let Some(words) = found.get(1) {
        let words = words.as_str().to_ascii_lowercase();
        let kind = TEXTS.iter().find(|(known, _)| *known == words).map(|(_, kind)| *kind)?;
        return Some((refine(kind, text, at), at));
    }
    let code = found.get(2).or(found.get(3)).or(found.get(4))?.as_str().parse().ok()?;
    Some((Kind::Status(code), at))
}

/// Whether a text in lower case says that the caller's own pool had nothing to give.
fn tells_of_pool(lower: &str) -> bool {
    TEXTS.iter().any(|(words, kind)| *kind == Kind::Pool && lower.contains(words))
}

/// What the words around the first text add to it.
fn refine(kind: Kind, text: &str, at: usize) -> Kind {
    let before = text.get(..at).unwrap_or_default();
    let lower = || text.to_ascii_lowercase();
    match kind {
        Kind::NoSuchHost
            if lower().contains("temporary failure")
                || text.contains("EAI_AGAIN")
                || lower().contains("timeout while contacting")
                || lower().contains("could not contact")
                || text.contains("[Errno -3]") =>
        {
            Kind::Resolver
        }
        // The first bytes of the other side were those of another protocol.
        Kind::Reset if lower().contains("frame too large") => Kind::Scheme,
        // A server that closes for too many pings says so behind the words for a closed connection.
        Kind::Reset if lower().contains("too_many_pings") => Kind::Pings,
        // `TimeoutError: QueuePool limit of size 5 …`: the name of the exception says less than its text.
        Kind::Timeout if tells_of_pool(&lower()) => Kind::Pool,
        // Go dials and reads with the same words.
        Kind::Timeout if before.contains("dial ") && before.contains("lookup ") => Kind::Resolver,
        Kind::Timeout if before.contains("dial ") || lower().contains("connect timed out") => {
            Kind::ConnectTimeout
        }
        other => other,
    }
}

static LIMIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"(?i)(?:timed out after|timeout of|timeout=|exceeded|timeout was|timed out in|deadline of|connection in|timeout of the pool:?|within|timeout)[ :=]{0,2}(\d+(?:\.\d+)?) ?(ms|milliseconds?|msec|s|sec|seconds?|)\b",
    )
    .ok()
});

/// The limit that a text states, in milliseconds: `timed out after 1000ms`, `read timeout=0.2`, `timeout of 200ms exceeded`.
pub fn limit(text: &str) -> Option<f64> {
    let found = LIMIT.as_ref()?.captures(text)?;
    let number: f64 = found.get(1)?.as_str().parse().ok()?;
    match found.get(2)?.as_str().to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millisecond" | "milliseconds" => Some(number),
        "" if found.get(0)?.as_str().contains("timeout=") => Some(number * 1000.0),
        "" => None,
        _ => Some(number * 1000.0),
    }
}

/// The state of a pool, where a text tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Connections that it has.
    pub size: Option<u64>,
    /// Those in use.
    pub active: Option<u64>,
    /// Callers in its queue.
    pub waiting: Option<u64>,
}

/// Reads `(total=1, active=1, idle=0, waiting=3)`, `size:10; busy:10`, `QueuePool limit of size 5 overflow 10 reached`, `connection limit: 5`.
pub fn pool_state(text: &str) -> PoolState {
    let after = |words: &[&str]| {
        words.iter().find_map(|word| {
            let at = text.find(word)?;
            let digits = text.get(at + word.len()..)?.trim_start_matches([' ', '=', ':']);
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })
    };
    PoolState {
        size: after(&[
            "total=",
            "size:",
            "limit of size ",
            "connection limit: ",
            "max_connections=",
            "maximumPoolSize=",
            "max=",
        ]),
        active: after(&["active=", "busy:", "in_use=", "in use: "]),
        waiting: after(&["waiting=", "pending=", "queued="]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_exception_says_more_than_its_name() {
        let text = "sqlalchemy.exc.TimeoutError: QueuePool limit of size 1 overflow 0 reached, connection timed out, timeout 1.00";
        assert_eq!(meaning(text).map(|(kind, _)| kind), Some(Kind::Pool));
        assert_eq!(meaning("TimeoutError: read timed out").map(|(kind, _)| kind), Some(Kind::Timeout));
    }

    #[test]
    fn limits_and_pools() {
        assert_eq!(
            limit("Connection is not available, request timed out after 1007ms (total=1"),
            Some(1007.0)
        );
        assert_eq!(limit("Read timed out. (read timeout=0.2)"), Some(200.0));
        assert_eq!(limit("timeout of 200ms exceeded"), Some(200.0));
        assert_eq!(limit("Unable to fetch a connection in 30 seconds, none available"), Some(30000.0));
        assert_eq!(limit("timeout"), None);
        let state = pool_state("request timed out after 1007ms (total=1, active=1, idle=0, waiting=3)");
        assert_eq!((state.size, state.active, state.waiting), (Some(1), Some(1), Some(3)));
        assert_eq!(pool_state("none available[size:10; busy:10; idle:0]").size, Some(10));
    }

    #[test]
    fn the_exact_text_counts_beside_a_status_of_grpc() {
        for (text, kind) in [
            (
                "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial tcp 10.0.0.7:50051: connect: connection refused\"",
                Some(Kind::Refused),
            ),
            (
                "rpc error: code = Unavailable desc = name resolver error: produced zero addresses",
                Some(Kind::NoAddresses),
            ),
            (
                "rpc error: code = Unavailable desc = connection error: desc = \"error reading server preface: EOF\"",
                Some(Kind::Reset),
            ),
            (
                "rpc error: code = Unavailable desc = connection error: desc = \"error reading server preface: http2: frame too large\"",
                Some(Kind::Scheme),
            ),
            (
                "rpc error: code = Unavailable desc = closing transport due to: connection error: desc = \"error reading from server: EOF\", received prior goaway: code: ENHANCE_YOUR_CALM, debug data: \"too_many_pings\"",
                Some(Kind::Pings),
            ),
            (
                "rpc error: code = ResourceExhausted desc = grpc: received message larger than max (5242880 vs. 4194304)",
                Some(Kind::TooLarge),
            ),
            ("rpc error: code = Unimplemented desc = unknown service shop.Pay", Some(Kind::Unimplemented)),
            (
                "rpc error: code = Internal desc = charge: dial tcp 10.0.0.1:80: connect: connection refused",
                Some(Kind::Status(500)),
            ),
            (
                "rpc error: code = Internal desc = stream terminated by RST_STREAM with error code: PROTOCOL_ERROR",
                Some(Kind::Reset),
            ),
            ("rpc error: code = DeadlineExceeded desc = context deadline exceeded", Some(Kind::Timeout)),
            ("rpc error: code = Canceled desc = context canceled", None),
        ] {
            assert_eq!(meaning(text).map(|(kind, _)| kind), kind, "{text}");
        }
    }

    #[test]
    fn every_text_is_found_as_itself() {
        for (text, kind) in TEXTS {
            let (found, _) = meaning(&format!("x {text} y")).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(kind), "{text}");
        }
    }
}
