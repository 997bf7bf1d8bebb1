//! The status of a `DebugSession`: how the run stands, and what it found.
//!
//! It has a budget (see `report::budget`): what does not fit is cut in a fixed order and counted in `truncated`.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{Moment, Severity, TargetRef};
pub use super::finding::{
    EvidenceItem, Finding, FindingState, Prevention, Remedy, Risk, Role, TriedRequest, Verified,
};

pub use super::request::{RequestAnswer, RequestStep};

/// How a session stands, and what its last run found.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DebugSessionStatus {
    /// The generation that this status describes; -1 until the controller has seen the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Identifies the parts of the spec that the last run went by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub observed_run_hash: Option<String>,
    /// The last value of the annotation `meshscope.dev/requestedAt` that a run was started for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub last_handled_requested_at: Option<String>,
    /// For people; programs read the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How far a run is that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// The last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
    /// Ready, Reconciling and Stalled as kstatus has them; Finished, Complete and Failed for `kubectl wait`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The answer in short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What becomes of the request of `spec.symptom.request`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestAnswer>,
    /// Candidates for the root cause, the most probable first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub root_causes: Vec<RootCause>,
    /// What the rules say, the most telling first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub findings: Vec<Finding>,
    /// What happened, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub timeline: Vec<TimelineEntry>,
    /// Who called whom and how it went: what fails most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub map: Vec<MapEntry>,
    /// What it is not, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ruled_out: Vec<RuledOut>,
    /// What each source gave, and why one gave nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub collectors: Vec<Collector>,
    /// Where the whole report is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportRef>,
    /// What did not fit; the report has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    /// Earlier runs, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub history: Vec<HistoryEntry>,
}

/// How a session stands, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Seen, not started.
    Pending,
    /// Evidence is being gathered.
    Collecting,
    /// Evidence is being analysed.
    Analyzing,
    /// The run gave an answer, `Inconclusive` included.
    Completed,
    /// The run gave no answer; the condition `Failed` says why.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl Phase {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Collecting => "Collecting",
            Phase::Analyzing => "Analyzing",
            Phase::Completed => "Completed",
            Phase::Failed => "Failed",
            Phase::Cancelled => "Cancelled",
        }
    }

    /// Whether nothing more happens until the spec or the token changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Completed | Phase::Failed | Phase::Cancelled)
    }
}

/// How far a run is that is under way.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, such as `Collecting logs`.
    #[schemars(length(max = 128))]
    pub step: String,
    /// Parts of it that are done.
    #[schemars(range(min = 0))]
    pub done: i64,
    /// Parts of it in all, as far as is known by now.
    #[schemars(range(min = 0))]
    pub total: i64,
}

/// One investigation.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Stays the same when a run that was cut off starts again.
    #[schemars(length(max = 64))]
    pub id: String,
    /// 1, and one more each time the run was cut off and started again; 3 at most.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    /// When this attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Moment>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Moment>,
    /// How long it took, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<i64>,
    /// The version of the operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub operator_version: String,
    /// Identifies the set of rules.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub rules_version: String,
    /// The window that was looked at, after the operator's cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,
    /// What it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
}

/// A span of time that was looked at.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// Its first instant.
    pub start: Moment,
    /// Its last instant.
    pub end: Moment,
}

/// What a run cost.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Requests to the Kubernetes API and to metrics backends.
    pub api_requests: i64,
    /// Bytes read from them.
    pub bytes_read: i64,
    /// Milliseconds of processor time that analysis took.
    pub cpu_millis: i64,
    /// Bytes of evidence held at once, at most.
    pub peak_bytes: i64,
}

/// One aspect of how a session stands, in the form that `kubectl wait --for=condition=…` reads.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Such as `Ready`; the types are constants of [`condition`].
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// The generation that it describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed.
    pub last_transition_time: Moment,
    /// Why, in one CamelCase word.
    #[schemars(length(min = 1, max = 64))]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { ConditionStatus::True } else { ConditionStatus::False }
    }
}

/// Types of conditions.
pub mod condition {
    /// The investigation of this generation is complete.
    pub const READY: &str = "Ready";
    /// A run is under way or about to start; absent otherwise.
    pub const RECONCILING: &str = "Reconciling";
    /// Nothing more will happen by itself, and Ready will not become true; absent otherwise.
    pub const STALLED: &str = "Stalled";
    /// The run is over, whatever came out.
    pub const FINISHED: &str = "Finished";
    /// The run gave an answer.
    pub const COMPLETE: &str = "Complete";
    /// The run gave no answer.
    pub const FAILED: &str = "Failed";
    /// The session may look at its target.
    pub const AUTHORIZED: &str = "Authorized";
    /// Every source that was asked answered in full.
    pub const COLLECTION_COMPLETE: &str = "CollectionComplete";
    /// Something was found; `Unknown` is inconclusive.
    pub const ISSUES_FOUND: &str = "IssuesFound";
    /// The whole report can be read.
    pub const REPORT_AVAILABLE: &str = "ReportAvailable";
    /// `spec.suspend` holds it back; absent otherwise.
    pub const SUSPENDED: &str = "Suspended";
}

/// What came out of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// One candidate explains what was seen.
    RootCauseFound,
    /// Something fails, and no candidate earns to be called the root cause.
    Inconclusive,
    /// Nothing fails; there are findings that will hurt some day.
    IssuesFound,
    /// Looked, and nothing was found at Warning or above.
    Healthy,
}

impl Verdict {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::RootCauseFound => "RootCauseFound",
            Verdict::IssuesFound => "IssuesFound",
            Verdict::Healthy => "Healthy",
            Verdict::Inconclusive => "Inconclusive",
        }
    }
}

