//! Requests as an application logs them itself, and load as a load generator or a health job sums it up.

use regex::Regex;
use std::sync::LazyLock;

use super::record::Record;
use crate::model::time::duration_seconds;

/// One request that was served.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// What was answered.
    pub status: u16,
    /// The path without query; empty where it is not logged.
    pub path: String,
    /// How long it took in milliseconds, where the log says so with its unit.
    pub millis: Option<f64>,
}

impl Served {
    /// Whether the application failed it.
    pub fn failed(&self) -> bool {
        self.status >= 500
    }
}

/// Requests of a span of time, summed up by the one who sent them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// How many.
    pub requests: u64,
    /// How many of them failed.
    pub failed: u64,
    /// The 95th percentile of their durations in milliseconds.
    pub p95: Option<f64>,
}

const STATUS: &[&str] = &[
    "status",
    "status_code",
    "statusCode",
    "http.status_code",
    "http.response.status_code",
    "http.status",
    "res.statusCode",
    "response.status",
    "responseStatus",
    "http_status",
    "code",
];
const PATH: &[&str] = &[
    "path",
    "http.route",
    "http.target",
    "url.path",
    "route",
    "request_path",
    "requestPath",
    "req.url",
    "request.path",
    "uri",
    "request_uri",
    "url",
    "http.url",
];
const METHOD: &[&str] = &[
    "method",
    "http.method",
    "http.request.method",
    "req.method",
    "request.method",
    "verb",
    "request_method",
];
/// Fields in milliseconds by their name.
const MILLIS: &[&str] = &[
    "durationMs",
    "duration_ms",
    "ms",
    "latency_ms",
    "latencyMs",
    "elapsed_ms",
    "elapsedMs",
    "took_ms",
    "tookMs",
    "responseTime",
    "response_time_ms",
    "http.duration_ms",
    "time_ms",
];
/// Fields in seconds by convention.
const SECONDS: &[&str] = &["request_time", "duration_s", "duration_seconds", "elapsed_seconds"];
/// Fields whose value must carry its unit (`12.5ms`).
const WITH_UNIT: &[&str] = &["duration", "latency", "elapsed", "took", "time_taken"];

/// How long something took, in milliseconds, where a field says so with its unit.
pub fn millis(record: &Record<'_>) -> Option<f64> {
    let number = |text: &str| text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    if let Some(ms) = record.field(MILLIS).and_then(number) {
        return Some(ms);
    }
    if let Some(seconds) = record.field(SECONDS).and_then(number) {
        return Some(seconds * 1000.0);
    }
    record.field(WITH_UNIT).and_then(duration_seconds).map(|seconds| seconds * 1000.0)
}

/// The request that a record tells of as served: a status and a path of its own, no call to somebody else.
pub fn served(record: &Record<'_>) -> Option<Served> {
    if record.fields.is_empty() {
        return served_in_text(&record.message);
    }
    let status = record.field(STATUS)?.parse::<u16>().ok().filter(|s| (100..600).contains(s))?;
    let path = record.field(PATH);
    let method = record.field(METHOD);
    // A whole URL or a named peer tells of a call that the application made.
    let outgoing = record.field(&["upstream", "peer.service", "url.full", "target"]).is_some()
        || path.is_some_and(|p| p.contains("://"));
    if outgoing || (path.is_none() && method.is_none()) {
        return None;
    }
    let path = path.unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    Some(Served { status, path, millis: millis(record) }).filter(|served| !is_check(&served.path))
}

const METHODS: &[&str] = &["GET ", "POST ", "PUT ", "PATCH ", "DELETE ", "HEAD ", "OPTIONS "];

/// `… "GET /path HTTP/1.1" 200 62 "-" "agent" 0.020` (common and combined log formats, uvicorn, werkzeug), `GET /path 200 12 ms` (morgan)
/// and `| 200 | 1.2ms | ip | GET "/path"` (gin).
pub fn served_in_text(line: &str) -> Option<Served> {
    // Asked of every line: most have no method, and one pass tells that for all seven.
    static ANY: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&METHODS.join("|")).ok());
    if !line.contains('/') || !ANY.as_ref()?.is_match(line) {
        return None;
    }
    let (at, quoted, request) = METHODS
        .iter()
        .filter_map(|method| {
            let at = line.find(method)?;
            let before = line.get(..at)?;
            let quoted = before.ends_with('"');
            // A logger's name may stand before it, `server: GET /path 200 12 ms`.
            (quoted || at == 0 || before.ends_with(": ") || line.contains("[GIN]"))
                .then(|| Some((at, quoted, line.get(at + method.len()..)?)))?
        })
        .min_by_key(|(at, _, _)| *at)?;
    if line.contains("[GIN]") {
        let mut columns = line.split('|').map(str::trim).skip(1);
        let status = columns.next()?.parse().ok()?;
        let millis = columns.next().and_then(duration_seconds).map(|s| s * 1000.0);
        return Some(Served { status, path: request.trim_matches('"').to_owned(), millis })
            .filter(|s| !is_check(&s.path));
    }
    let (head, tail) = if quoted { request.split_once('"')? } else { request.split_once(' ')? };
    let path = head.split([' ', '?']).next().unwrap_or_default();
    if !path.starts_with('/') {
        return None;
    }
    let mut words = tail.split_ascii_whitespace();
    let status = words.next()?.parse::<u16>().ok().filter(|s| (100..600).contains(s))?;
    let rest: Vec<&str> = words.collect();
    let millis = match rest.as_slice() {
        [number, "ms", ..] => number.parse().ok(),
        // Behind a logger's name only what has a duration is no prose.
        _ if at > 0 && !quoted => return None,
        // nginx and those who follow it put seconds with a fraction last.
        [.., last] => last.parse::<f64>().ok().filter(|_| last.contains('.')).map(|seconds| seconds * 1000.0),
        [] => None,
    };
    Some(Served { status, path: path.to_owned(), millis }).filter(|served| !is_check(&served.path))
}

