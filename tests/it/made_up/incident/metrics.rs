//! What is measured of a system, under the names that various instruments give it.

use meshscope::model::series::Series;

use super::dice::Dice;
use super::system::{State, System};

/// Whose names series bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// One gauge for each figure, with plain names.
    Plain,
    /// Short columns, latencies by quantile.
    Columns,
    /// A mesh's counters on each call, and the node agent's on each container.
    Mesh,
    /// OpenTelemetry's semantic conventions, as Prometheus keeps them.
    Semantic,
    /// A framework's own: times and pools of each process.
    Framework,
    /// A cloud's: availability and percentiles.
    Cloud,
    /// A load balancer's and a host's, as a cloud's monitor names them.
    Managed,
    /// What a collector counts of spans.
    SpanMetrics,
    /// What a node's agent knows of containers, and nothing of requests.
    Containers,
    /// A library's for remote procedures.
    Rpc,
    /// One's own, in words joined by capitals, with their units.
    Camel,
    /// One's own, in short.
    Short,
    /// A light mesh's.
    Proxy,
}

/// All of them.
pub(crate) const DIALECTS: [Dialect; 6] =
    [Dialect::Plain, Dialect::Columns, Dialect::Mesh, Dialect::Semantic, Dialect::Framework, Dialect::Cloud];

/// One series: its name, its labels, the share of systems that have it, what it shows of a state, and whether it only ever grows.
struct Metric {
    name: &'static str,
    labels: Vec<(&'static str, &'static str)>,
    share: f64,
    value: fn(&State, &[f64; 3]) -> f64,
    counter: bool,
}

fn metric(name: &'static str, share: f64, value: fn(&State, &[f64; 3]) -> f64) -> Metric {
    Metric { name, labels: vec![], share, value, counter: false }
}

fn counter(name: &'static str, share: f64, value: fn(&State, &[f64; 3]) -> f64) -> Metric {
    Metric { counter: true, ..metric(name, share, value) }
}

impl Metric {
    fn label(mut self, key: &'static str, value: &'static str) -> Self {
        self.labels.push((key, value));
        self
    }
}