/// The answer in short.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// What came out.
    pub verdict: Verdict,
    /// One sentence.
    #[schemars(length(max = 160))]
    pub headline: String,
    /// The worst severity among the findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_severity: Option<Severity>,
    /// Findings by severity, those included that the status has no room for.
    pub counts: Counts,
    /// The rule that names the root cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub root_cause_code: Option<String>,
    /// The object that the root cause lies in, as `Kind namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 384))]
    pub root_cause_target: Option<String>,
    /// How probable it is, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub probability: Option<f64>,
}

/// Findings by severity.
#[derive(KubeSchema, Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub total: i64,
    /// Those of severity Critical.
    pub critical: i64,
    /// Those of severity Error.
    pub error: i64,
    /// Those of severity Warning.
    pub warning: i64,
    /// Those of severity Info.
    pub info: i64,
}

/// A candidate for the root cause.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootCause {
    /// 1 is the most probable.
    #[schemars(range(min = 1))]
    pub rank: i32,
    /// How probable it is, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub probability: f64,
    /// The code of the rule that names it.
    #[schemars(length(max = 32))]
    pub cause: String,
    /// Such as `Mesh` or `Workload`.
    #[schemars(length(max = 32))]
    pub category: String,
    /// What happens, in the words of the field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 160))]
    pub mechanism: String,
    /// One sentence.
    #[schemars(length(max = 160))]
    pub title: String,
    /// The object that it lies in.
    pub subject: TargetRef,
    /// The Service that it lies in, as `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 320))]
    pub service: String,
    /// What somebody changed, where that brought it about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub change: String,
    /// Identifiers of the findings that it explains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 32)))]
    pub explains: Vec<String>,
    /// From the cause to the symptom, step by step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 256)))]
    pub chain: Vec<String>,
    /// What speaks for it and against it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tests: Vec<CauseTest>,
}

/// Something that was tested about a candidate.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CauseTest {
    /// What was tested and what came out.
    #[schemars(length(max = 256))]
    pub test: String,
    /// What it says about the candidate.
    pub verdict: TestVerdict,
}

/// What a test says about a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TestVerdict {
    /// It speaks for it.
    Supported,
    /// It speaks against it.
    Refuted,
    /// What it needs was not seen.
    NotEvaluated,
}

/// Something that happened.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEntry {
    /// When.
    pub time: Moment,
    /// `Change`, `Onset`, `Finding` or `Event`.
    #[schemars(length(max = 32))]
    pub kind: String,
    /// What, in one sentence.
    #[schemars(length(max = 512))]
    pub text: String,
}

/// Calls of one workload to one Service.
#[derive(KubeSchema, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapEntry {
    /// The workload that calls, such as `Deployment shop/front`.
    #[schemars(length(max = 384))]
    pub from: String,
    /// The Service that is called, such as `shop/checkout`.
    #[schemars(length(max = 320))]
    pub to: String,
    /// How often.
    pub requests: i64,
    /// How often it failed.
    pub failed: i64,
    /// What 95 of 100 requests took at most, in milliseconds; absent where nothing tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_milliseconds: Option<i64>,
    /// What counted them: `AccessLog`, `Metrics` or `Trace`, which is mostly a sample.
    #[schemars(length(max = 32))]
    pub source: String,
}

/// Something that was looked for and is not the cause.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuledOut {
    /// What it is not.
    #[schemars(length(max = 160))]
    pub what: String,
    /// Why not, with the numbers.
    #[schemars(length(max = 512))]
    pub why: String,
}

/// What one source gave.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collector {
    /// The source, such as `Logs`.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// How it went.
    pub state: CollectorState,
    /// Objects, lines, series: what one item is depends on the source.
    #[serde(default)]
    pub items: i64,
    /// Bytes read.
    #[serde(default)]
    pub bytes: i64,
    /// What is missing and why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub reason: String,
    /// What to do to see it next time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub hint: String,
}

/// How it went with one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CollectorState {
    /// It gave all that was asked for.
    Succeeded,
    /// It gave a part.
    Partial,
    /// The session did not ask for it.
    Skipped,
    /// The operator may not read it.
    Denied,
    /// It could not be read.
    Failed,
    /// It does not exist in this cluster, or none is configured.
    NotInstalled,
}

/// Where the whole report is.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportRef {
    /// ConfigMaps of the session's namespace, in order. The parts of a file stand under its name in their `binaryData`.
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub config_maps: Vec<String>,
    /// The files in them.
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub files: Vec<ReportFile>,
    /// Whether files were left out since the report would have been too large.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One file of a report.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportFile {
    /// Such as `report.md.gz`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Its size in bytes, compressed.
    pub bytes: i64,
    /// The SHA-256 of the compressed bytes, in hexadecimal.
    #[schemars(length(max = 64))]
    pub sha256: String,
}

/// What did not fit into the status.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Truncated {
    /// Findings that were left out.
    pub findings: i64,
    /// Pieces of evidence that were left out.
    pub evidence: i64,
    /// Other entries (ruled out, timeline, root causes, history) that were left out.
    pub other: i64,
    /// Bytes that the status would have had.
    pub bytes_before: i64,
    /// Why, in one CamelCase word: `StatusBudget`, `MaxFindings` or `Refused`.
    #[schemars(length(max = 64))]
    pub reason: String,
}

/// An earlier run.
#[derive(KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Its identifier.
    #[schemars(length(max = 64))]
    pub run_id: String,
    /// When it ended.
    pub completion_time: Moment,
    /// What came out.
    pub verdict: Verdict,
    /// The worst severity among its findings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_severity: Option<Severity>,
    /// Identifiers of its findings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 32)))]
    pub finding_ids: Vec<String>,
}
