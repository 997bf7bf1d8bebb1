//! What a series is about and which way is bad for it, from the words of its metric's name, its unit and its labels.
//!
//! Names of metrics are written by many hands, but out of one vocabulary: what fails is an "error", a "failure" or a "timeout",
//! what waits is a "queue" or a "backlog". So the words decide, and an unknown metric is a series like any other. A name can
//! hold words of several sorts (`http_request_duration_seconds`): the first matching line of [`VOCABULARY`] decides.

use crate::analyze::anomaly::{Direction, Kind};
use crate::model::series::Series;

/// On which side of a call a series was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where it says: what the place itself does.
    Own,
    /// At the caller: it speaks of what the place calls.
    Client,
    /// At the node under it: it speaks of everything on that node.
    Node,
}

/// What a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// What sort of trouble it shows.
    pub kind: Kind,
    /// The direction that is bad; `None` where either may be.
    pub bad: Option<Direction>,
    /// On which side it was measured.
    pub side: Side,
    /// It only ever grows: what counts is its rate.
    pub counter: bool,
}

/// Words of configuration and of bookkeeping: nothing that they name can deviate.
const CONSTANT: &[&str] = &[
    "limit",
    "limits",
    "quota",
    "requested",
    "capacity",
    "max",
    "min",
    "info",
    "created",
    "scrape",
    "build",
    "labels",
    "annotations",
    "generation",
    "replicas_desired",
    "spec",
    "bucket",
    "expiry",
    "expiration",
    "timestamp",
    "start",
];
/// Words of whatever speaks of the other side of a call.
const CLIENT: &[&str] = &["client", "outbound", "upstream", "dependency", "egress", "provider", "remote"];
/// Words of whatever speaks of a whole machine.
const NODE: &[&str] = &["node", "host", "machine"];

type Line = (&'static [&'static str], Kind, Option<Direction>);
const UP: Option<Direction> = Some(Direction::Up);
const DOWN: Option<Direction> = Some(Direction::Down);

/// Words, what they are about, and which way is bad. Order matters: `success_rate` before `error`, `error` before `latency`,
/// `duration` before `request`, `memory_bytes` before `bytes`.
const VOCABULARY: &[Line] = &[
    (
        &["availability", "available", "success", "successful", "ready", "up", "healthy", "hit", "hits"],
        Kind::Availability,
        DOWN,
    ),
    (&["uptime"], Kind::Restarts, DOWN),
    (
        &["oom", "killed", "oomkilled", "restart", "restarts", "crash", "crashes", "evicted", "evictions"],
        Kind::Restarts,
        UP,
    ),
    (
        &[
            "error",
            "errors",
            "err",
            "alarm",
            "alarms",
            "fail",
            "failed",
            "failure",
            "failures",
            "5xx",
            "4xx",
            "timeout",
            "timeouts",
            "exception",
            "exceptions",
            "dropped",
            "drops",
            "rejected",
            "exhausted",
            "reset",
            "resets",
            "refused",
            "denied",
            "aborted",
            "unavailable",
            "faults",
            "miss",
            "misses",
            "deadlocks",
            "rollbacks",
            "retransmits",
            "retransmissions",
            "retries",
            "retry",
        ],
        Kind::Errors,
        UP,
    ),
    (
        &["latency", "duration", "delay", "elapsed", "rtt", "p50", "p75", "p90", "p95", "p99", "percentile"],
        Kind::Latency,
        UP,
    ),
    (&["cpu", "throttled", "throttling", "load1", "load5", "load"], Kind::Cpu, UP),
    (&["memory", "mem", "rss", "heap", "gc", "swap"], Kind::Memory, UP),
    (&["disk", "fs", "filesystem", "volume", "iops", "inode", "inodes", "io"], Kind::Disk, UP),
    (
        &[
            "queue",
            "queued",
            "depth",
            "backlog",
            "lag",
            "pool",
            "buffer",
            "pending",
            "waiting",
            "age",
            "saturation",
            "inflight",
            "threads",
            "goroutines",
            "workers",
            "connections",
            "utilization",
            "active",
        ],
        Kind::Saturation,
        UP,
    ),
    // After what time can be spent on: `gc_time` is memory's, `io_time` a disk's.
    (&["time", "timing", "resp", "took", "ttfb"], Kind::Latency, UP),
    (
        &[
            "network",
            "net",
            "tx",
            "rx",
            "receive",
            "received",
            "transmit",
            "transmitted",
            "bytes",
            "packets",
            "socket",
            "sockets",
            "tcp",
        ],
        Kind::Network,
        None,
    ),
    (
        &[
            "requests",
            "request",
            "req",
            "reqs",
            "responses",
            "response",
            "handled",
            "rps",
            "qps",
            "ops",
            "throughput",
            "workload",
            "queries",
            "query",
            "records",
            "calls",
            "rq",
            "messages",
            "events",
            "lps",
            "tps",
            "processed",
            "transactions",
        ],
        Kind::Traffic,
        None,
    ),
];

