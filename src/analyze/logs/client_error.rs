//! Calls that failed, in the words of the one who called.
//!
//! The texts are those of the usual clients (Go's `net`, Java, Python's urllib3 and aiohttp, Node, .NET, Rust, JDBC, libpq, gRPC). The
//! first one in a text decides: what stands behind it is the answer's body, in which the callee quotes its own callees.

use super::failure_text::{Kind, limit, meaning};
use super::http;
use super::record::{Level, Record};
use super::stack::Exception;
use super::target::{Target, host_at, target_in_text, target_of_fields};

/// One failed call.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// How.
    pub kind: Kind,
    /// Whom it was meant for.
    pub target: Option<Target>,
    /// How long it took in milliseconds, by a field of the record.
    pub took: Option<f64>,
    /// The limit that was exceeded in milliseconds, where the text states it.
    pub limit: Option<f64>,
    /// What a mesh's proxy said in place of the callee, as its flags.
    pub proxy: Option<&'static str>,
    /// Whether the callee's answer quotes a failure of a callee of its own: it only passes it on.
    pub passed_on: bool,
}

/// Reads a failed call out of a record, and out of the exception that it carries. Records below a warning tell of no failure.
pub fn failure(record: &Record<'_>, exception: Option<&Exception>, stack: &[&str]) -> Option<Failure> {
    if record.level.is_some_and(|level| level < Level::Warn) {
        return None;
    }
    let text = record.error_text();
    let text = if text.is_empty() { record.message.as_ref() } else { text };
    let root = exception.map(|e| format!("{}: {}", e.kind, e.message));
    // What was thrown at the root says how it failed; the words around it say for whom it was meant.
    let (kind, decided) = match root.as_deref().and_then(meaning) {
        Some((kind, _)) => (kind, root.as_deref().unwrap_or_default()),
        None => match meaning(text) {
            Some((kind, _)) => (kind, text),
            None => {
                let line = stack.iter().find(|line| meaning(line).is_some())?;
                (meaning(line)?.0, *line)
            }
        },
    };
    // Plain output without a level: a status in it may be anything.
    if record.level.is_none() && matches!(kind, Kind::Status(_)) {
        return None;
    }
    let sources = || {
        std::iter::once(text)
            .chain(std::iter::once(record.message.as_ref()))
            .chain(root.as_deref())
            .chain(stack.iter().copied())
    };
    let target = target_of_fields(record).or_else(|| sources().find_map(target_in_text));
    // Everything else without anybody it was meant for is an error like others.
    if target.is_none() && !matches!(kind, Kind::Pool | Kind::TooMany) {
        return None;
    }
    let body = meaning(text).and_then(|(_, at)| text.get(at..)).unwrap_or_default();
    let proxy = proxy_words(body);
    let own = target.as_ref().map(|t| t.host.as_str()).unwrap_or_default();
    let passed_on = matches!(kind, Kind::Status(_)) && proxy.is_none() && quotes_another(body, own);
    Some(Failure { kind, took: http::millis(record), limit: limit(decided), target, proxy, passed_on })
}

/// Whether an answer's body names another host in a URL, or says that somebody upstream failed.
fn quotes_another(body: &str, own: &str) -> bool {
    let mut rest = body;
    while let Some(at) = rest.find("://") {
        rest = rest.get(at + 3..).unwrap_or_default();
        let host = host_at(rest).0;
        if !host.is_empty() && host != own {
            return true;
        }
    }
    let inner = body.get(1..).unwrap_or_default();
    inner.contains("upstream ") && inner.contains(" failed")
}