fn of_dialect(dialect: Dialect) -> Vec<Metric> {
    let ok = |s: &State, _: &[f64; 3]| s.rate * (1.0 - s.errors);
    let failed = |s: &State, _: &[f64; 3]| s.rate * s.errors;
    let seconds = |s: &State, _: &[f64; 3]| s.rate * (1.0 - s.errors) * s.latency / 1e3;
    match dialect {
        Dialect::Plain => vec![
            metric("cpu_usage", 0.9, |s, u| s.cpu * u[0]),
            metric("memory_bytes", 0.7, |s, u| s.memory * u[1] * 1e8),
            metric("latency_p50", 0.7, |s, _| s.latency),
            metric("latency_p95", 1.0, |s, _| s.tail),
            metric("error_ratio", 0.9, |s, _| s.errors),
            metric("requests_per_second", 0.9, |s, _| s.rate),
            metric("queue_depth", 0.2, |s, _| s.waiting * 4.0),
        ],
        Dialect::Columns => vec![
            metric("cpu", 1.0, |s, u| s.cpu * u[0]),
            metric("mem", 1.0, |s, u| s.memory * u[1] * 1e8),
            metric("diskio", 0.6, |s, u| s.disk * u[2]),
            metric("socket", 0.6, |s, _| s.waiting * 20.0),
            metric("latency-50", 0.9, |s, _| s.latency / 1e3),
            metric("latency-90", 1.0, |s, _| s.tail / 1e3),
            metric("error", 0.9, |s, _| s.rate * s.errors),
            metric("workload", 0.9, |s, _| s.rate),
        ],
        Dialect::Mesh => vec![
            counter("istio_requests_total", 1.0, ok)
                .label("response_code", "200")
                .label("reporter", "destination"),
            counter("istio_requests_total", 1.0, failed)
                .label("response_code", "503")
                .label("reporter", "destination"),
            counter("istio_request_duration_milliseconds_sum", 1.0, |s, _| s.rate * s.latency)
                .label("reporter", "destination"),
            counter("istio_request_duration_milliseconds_count", 1.0, |s, _| s.rate)
                .label("reporter", "destination"),
            counter("container_cpu_usage_seconds_total", 0.9, |s, u| s.cpu * u[0]).label("pod", ""),
            metric("container_memory_working_set_bytes", 0.9, |s, u| s.memory * u[1] * 1e8).label("pod", ""),
            counter("container_network_receive_bytes_total", 0.7, |s, _| s.network * 1e5).label("pod", ""),
            counter("container_fs_writes_bytes_total", 0.6, |s, u| s.disk * u[2] * 1e4).label("pod", ""),
            metric("container_sockets", 0.4, |s, _| s.waiting * 12.0).label("pod", ""),
        ],
        Dialect::Semantic => vec![
            counter("http_server_request_duration_seconds_sum", 1.0, seconds)
                .label("http_response_status_code", "200"),
            counter("http_server_request_duration_seconds_count", 1.0, ok)
                .label("http_response_status_code", "200"),
            counter("http_server_request_duration_seconds_count", 0.8, failed)
                .label("http_response_status_code", "500"),
            metric("process_cpu_utilization", 0.8, |s, u| (s.cpu * u[0]).min(1.0)),
            metric("process_memory_usage_bytes", 0.8, |s, u| s.memory * u[1] * 1e8),
            metric("http_server_active_requests", 0.6, |s, _| s.waiting * 3.0),
            metric("db_client_connection_pending_requests", 0.3, |s, _| s.waiting - 0.5),
        ],
        Dialect::Framework => vec![
            counter("http_server_requests_seconds_sum", 1.0, seconds).label("outcome", "SUCCESS"),
            counter("http_server_requests_seconds_count", 1.0, ok).label("outcome", "SUCCESS"),
            counter("http_server_requests_seconds_count", 0.8, failed).label("outcome", "SERVER_ERROR"),
            metric("process_cpu_usage", 0.9, |s, u| (s.cpu * u[0]).min(1.0)),
            metric("jvm_memory_used_bytes", 0.9, |s, u| s.memory * u[1] * 1e8),
            metric("jvm_threads_live_threads", 0.6, |s, _| 20.0 + s.waiting * 10.0),
            metric("hikaricp_connections_pending", 0.4, |s, _| (s.waiting - 1.5).max(0.0) * 10.0),
            metric("system_load_average_1m", 0.3, |_, _| 1.0),
        ],
        Dialect::Cloud => vec![
            metric("latency", 1.0, |s, _| s.latency).label("statistic", "p50"),
            metric("latency", 1.0, |s, _| s.tail).label("statistic", "p90"),
            metric("latency", 0.5, |s, _| 1.3 * s.tail).label("statistic", "p99"),
            metric("availability", 1.0, |s, _| 100.0 * (1.0 - s.errors)),
            metric("requests", 1.0, |s, _| s.rate * 60.0),
        ],
        Dialect::Managed => vec![
            metric("CPUUtilization", 0.9, |s, u| 40.0 * s.cpu * u[0]),
            metric("MemoryUtilization", 0.7, |s, u| 12.0 * s.memory * u[1]),
            metric("TargetResponseTime", 1.0, |s, _| s.latency / 1e3),
            metric("HTTPCode_Target_5XX_Count", 0.9, |s, _| s.rate * 60.0 * s.errors),
            metric("RequestCount", 1.0, |s, _| s.rate * 60.0),
        ],
        Dialect::SpanMetrics => vec![
            counter("traces_spanmetrics_calls_total", 1.0, ok)
                .label("status_code", "STATUS_CODE_UNSET")
                .label("span_kind", "SPAN_KIND_SERVER"),
            counter("traces_spanmetrics_calls_total", 1.0, failed)
                .label("status_code", "STATUS_CODE_ERROR")
                .label("span_kind", "SPAN_KIND_SERVER"),
            counter("traces_spanmetrics_latency_sum", 1.0, |s, _| s.rate * s.latency / 1e3)
                .label("span_kind", "SPAN_KIND_SERVER"),
            counter("traces_spanmetrics_latency_count", 1.0, |s, _| s.rate)
                .label("span_kind", "SPAN_KIND_SERVER"),
        ],
        Dialect::Containers => vec![
            counter("container_cpu_usage_seconds_total", 1.0, |s, u| s.cpu * u[0]).label("pod", ""),
            metric("container_memory_rss", 1.0, |s, u| s.memory * u[1] * 1e8).label("pod", ""),
            counter("container_cpu_cfs_throttled_periods_total", 0.5, |s, u| (s.cpu - 2.5).max(0.0) * u[0])
                .label("pod", ""),
            counter("container_network_receive_bytes_total", 0.9, |s, _| s.network * 1e5).label("pod", ""),
            counter("container_network_transmit_bytes_total", 0.9, |s, _| s.network * 3e5).label("pod", ""),
            counter("container_fs_reads_bytes_total", 0.8, |s, u| s.disk * u[2] * 1e4).label("pod", ""),
            metric("container_threads", 0.6, |s, _| 10.0 + 5.0 * s.waiting).label("pod", ""),
        ],
        Dialect::Rpc => vec![
            counter("grpc_server_handled_total", 1.0, ok).label("grpc_code", "OK"),
            counter("grpc_server_handled_total", 1.0, failed).label("grpc_code", "Unavailable"),
            counter("grpc_server_handling_seconds_sum", 1.0, |s, _| s.rate * s.latency / 1e3),
            counter("grpc_server_handling_seconds_count", 1.0, |s, _| s.rate),
            counter("process_cpu_seconds_total", 0.8, |s, u| s.cpu * u[0]),
            metric("process_resident_memory_bytes", 0.8, |s, u| s.memory * u[1] * 1e8),
            metric("go_goroutines", 0.6, |s, _| 30.0 + 8.0 * s.waiting),
        ],
        Dialect::Camel => vec![
            metric("cpuUsagePercent", 0.9, |s, u| 40.0 * s.cpu * u[0]),
            metric("memUsedMiB", 0.8, |s, u| s.memory * u[1] * 95.0),
            metric("avgResponseTimeMs", 1.0, |s, _| s.latency),
            metric("failedRequestsPerMinute", 0.9, |s, _| s.rate * 60.0 * s.errors),
            metric("requestsPerMinute", 0.9, |s, _| s.rate * 60.0),
            metric("diskBusyPercent", 0.6, |s, u| s.disk * u[2]),
        ],
        Dialect::Short => vec![
            metric("cpu_pct", 0.9, |s, u| 40.0 * s.cpu * u[0]),
            metric("rss_mb", 0.8, |s, u| s.memory * u[1] * 95.0),
            metric("resp_ms_p99", 1.0, |s, _| s.tail),
            metric("err_rate", 0.9, |s, _| s.errors),
            metric("req_rate", 0.9, |s, _| s.rate),
            metric("net_tx_kb", 0.5, |s, _| s.network * 120.0),
        ],
        Dialect::Proxy => vec![
            counter("response_total", 1.0, ok)
                .label("classification", "success")
                .label("direction", "inbound"),
            counter("response_total", 1.0, failed)
                .label("classification", "failure")
                .label("direction", "inbound"),
            counter("response_latency_ms_sum", 1.0, |s, _| s.rate * s.latency).label("direction", "inbound"),
            counter("response_latency_ms_count", 1.0, |s, _| s.rate).label("direction", "inbound"),
            counter("process_cpu_seconds_total", 0.7, |s, u| s.cpu * u[0]),
        ],
    }
}

