//! `DebugSession`: one investigation, like a Job.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

use super::common::{Confidence, LocalName, Moment, Period, Severity};
use super::request::SymptomRequest;
use super::status::DebugSessionStatus;

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

/// What to look at: one of `services`, `workloads` and `selector`; none of them is the whole namespace.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.services) && size(self.services) > 0, has(self.workloads) && size(self.workloads) > 0, has(self.selector)].filter(given, given).size() <= 1"
).message("give only one of spec.target.services, spec.target.workloads and spec.target.selector; leave out all three to look at the whole namespace"))]
pub struct Target {
    /// Left out, it is the session's own. Another one is refused unless that namespace allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message(
        "spec.target.namespace is the name of one namespace, such as shop: lower-case letters, digits and '-'"
    ))]
    pub namespace: Option<String>,
    /// Names of Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(name, name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))").message(
            "spec.target.services are names of Services, such as checkout: without a namespace, a port or a domain"
        )
    )]
    pub services: Vec<String>,
    /// Workloads by kind and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub workloads: Vec<WorkloadRef>,
    /// Pods by their labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// How many hops of the service graph around the targets are looked at too, callers and dependencies, 0 to 3;
    /// 1 where it is left out.
    #[serde(default = "default_depth", skip_serializing_if = "is_default_depth")]
    #[schemars(range(min = 0, max = 3))]
    pub dependency_depth: i32,
}

impl Default for Target {
    fn default() -> Self {
        Target {
            namespace: None,
            services: vec![],
            workloads: vec![],
            selector: None,
            dependency_depth: DEFAULT_DEPTH,
        }
    }
}

/// One workload of the target namespace.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadRef {
    /// Its kind.
    pub kind: WorkloadKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message(
        "spec.target.workloads[].name is the name of one object, such as checkout: the kind stands beside it, in kind"
    ))]
    pub name: String,
}

/// Kinds of workloads that can be a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    CronJob,
    Pod,
}

impl WorkloadKind {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkloadKind::Deployment => "Deployment",
            WorkloadKind::StatefulSet => "StatefulSet",
            WorkloadKind::DaemonSet => "DaemonSet",
            WorkloadKind::ReplicaSet => "ReplicaSet",
            WorkloadKind::Job => "Job",
            WorkloadKind::CronJob => "CronJob",
            WorkloadKind::Pod => "Pod",
        }
    }
}

/// Selects pods by their labels.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Every label must have this value.
    #[schemars(schema_with = "label_map")]
    #[x_kube(validation = Rule::new("size(self) > 0").message(
        "spec.target.selector.matchLabels needs at least one label, such as app: checkout; leave out selector to look at the whole namespace"
    ))]
    pub match_labels: BTreeMap<String, String>,
}

/// Labels: keys up to 317 bytes (a prefix of 253, `/`, a name of 63), values up to 63.
fn label_map(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "type": "string", "maxLength": 63 }
    })
}

/// What is wrong, as far as it is known.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Symptom {
    /// What users see, `Unknown` where it is left out. A hint for the ranking.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: SymptomKind,
    /// In your own words. Shown in reports, never interpreted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,
    /// A request that shows it. The answer is in `status.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<SymptomRequest>,
    /// The trace, request or correlation id of a request that failed: it is followed through what was collected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub request_id: String,
    /// Since when it fails, as far as you know; it must lie in the window. Metrics, logs and traces are compared with the time before, and
    /// what deviates since then can be the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onset: Option<Moment>,
}

/// What users see.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum SymptomKind {
    /// Requests are answered with errors.
    Errors,
    /// Requests are answered too late.
    Latency,
    /// Nothing answers.
    Unavailable,
    /// Not known.
    #[default]
    Unknown,
}

/// The span of time to look at: `since`, or `start` and `end`. The operator's configuration caps its length.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.since) != (has(self.start) || has(self.end)) && has(self.start) == has(self.end)").message(
        "give either spec.window.since, such as 1h, or both spec.window.start and spec.window.end; leave out spec.window for the last hour"
    ),
    validation = Rule::new("!has(self.start) || !has(self.end) || self.start < self.end").message(
        "spec.window.start must lie before spec.window.end"
    )
)]
pub struct Window {
    /// From this long before the run's start until then, such as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new(
        "self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration(self) >= duration('1m') && duration(self) <= duration('720h')"
    ).message("spec.window.since must lie between 1m and 720h and be written as hours, minutes and seconds, such as 30m or 1h"))]
    pub since: Option<Period>,
    /// The first instant to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Moment>,
    /// The last instant to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Moment>,
}