/// Words that others are often glued to: `diskio`, `cpuusage`.
const GLUED: &[&str] = &["cpu", "mem", "disk", "error", "latency"];
/// Units of time.
const TIME: &[&str] = &["seconds", "milliseconds", "microseconds", "nanoseconds", "ms", "millis"];

/// Labels that hold the status of an answer, as various exporters call them.
const STATUS_LABELS: &[&str] = &[
    "response_code",
    "status_code",
    "code",
    "status",
    "grpc_response_status",
    "http_status_code",
    "http_response_status_code",
    "rpc_grpc_status_code",
    "grpc_code",
    "grpc_status",
    "outcome",
    "classification",
    "result",
];

/// The words of a name: split at what is no letter or digit, and where small letters end (`CpuUsage`), in lower case.
pub fn words(name: &str) -> Vec<String> {
    let mut out = vec![];
    let mut word = String::new();
    let mut before = ' ';
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let starts = c.is_ascii_uppercase()
            && (before.is_ascii_lowercase()
                // `P99Latency` is two words, and `5XX` one.
                || before.is_ascii_digit() && !chars.peek().is_some_and(char::is_ascii_uppercase)
                || before.is_ascii_uppercase() && chars.peek().is_some_and(char::is_ascii_lowercase));
        if (starts || !c.is_ascii_alphanumeric()) && !word.is_empty() {
            out.push(std::mem::take(&mut word));
        }
        if c.is_ascii_alphanumeric() {
            word.push(c.to_ascii_lowercase());
        }
        before = c;
    }
    out.extend(Some(word).filter(|word| !word.is_empty()));
    out
}

/// What a series is about; `None` where it is configuration, bookkeeping or one bucket of a histogram.
pub fn of(series: &Series) -> Option<Meaning> {
    let words = words(&series.name);
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if any(CONSTANT) || series.labels.contains_key("le") || of_a_follower(series) {
        return None;
    }
    // A pool of connections to somebody else is a service's own.
    let own_pool =
        any(&["connection", "connections", "pool"]) && !any(&["requests", "errors", "latency", "duration"]);
    let side = if any(CLIENT) && !own_pool {
        Side::Client
    } else if any(NODE) {
        Side::Node
    } else {
        Side::Own
    };
    let last = words.last().map(String::as_str).unwrap_or_default();
    // Cumulative by convention, and never seen to fall but to a fresh start.
    let counter = matches!(last, "total" | "count" | "sum") && grows(series);
    let glued = |list: &[&str]| {
        let mut begins = GLUED.iter().filter(|begin| list.contains(begin));
        begins.any(|begin| words.iter().any(|word| word.starts_with(begin)))
    };
    let known = VOCABULARY.iter().find(|(list, ..)| any(list) || glued(list));
    let (mut kind, mut bad) = known.map_or((Kind::Unknown, None), |(_, kind, bad)| (*kind, *bad));
    // Seconds of which no word says what they were spent on are those of whatever is served.
    if kind == Kind::Unknown && any(TIME) {
        (kind, bad) = (Kind::Latency, UP);
    }
    // How many times were measured is how many requests came; their sum is only half of a mean.
    match (kind, last) {
        (Kind::Latency, "count") => (kind, bad) = (Kind::Traffic, None),
        (Kind::Latency, "sum") => return None,
        // `requests_seconds` is how long they took.
        (Kind::Traffic, "sum") if any(TIME) => return None,
        (Kind::Traffic, unit) if TIME.contains(&unit) => (kind, bad) = (Kind::Latency, UP),
        _ => {}
    }
    if kind == Kind::Traffic && STATUS_LABELS.iter().any(|label| failed(label, series.label(label))) {
        (kind, bad) = (Kind::Errors, UP);
    }
    // A quantile without a word beside it (`destination_99`) is the latency of the side that it names.
    let edge = words.iter().any(|word| matches!(word.as_str(), "source" | "destination"));
    if kind == Kind::Unknown && edge && matches!(last, "50" | "75" | "90" | "95" | "99" | "999") {
        (kind, bad) = (Kind::Latency, UP);
    }
    Some(Meaning { kind, bad, side, counter })
}

