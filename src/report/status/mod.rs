//! A diagnosis as the status of its session, within the [`budget`](super::budget).

mod finding;

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::diagnosis::{Asked, Diagnosis, RootCause, TestVerdict, Verdict};
use crate::analyze::finding::{Confidence, Finding, Severity};
use crate::analyze::narrative::tell_change;
use crate::analyze::twin::answer::Outcome;
use crate::api::v1alpha1::common::{self, Moment, TargetRef};
use crate::api::v1alpha1::session::{Analysis, CaptureLogs};
use crate::api::v1alpha1::status::{self, Counts, DebugSessionStatus, Summary, Truncated};
use crate::model::object::ObjectRef;
use crate::report::budget::{count, cut_to_budget};
use crate::report::flow::calls;
use finding::{MAX_EVIDENCE, project_finding, resolved};

pub use finding::quotes_logs;

/// Root causes in a status; the schema takes no more.
const MAX_ROOT_CAUSES: usize = 5;
/// Lines of the timeline.
const MAX_TIMELINE: usize = 32;
/// Calls of the map.
const MAX_MAP: usize = 12;
/// Things that are ruled out.
const MAX_RULED_OUT: usize = 20;

/// What the session asks of the projection.
#[derive(Debug, Clone, Copy)]
pub struct Wishes<'a> {
    /// `spec.analysis`.
    pub analysis: &'a Analysis,
    /// `spec.evidence.captureLogs`.
    pub capture_logs: CaptureLogs,
    /// When the run ended.
    pub now: Timestamp,
}

/// Whether a suppression holds at `now`.
pub fn suppressed_codes(analysis: &Analysis, now: Timestamp) -> Vec<String> {
    let holds = |until: &Option<Moment>| until.is_none_or(|until| now < until.timestamp());
    analysis.suppress.iter().filter(|entry| holds(&entry.until)).map(|entry| entry.code.clone()).collect()
}

/// Puts the answer of a run into `status`, whose findings are those of the run before, and cuts it to the budget.
pub fn project(
    diagnosis: &Diagnosis,
    wishes: Wishes<'_>,
    mut status: DebugSessionStatus,
) -> DebugSessionStatus {
    let wanted = |finding: &Finding| confidence(finding.confidence) >= wishes.analysis.min_confidence;
    let causes: Vec<&RootCause> = diagnosis
        .root_causes
        .iter()
        .filter(|cause| diagnosis.finding_of(cause).is_some_and(wanted))
        .take(MAX_ROOT_CAUSES)
        .collect();
    let findings = ranked(diagnosis, &causes, wanted);
    let before = std::mem::take(&mut status.findings);

    status.summary = Some(summary(diagnosis, &causes, &findings));
    status.root_causes = causes.iter().filter_map(|cause| root_cause(diagnosis, cause)).collect();
    let limit = usize::try_from(wishes.analysis.max_findings).unwrap_or(1).max(1);
    let left_out = findings.len().saturating_sub(limit);
    let mut evidence_left_out = 0;
    status.findings = findings
        .iter()
        .take(limit)
        .map(|finding| {
            evidence_left_out += finding.evidence.len().saturating_sub(MAX_EVIDENCE);
            project_finding(finding, &before, wishes)
        })
        .collect();
    status.findings.extend(resolved(before, diagnosis));
    status.request = diagnosis.request.as_ref().map(project_request);
    status.timeline = timeline(diagnosis);
    status.map = map(diagnosis);
    status.ruled_out = ruled_out(diagnosis, wishes);
    status.truncated = (left_out > 0 || evidence_left_out > 0).then(|| Truncated {
        findings: count(left_out),
        evidence: count(evidence_left_out),
        reason: "MaxFindings".to_owned(),
        ..Truncated::default()
    });
    cut_to_budget(&mut status);
    status
}

