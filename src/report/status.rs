//! A diagnosis as the status of its session, within the [`budget`](super::budget).

use jiff::Timestamp;
use std::collections::BTreeSet;

use crate::analyze::diagnosis::{Asked, Diagnosis, RootCause, TestVerdict, Verdict};
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::narrative::tell_change;
use crate::analyze::remedy::{Remedy, Risk};
use crate::analyze::trial::{Introduced, Trial, Verified};
use crate::analyze::twin::answer::Outcome;
use crate::api::v1alpha1::common::{self, Moment, TargetRef};
use crate::api::v1alpha1::session::{Analysis, CaptureLogs};
use crate::api::v1alpha1::status::{self, Counts, DebugSessionStatus, FindingState, Summary, Truncated};
use crate::model::object::ObjectRef;
use crate::report::budget::{count, cut_to_budget};

/// Root causes in a status; the schema takes no more.
const MAX_ROOT_CAUSES: usize = 5;
/// Findings that the run before had and this one has not.
const MAX_RESOLVED: usize = 10;
/// Pieces of evidence of one finding.
const MAX_EVIDENCE: usize = 5;
/// Remedies, and preventions, of one finding.
const MAX_REMEDIES: usize = 3;
/// Commands of one remedy.
const MAX_COMMANDS: usize = 5;
/// Characters of one command: what is longer is no line to paste, and half a command is none at all.
const MAX_COMMAND: usize = 2048;
/// Lines of the timeline.
const MAX_TIMELINE: usize = 32;
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

fn project_finding(finding: &Finding, before: &[status::Finding], wishes: Wishes<'_>) -> status::Finding {
    let known = before.iter().find(|known| known.id == finding.id && known.state != FindingState::Resolved);
    let now = Moment::new(wishes.now);
    status::Finding {
        id: fit(&finding.id, 32),
        code: finding.meta.code.to_owned(),
        name: finding.meta.name.to_owned(),
        severity: severity(finding.severity),
        confidence: confidence(finding.confidence),
        role: match finding.role {
            Role::Cause => status::Role::Cause,
            Role::Symptom => status::Role::Symptom,
            Role::Context => status::Role::Context,
        },
        state: if known.is_some() { FindingState::Ongoing } else { FindingState::New },
        first_seen: known.map_or(now, |known| known.first_seen),
        last_seen: now,
        subject: target_ref(&finding.subject),
        title: fit(&finding.title, 160),
        message: fit(&finding.message, 1024),
        evidence: finding
            .evidence
            .iter()
            .take(MAX_EVIDENCE)
            .map(|evidence| project_evidence(evidence, wishes.capture_logs))
            .collect(),
        remediation: finding.remedies.iter().take(MAX_REMEDIES).map(project_remedy).collect(),
        prevention: finding
            .prevention
            .iter()
            .take(MAX_REMEDIES)
            .map(|prevention| status::Prevention {
                kind: fit(&prevention.kind, 32),
                summary: fit(&prevention.summary, 512),
                // Half an expression is none.
                snippet: Some(&prevention.snippet)
                    .filter(|text| text.chars().count() <= 1024)
                    .cloned()
                    .unwrap_or_default(),
            })
            .collect(),
    }
}

/// Evidence that quotes logs; `captureLogs: None` keeps such quotes out.
pub fn quotes_logs(evidence: &Evidence) -> bool {
    matches!(evidence.source.as_str(), "Log" | "AccessLog")
}

fn project_evidence(evidence: &Evidence, capture: CaptureLogs) -> status::EvidenceItem {
    let withheld = capture == CaptureLogs::None && quotes_logs(evidence);
    status::EvidenceItem {
        source: fit(&evidence.source, 32),
        reference: fit(&evidence.reference, 512),
        value: fit(&evidence.value, 512),
        time: evidence.time.map(Moment::new),
        excerpt: if withheld { String::new() } else { fit(&evidence.excerpt, 512) },
    }
}

fn project_remedy(remedy: &Remedy) -> status::Remedy {
    let pastes = |commands: &[String]| {
        commands.len() <= MAX_COMMANDS
            && commands.iter().all(|command| command.chars().count() <= MAX_COMMAND)
    };
    let fits = pastes(&remedy.commands) && pastes(&remedy.rollback);
    let shown = |commands: &[String]| if fits { commands.to_vec() } else { vec![] };
    status::Remedy {
        summary: fit(&remedy.summary, 512),
        risk: match remedy.risk {
            Risk::Low => status::Risk::Low,
            Risk::Medium => status::Risk::Medium,
            Risk::High => status::Risk::High,
        },
        commands: shown(&remedy.commands),
        rollback: shown(&remedy.rollback),
        no_rollback: fit(&remedy.no_rollback, 256),
        commands_in_report: !fits,
        verified: match &remedy.trial {
            Some(Trial::Verified(verified)) => Some(project_verified(verified)),
            _ => None,
        },
        not_verified: match &remedy.trial {
            Some(Trial::NotTried(why)) => fit(why, 256),
            _ => String::new(),
        },
    }
}

fn project_verified(verified: &Verified) -> status::Verified {
    let told = |new: &Introduced| fit(&format!("{} {}: {}", new.severity.as_str(), new.code, new.title), 192);
    status::Verified {
        resolves: verified.resolves.iter().take(16).map(|id| fit(id, 32)).collect(),
        introduces: verified.introduces.iter().take(4).map(told).collect(),
        requests: verified
            .requests
            .iter()
            .take(4)
            .map(|tried| status::TriedRequest {
                request: fit(&tried.request, 256),
                before: fit(&tried.before.label, 128),
                after: fit(&tried.after.label, 128),
            })
            .collect(),
        rollback_restores: verified.restores,
        assumes: verified.assumes.iter().take(4).map(|text| fit(text, 256)).collect(),
    }
}

/// What the run before found and this one did not, without what it took to see it.
fn resolved(before: Vec<status::Finding>, diagnosis: &Diagnosis) -> impl Iterator<Item = status::Finding> {
    let found: BTreeSet<String> = diagnosis.findings.iter().map(|finding| finding.id.clone()).collect();
    before
        .into_iter()
        .filter(move |known| known.state != FindingState::Resolved && !found.contains(&known.id))
        .take(MAX_RESOLVED)
        .map(|known| status::Finding {
            state: FindingState::Resolved,
            evidence: vec![],
            remediation: vec![],
            prevention: vec![],
            ..known
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
mod tests {
    use super::*;
    use crate::analyze::diagnosis::{RuledOut, Test, TimelineEntry};
    use crate::analyze::remedy::Prevention;
    use crate::analyze::rule::{Family, Meta};
    use crate::api::v1alpha1::session::Suppression;
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
            graph: Graph::default(),
            gaps: vec![],
            evaluated: 1,
            not_evaluated: vec![],
            request: None,
            followed: None,
        }
    }

    fn projected(
        diagnosis: &Diagnosis,
        analysis: &Analysis,
        before: DebugSessionStatus,
    ) -> DebugSessionStatus {
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
        let first =
            projected(&diagnosis(vec![a.clone(), b.clone()]), &analysis, DebugSessionStatus::default());
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
        found.remedies =
            vec![Remedy::commands(&text, vec!["c".repeat(2000); 5], vec!["r".repeat(2000); 5]); 5];
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
}