/// Where a dialect says whom a series is of.
fn service_label(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Mesh => "destination_service_name",
        Dialect::Semantic => "service_name",
        Dialect::Framework => "app",
        Dialect::SpanMetrics => "service_name",
        Dialect::Proxy => "deployment",
        _ => "service",
    }
}

/// How a system is measured.
pub(crate) struct Scrape {
    pub(crate) dialect: Dialect,
    /// Seconds between points, the first point, and how many.
    pub(crate) step: f64,
    pub(crate) start: f64,
    pub(crate) points: usize,
    /// Two figures a service, leaves without those of requests, everything by pod: see `Twist`.
    pub(crate) sparse: bool,
    pub(crate) bare_leaves: bool,
    pub(crate) by_pod: bool,
}

/// All series of a system.
pub(crate) fn series(dice: &mut Dice, system: &System, scrape: &Scrape) -> Vec<Series> {
    let instants: Vec<f64> = (0..scrape.points).map(|n| scrape.start + n as f64 * scrape.step).collect();
    let states: Vec<Vec<State>> = instants.iter().map(|at| system.states(*at)).collect();
    // Where one process of several is struck, its own figures and those of the others differ from what all together show.
    let partly = |system: System| instants.iter().map(|at| system.states(*at)).collect::<Vec<_>>();
    let apart = (system.part < 1.0).then(|| {
        (partly(System { part: 1.0, ..system.clone() }), partly(System { fault: None, ..system.clone() }))
    });
    let mut left = if scrape.sparse { 2 } else { usize::MAX };
    // The scraper itself was away for a while.
    let away = dice.chance(0.2).then(|| dice.below(scrape.points)).map(|from| from..from + 2 + dice.below(5));
    let mut out = vec![];
    for metric in of_dialect(scrape.dialect) {
        // What a system measures it measures everywhere, or at some of its services.
        let measured: f64 =
            if metric.share >= 1.0 || dice.chance(metric.share) { 1.0 } else { dice.pick(&[0.0, 0.0, 0.5]) };
        if measured == 0.0 || left == 0 {
            continue;
        }
        left -= 1;
        let own_only = ["cpu", "mem", "rss", "Mem", "CPU"].iter().any(|word| metric.name.contains(word));
        for (at, service) in system.services.iter().enumerate() {
            if at != system.culprit && !dice.chance(measured) {
                continue;
            }
            if scrape.bare_leaves && service.callees.is_empty() && !own_only {
                continue;
            }
            let named_by_pod = metric.labels.iter().any(|(key, _)| *key == "pod");
            let by_pod = named_by_pod || scrape.by_pod;
            for pod in 0..if by_pod { service.pods } else { 1 } {
                let seen = match &apart {
                    Some((struck, _)) if by_pod && at == system.culprit && pod == 0 => struck,
                    Some((_, well)) if by_pod && at == system.culprit => well,
                    _ => &states,
                };
                // What is summed over a service's pods is shared by them; times, shares and percentages are not.
                let is_sum = named_by_pod || metric.counter;
                let values: Vec<Option<f64>> = seen
                    .iter()
                    .map(|states| states.get(at).filter(|state| !state.gone))
                    .map(|state| {
                        state.map(|state| {
                            (metric.value)(state, &service.uses)
                                / if by_pod && is_sum { service.pods as f64 } else { 1.0 }
                        })
                    })
                    .collect();
                let points = points(dice, &values, &instants, &metric, service.noise, &away);
                let mut labels = vec![("namespace".to_owned(), "n".to_owned())];
                for (key, value) in &metric.labels {
                    let value =
                        if *key == "pod" { format!("{}-{pod}", service.name) } else { (*value).to_owned() };
                    labels.push(((*key).to_owned(), value));
                }
                if scrape.by_pod && !named_by_pod {
                    labels.push(("pod".to_owned(), format!("{}-{pod}", service.name)));
                }
                if !named_by_pod {
                    labels.push((service_label(scrape.dialect).to_owned(), service.name.clone()));
                }
                let labels = labels.into_iter().collect();
                out.push(Series { name: metric.name.to_owned(), labels, points });
            }
        }
    }
    out
}

