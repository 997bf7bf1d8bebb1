//! A candidate root cause, its tests and the change behind it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::placed;
use super::{ServiceView, SubjectView};
use crate::analyze::diagnosis::{Diagnosis, RootCause, TestVerdict};
use crate::analyze::narrative::tell_change;

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

pub(super) fn root_cause(diagnosis: &Diagnosis, cause: &RootCause) -> Option<RootCauseView> {
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

pub(super) fn change(change: &crate::model::change::Change) -> ChangeView {
    ChangeView {
        time: change.time,
        subject: (&change.subject).into(),
        kind: change.kind.as_str().to_owned(),
        by: change.by.clone(),
        text: tell_change(change),
    }
}