/// The findings to show, those that root causes rest on first, each once.
fn ranked<'a>(
    diagnosis: &'a Diagnosis,
    causes: &[&RootCause],
    wanted: impl Fn(&Finding) -> bool,
) -> Vec<&'a Finding> {
    let mut seen = BTreeSet::new();
    causes
        .iter()
        .filter_map(|cause| diagnosis.finding_of(cause))
        .chain(diagnosis.findings.iter().filter(|finding| wanted(finding)))
        .filter(|finding| seen.insert(finding.id.as_str()))
        .collect()
}

fn summary(diagnosis: &Diagnosis, causes: &[&RootCause], findings: &[&Finding]) -> Summary {
    let mut counts = Counts { total: count(findings.len()), ..Counts::default() };
    for finding in findings {
        *match finding.severity {
            Severity::Critical => &mut counts.critical,
            Severity::Error => &mut counts.error,
            Severity::Warning => &mut counts.warning,
            Severity::Info => &mut counts.info,
        } += 1;
    }
    let first = causes.first().filter(|_| diagnosis.verdict == Verdict::RootCauseFound);
    // The cause that was found rests on less than the session wants to hear of.
    let withheld = diagnosis.verdict == Verdict::RootCauseFound
        && first.is_none_or(|cause| diagnosis.root_causes.first().is_some_and(|top| top.rank != cause.rank));
    let first = first.filter(|_| !withheld);
    let (verdict, headline) = if withheld {
        (
            status::Verdict::Inconclusive,
            "The likeliest cause is less certain than spec.analysis.minConfidence asks for".to_owned(),
        )
    } else {
        (project_verdict(diagnosis.verdict), fit(&diagnosis.headline, 160))
    };
    Summary {
        verdict,
        headline,
        highest_severity: findings.iter().map(|finding| finding.severity).max().map(severity),
        counts,
        root_cause_code: first
            .and_then(|cause| diagnosis.finding_of(cause))
            .map(|finding| finding.meta.code.to_owned()),
        root_cause_target: first.map(|cause| {
            fit(&ObjectRef { field_path: String::new(), ..cause.subject.clone() }.to_string(), 384)
        }),
        probability: first.map(|cause| rounded(cause.probability)),
    }
}

fn root_cause(diagnosis: &Diagnosis, cause: &RootCause) -> Option<status::RootCause> {
    let finding = diagnosis.finding_of(cause)?;
    Some(status::RootCause {
        rank: i32::try_from(cause.rank).unwrap_or(i32::MAX),
        probability: rounded(cause.probability),
        cause: finding.meta.code.to_owned(),
        category: finding.meta.family.as_str().to_owned(),
        mechanism: fit(&finding.mechanism, 160),
        title: fit(&finding.title, 160),
        subject: target_ref(&cause.subject),
        service: cause.service.as_ref().map(|service| fit(&service.to_string(), 320)).unwrap_or_default(),
        change: cause.change.as_ref().map(|change| fit(&tell_change(change), 512)).unwrap_or_default(),
        explains: cause.explains.iter().take(32).map(|id| fit(id, 32)).collect(),
        chain: cause.chain.iter().take(8).map(|step| fit(step, 256)).collect(),
        tests: cause
            .tests
            .iter()
            .take(12)
            .map(|test| status::CauseTest {
                test: fit(&test.test, 256),
                verdict: match test.verdict {
                    TestVerdict::Supported => status::TestVerdict::Supported,
                    TestVerdict::Refuted => status::TestVerdict::Refuted,
                    TestVerdict::NotEvaluated => status::TestVerdict::NotEvaluated,
                },
            })
            .collect(),
    })
}

/// Steps of a request's way.
const MAX_STEPS: usize = 16;

fn project_request(asked: &Asked) -> status::RequestAnswer {
    let answer = &asked.answer;
    let steps = answer.steps.iter().take(MAX_STEPS).map(|step| status::RequestStep {
        decision: fit(&step.decision, 384),
        object: step.object.as_ref().map(|object| target_ref(&object.field(step.field_path.clone()))),
    });
    let known = answer.outcome != Outcome::NotModelled;
    status::RequestAnswer {
        request: fit(&asked.title(), 512),
        outcome: format!("{:?}", answer.outcome),
        seen: if known { fit(&answer.label(), 128) } else { String::new() },
        detail: fit(&answer.detail, 512),
        steps: steps.collect(),
    }
}

