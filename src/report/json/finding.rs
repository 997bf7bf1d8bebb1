//! One finding with its evidence, its remedies and how to keep it from happening again.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LocationView, ServiceView, SubjectView};
use crate::analyze::finding::Finding;
use crate::analyze::remedy::Remedy;
use crate::analyze::trial::{Fate, Trial};

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

/// The subject of a finding, with its place.
pub(super) fn placed(finding: &Finding) -> SubjectView {
    let place = finding.location.as_ref();
    SubjectView {
        location: place.map(|at| LocationView { file: at.file.clone(), line: at.line, column: at.column }),
        ..SubjectView::from(&finding.subject)
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
    PatchView { target: (&patch.target).into(), operations: patch.operations.clone().into() }
}
