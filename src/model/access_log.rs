//! Envoy's access log: Istio's default text format and the JSON format, of today and of the versions before.

use crate::model::json::Value;
use jiff::Timestamp;

use super::fields::Fields;
use super::time;

/// One record. An absent value (`-` in text, `null` in JSON) is empty or `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AccessRecord {
    /// When the request began.
    pub start: Option<Timestamp>,
    /// `GET`; empty for a bare connection.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`; empty for a bare connection.
    pub protocol: String,
    /// What the client got; 0 where it got no HTTP answer.
    pub code: u16,
    /// Envoy's short response flags: `UH`, `URX`, …
    pub flags: Vec<String>,
    /// `RESPONSE_CODE_DETAILS`: who decided, and why.
    pub details: String,
    /// `CONNECTION_TERMINATION_DETAILS`.
    pub termination: String,
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`: `TLS_error:…`, `delayed connect error: …`.
    pub transport_failure: String,
    /// Whole milliseconds from the first byte in to the last byte out.
    pub duration_ms: u64,
    /// Bytes of the request's body, or that the client sent on a bare connection.
    pub received: u64,
    /// Bytes of the answer's body, or that the client was sent on a bare connection.
    pub sent: u64,
    /// Milliseconds that the upstream took; `None` where it never answered.
    pub upstream_ms: Option<u64>,
    /// The client's user agent.
    pub user_agent: String,
    /// `x-request-id`, which joins what several proxies say of one request.
    pub request_id: String,
    /// The Host header.
    pub authority: String,
    /// Address and port of the endpoint chosen; empty where none was.
    pub upstream_host: String,
    /// `outbound|80|v1|host`, `inbound|8080||`, `PassthroughCluster`, …; empty where no route matched.
    pub cluster: String,
    /// The proxy's own address towards the upstream.
    pub upstream_local: String,
    /// The address that the client called.
    pub downstream_local: String,
    /// The client's address.
    pub downstream_remote: String,
    /// The server name of the TLS handshake.
    pub server_name: String,
    /// `default`, `allow_any`, `block_all`, or a route's name.
    pub route: String,
}

impl AccessRecord {
    /// Whether this flag is set.
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|f| f == flag)
    }

    /// Whether a client would call this a failure: a 5xx, no answer at all, or a refusal by a proxy itself.
    pub fn failed(&self) -> bool {
        if self.protocol.is_empty() {
            // A bare connection has code 0 either way; a flag says that it went wrong.
            return !self.flags.is_empty();
        }
        self.code >= 500
            || self.code == 0
            || (!self.flags.is_empty() && self.code >= 400)
            || self.refused_by_proxy()
    }

    /// Whether the proxy itself answered with a refusal that carries no flag (RBAC, JWT, limits of HTTP).
    pub fn refused_by_proxy(&self) -> bool {
        self.details.starts_with("rbac_access_denied")
            || self.details.starts_with("jwt_authn")
            || is_http_limit(&self.details)
    }

    /// Whether the answer came from the upstream: the proxy only passed it on.
    pub fn via_upstream(&self) -> bool {
        self.details == "via_upstream"
    }
}

/// Whether details name a limit of HTTP that the proxy itself enforces: its version, the size or number of headers, a body
/// that a filter buffers. Envoy writes these without a flag, or with `DPE`.
pub fn is_http_limit(details: &str) -> bool {
    details == "low_version"
        || ["payload_too_large", "too_many_headers", "headers_too_large", "header_count_exceeded"]
            .iter()
            .any(|word| details.contains(word))
}

/// Reads one line. `at` is the runtime's time, used where the record has none. `None` where it is no access record.
pub fn parse(line: &str, at: Option<Timestamp>) -> Option<AccessRecord> {
    match line.as_bytes().first()? {
        b'[' => parse_text(line, at),
        b'{' if line.contains("\"response_flags\"") || line.contains("\"upstream_cluster\"") => {
            parse_json(line, at)
        }
        _ => None,
    }
}

/// `-` means absent.
fn present(text: &str) -> String {
    if text == "-" { String::new() } else { text.to_owned() }
}

/// Flags are joined by commas; some versions join details of one flag by `|`.
fn flags(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|flag| !flag.is_empty() && *flag != "-")
        .map(str::to_owned)
        .collect()
}

struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    /// The next word, or the next text in quotes (`true` where it was quoted).
    fn next(&mut self) -> Option<(&'a str, bool)> {
        let rest = self.0.trim_start_matches(' ');
        if let Some(quoted) = rest.strip_prefix('"') {
            // A quote inside is escaped or, in old versions, not at all; the real end is followed by a blank or nothing.
            let mut from = 0;
            loop {
                let end = from + quoted.get(from..)?.find('"')?;
                let after = quoted.get(end + 1..)?;
                if after.is_empty() || after.starts_with(' ') {
                    self.0 = after;
                    return Some((quoted.get(..end)?, true));
                }
                from = end + 1;
            }
        }
        if rest.is_empty() {
            return None;
        }
        let end = rest.find(' ').unwrap_or(rest.len());
        let (word, tail) = rest.split_at_checked(end)?;
        self.0 = tail;
        Some((word, false))
    }

    fn word(&mut self) -> Option<String> {
        self.next().map(|(text, _)| present(text))
    }
}

/// `[START] "METHOD PATH PROTOCOL" CODE FLAGS [DETAILS [TERMINATION]] "TRANSPORT FAILURE" RX TX DURATION UPSTREAM "XFF" "UA" "ID"
/// "AUTHORITY" "UPSTREAM HOST" CLUSTER UPSTREAM-LOCAL DOWNSTREAM-LOCAL DOWNSTREAM-REMOTE SERVER-NAME [ROUTE]`. Versions before
/// 1.9 have no details; they are told by where the next quote stands.
fn parse_text(line: &str, at: Option<Timestamp>) -> Option<AccessRecord> {
    let (start, rest) = line.strip_prefix('[')?.split_once("] ")?;
    if !rest.starts_with('"') {
        return None;
    }
    let mut cursor = Cursor(rest);
    let (request, _) = cursor.next()?;
    let (method, tail) = request.split_once(' ')?;
    let (path, protocol) = tail.rsplit_once(' ')?;
    let code = cursor.next()?.0.parse().ok()?;
    let flags = flags(cursor.next()?.0);
    let (mut details, mut termination) = (String::new(), String::new());
    let transport_failure = loop {
        match cursor.next()? {
            (text, true) => break present(text),
            (text, false) if details.is_empty() => details = text.to_owned(),
            (text, false) => termination = present(text),
        }
    };
    let received = cursor.next()?.0.parse().unwrap_or(0);
    let sent = cursor.next()?.0.parse().unwrap_or(0);
    let duration_ms = cursor.next()?.0.parse().unwrap_or(0);
    let upstream_ms = cursor.next()?.0.parse().ok();
    let _forwarded_for = cursor.word()?;
    Some(AccessRecord {
        start: time::parse(start).or(at),
        method: present(method),
        path: present(path),
        protocol: present(protocol),
        code,
        flags,
        details: present(&details),
        termination,
        transport_failure,
        received,
        sent,
        duration_ms,
        upstream_ms,
        user_agent: cursor.word()?,
        request_id: cursor.word()?,
        authority: cursor.word()?,
        upstream_host: cursor.word()?,
        cluster: cursor.word().unwrap_or_default(),
        upstream_local: cursor.word().unwrap_or_default(),
        downstream_local: cursor.word().unwrap_or_default(),
        downstream_remote: cursor.word().unwrap_or_default(),
        server_name: cursor.word().unwrap_or_default(),
        route: cursor.word().unwrap_or_default(),
    })
}

