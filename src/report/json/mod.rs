//! The stable, versioned JSON document of a diagnosis. Its JSON Schema is `docs/report.schema.json`.

mod cause;
mod finding;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::felt::{self, ImpactView, LoadView};
use super::flow::{self, RequestsView};
use crate::analyze::diagnosis::Diagnosis;
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use cause::{change, root_cause};

pub use cause::{ChangeView, RootCauseView, TestView};
pub use finding::{
    EvidenceView, FateView, FindingView, IntroducedView, PatchView, PreventionView, RemedyView, RollbackView,
    TriedView, VerifiedView, finding,
};

/// The version of the document: raised when a field changes its meaning or goes away, not when one is added.
pub const VERSION: u32 = 1;

/// A report.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// The version of this form: 1.
    pub version: u32,
    /// `RootCauseFound`, `Inconclusive`, `IssuesFound` or `Healthy`.
    pub verdict: String,
    /// The answer in one sentence.
    pub headline: String,
    /// When the trouble began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub onset: Option<Timestamp>,
    /// The span of time that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowView>,
    /// Candidates, the likeliest first.
    pub root_causes: Vec<RootCauseView>,
    /// What the rules said, the gravest first.
    pub findings: Vec<FindingView>,
    /// Deviations in series, logs and spans.
    pub anomalies: Vec<Value>,
    /// Whose requests fail, and how many: the most failures first.
    #[serde(default)]
    pub impact: Vec<ImpactView>,
    /// How figures grow with load, the best fitting first.
    #[serde(default)]
    pub load: Vec<LoadView>,
    /// What requests wait for, as traces show it: those first that take most time together.
    #[serde(default)]
    pub requests: Vec<RequestsView>,
    /// Changes near the onset, oldest first.
    pub changes: Vec<ChangeView>,
    /// What happened, oldest first.
    pub timeline: Vec<TimelineView>,
    /// What it is not.
    pub ruled_out: Vec<RuledOutView>,
    /// Who calls whom.
    pub graph: GraphView,
    /// What could not be seen.
    pub gaps: Vec<GapView>,
    /// Which rules were evaluated.
    pub rules: RulesView,
    /// What becomes of the request that was asked about: an answer as `meshscope request` gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Value>,
    /// The request that was followed by its id: as `meshscope follow -o json` gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<Value>,
}

/// A span of time.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct WindowView {
    /// Its first instant, RFC 3339.
    #[schemars(with = "String")]
    pub start: Timestamp,
    /// Its last instant, RFC 3339.
    #[schemars(with = "String")]
    pub end: Timestamp,
}

/// Names an object, and where it matters a field in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectView {
    /// Group and version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The namespace; absent for a cluster-scoped object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field_path: String,
    /// Where that stands, for an object that was read from a YAML file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<LocationView>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LocationView {
    /// The file as it was named.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
}

impl From<&ObjectRef> for SubjectView {
    fn from(r: &ObjectRef) -> Self {
        SubjectView {
            api_version: r.api_version.clone(),
            kind: r.kind.clone(),
            namespace: r.namespace.clone(),
            name: r.name.clone(),
            field_path: r.field_path.clone(),
            location: None,
        }
    }
}

/// Names a Service.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl From<&ServiceName> for ServiceView {
    fn from(service: &ServiceName) -> Self {
        ServiceView { namespace: service.namespace.clone(), name: service.name.clone() }
    }
}

/// One line of the timeline.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TimelineView {
    /// When, RFC 3339.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// `Change`, `Onset`, `Event`, `Anomaly` or `Finding`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened.
    pub text: String,
}

/// Something that was looked for and is not the cause.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RuledOutView {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

/// Who calls whom.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GraphView {
    /// Services.
    pub nodes: Vec<ServiceView>,
    /// Calls.
    pub edges: Vec<EdgeView>,
}

