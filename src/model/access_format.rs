//! Access logs in a format of one's own: MeshConfig's `accessLogFormat`, as text or as JSON, made of Envoy's operators.

use crate::model::json::Value;
use jiff::Timestamp;

use super::access_log::AccessRecord;
use super::fields::Fields;
use super::time;

/// A format is cut after this many operators: the default has 23.
const MAX_OPERATORS: usize = 128;

/// What an operator stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Start,
    Method,
    Path,
    Protocol,
    Code,
    Flags,
    Details,
    Termination,
    TransportFailure,
    Duration,
    Received,
    Sent,
    UpstreamTime,
    UserAgent,
    RequestId,
    Authority,
    UpstreamHost,
    Cluster,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
    ServerName,
    Route,
    /// Any other; its text is passed over.
    Other,
}

impl Operator {
    /// Reads what stands between two `%`.
    fn read(text: &str) -> Self {
        let upper = text.to_ascii_uppercase();
        let (name, argument) = upper.split_once('(').unwrap_or((&upper, ""));
        match (name, argument) {
            ("START_TIME", _) => Operator::Start,
            ("REQ", header) if header.starts_with(":METHOD") => Operator::Method,
            ("REQ", header) if header.contains(":PATH") => Operator::Path,
            ("PATH", _) => Operator::Path,
            ("REQ", header) if header.starts_with(":AUTHORITY") || header.starts_with("HOST)") => {
                Operator::Authority
            }
            ("REQ", header) if header.starts_with("USER-AGENT") => Operator::UserAgent,
            ("REQ", header) if header.starts_with("X-REQUEST-ID") => Operator::RequestId,
            ("RESP", header) if header.starts_with("X-ENVOY-UPSTREAM-SERVICE-TIME") => Operator::UpstreamTime,
            ("PROTOCOL", _) => Operator::Protocol,
            ("RESPONSE_CODE", _) => Operator::Code,
            ("RESPONSE_FLAGS" | "RESPONSE_FLAGS_LONG", _) => Operator::Flags,
            ("RESPONSE_CODE_DETAILS", _) => Operator::Details,
            ("CONNECTION_TERMINATION_DETAILS", _) => Operator::Termination,
            ("UPSTREAM_TRANSPORT_FAILURE_REASON", _) => Operator::TransportFailure,
            ("DURATION", _) => Operator::Duration,
            ("BYTES_RECEIVED", _) => Operator::Received,
            ("BYTES_SENT", _) => Operator::Sent,
            ("UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS", _) => Operator::UpstreamHost,
            ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", _) => Operator::Cluster,
            ("UPSTREAM_LOCAL_ADDRESS", _) => Operator::UpstreamLocal,
            ("DOWNSTREAM_LOCAL_ADDRESS", _) => Operator::DownstreamLocal,
            ("DOWNSTREAM_REMOTE_ADDRESS", _) => Operator::DownstreamRemote,
            ("REQUESTED_SERVER_NAME", _) => Operator::ServerName,
            ("ROUTE_NAME", _) => Operator::Route,
            _ => Operator::Other,
        }
    }

    /// Puts a value where it belongs. `-` is absent.
    fn put(self, value: &str, record: &mut AccessRecord) {
        let text = if value == "-" { "" } else { value };
        match self {
            Operator::Start => record.start = time::parse(text).or(record.start),
            Operator::Code => record.code = text.parse().unwrap_or(0),
            Operator::Duration => record.duration_ms = text.parse().unwrap_or(0),
            Operator::Received => record.received = text.parse().unwrap_or(0),
            Operator::Sent => record.sent = text.parse().unwrap_or(0),
            Operator::UpstreamTime => record.upstream_ms = text.parse().ok(),
            Operator::Flags => record.flags = flags(text),
            Operator::Method => text.clone_into(&mut record.method),
            Operator::Path => text.clone_into(&mut record.path),
            Operator::Protocol => text.clone_into(&mut record.protocol),
            Operator::Details => text.clone_into(&mut record.details),
            Operator::Termination => text.clone_into(&mut record.termination),
            Operator::TransportFailure => text.clone_into(&mut record.transport_failure),
            Operator::UserAgent => text.clone_into(&mut record.user_agent),
            Operator::RequestId => text.clone_into(&mut record.request_id),
            Operator::Authority => text.clone_into(&mut record.authority),
            Operator::UpstreamHost => text.clone_into(&mut record.upstream_host),
            Operator::Cluster => text.clone_into(&mut record.cluster),
            Operator::UpstreamLocal => text.clone_into(&mut record.upstream_local),
            Operator::DownstreamLocal => text.clone_into(&mut record.downstream_local),
            Operator::DownstreamRemote => text.clone_into(&mut record.downstream_remote),
            Operator::ServerName => text.clone_into(&mut record.server_name),
            Operator::Route => text.clone_into(&mut record.route),
            Operator::Other => {}
        }
    }
}