fn parse_json(line: &str, at: Option<Timestamp>) -> Option<AccessRecord> {
    let body: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| match body.get(key) {
        Some(Value::String(text)) => present(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    // An application may log a field of one of these names; Envoy writes both.
    body.get("response_code")?;
    Some(AccessRecord {
        start: body.time("start_time").or(at),
        method: text("method"),
        path: text("path"),
        protocol: text("protocol"),
        code: text("response_code").parse().unwrap_or(0),
        flags: flags(&text("response_flags")),
        details: text("response_code_details"),
        termination: text("connection_termination_details"),
        transport_failure: text("upstream_transport_failure_reason"),
        received: text("bytes_received").parse().unwrap_or(0),
        sent: text("bytes_sent").parse().unwrap_or(0),
        duration_ms: text("duration").parse().unwrap_or(0),
        upstream_ms: text("upstream_service_time").parse().ok(),
        user_agent: text("user_agent"),
        request_id: text("request_id"),
        authority: text("authority"),
        upstream_host: text("upstream_host"),
        cluster: text("upstream_cluster"),
        upstream_local: text("upstream_local_address"),
        downstream_local: text("downstream_local_address"),
        downstream_remote: text("downstream_remote_address"),
        server_name: text("requested_server_name"),
        route: text("route_name"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = r#"[2026-11-22T03:04:14.523Z] "GET /a?b=c d HTTP/1.1" 200 - via_upstream - "-" 0 45 12 11 "-" "shop/v1" "79255314-d7aa" "checkout" "10.0.4.168:8080" outbound|80||checkout.shop.svc.cluster.local 10.0.4.170:33770 10.96.174.222:80 10.0.4.170:46108 - default"#;

    #[test]
    fn the_default_text_format() {
        let record = parse(OK, None).unwrap();
        assert_eq!((record.code, record.duration_ms, record.upstream_ms), (200, 12, Some(11)));
        assert_eq!((record.path.as_str(), record.received, record.sent), ("/a?b=c d", 0, 45));
        assert_eq!(record.cluster, "outbound|80||checkout.shop.svc.cluster.local");
        assert_eq!((record.server_name.as_str(), record.route.as_str()), ("", "default"));
        assert!(record.via_upstream() && !record.failed());
    }

    #[test]
    fn a_failure_with_its_deciding_detail() {
        let line = r#"[2026-11-22T03:04:14Z] "GET / HTTP/1.1" 503 URX,UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused} - "delayed_connect_error:_Connection_refused" 0 91 40 - "-" "-" "id" "pay" "10.0.0.9:8080" inbound|8080|| - 10.0.0.9:8080 10.0.0.7:1 outbound_.80_._.pay.shop.svc.cluster.local default"#;
        let record = parse(line, None).unwrap();
        assert_eq!(record.flags, ["URX", "UF"]);
        assert!(record.details.contains("Connection_refused") && record.failed());
        assert_eq!(record.upstream_ms, None);
    }

    #[test]
    fn a_bare_connection_and_an_old_version() {
        let tcp = r#"[2026-11-22T03:04:14Z] "- - -" 0 NR filter_chain_not_found - "-" 0 0 0 - "-" "-" "-" "-" "-" - - 10.0.0.9:8080 10.0.0.7:1 - -"#;
        let record = parse(tcp, None).unwrap();
        assert!(record.failed() && record.protocol.is_empty() && record.cluster.is_empty());
        let old = r#"[2020-01-01T00:00:00Z] "GET / HTTP/1.1" 503 UH "-" 0 19 0 - "-" "curl" "id" "a" "-" outbound|80||a - 1.1.1.1:80 2.2.2.2:1 -"#;
        let record = parse(old, None).unwrap();
        assert_eq!((record.details.as_str(), record.flags.len()), ("", 1));
        assert_eq!(record.cluster, "outbound|80||a");
    }

    #[test]
    fn json_with_nulls_and_numbers_in_either_form() {
        let line = r#"{"start_time":"2026-11-22T03:04:14Z","response_code":503,"response_flags":"UO","duration":"1","upstream_cluster":"outbound|80||a","protocol":"HTTP/1.1","upstream_host":null}"#;
        let record = parse(line, None).unwrap();
        assert_eq!((record.code, record.duration_ms, record.upstream_host.as_str()), (503, 1, ""));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        assert!(parse("[2026-11-22T03:04:14Z] hello", None).is_none());
        assert!(parse(r#"[main] "GET" broken"#, None).is_none());
        assert!(parse(r#"{"response_flags":"x"}"#, None).is_none());
        assert!(parse("", None).is_none());
    }
}