/// The points of one series: noise, outliers, missing ones, and for a counter its sum, which begins again now and then.
fn points(
    dice: &mut Dice,
    values: &[Option<f64>],
    instants: &[f64],
    metric: &Metric,
    noise: f64,
    away: &Option<std::ops::Range<usize>>,
) -> Vec<(f64, f64)> {
    let (outliers, missing) = (if dice.chance(0.3) { 0.02 } else { 0.0 }, dice.pick(&[0.0, 0.01, 0.05]));
    let stands_still = dice.chance(0.05);
    let begins_again = (metric.counter && dice.chance(0.1)).then(|| dice.below(values.len()));
    let (mut sum, mut out) = (dice.between(0.0, 1e4), vec![]);
    // Neighbouring points resemble each other: half of the noise is what it was.
    let mut drift = 0.0;
    for (n, (value, at)) in values.iter().zip(instants).enumerate() {
        let Some(value) = value else { continue };
        drift = 0.5 * drift + 0.85 * dice.normal();
        let mut factor = if stands_still { 1.0 } else { (noise * drift).exp() };
        if dice.chance(outliers) {
            factor *= dice.between(2.0, 8.0);
        }
        let step = instants.get(1).zip(instants.first()).map_or(1.0, |(b, a)| b - a);
        let mut value = value * factor;
        // What is left of a hundred is what has noise.
        if metric.name == "availability" {
            value = 100.0 - (100.0 - value / factor) * factor;
        }
        // Failures come one by one, and always some.
        if dice.chance(0.05) {
            match metric.name {
                "error" | "error_ratio" => value += dice.magnitude(1e-4, 1e-2),
                "availability" => value -= dice.magnitude(1e-2, 1.0),
                _ => {}
            }
        }
        sum = if begins_again == Some(n) { 0.0 } else { sum + value * step };
        let seen = !dice.chance(missing) && !away.as_ref().is_some_and(|away| away.contains(&n));
        if seen {
            out.push((*at, if metric.counter { sum } else { value.max(0.0) }));
        }
    }
    out
}
