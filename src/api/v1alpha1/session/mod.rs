//! `DebugSession`: one investigation, like a Job.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

mod options;
mod target;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::common::Period;
use super::status::DebugSessionStatus;

pub use options::{
    Analysis, CaptureLogs, Collect, Evidence, FailOn, LogOptions, ReportFormat, ReportSpec, ReportStorage,
    SourceKind, Suppression,
};
pub use target::{Selector, Symptom, SymptomKind, Target, Window, WorkloadKind, WorkloadRef};

// Only what differs from its default is serialised, so that a default that is written out and one that is left out
// give the same `run_hash`.
/// What to look at and how. Everything but `target` may be left out.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "meshscope.dev",
    version = "v1alpha1",
    kind = "DebugSession",
    plural = "debugsessions",
    shortname = "dbg",
    category = "meshscope",
    namespaced,
    status = "DebugSessionStatus",
    derive = "PartialEq",
    doc = "One investigation: why does this service fail? The answer is in the status.",
    selectable = ".spec.target.namespace",
    selectable = ".status.phase",
    selectable = ".status.summary.highestSeverity",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.summary.verdict"),
    printcolumn(name = "Severity", type_ = "string", json_path = ".status.summary.highestSeverity"),
    printcolumn(name = "Root Cause", type_ = "string", json_path = ".status.summary.rootCauseCode"),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.summary.rootCauseTarget",
        description = "The object that the root cause lies in",
        priority = 1
    ),
    printcolumn(
        name = "Findings",
        type_ = "integer",
        json_path = ".status.summary.counts.total",
        priority = 1
    ),
    printcolumn(
        name = "Request",
        type_ = "string",
        json_path = ".status.request.seen",
        description = "What becomes of spec.symptom.request",
        priority = 1
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the investigation of this generation is complete"
    ),
    printcolumn(
        name = "Duration",
        type_ = "integer",
        json_path = ".status.run.durationSeconds",
        description = "Seconds that the last run took",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct DebugSessionSpec {
    /// What to look at. `{}` is the whole namespace.
    pub target: Target,
    /// What is wrong, as far as it is known: a hint.
    #[serde(default, skip_serializing_if = "is_default")]
    pub symptom: Symptom,
    /// The span of time to look at; the last hour where it is left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub window: Window,
    /// What to gather.
    #[serde(default, skip_serializing_if = "is_default")]
    pub collect: Collect,
    /// What to make of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub analysis: Analysis,
    /// What evidence may show.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evidence: Evidence,
    /// Where the whole report goes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub report: ReportSpec,
    /// A finding of this severity or a worse one makes the session not Ready: for gates in pipelines. `Never`, the
    /// default: a sick application leaves the session healthy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fail_on: FailOn,
    /// How long one run may take, 10s to 30m; 5m where it is left out.
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('10s') && duration(self) <= duration('30m')"
    ).message("spec.timeout must lie between 10s and 30m and be written as hours, minutes and seconds, such as 90s or 5m"))]
    pub timeout: Period,
    /// Seconds after which a finished session is deleted, 60 or more; left out, it is kept. Of a session that Git or
    /// Helm owns only the report is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self >= 60 && self <= 31536000").message(
        "spec.ttlSecondsAfterFinished must lie between 60 and 31536000 (a year); leave it out to keep the session"
    ))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Nothing starts while this is true; a run that is under way stops, and starts again when it is false.
    #[serde(default, skip_serializing_if = "is_default")]
    pub suspend: bool,
    /// Ends a run that is under way or has not started. To run again, set it to false and annotate the session with
    /// a new `meshscope.dev/requestedAt`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cancel: bool,
}

/// How long one run may take where a session does not say.
const DEFAULT_TIMEOUT: Period = Period::from_secs(300);

/// The span of time before a run's start that is looked at where a session does not say.
pub const DEFAULT_SINCE: Period = Period::from_secs(3600);

fn default_timeout() -> Period {
    DEFAULT_TIMEOUT
}

fn is_default_timeout(timeout: &Period) -> bool {
    *timeout == DEFAULT_TIMEOUT
}

pub(in crate::api::v1alpha1) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Identifies what a run of this spec does: 16 hex digits of a SHA-256 over the parts that matter to it. Editing
/// `ttlSecondsAfterFinished`, `suspend`, `cancel` or `failOn` changes nothing, so it starts nothing.
pub fn run_hash(spec: &DebugSessionSpec) -> String {
    let part = DebugSessionSpec {
        ttl_seconds_after_finished: None,
        suspend: false,
        cancel: false,
        fail_on: FailOn::Never,
        ..spec.clone()
    };
    // Structs keep the order of their fields and maps are sorted, so equal specs give equal bytes. These types hold
    // nothing that JSON cannot: the empty text is never hashed.
    let text = serde_json::to_vec(&part).unwrap_or_default();
    short_hash(&[&text])
}

/// 16 hex digits of a SHA-256 over the parts, each preceded by its length, so that no two lists of parts collide by
/// being joined.
pub fn short_hash(parts: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::common::Severity;
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> DebugSessionSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_run_hash_ignores_what_starts_no_run() {
        let plain = spec(json!({"target": {"services": ["checkout"]}}));
        let same = spec(json!({
            "target": {"services": ["checkout"], "dependencyDepth": 1},
            "timeout": "5m", "failOn": "Critical", "suspend": true, "cancel": true, "ttlSecondsAfterFinished": 60,
            "analysis": {"maxFindings": 20}, "collect": {"logs": {"tailLines": 2000}}, "evidence": {"captureLogs": "Excerpt"},
        }));
        assert_eq!(run_hash(&plain), run_hash(&same));
        assert_eq!(run_hash(&plain).len(), 16);
        for other in [
            json!({"target": {"services": ["cart"]}}),
            json!({"target": {"services": ["checkout"], "dependencyDepth": 0}}),
            json!({"target": {"services": ["checkout"]}, "timeout": "6m"}),
            json!({"target": {"services": ["checkout"]}, "window": {"since": "2h"}}),
            json!({"target": {"services": ["checkout"]}, "analysis": {"maxFindings": 21}}),
            json!({"target": {"services": ["checkout"]}, "symptom": {"request": {"host": "checkout", "from": {"workload": "frontend"}}}}),
        ] {
            assert_ne!(run_hash(&plain), run_hash(&spec(other.clone())), "{other}");
        }
    }

    #[test]
    fn only_what_differs_from_its_default_is_written() {
        let text =
            serde_json::to_value(spec(json!({"target": {}, "timeout": "300s", "failOn": "Never"}))).unwrap();
        assert_eq!(text, json!({"target": {}}));
    }

    #[test]
    fn joined_parts_do_not_collide() {
        assert_ne!(short_hash(&[b"ab", b"c"]), short_hash(&[b"a", b"bc"]));
    }

    #[test]
    fn fail_on_is_crossed_by_its_own_severity_and_worse() {
        assert!(FailOn::Error.is_crossed_by(Severity::Critical));
        assert!(FailOn::Error.is_crossed_by(Severity::Error));
        assert!(!FailOn::Error.is_crossed_by(Severity::Warning));
        assert!(!FailOn::Never.is_crossed_by(Severity::Critical));
    }
}
