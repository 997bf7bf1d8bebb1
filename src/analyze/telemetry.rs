//! Where the telemetry itself lost something: no cause of anything, and a reason to trust no absence in the same time.

use crate::model::gap::{Gap, GapReason};
use crate::model::log::LogStream;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

/// Counters of what a collector dropped or refused, what they count, and the source that is incomplete for it. Collectors name them with
/// and without `_total`.
const LOST: &[(&str, &str, &str)] = &[
    ("otelcol_exporter_send_failed_spans", "spans that a collector could not send", "Traces"),
    ("otelcol_exporter_enqueue_failed_spans", "spans that a collector's queue did not take", "Traces"),
    ("otelcol_receiver_refused_spans", "spans that a collector refused", "Traces"),
    ("otelcol_processor_dropped_spans", "spans that a collector dropped", "Traces"),
    ("otelcol_exporter_send_failed_metric_points", "points that a collector could not send", "Metrics"),
    ("otelcol_receiver_refused_metric_points", "points that a collector refused", "Metrics"),
    ("otelcol_exporter_send_failed_log_records", "log records that a collector could not send", "Logs"),
    ("prometheus_target_scrapes_sample_out_of_order", "samples that came out of order", "Metrics"),
    ("promtail_dropped_entries", "log lines that a shipper dropped", "Logs"),
    ("loki_write_dropped_entries", "log lines that a shipper dropped", "Logs"),
];

/// Words of collectors in their own logs.
const WORDS: &[&str] = &[
    "Exporting failed. Dropping data",
    "Exporting failed. Will retry",
    "Memory usage is above soft limit",
    "Memory usage is above hard limit",
    "data refused due to high memory usage",
    "sending queue is full",
    "sending_queue is full",
    "entry too far behind",
    "max entry size",
];
/// Lines that are more than a hiccup.
const MIN_LINES: usize = 3;
/// What to do about it.
const HINT: &str = "an absence in this time proves nothing: look at the collector's own log and counters, give it memory, queue and replicas";

/// What the telemetry of this snapshot lost, as far as it tells itself.
pub fn gaps(snapshot: &Snapshot) -> Vec<Gap> {
    let mut out = vec![];
    for (name, what, source) in LOST {
        let total = format!("{name}_total");
        let grown =
            |name: &str| -> f64 { snapshot.series_named(name).filter_map(Series::total_increase).sum() };
        // Both spellings of one counter are one counter.
        let lost = grown(&total).max(grown(name));
        if lost >= 1.0 {
            out.push(Gap::new(*source, format!("{lost:.0} {what}"), GapReason::Failed).hint(HINT));
        }
    }
    let down = snapshot
        .series_named("up")
        .filter(|series| series.last() == Some(0.0) && is_of_a_living_pod(snapshot, series))
        .count();
    if down > 0 {
        out.push(
            Gap::new("Metrics", format!("series of {down} targets that do not answer Prometheus"), GapReason::Failed)
                .hint("see Status > Targets of Prometheus for the reason: a port, a path, TLS, or a policy between the two"),
        );
    }
    let lossy = snapshot.logs.iter().filter(|log| is_collector(log) && tells(log) >= MIN_LINES).count();
    if lossy > 0 {
        out.push(
            Gap::new(
                "Traces",
                format!("data that {lossy} collectors say they lost or delayed"),
                GapReason::Failed,
            )
            .hint(HINT),
        );
    }
    out
}

/// Whether a target is a pod that runs: those of ended pods are expected to be silent.
fn is_of_a_living_pod(snapshot: &Snapshot, series: &Series) -> bool {
    snapshot.pod(series.label("namespace"), series.label("pod")).is_some_and(|pod| pod.ready())
}

fn is_collector(log: &LogStream) -> bool {
    ["otel", "collector", "promtail", "fluent", "alloy", "vector"]
        .iter()
        .any(|word| log.pod.contains(word) || log.container.contains(word))
}

fn tells(log: &LogStream) -> usize {
    log.lines
        .iter()
        .filter(|line| WORDS.iter().any(|words| line.text.contains(words)))
        .take(MIN_LINES)
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;
    use crate::model::snapshot::Builder;

    #[test]
    fn what_collectors_lost_is_a_gap_once() {
        let mut builder = Builder::new();
        for name in ["otelcol_exporter_send_failed_spans", "otelcol_exporter_send_failed_spans_total"] {
            builder.series(crate::model::series::read(&json!({"data": {"result": [{"metric": {"__name__": name}, "values": [[1, "0"], [60, "40"]]}]}}), name));
        }
        let gaps = gaps(&builder.finish());
        assert_eq!(gaps.len(), 1);
        assert!(gaps.iter().all(|gap| gap.what.starts_with("40 spans") && gap.source == "Traces"));
    }

    #[test]
    fn a_collector_that_says_so_is_a_gap_and_others_are_none() {
        let text = "Exporting failed. Will retry the request after interval.\n".repeat(4);
        let of = |pod: &str| {
            let mut builder = Builder::new();
            builder.log(LogStream::read("n", pod, "c", false, text.as_bytes(), false));
            gaps(&builder.finish()).len()
        };
        assert_eq!((of("otel-collector-1"), of("shop-1")), (1, 0));
        assert!(gaps(&Builder::new().finish()).is_empty());
    }
}