/// Whether a series is a follower's copy of what the leader of a replicated stream or group tells too (`is_consumer_leader="false"`, as
/// JetStream's exporter has it): a follower lags by nature, and all copies together count one thing several times.
fn of_a_follower(series: &Series) -> bool {
    let says = |(name, value): (&String, &String)| {
        name.starts_with("is_") && name.ends_with("_leader") && name != "is_meta_leader" && value == "false"
    };
    series.labels.iter().any(says)
}

/// gRPC's statuses of the server's own making, as numbers: unknown, deadline exceeded, resource exhausted, internal, unavailable, data loss.
const GRPC_OF_THE_SERVER: &[u16] = &[2, 4, 8, 13, 14, 15];

/// Whether a status says that a request failed: 5xx, none at all (`0`), a gRPC status of the server's own making, or a word for it.
fn failed(label: &str, status: &str) -> bool {
    let names = [
        "UNKNOWN",
        "INTERNAL",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "DATA_LOSS",
        "RESOURCE_EXHAUSTED",
        "SERVER_ERROR",
        "ERROR",
        "FAILURE",
        "FAILED",
        "EXCEPTION",
        "STATUS_CODE_ERROR",
    ];
    let number = status.parse::<u16>().ok();
    if label.contains("grpc") && number.is_some() {
        return number.is_some_and(|number| GRPC_OF_THE_SERVER.contains(&number));
    }
    status == "0"
        || status.len() == 3 && status.starts_with('5')
        || names.iter().any(|name| status.replace(' ', "_").eq_ignore_ascii_case(name))
}

