use super::finding::MAX_COMMAND;
use super::*;
use crate::analyze::diagnosis::{RuledOut, Test, TimelineEntry};
use crate::analyze::finding::{Evidence, Role};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Family, Meta};
use crate::api::v1alpha1::session::Suppression;
use crate::api::v1alpha1::status::FindingState;
use crate::model::graph::Graph;
use crate::report::budget::{BUDGET, minimal, size};

const META: &Meta = &Meta {
    code: "TEST001",
    name: "thing-broken",
    family: Family::Workload,
    severity: Severity::Error,
    needs: &[],
    aliases: &[],
    docs: "",
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn finding(name: &str, severity: Severity) -> Finding {
    Finding::new(META, ObjectRef::new("Deployment", "shop", name), &[])
        .title(format!("Deployment shop/{name} is broken"))
        .severity(severity)
}

fn diagnosis(findings: Vec<Finding>) -> Diagnosis {
    Diagnosis {
        verdict: if findings.is_empty() { Verdict::Healthy } else { Verdict::RootCauseFound },
        headline: "It is broken".to_owned(),
        now: at("2026-11-21T10:00:00Z"),
        window: None,
        target: None,
        onset: None,
        anomalies: vec![],
        impacts: vec![],
        growths: vec![],
        requests: vec![],
        root_causes: findings
            .iter()
            .enumerate()
            .take(3)
            .map(|(index, finding)| RootCause {
                rank: index + 1,
                probability: 0.9312,
                finding: index,
                subject: finding.subject.clone(),
                service: None,
                explains: vec![finding.id.clone()],
                chain: vec![],
                tests: vec![Test {
                    test: "t".to_owned(),
                    verdict: TestVerdict::Supported,
                    log_odds: 1.0,
                    evidence: vec![],
                }],
                change: None,
                take_back: None,
                onset: None,
            })
            .collect(),
        findings,
        changes: vec![],
        timeline: vec![],
        ruled_out: vec![],
        graph: Graph::default().into(),
        gaps: vec![],
        evaluated: 1,
        not_evaluated: vec![],
        request: None,
        followed: None,
    }
}

fn projected(diagnosis: &Diagnosis, analysis: &Analysis, before: DebugSessionStatus) -> DebugSessionStatus {
    let wishes = Wishes { analysis, capture_logs: CaptureLogs::Excerpt, now: at("2026-11-21T10:00:00Z") };
    project(diagnosis, wishes, before)
}

#[test]
fn the_answer_stands_in_the_summary() {
    let status = projected(
        &diagnosis(vec![finding("a", Severity::Critical), finding("b", Severity::Info)]),
        &Analysis::default(),
        DebugSessionStatus::default(),
    );
    let summary = status.summary.unwrap();
    assert_eq!(summary.verdict, status::Verdict::RootCauseFound);
    assert_eq!(summary.root_cause_target.as_deref(), Some("Deployment shop/a"));
    assert_eq!(summary.root_cause_code.as_deref(), Some("TEST001"));
    assert_eq!(summary.probability, Some(0.93));
    assert_eq!((summary.counts.total, summary.counts.critical, summary.counts.info), (2, 1, 1));
    assert_eq!(summary.highest_severity, Some(common::Severity::Critical));
    assert!(status.truncated.is_none());
}

#[test]
fn findings_are_new_then_ongoing_then_resolved_then_gone() {
    let analysis = Analysis::default();
    let (a, b) = (finding("a", Severity::Error), finding("b", Severity::Error));
    let first = projected(&diagnosis(vec![a.clone(), b.clone()]), &analysis, DebugSessionStatus::default());
    assert!(first.findings.iter().all(|f| f.state == FindingState::New));
    let second = projected(&diagnosis(vec![a.clone()]), &analysis, first);
    let states: Vec<_> = second.findings.iter().map(|f| (f.id.as_str(), f.state)).collect();
    assert_eq!(states, [(a.id.as_str(), FindingState::Ongoing), (b.id.as_str(), FindingState::Resolved)]);
    assert_eq!(second.summary.as_ref().unwrap().counts.total, 1, "what is resolved does not count");
    let third = projected(&diagnosis(vec![a, b]), &analysis, second);
    assert_eq!(third.findings[1].state, FindingState::New, "what comes back is new");
    let healthy = projected(&diagnosis(vec![]), &analysis, third);
    assert!(healthy.findings.iter().all(|f| f.state == FindingState::Resolved));
    assert!(projected(&diagnosis(vec![]), &analysis, healthy).findings.is_empty());
}

#[test]
fn what_is_less_certain_than_asked_for_is_withheld_and_said() {
    let doubtful = finding("a", Severity::Error).role(Role::Cause, Confidence::Possible);
    let analysis = Analysis { min_confidence: common::Confidence::High, ..Analysis::default() };
    let status = projected(&diagnosis(vec![doubtful]), &analysis, DebugSessionStatus::default());
    let summary = status.summary.unwrap();
    assert_eq!(summary.verdict, status::Verdict::Inconclusive);
    assert!(summary.headline.contains("minConfidence") && summary.root_cause_code.is_none());
    assert!(status.findings.is_empty() && status.root_causes.is_empty());
}

#[test]
fn suppression_ends_and_is_told() {
    let entry = |code: &str, until: Option<&str>| Suppression {
        code: code.to_owned(),
        reason: "known".to_owned(),
        until: until.map(|text| Moment::new(at(text))),
    };
    let analysis = Analysis {
        suppress: vec![
            entry("A1", None),
            entry("B1", Some("2026-11-21T09:59:59Z")),
            entry("C1", Some("2027-01-01T00:00:00Z")),
        ],
        ..Analysis::default()
    };
    assert_eq!(suppressed_codes(&analysis, at("2026-11-21T10:00:00Z")), ["A1", "C1"]);
    let status = projected(&diagnosis(vec![]), &analysis, DebugSessionStatus::default());
    assert_eq!(status.ruled_out[0].what, "findings of A1");
    assert_eq!(status.ruled_out.len(), 2);
}

#[test]
fn log_lines_are_kept_out_where_the_session_says_so() {
    let analysis = Analysis::default();
    let evidence = |source: &str| Evidence::new(source, "r", "v").excerpt("secret words");
    let found = finding("a", Severity::Error).evidence(evidence("Log")).evidence(evidence("Event"));
    let wishes =
        Wishes { analysis: &analysis, capture_logs: CaptureLogs::None, now: at("2026-11-21T10:00:00Z") };
    let status = project(&diagnosis(vec![found]), wishes, DebugSessionStatus::default());
    let excerpts: Vec<_> = status.findings[0].evidence.iter().map(|e| e.excerpt.as_str()).collect();
    assert_eq!(excerpts, ["", "secret words"]);
}

#[test]
fn a_command_is_whole_or_left_to_the_report() {
    let long = Remedy::commands("s", vec!["x".repeat(MAX_COMMAND + 1)], vec!["undo".to_owned()]);
    let found = Finding { remedies: vec![long], ..finding("a", Severity::Error) };
    let status = projected(&diagnosis(vec![found]), &Analysis::default(), DebugSessionStatus::default());
    let remedy = &status.findings[0].remediation[0];
    assert!(remedy.commands_in_report && remedy.commands.is_empty() && remedy.rollback.is_empty());
}

/// A finding as large as the schema lets it be, in characters of three bytes.
fn huge(index: usize) -> Finding {
    let text = "ま".repeat(4000);
    let mut found = finding(&format!("d{index}"), Severity::Error).message(&text);
    for piece in 0..9 {
        found = found.evidence(Evidence::new("Log", format!("{piece}{text}"), &text).excerpt(&text));
    }
    found.remedies = vec![Remedy::commands(&text, vec!["c".repeat(2000); 5], vec!["r".repeat(2000); 5]); 5];
    found.prevention = vec![Prevention::of("Alert", &text); 5];
    found
}

#[test]
fn ten_thousand_huge_findings_fit_and_what_is_cut_is_counted() {
    let text = "ま".repeat(4000);
    let small = (60..10_000).map(|index| finding(&format!("d{index}"), Severity::Error));
    let mut diagnosis = diagnosis((0..60).map(huge).chain(small).collect());
    diagnosis.timeline =
        vec![TimelineEntry { time: diagnosis.now, kind: "Event".to_owned(), text: text.clone() }; 1000];
    diagnosis.ruled_out = vec![RuledOut { what: text.clone(), why: text.clone() }; 1000];
    for cause in &mut diagnosis.root_causes {
        cause.chain = vec![text.clone(); 20];
        cause.tests = vec![Test { test: text.clone(), ..cause.tests[0].clone() }; 20];
    }
    let analysis = Analysis { max_findings: 50, ..Analysis::default() };
    let status = projected(&diagnosis, &analysis, DebugSessionStatus::default());
    assert!(size(&status) <= BUDGET, "{} bytes", size(&status));
    assert!(!status.findings.is_empty() && !status.root_causes.is_empty());
    assert_eq!(status.findings[0].evidence.len(), 1);
    let cut = status.truncated.as_ref().unwrap();
    assert_eq!(cut.reason, "StatusBudget");
    assert_eq!(cut.findings + i64::try_from(status.findings.len()).unwrap(), 10_000);
    assert!(cut.evidence > 0 && cut.bytes_before > 1 << 19);
    assert_eq!(status.summary.as_ref().unwrap().counts.total, 10_000);
    let least = minimal(&status);
    assert!(size(&least) < 4096 && least.summary.is_some());
    assert_eq!(least.truncated.unwrap().findings, 10_000);
}

#[test]
fn evidence_goes_before_findings() {
    let mut found: Vec<Finding> = (0..40).map(|i| finding(&format!("d{i}"), Severity::Error)).collect();
    for finding in &mut found {
        finding.evidence =
            vec![Evidence::new("Event", "r".repeat(500), "v".repeat(500)).excerpt(&"x".repeat(512)); 2];
    }
    let analysis = Analysis { max_findings: 50, ..Analysis::default() };
    let status = projected(&diagnosis(found), &analysis, DebugSessionStatus::default());
    assert!(size(&status) <= BUDGET, "{} bytes", size(&status));
    assert_eq!(status.findings.len(), 40, "no finding is lost while evidence can go");
    assert!(!status.findings[1].evidence.is_empty(), "that of high rank stays");
    assert!(status.findings[39].evidence.is_empty());
    assert_eq!(status.truncated.unwrap().findings, 0);
}