/// Paths that probes and scrapers ask for: nobody's request fails with them.
fn is_check(path: &str) -> bool {
    const CHECKS: &[&str] = &[
        "/health",
        "/live",
        "/ready",
        "/metrics",
        "/ping",
        "/actuator/health",
        "/actuator/prometheus",
        "/-/",
        "/startup",
        "/status",
    ];
    CHECKS.iter().any(|check| path.starts_with(check))
}

/// A record that sums up requests: how many, how many failed, perhaps their 95th percentile.
pub fn load(record: &Record<'_>) -> Option<Load> {
    let number = |names: &[&str]| {
        record.field(names).and_then(|v| v.parse::<f64>().ok()).filter(|n| n.is_finite() && *n >= 0.0)
    };
    let requests =
        number(&["requests", "total_requests", "totalRequests", "num_requests", "request_count", "sent"])?;
    let failed = number(&["failed", "failures", "errors", "num_failures", "failed_requests", "error_count"])?;
    let p95 = number(&["p95ms", "p95_ms", "p95Ms", "p95", "latency_p95_ms", "latency.p95"]);
    (failed <= requests).then_some(Load { requests: requests as u64, failed: failed as u64, p95 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analyze::logs::record::parse;

    fn read(line: &str) -> Option<Served> {
        served(&parse(line)).or_else(|| served_in_text(line))
    }

    #[test]
    fn requests_in_many_styles() {
        for (line, status, millis) in [
            (
                r#"{"durationMs":29.171,"level":"info","method":"GET","msg":"request","path":"/events","status":200}"#,
                200,
                Some(29.171),
            ),
            (
                r#"time=2026-11-22T02:38:39Z level=info msg="request" path="/tickets" status="504" ms="207""#,
                504,
                Some(207.0),
            ),
            (
                r#"10.244.3.4 - - [22/Nov/2026:02:38:39 +0000] "GET /events?a=b HTTP/1.1" 200 62 "-" "shop/v1" 0.020"#,
                200,
                Some(20.0),
            ),
            (r#"INFO:     172.31.1.249:37648 - "GET /checkout HTTP/1.1" 503 Service Unavailable"#, 503, None),
            (r#"127.0.0.1 - - [29/May/2025 10:14:26] "POST /pay HTTP/1.1" 500 -"#, 500, None),
            ("GET /pay 404 12.3 ms - 5", 404, Some(12.3)),
            ("[2026-11-21T10:00:00.000Z] info frontend: GET /pay 502 37 ms", 502, Some(37.0)),
            (r#"[GIN] 2025/01/01 - 10:00:00 | 502 |   1.5ms |  10.0.0.1 | GET      "/pay""#, 502, Some(1.5)),
            (
                r#"{"duration":"1.5s","http":{"method":"GET","status_code":500,"route":"/a"}}"#,
                500,
                Some(1500.0),
            ),
        ] {
            let served = read(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((served.status, served.millis), (status, millis), "{line}");
        }
    }

    #[test]
    fn calls_checks_and_prose_are_none() {
        for line in [
            r#"{"url":"http://pay/a","status":503,"msg":"call failed"}"#,
            r#"{"upstream":"pay","status":503,"path":"/a"}"#,
            r#"{"method":"GET","path":"/healthz","status":503}"#,
            r#"10.0.0.1 - - [22/Nov/2026:02:38:39 +0000] "GET /metrics HTTP/1.1" 200 62"#,
            "please GET /a 200 times",
            "retrying: GET /a 503 again",
            "Error: GET http://pay/a answered 504",
            r#"{"status":"ok","path":"/a"}"#,
            r#"{"code":200,"msg":"done"}"#,
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn load_is_summed_up() {
        let line = r#"{"codes":{"200":20,"502":7},"failed":7,"level":"warn","p95ms":259.9,"requests":27}"#;
        assert_eq!(load(&parse(line)), Some(Load { requests: 27, failed: 7, p95: Some(259.9) }));
        let line =
            r#"{"level":"INFO","msg":"what users saw","seconds":2,"sent":6,"ok":4,"failed":2,"p95_ms":9}"#;
        assert_eq!(load(&parse(line)), Some(Load { requests: 6, failed: 2, p95: Some(9.0) }));
        assert_eq!(load(&parse(r#"{"requests":3,"msg":"handled"}"#)), None);
    }
}
