//! The stable, versioned JSON document of a diagnosis. Its JSON Schema is `docs/report.schema.json`.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::felt::{self, ImpactView, LoadView};
use crate::analyze::diagnosis::{Diagnosis, RootCause, TestVerdict};
use crate::analyze::finding::Finding;
use crate::analyze::narrative::tell_change;
use crate::analyze::remedy::Remedy;
use crate::analyze::trial::{Fate, Trial};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;

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

/// The subject of a finding, with its place.
fn placed(finding: &Finding) -> SubjectView {
    let place = finding.location.as_ref();
    SubjectView {
        location: place.map(|at| LocationView { file: at.file.clone(), line: at.line, column: at.column }),
        ..SubjectView::from(&finding.subject)
    }
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

/// A candidate root cause.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RootCauseView {
    /// Its place, from 1.
    pub rank: usize,
    /// How likely, 0 to 1.
    pub probability: f64,
    /// The code of the rule.
    pub cause: String,
    /// `Workload`, `Network`, `Config`, `Platform`, `Mesh`, `Gateway`, `Traffic`, `Application` or `Signals`.
    pub category: String,
    /// What happens, in the field's words.
    pub mechanism: String,
    /// The cause in one sentence.
    pub headline: String,
    /// The object and field to blame.
    pub subject: SubjectView,
    /// Other objects that are just as much at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<SubjectView>,
    /// The Service in which the cause lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
    /// Identifiers of the findings that it explains.
    pub explains: Vec<String>,
    /// From the change over the cause to what users feel.
    pub chain: Vec<String>,
    /// The change that brought it about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeView>,
    /// What speaks for it and against it.
    pub tests: Vec<TestView>,
}

/// One test of a hypothesis.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestView {
    /// What was tested and what came out.
    pub test: String,
    /// `Supported`, `Refuted` or `NotEvaluated`.
    pub verdict: String,
    /// The natural logarithm of its likelihood ratio.
    pub log_odds: f64,
    /// Identifiers of the evidence that it rests on.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// One statement by one rule.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingView {
    /// A fingerprint, stable over runs.
    pub id: String,
    /// The rule's code.
    pub code: String,
    /// The rule's name.
    pub name: String,
    /// The same diagnosis in other tools.
    pub aliases: Vec<String>,
    /// `Critical`, `Error`, `Warning` or `Info`.
    pub severity: String,
    /// `Cause`, `Symptom` or `Context`.
    pub role: String,
    /// The object and field.
    pub subject: SubjectView,
    /// Other objects that are just as much at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<SubjectView>,
    /// The Service that suffers first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceView>,
    /// The cause in one sentence.
    pub title: String,
    /// What follows from what.
    pub message: String,
    /// When it began, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub onset: Option<Timestamp>,
    /// What was seen.
    pub evidence: Vec<EvidenceView>,
    /// The best fix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remediation: Option<RemedyView>,
    /// Second choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<RemedyView>,
    /// How to take the best fix back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackView>,
    /// What came of trying the best fix, as in `remediation.verified`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedView>,
    /// How to keep it from happening again.
    pub prevention: Vec<PreventionView>,
}

/// One piece of evidence.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceView {
    /// Its identifier within the report.
    pub id: String,
    /// `Object`, `Event`, `Log`, `AccessLog`, `Metric` or `Proxy`.
    pub source: String,
    /// Where it stands.
    #[serde(rename = "ref")]
    pub reference: String,
    /// When it was seen, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub time: Option<Timestamp>,
    /// What it says, in our words.
    pub value: String,
    /// What it says word for word: text of the cluster, not to be trusted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub excerpt: String,
}

/// One fix.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemedyView {
    /// What it does.
    pub summary: String,
    /// `Low`, `Medium` or `High`.
    pub risk: String,
    /// Commands, ready to paste.
    pub commands: Vec<String>,
    /// The change as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchView>,
    /// Why nothing takes it back, where it changes something that no command brings back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub no_rollback: String,
    /// What came of trying it on the snapshot and on the twin, where that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<VerifiedView>,
    /// Why trying it decides nothing, or why it was not tried.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub not_verified: String,
}

/// The difference that a fix makes, as far as configuration and objects decide it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedView {
    /// Identifiers of the findings that are gone with it.
    pub resolves: Vec<String>,
    /// Findings of Warning and above that come with it.
    pub introduces: Vec<IntroducedView>,
    /// Requests that fare otherwise, and those that were seen to fail and still do.
    pub requests: Vec<TriedView>,
    /// How many further requests were asked of the twin and fare as before.
    pub unchanged: usize,
    /// Whether the rollback was found to give the objects back as they were.
    pub rollback_restores: bool,
    /// What was taken for granted, such as that new pods become ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assumes: Vec<String>,
}

/// A finding that a fix would bring.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct IntroducedView {
    /// The rule's code.
    pub code: String,
    /// `Critical`, `Error` or `Warning`.
    pub severity: String,
    /// About what.
    pub subject: SubjectView,
    /// What it says.
    pub title: String,
}

/// A request before and after a fix.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TriedView {
    /// The request, and from where.
    pub request: String,
    /// As it fares now.
    pub before: FateView,
    /// As it fares with the fix.
    pub after: FateView,
}

/// How a request fares.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct FateView {
    /// `Forwarded`, `Responded` or `Refused`.
    pub outcome: String,
    /// The status that the caller sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Envoy's response flag.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flag: String,
    /// In a few words: `503 UH`, `200 (20 of 100 requests: 503 UH)`.
    pub label: String,
    /// What decided.
    pub detail: String,
}

/// How to take a fix back.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackView {
    /// Commands, ready to paste.
    pub commands: Vec<String>,
    /// The inverse change as data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchView>,
}