fn timeline(diagnosis: &Diagnosis) -> Vec<status::TimelineEntry> {
    // The newest lines tell more than the oldest where there are too many.
    let skip = diagnosis.timeline.len().saturating_sub(MAX_TIMELINE);
    diagnosis
        .timeline
        .iter()
        .skip(skip)
        .map(|line| status::TimelineEntry {
            time: Moment::new(line.time),
            kind: fit(&line.kind, 32),
            text: fit(&line.text, 512),
        })
        .collect()
}

fn map(diagnosis: &Diagnosis) -> Vec<status::MapEntry> {
    let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let calls = calls(diagnosis).into_iter().take(MAX_MAP);
    calls
        .map(|(from, to, edge)| status::MapEntry {
            from: fit(&ObjectRef { field_path: String::new(), ..from.clone() }.to_string(), 384),
            to: fit(&to.to_string(), 320),
            requests: whole(edge.requests),
            failed: whole(edge.failures),
            p95_milliseconds: edge.p95_ms.map(|millis| millis.round() as i64),
            source: edge.counted.map(|source| source.as_str().to_owned()).unwrap_or_default(),
        })
        .collect()
}

fn ruled_out(diagnosis: &Diagnosis, wishes: Wishes<'_>) -> Vec<status::RuledOut> {
    let suppressed = suppressed_codes(wishes.analysis, wishes.now).into_iter().map(|code| {
        let reason = wishes.analysis.suppress.iter().find(|entry| entry.code == code);
        let reason = reason.map(|entry| entry.reason.as_str()).filter(|text| !text.is_empty());
        status::RuledOut {
            what: format!("findings of {code}"),
            why: fit(
                &format!("suppressed by spec.analysis.suppress: {}", reason.unwrap_or("no reason given")),
                512,
            ),
        }
    });
    let ruled_out = diagnosis
        .ruled_out
        .iter()
        .map(|entry| status::RuledOut { what: fit(&entry.what, 160), why: fit(&entry.why, 512) });
    ruled_out.chain(suppressed).take(MAX_RULED_OUT).collect()
}

/// A text of at most `limit` characters, the last of them an ellipsis where it was longer. Control characters other than
/// line breaks become spaces: a status is read in terminals.
fn fit(text: &str, limit: usize) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { ' ' } else { c };
    match text.char_indices().nth(limit) {
        None => text.chars().map(clean).collect(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).map(clean).chain(['…']).collect(),
    }
}

fn target_ref(object: &ObjectRef) -> TargetRef {
    TargetRef {
        api_version: fit(&object.api_version, 317),
        kind: fit(&object.kind, 63),
        namespace: fit(&object.namespace, 63),
        name: fit(&object.name, 253),
        field_path: fit(&object.field_path, 512),
    }
}

fn severity(severity: Severity) -> common::Severity {
    match severity {
        Severity::Critical => common::Severity::Critical,
        Severity::Error => common::Severity::Error,
        Severity::Warning => common::Severity::Warning,
        Severity::Info => common::Severity::Info,
    }
}

fn confidence(confidence: Confidence) -> common::Confidence {
    match confidence {
        Confidence::Possible => common::Confidence::Low,
        Confidence::Configured => common::Confidence::Medium,
        Confidence::Observed => common::Confidence::High,
    }
}

fn project_verdict(verdict: Verdict) -> status::Verdict {
    match verdict {
        Verdict::RootCauseFound => status::Verdict::RootCauseFound,
        Verdict::Inconclusive => status::Verdict::Inconclusive,
        Verdict::IssuesFound => status::Verdict::IssuesFound,
        Verdict::Healthy => status::Verdict::Healthy,
    }
}

/// Two decimals: more would be a precision that nothing here has.
fn rounded(probability: f64) -> f64 {
    (probability.clamp(0.0, 1.0) * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests;