/// Whether the values mostly grow: at most one in ten steps is a fall, which is a process that started again.
fn grows(series: &Series) -> bool {
    let pairs = series.points.iter().zip(series.points.iter().skip(1));
    let falls = pairs.filter(|((_, a), (_, b))| b < a).count();
    falls * 10 <= series.points.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(name: &str, labels: &[(&str, &str)]) -> Option<(Kind, Option<Direction>, Side)> {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let points = vec![(0.0, 1.0), (1.0, 2.0)];
        of(&Series { name: name.to_owned(), labels, points }).map(|m| (m.kind, m.bad, m.side))
    }

    #[test]
    fn parts_of_a_histogram_are_no_times() {
        let count = meaning("request_duration_seconds_count", &[]).unwrap();
        assert_eq!((count.0, count.1), (Kind::Traffic, None));
        assert_eq!(meaning("request_duration_seconds_sum", &[]), None);
        assert_eq!(meaning("request_duration_seconds", &[]).unwrap().0, Kind::Latency);
        let failed = |label: &str, status: &str| {
            let meaning = meaning("request_duration_seconds_count", &[(label, status)]).unwrap();
            meaning.0 == Kind::Errors
        };
        assert!(failed("code", "503") && failed("http_response_status_code", "500") && failed("code", "0"));
        assert!(failed("outcome", "SERVER_ERROR") && failed("classification", "failure"));
        assert!(failed("grpc_status", "14") && !failed("grpc_status", "0") && !failed("outcome", "SUCCESS"));
        assert_eq!(meaning("http_server_requests_seconds_sum", &[]), None);
        assert_eq!(meaning("http_server_requests_seconds", &[]).unwrap().0, Kind::Latency);
        assert_eq!(meaning("http_server_requests_seconds_count", &[]).unwrap().0, Kind::Traffic);
    }

    #[test]
    fn words_are_told_apart_however_they_are_joined() {
        assert_eq!(words("CpuUsageRate(%)"), ["cpu", "usage", "rate"]);
        assert_eq!(words("HTTPServerP99_ms"), ["http", "server", "p99", "ms"]);
        assert_eq!(words("jvm.gc-pause"), ["jvm", "gc", "pause"]);
        assert_eq!(words("HTTPCode_5XXCount"), ["http", "code", "5xx", "count"]);
    }

    #[test]
    fn the_bad_direction_follows_from_the_words() {
        assert_eq!(meaning("success_rate", &[]), Some((Kind::Availability, DOWN, Side::Own)));
        assert_eq!(meaning("http_request_duration_seconds", &[]), Some((Kind::Latency, UP, Side::Own)));
        assert_eq!(meaning("upstream_request_errors_total", &[]), Some((Kind::Errors, UP, Side::Client)));
        assert_eq!(meaning("container_memory_working_set_bytes", &[]), Some((Kind::Memory, UP, Side::Own)));
        assert_eq!(meaning("NodeCpuUsage", &[]), Some((Kind::Cpu, UP, Side::Node)));
        assert_eq!(meaning("requests_total", &[("code", "200")]), Some((Kind::Traffic, None, Side::Own)));
        assert_eq!(meaning("requests_total", &[("code", "503")]), Some((Kind::Errors, UP, Side::Own)));
        assert_eq!(meaning("frobnications", &[]), Some((Kind::Unknown, None, Side::Own)));
        assert_eq!(meaning("memory_limit_bytes", &[]), None);
        assert_eq!(meaning("diskio", &[]), Some((Kind::Disk, UP, Side::Own)));
        assert_eq!(meaning("http_server_active_requests", &[]), Some((Kind::Saturation, UP, Side::Own)));
        assert_eq!(meaning("db_client_connections_pending", &[]), Some((Kind::Saturation, UP, Side::Own)));
    }

    #[test]
    fn names_of_many_hands_are_understood() {
        let kind = |name: &str| meaning(name, &[]).map(|(kind, ..)| kind);
        for name in ["TargetResponseTime", "avgResponseTimeMs", "resp_ms", "grpc_server_handling_seconds"] {
            assert_eq!(kind(name), Some(Kind::Latency), "{name}");
        }
        for name in ["HTTPCode_Target_5XX_Count", "failedRequestsPerMinute", "err_rate"] {
            assert_eq!(kind(name), Some(Kind::Errors), "{name}");
        }
        for name in ["RequestCount", "req_rate", "grpc_server_handled_total", "response_total"] {
            assert_eq!(kind(name), Some(Kind::Traffic), "{name}");
        }
        assert_eq!(kind("grpc_server_handling_seconds_count"), Some(Kind::Traffic));
        assert_eq!(kind("net_tx_kb"), Some(Kind::Network));
        assert_eq!(kind("go_goroutines"), Some(Kind::Saturation));
        assert_eq!(kind("process_start_time_seconds"), None);
        let failed = meaning("calls_total", &[("status_code", "STATUS_CODE_ERROR")]);
        assert_eq!(failed.map(|(kind, ..)| kind), Some(Kind::Errors));
        let well = meaning("calls_total", &[("status_code", "STATUS_CODE_UNSET")]);
        assert_eq!(well.map(|(kind, ..)| kind), Some(Kind::Traffic));
    }

    #[test]
    fn a_counter_is_known_by_its_name_and_its_growth() {
        let series = |values: &[f64]| {
            let points = values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect();
            Series { name: "calls_total".to_owned(), labels: Default::default(), points }
        };
        assert!(of(&series(&[1.0, 5.0, 9.0])).unwrap().counter);
        assert!(!of(&series(&[9.0, 5.0, 9.0, 1.0])).unwrap().counter);
    }
}