/// A JSON patch of one object.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PatchView {
    /// The object.
    pub target: SubjectView,
    /// RFC 6902 operations.
    pub operations: Value,
}

/// A way to keep it from happening again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreventionView {
    /// `Alert`, `Policy`, `Probe`, `Test` or `Setting`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What to set up.
    pub summary: String,
    /// A PromQL expression or a snippet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snippet: String,
}

/// A change.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeView {
    /// When, RFC 3339.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// To what.
    pub subject: SubjectView,
    /// `Created`, `Edited`, `Rollout` or `Scaled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field manager.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What was done, in our words.
    pub text: String,
}

/// One line of the timeline.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TimelineView {
    /// When, RFC 3339.
    #[schemars(with = "String")]
    pub time: Timestamp,
    /// `Change`, `Onset` or `Finding`.
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

fn root_cause(diagnosis: &Diagnosis, cause: &RootCause) -> Option<RootCauseView> {
    let finding = diagnosis.finding_of(cause)?;
    let tests = cause.tests.iter().map(|test| TestView {
        test: test.test.clone(),
        verdict: match test.verdict {
            TestVerdict::Supported => "Supported",
            TestVerdict::Refuted => "Refuted",
            TestVerdict::NotEvaluated => "NotEvaluated",
        }
        .to_owned(),
        log_odds: (test.log_odds * 100.0).round() / 100.0,
        evidence: test.evidence.clone(),
    });
    Some(RootCauseView {
        rank: cause.rank,
        probability: cause.probability,
        cause: finding.meta.code.to_owned(),
        category: finding.meta.family.as_str().to_owned(),
        mechanism: finding.mechanism.clone(),
        headline: finding.title.clone(),
        subject: if cause.subject == finding.subject { placed(finding) } else { (&cause.subject).into() },
        related: finding.related.iter().map(SubjectView::from).collect(),
        service: cause.service.as_ref().map(ServiceView::from),
        explains: cause.explains.clone(),
        chain: cause.chain.clone(),
        change: cause.change.as_ref().map(change),
        tests: tests.collect(),
    })
}

fn change(change: &crate::model::change::Change) -> ChangeView {
    ChangeView {
        time: change.time,
        subject: (&change.subject).into(),
        kind: change.kind.as_str().to_owned(),
        by: change.by.clone(),
        text: tell_change(change),
    }
}

/// The view of one finding.
pub fn finding(finding: &Finding) -> FindingView {
    let first = finding.remedies.first();
    FindingView {
        id: finding.id.clone(),
        code: finding.meta.code.to_owned(),
        name: finding.meta.name.to_owned(),
        aliases: finding.aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        severity: finding.severity.as_str().to_owned(),
        role: format!("{:?}", finding.role),
        subject: placed(finding),
        related: finding.related.iter().map(SubjectView::from).collect(),
        service: finding.service.as_ref().map(ServiceView::from),
        title: finding.title.clone(),
        message: finding.message.clone(),
        onset: finding.onset,
        evidence: finding
            .evidence
            .iter()
            .map(|e| EvidenceView {
                id: e.id.clone(),
                source: e.source.clone(),
                reference: e.reference.clone(),
                time: e.time,
                value: e.value.clone(),
                excerpt: e.excerpt.clone(),
            })
            .collect(),
        remediation: first.map(remedy),
        alternatives: finding.remedies.iter().skip(1).map(remedy).collect(),
        rollback: first
            .filter(|r| !r.rollback.is_empty())
            .map(|r| RollbackView { commands: r.rollback.clone(), patch: r.inverse.as_ref().map(patch) }),
        verified: first.and_then(verified),
        prevention: finding
            .prevention
            .iter()
            .map(|p| PreventionView {
                kind: p.kind.clone(),
                summary: p.summary.clone(),
                snippet: p.snippet.clone(),
            })
            .collect(),
    }
}

fn remedy(remedy: &Remedy) -> RemedyView {
    RemedyView {
        summary: remedy.summary.clone(),
        risk: format!("{:?}", remedy.risk),
        commands: remedy.commands.clone(),
        patch: remedy.patch.as_ref().map(patch),
        no_rollback: remedy.no_rollback.clone(),
        verified: verified(remedy),
        not_verified: match &remedy.trial {
            Some(Trial::NotTried(why)) => why.clone(),
            _ => String::new(),
        },
    }
}

fn verified(remedy: &Remedy) -> Option<VerifiedView> {
    let Some(Trial::Verified(verified)) = &remedy.trial else { return None };
    let fate = |fate: &Fate| FateView {
        outcome: format!("{:?}", fate.outcome),
        status: fate.status,
        flag: fate.flag.clone(),
        label: fate.label.clone(),
        detail: fate.detail.clone(),
    };
    Some(VerifiedView {
        resolves: verified.resolves.clone(),
        introduces: verified
            .introduces
            .iter()
            .map(|new| IntroducedView {
                code: new.code.to_owned(),
                severity: new.severity.as_str().to_owned(),
                subject: (&new.subject).into(),
                title: new.title.clone(),
            })
            .collect(),
        requests: verified
            .requests
            .iter()
            .map(|tried| TriedView {
                request: tried.request.clone(),
                before: fate(&tried.before),
                after: fate(&tried.after),
            })
            .collect(),
        unchanged: verified.alike,
        rollback_restores: verified.restores,
        assumes: verified.assumes.clone(),
    })
}

fn patch(patch: &crate::analyze::remedy::Patch) -> PatchView {
    PatchView { target: (&patch.target).into(), operations: patch.operations.clone() }
}

/// The JSON Schema of [`Document`].
pub fn schema() -> Value {
    schemars::schema_for!(Document).to_value()
}
