//! How a session is investigated: what is gathered, what is made of it, and where the answer goes.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::api::v1alpha1::common::{Confidence, LocalName, Moment, Severity};

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