/// Envoy's answers in place of the upstream's, as the flag that its access log carries for them.
fn proxy_words(body: &str) -> Option<&'static str> {
    const WORDS: &[(&str, &str)] = &[
        ("no healthy upstream", "UH"),
        ("upstream connect error or disconnect/reset before headers. reset reason: overflow", "UO"),
        ("reset reason: overflow", "UO"),
        ("reset reason: connection termination", "UC"),
        ("reset reason: remote connection failure", "UF"),
        ("reset reason: connection failure", "UF"),
        ("reset reason: connection timeout", "UF"),
        ("reset reason: protocol error", "UPE"),
        ("reset reason: remote reset", "UR"),
        ("upstream request timeout", "UT"),
        ("RBAC: access denied", "rbac"),
        ("fault filter abort", "FI"),
        ("Jwt ", "jwt"),
        ("local_rate_limited", "RL"),
    ];
    WORDS.iter().find(|(words, _)| body.contains(words)).map(|(_, flag)| *flag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::logs::record::parse;

    fn read(line: &str) -> Failure {
        failure(&parse(line), None, &[]).unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn texts_of_many_clients() {
        for (line, kind, host, port) in [
            (
                r#"{"level":"error","error":"Get \"http://pay:8080/a\": dial tcp 10.0.0.1:8080: connect: connection refused"}"#,
                Kind::Refused,
                "pay",
                Some(8080),
            ),
            (
                r#"level=error msg=x error="Get \"http://pay/a\": dial tcp 10.0.0.1:80: i/o timeout""#,
                Kind::ConnectTimeout,
                "pay",
                None,
            ),
            (
                r#"level=error msg=x error="Get \"http://pay/a\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)""#,
                Kind::Timeout,
                "pay",
                None,
            ),
            (
                r#"{"level":"error","error":"dial tcp: lookup pay.shop on 10.96.0.10:53: no such host"}"#,
                Kind::NoSuchHost,
                "pay.shop",
                None,
            ),
            (
                r#"{"level":"error","error":"dial tcp: lookup pay on 10.96.0.10:53: server misbehaving"}"#,
                Kind::Resolver,
                "pay",
                None,
            ),
            (
                "ERROR: HTTPConnectionPool(host='pay.shop', port=80): Max retries exceeded with url: / (Caused by NameResolutionError(\"<x>: Failed to resolve 'pay.shop' ([Errno -3] Temporary failure in name resolution)\"))",
                Kind::Resolver,
                "pay.shop",
                Some(80),
            ),
            ("[error] connect ECONNREFUSED 10.0.0.7:5432", Kind::Refused, "10.0.0.7", Some(5432)),
            ("[error] getaddrinfo ENOTFOUND pay.shop.svc", Kind::NoSuchHost, "pay.shop.svc", None),
            (
                "ERROR: connection to server at \"db\" (10.0.0.1), port 5432 failed: Connection refused",
                Kind::Refused,
                "db",
                Some(5432),
            ),
            (
                "ERROR: could not translate host name \"db\" to address: Name or service not known",
                Kind::NoSuchHost,
                "db",
                None,
            ),
            (
                "ERROR: System.Net.Http.HttpRequestException: Connection refused (payments:8080)",
                Kind::Refused,
                "payments",
                Some(8080),
            ),
            (
                "All host(s) tried for db query failed (tried: prod-db:3333) - no available connection",
                Kind::Unreachable,
                "prod-db",
                Some(3333),
            ),
            (
                r#"{"level":"error","err":"rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while dialing: dial tcp 10.0.0.7:50051: connect: connection refused\""}"#,
                Kind::Refused,
                "10.0.0.7",
                Some(50051),
            ),
            (
                r#"{"level":"error","url":"https://pay/a","error":"tls: first record does not look like a TLS handshake"}"#,
                Kind::Scheme,
                "pay",
                None,
            ),
            (
                "ERROR: org.x.HttpServerErrorException: 502 from http://api.partner.example/orders: ",
                Kind::Status(502),
                "api.partner.example",
                None,
            ),
            (
                r#"{"level":"error","error":"503 Server Error: Service Unavailable for url: http://pay/a"}"#,
                Kind::Status(503),
                "pay",
                None,
            ),
        ] {
            let failure = read(line);
            let target = failure.target.clone().unwrap_or_default();
            assert_eq!((failure.kind, target.host.as_str(), target.port), (kind, host, port), "{line}");
        }
    }

    #[test]
    fn the_outermost_failure_counts() {
        let failure = read(
            r#"{"level":"error","error":"unexpected status 502 from http://checkout/a: {\"detail\":\"Get \\\"http://pay/a\\\": connection refused\",\"error\":\"upstream pay failed\"}","upstream":"checkout"}"#,
        );
        assert_eq!((failure.kind, failure.passed_on), (Kind::Status(502), true));
        assert_eq!(failure.target.unwrap().host, "checkout");
        let failure = read(
            r#"{"level":"error","error":"unexpected status 503 from http://pay/a: upstream connect error or disconnect/reset before headers. reset reason: connection termination"}"#,
        );
        assert_eq!((failure.proxy, failure.passed_on), (Some("UC"), false));
        let failure = read(
            r#"{"level":"error","error":"unexpected status 500 from http://pay/a: {\"error\":\"internal error\"}"}"#,
        );
        assert!(!failure.passed_on);
    }

    #[test]
    fn a_stack_decides_by_its_root_and_names_its_target_above() {
        let record = parse("2026-11-22 02:41:46.100 ERROR 1 --- [x] a.Controller : threw exception path=/a");
        let exception = Exception {
            kind: "java.net.UnknownHostException".into(),
            message: "pay".into(),
            ..Exception::default()
        };
        let stack = ["org.x.ResourceAccessException: I/O error on GET request for \"http://pay/a\""];
        let failure = failure(&record, Some(&exception), &stack).unwrap();
        assert_eq!((failure.kind, failure.target.unwrap().host.as_str()), (Kind::NoSuchHost, "pay"));
    }

    #[test]
    fn what_tells_of_no_failed_call_is_none() {
        for line in [
            r#"{"level":"info","msg":"retrying after connection refused to http://pay"}"#,
            r#"{"level":"error","msg":"could not price basket: no row for tier 3"}"#,
            "handled 503 service requests",
            "ERROR: invoice 502 has no lines",
            r#"{"level":"warn","msg":"slow query took 502 ms"}"#,
        ] {
            assert_eq!(failure(&parse(line), None, &[]), None, "{line}");
        }
    }
}