/// Envoy's long names of response flags with their short ones.
const LONG_FLAGS: &[(&str, &str)] = &[
    ("NoHealthyUpstream", "UH"),
    ("UpstreamConnectionFailure", "UF"),
    ("UpstreamOverflow", "UO"),
    ("NoRouteFound", "NR"),
    ("NoClusterFound", "NC"),
    ("UpstreamRetryLimitExceeded", "URX"),
    ("UpstreamRequestTimeout", "UT"),
    ("UpstreamConnectionTermination", "UC"),
    ("UpstreamRemoteReset", "UR"),
    ("LocalReset", "LR"),
    ("DownstreamConnectionTermination", "DC"),
    ("FailedLocalHealthCheck", "LH"),
    ("DelayInjected", "DI"),
    ("FaultInjected", "FI"),
    ("RateLimited", "RL"),
    ("RateLimitServiceError", "RLSE"),
    ("UnauthorizedExternalService", "UAEX"),
    ("InvalidEnvoyRequestHeaders", "IH"),
    ("StreamIdleTimeout", "SI"),
    ("DownstreamProtocolError", "DPE"),
    ("UpstreamProtocolError", "UPE"),
    ("UpstreamMaxStreamDurationReached", "UMSDR"),
    ("DurationTimeout", "DT"),
    ("ResponseFromCacheFilter", "RFCF"),
    ("NoFilterConfigFound", "NFCF"),
    ("OverloadManagerTerminated", "OM"),
    ("DnsResolutionFailed", "DF"),
    ("DropOverload", "DO"),
];

/// Flags in either spelling; one that nobody knows stays as it is.
fn flags(text: &str) -> Vec<String> {
    let all = text.split(',').map(str::trim).filter(|flag| !flag.is_empty() && *flag != "-");
    all.map(|flag| {
        LONG_FLAGS.iter().find(|(long, _)| *long == flag).map_or(flag, |(_, short)| *short).to_owned()
    })
    .collect()
}

/// A format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessFormat {
    /// Text before each operator, and the text after the last one.
    #[doc(hidden)]
    Text(TextFormat),
    /// Keys of a JSON object.
    #[doc(hidden)]
    Json(JsonFormat),
}

/// See [`AccessFormat::Text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFormat {
    parts: Vec<(String, Operator)>,
    end: String,
}

/// See [`AccessFormat::Json`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonFormat {
    keys: Vec<(String, Operator)>,
}