/// One call.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeView {
    /// The workload that calls.
    pub from: SubjectView,
    /// The Service that is called.
    pub to: ServiceView,
    /// `AccessLog`, `Metrics`, `Trace`, `Log`, `Environment`, `Route`, `Manifest`.
    pub provenance: Vec<String>,
    /// Requests that the caller's side saw.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Which of `AccessLog`, `Metrics` and `Trace` counted them; absent where nothing did. Traces are mostly a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_by: Option<String>,
    /// What 95 of 100 of them took at most, in milliseconds, where that source tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95_ms: Option<f64>,
}

/// What could not be seen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct GapView {
    /// The source.
    pub source: String,
    /// What is missing.
    pub what: String,
    /// `Forbidden`, `Absent`, `TimedOut`, `Truncated`, `NotConfigured` or `Failed`.
    pub reason: String,
    /// What to do to see it next time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Which rules were evaluated.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RulesView {
    /// How many were.
    pub evaluated: usize,
    /// Those that were not.
    pub not_evaluated: Vec<NotEvaluatedView>,
}

/// A rule that could not be evaluated.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NotEvaluatedView {
    /// Its code.
    pub code: String,
    /// Why.
    pub reason: String,
}

/// The document of a diagnosis.
pub fn document(diagnosis: &Diagnosis) -> Document {
    let edges = diagnosis.graph.edges.iter().map(|((from, to), edge)| EdgeView {
        from: from.into(),
        to: to.into(),
        provenance: edge.provenance.iter().map(|p| p.as_str().to_owned()).collect(),
        requests: edge.requests,
        failures: edge.failures,
        counted_by: edge.counted.map(|source| source.as_str().to_owned()),
        p95_ms: edge.p95_ms.map(|millis| (millis * 1000.0).round() / 1000.0),
    });
    Document {
        version: VERSION,
        verdict: diagnosis.verdict.as_str().to_owned(),
        headline: diagnosis.headline.clone(),
        onset: diagnosis.onset,
        window: diagnosis.window.map(|w| WindowView { start: w.start, end: w.end }),
        root_causes: diagnosis.root_causes.iter().filter_map(|cause| root_cause(diagnosis, cause)).collect(),
        findings: diagnosis.findings.iter().map(finding).collect(),
        anomalies: diagnosis.anomalies.iter().filter_map(|a| serde_json::to_value(a).ok()).collect(),
        impact: felt::impacts(diagnosis),
        load: felt::loads(diagnosis),
        requests: flow::requests(diagnosis),
        changes: diagnosis.changes.iter().map(change).collect(),
        timeline: diagnosis
            .timeline
            .iter()
            .map(|entry| TimelineView {
                time: entry.time,
                kind: entry.kind.clone(),
                text: entry.text.clone(),
            })
            .collect(),
        ruled_out: diagnosis
            .ruled_out
            .iter()
            .map(|out| RuledOutView { what: out.what.clone(), why: out.why.clone() })
            .collect(),
        graph: GraphView {
            nodes: diagnosis.graph.backing.keys().map(ServiceView::from).collect(),
            edges: edges.collect(),
        },
        gaps: diagnosis
            .gaps
            .iter()
            .map(|gap| GapView {
                source: gap.source.clone(),
                what: gap.what.clone(),
                reason: gap.reason.as_str().to_owned(),
                hint: gap.hint.clone(),
            })
            .collect(),
        rules: RulesView {
            evaluated: diagnosis.evaluated,
            not_evaluated: diagnosis
                .not_evaluated
                .iter()
                .map(|rule| NotEvaluatedView { code: rule.code.clone(), reason: rule.reason.clone() })
                .collect(),
        },
        request: diagnosis.request.as_ref().and_then(|asked| serde_json::to_value(&asked.answer).ok()),
        followed: diagnosis.followed.as_ref().and_then(|followed| serde_json::to_value(followed).ok()),
    }
}

/// The JSON Schema of [`Document`].
pub fn schema() -> Value {
    schemars::schema_for!(Document).to_value()
}
