//! What the operator measures of itself. Every set of labels is bounded: no name of an object, a namespace or a user
//! stands in one.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// The verdict, or the reason of the failure.
    pub result: String,
}

/// A part of a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PhaseLabel {
    /// `total`, `analyze` or `publish`.
    pub phase: &'static str,
}

/// A sort of finding.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FindingLabels {
    /// Its severity.
    pub severity: &'static str,
    /// The code of its rule.
    pub code: &'static str,
}

/// A collector that did not give all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CollectorLabels {
    /// Its name.
    pub collector: String,
    /// The reason: a gap's.
    pub reason: String,
}

/// A rule of redaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RuleLabel {
    /// Its name.
    pub rule: String,
}

/// Something that failed in the controller itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    /// What: `reconcile`, `status`, `report` or `watch`.
    pub operation: &'static str,
    /// The category of the error.
    pub category: &'static str,
}

/// Upper bounds of durations, in seconds: from a small namespace to the longest timeout.
const SECONDS: [f64; 11] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0];
/// Upper bounds of statuses, in bytes: the budget is 65536.
const BYTES: [f64; 8] = [1024.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0, 1_048_576.0];

/// All metrics of the operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Runs that ended, by how.
    pub runs: Family<ResultLabel, Counter>,
    /// How long parts of runs took.
    pub run_duration: Family<PhaseLabel, Histogram>,
    /// Findings of completed runs.
    pub findings: Family<FindingLabels, Counter>,
    /// Collectors that did not give all.
    pub collector_errors: Family<CollectorLabels, Counter>,
    /// Secrets that were masked.
    pub redactions: Family<RuleLabel, Counter>,
    /// The size of statuses.
    pub status_bytes: Histogram,
    /// Statuses that were cut.
    pub truncations: Counter,
    /// Runs under way.
    pub active_runs: Gauge,
    /// When a run last gave an answer.
    pub last_success: Gauge,
    /// Whether this replica is the one that works.
    pub leader: Gauge,
    /// Failures of the controller itself.
    pub errors: Family<ErrorLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("meshscope");
        let run_duration =
            Family::<PhaseLabel, Histogram>::new_with_constructor(|| Histogram::new(SECONDS.iter().copied()));
        let metrics = Metrics {
            runs: Family::default(),
            run_duration,
            findings: Family::default(),
            collector_errors: Family::default(),
            redactions: Family::default(),
            status_bytes: Histogram::new(BYTES.iter().copied()),
            truncations: Counter::default(),
            active_runs: Gauge::default(),
            last_success: Gauge::default(),
            leader: Gauge::default(),
            errors: Family::default(),
            registry: Registry::default(),
        };
        // The names of counters get their `_total` from the encoder.
        registry.register("runs", "Runs that ended, by how", metrics.runs.clone());
        registry.register(
            "run_duration_seconds",
            "How long runs and their parts took",
            metrics.run_duration.clone(),
        );
        registry.register("findings", "Findings of completed runs", metrics.findings.clone());
        registry.register(
            "collector_errors",
            "Collectors that did not give all, by reason",
            metrics.collector_errors.clone(),
        );
        registry.register("redactions", "Secrets masked on the way in", metrics.redactions.clone());
        registry.register("status_bytes", "Sizes of statuses", metrics.status_bytes.clone());
        registry.register(
            "truncations",
            "Statuses that did not hold all of the answer",
            metrics.truncations.clone(),
        );
        registry.register("active_runs", "Runs under way", metrics.active_runs.clone());
        registry.register(
            "last_success_timestamp_seconds",
            "When a run last gave an answer, in Unix time",
            metrics.last_success.clone(),
        );
        registry.register("leader", "1 where this replica is the one that works", metrics.leader.clone());
        registry.register("errors", "Failures of the controller itself", metrics.errors.clone());
        Metrics { registry, ..metrics }
    }
}

impl Metrics {
    /// All metrics in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // A String takes everything, and nothing else here can fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a failure of the controller itself.
    pub fn failed(&self, operation: &'static str, category: &'static str) {
        self.errors.get_or_create(&ErrorLabels { operation, category }).inc();
    }

    /// Notes how long a part of a run took, in seconds.
    pub fn took(&self, phase: &'static str, seconds: f64) {
        self.run_duration.get_or_create(&PhaseLabel { phase }).observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::default();
        metrics.runs.get_or_create(&ResultLabel { result: "RootCauseFound".to_owned() }).inc();
        metrics.findings.get_or_create(&FindingLabels { severity: "Error", code: "ISTIO104" }).inc();
        metrics.took("total", 0.8);
        metrics.truncations.inc();
        metrics.status_bytes.observe(2000.0);
        metrics.failed("status", "TimedOut");
        let text = metrics.render();
        for line in [
            "meshscope_runs_total{result=\"RootCauseFound\"} 1",
            "meshscope_run_duration_seconds_count{phase=\"total\"} 1",
            "meshscope_findings_total{severity=\"Error\",code=\"ISTIO104\"} 1",
            "meshscope_truncations_total 1",
            "meshscope_status_bytes_bucket{le=\"4096.0\"} 1",
            "meshscope_active_runs 0",
            "meshscope_last_success_timestamp_seconds 0",
            "meshscope_leader 0",
            "meshscope_errors_total{operation=\"status\",category=\"TimedOut\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
        }
    }
}