impl AccessFormat {
    /// The format that MeshConfig sets. `None` where it sets none, or none that holds a response code and a cluster or flags:
    /// what lacks these cannot be told from other lines.
    pub fn of_mesh_config(config: &Value) -> Option<Self> {
        let text = config.text("accessLogFormat").filter(|text| !text.trim().is_empty())?;
        let (format, operators) = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(map)) => {
                let keys: Vec<(String, Operator)> = map
                    .iter()
                    .filter_map(|(key, value)| {
                        Some((key.to_string(), Operator::read(value.as_str()?.trim().trim_matches('%'))))
                    })
                    .filter(|(_, operator)| *operator != Operator::Other)
                    .take(MAX_OPERATORS)
                    .collect();
                let operators: Vec<Operator> = keys.iter().map(|(_, operator)| *operator).collect();
                (AccessFormat::Json(JsonFormat { keys }), operators)
            }
            _ => {
                let (parts, end) = split(text.trim_end_matches(['\n', '\r']));
                let operators = parts.iter().map(|(_, operator)| *operator).collect();
                (AccessFormat::Text(TextFormat { parts, end }), operators)
            }
        };
        let has = |operator| operators.contains(&operator);
        (has(Operator::Code) && (has(Operator::Flags) || has(Operator::Cluster))).then_some(format)
    }

    /// Reads one line. `None` where it does not have this format.
    pub fn parse(&self, line: &str, at: Option<Timestamp>) -> Option<AccessRecord> {
        let mut record = AccessRecord { start: at, ..AccessRecord::default() };
        match self {
            AccessFormat::Text(TextFormat { parts, end }) => {
                let mut rest = line;
                let nexts = parts.iter().skip(1).map(|(before, _)| before).chain([end]);
                let (first, _) = parts.first()?;
                rest = rest.strip_prefix(first.as_str())?;
                for ((_, operator), next) in parts.iter().zip(nexts) {
                    let stop = if next.is_empty() { rest.len() } else { rest.find(next.as_str())? };
                    let (value, after) = rest.split_at_checked(stop)?;
                    operator.put(value, &mut record);
                    rest = after.get(next.len()..)?;
                }
            }
            AccessFormat::Json(JsonFormat { keys }) => {
                let body: Value = serde_json::from_str(line.strip_prefix('{').map(|_| line)?).ok()?;
                for (key, operator) in keys {
                    match body.get(key) {
                        Some(Value::String(text)) => operator.put(text, &mut record),
                        Some(Value::Number(number)) => operator.put(&number.to_string(), &mut record),
                        // A key that is left out is another object's; a null is an absent value.
                        None if *operator == Operator::Code => return None,
                        _ => {}
                    }
                }
            }
        }
        Some(record)
    }
}

/// Text before each operator, and the text after the last. `%%` is a percent sign.
fn split(format: &str) -> (Vec<(String, Operator)>, String) {
    let mut parts = vec![];
    let mut literal = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        let Some((operator, tail)) = after.split_once('%').filter(|_| parts.len() < MAX_OPERATORS) else {
            break;
        };
        literal.push_str(before);
        if operator.is_empty() {
            literal.push('%');
        } else {
            parts.push((std::mem::take(&mut literal), Operator::read(operator)));
        }
        rest = tail;
    }
    literal.push_str(rest);
    (parts, literal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    fn format(text: &str) -> Option<AccessFormat> {
        AccessFormat::of_mesh_config(&json!({"accessLogFormat": text}))
    }

    #[test]
    fn text_of_ones_own() {
        let format = format("time=%START_TIME% code=%RESPONSE_CODE% flags=%RESPONSE_FLAGS% req=\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\" to=%UPSTREAM_CLUSTER% ms=%DURATION% tenant=%REQ(X-TENANT)%\n").unwrap();
        let line = r#"time=2026-11-22T03:04:14Z code=503 flags=UH req="GET /a b" to=outbound|80||pay.shop.svc.cluster.local ms=12 tenant=-"#;
        let record = format.parse(line, None).unwrap();
        assert_eq!((record.code, record.duration_ms, record.path.as_str()), (503, 12, "/a b"));
        assert!(record.has_flag("UH"));
        assert_eq!(record.cluster, "outbound|80||pay.shop.svc.cluster.local");
        assert!(format.parse("something else", None).is_none());
    }

    #[test]
    fn json_of_ones_own_with_long_flags_and_unknown_ones() {
        let format = format(
            r#"{"status":"%RESPONSE_CODE%","why":"%RESPONSE_FLAGS_LONG%","cluster":"%UPSTREAM_CLUSTER%"}"#,
        )
        .unwrap();
        let record = format.parse(r#"{"status":503,"why":"UpstreamRetryLimitExceeded,UpstreamConnectionFailure,NewFlag","cluster":null}"#, None).unwrap();
        assert_eq!(record.flags, ["URX", "UF", "NewFlag"]);
        assert!(format.parse(r#"{"msg":"an application's line"}"#, None).is_none());
    }

    #[test]
    fn what_holds_no_code_is_no_format() {
        assert!(format("hello %START_TIME%").is_none());
        assert!(format("").is_none());
        assert!(format("100 %").is_none());
    }
}