/// What to gather.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collect {
    /// Empty means all that exist. Kubernetes objects are always read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub sources: Vec<SourceKind>,
    /// Bounds of what is read of pod logs.
    #[serde(default, skip_serializing_if = "is_default")]
    pub logs: LogOptions,
    /// Which metrics backend of the operator's configuration to ask; `default` where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_source_ref: Option<LocalName>,
}

/// Sources besides the Kubernetes objects themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    /// Logs of pods, the previous instance of a container included.
    Logs,
    /// Kubernetes Events.
    Events,
    /// Objects of the service mesh and of the Gateway API.
    Mesh,
    /// Admin ports of proxies, where the operator's configuration allows it.
    Proxies,
    /// A Prometheus-compatible backend.
    Metrics,
}

/// Bounds of what is read of pod logs.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogOptions {
    /// The newest lines of each container, 10 to 20000; 2000 where it is left out.
    #[serde(default = "default_tail_lines")]
    #[schemars(range(min = 10, max = 20_000))]
    pub tail_lines: i64,
    /// The newest bytes of each container, 4 KiB to 4 MiB; 1 MiB where it is left out.
    #[serde(default = "default_limit_bytes")]
    #[schemars(range(min = 4096, max = 4_194_304))]
    pub limit_bytes_per_container: i64,
    /// Whether the instance before a restart is read too; true where it is left out.
    #[serde(default = "default_true")]
    pub include_previous: bool,
    /// Only containers of these names; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub containers: Vec<String>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            tail_lines: default_tail_lines(),
            limit_bytes_per_container: default_limit_bytes(),
            include_previous: default_true(),
            containers: vec![],
        }
    }
}

/// What to make of the evidence.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Findings below this confidence are left out; `Low`, the default, shows all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_confidence: Confidence,
    /// Findings that are known and accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["code".into()]))]
    pub suppress: Vec<Suppression>,
    /// At most this many findings in the status, 1 to 50, 20 where it is left out; the report has all of
    /// them.
    #[serde(default = "default_max_findings")]
    #[schemars(range(min = 1, max = 50))]
    pub max_findings: i32,
}

impl Default for Analysis {
    fn default() -> Self {
        Analysis {
            min_confidence: Confidence::default(),
            suppress: vec![],
            max_findings: default_max_findings(),
        }
    }
}

/// Leaves out the findings of one rule.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suppression {
    /// The rule's code, such as `ISTIO104`.
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z][A-Z0-9]*[0-9]$')").message(
        "spec.analysis.suppress[].code is the code of a rule, such as ISTIO104; `meshscope rules` lists them"
    ))]
    pub code: String,
    /// Why it is accepted. Shown in reports.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub reason: String,
    /// From then on it is shown again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
}

/// What evidence may show.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// How much of the logs is kept, `Excerpt` where it is left out. Redacted in any case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capture_logs: CaptureLogs,
}

/// How much of the logs is kept.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum CaptureLogs {
    /// No line: logs are analysed, and findings carry counts only.
    None,
    /// The few lines that carry a finding.
    #[default]
    Excerpt,
    /// Those lines in the status, and in the report all that was read.
    Full,
}

/// Where the whole report goes, and in which forms.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportSpec {
    /// Where it is kept; `ConfigMap` where it is left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage: ReportStorage,
    /// The forms to keep; empty means Markdown and JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub formats: Vec<ReportFormat>,
}

/// Where the whole report is kept.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum ReportStorage {
    /// Nowhere: the status is all there is.
    None,
    /// In gzipped ConfigMaps beside the session, which go when it goes.
    #[default]
    ConfigMap,
}

/// A form of the whole report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReportFormat {
    /// For people.
    Markdown,
    /// For programs.
    #[serde(rename = "JSON")]
    Json,
}

/// The severity from which on a session is not Ready.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[allow(missing_docs, reason = "the severities of that name, and never")]
pub enum FailOn {
    #[default]
    Never,
    Critical,
    Error,
    Warning,
}

impl FailOn {
    /// Whether a finding of `severity` crosses it.
    pub fn is_crossed_by(self, severity: Severity) -> bool {
        match self {
            FailOn::Never => false,
            FailOn::Critical => severity <= Severity::Critical,
            FailOn::Error => severity <= Severity::Error,
            FailOn::Warning => severity <= Severity::Warning,
        }
    }
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

const DEFAULT_DEPTH: i32 = 1;

fn default_depth() -> i32 {
    DEFAULT_DEPTH
}

fn is_default_depth(depth: &i32) -> bool {
    *depth == DEFAULT_DEPTH
}

fn default_tail_lines() -> i64 {
    2000
}

fn default_limit_bytes() -> i64 {
    1 << 20
}

fn default_true() -> bool {
    true
}

fn default_max_findings() -> i32 {
    20
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
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
