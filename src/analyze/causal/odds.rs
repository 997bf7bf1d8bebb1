//! The terms of a hypothesis' log-odds, each with its reason.

use jiff::Timestamp;

use super::explain::Explainer;
use super::timing::{self, CLOCK_ERROR, History, RECENT};
use crate::analyze::diagnosis::{Test, TestVerdict};
use crate::analyze::finding::{Confidence, Finding, Role, Severity};
use crate::model::change::Change;
use crate::model::snapshot::Snapshot;

/// Closeness from which a symptom counts as explained.
pub const EXPLAINED: f64 = 0.3;

/// What it says against a hypothesis that it explains nothing of all that is felt.
const NOTHING_EXPLAINED: f64 = -2.5;

/// What it says for a cause that was seen to hurt that nothing else is felt: as much as that it explains half of what is felt elsewhere.
const ALL_THAT_IS_FELT: f64 = 1.5;

fn weight(severity: Severity) -> f64 {
    match severity {
        Severity::Critical => 3.0,
        Severity::Error => 2.0,
        Severity::Warning => 1.0,
        Severity::Info => 0.25,
    }
}

/// One term.
pub fn test(verdict: TestVerdict, log_odds: f64, text: impl Into<String>) -> Test {
    Test { test: text.into(), verdict, log_odds, evidence: vec![] }
}

/// How much the rule itself has seen.
pub fn prior(finding: &Finding) -> Test {
    let (verdict, log_odds, text) = match (finding.role, finding.confidence) {
        (Role::Cause, Confidence::Observed) => {
            (TestVerdict::Supported, 1.5, "its deciding observation was made")
        }
        (Role::Cause, Confidence::Configured) => {
            (TestVerdict::Supported, 0.0, "the configuration says so; its effect was not observed itself")
        }
        (Role::Cause, Confidence::Possible) => {
            (TestVerdict::NotEvaluated, -1.5, "the configuration allows it; nothing observed decides it")
        }
        (_, Confidence::Observed) => {
            (TestVerdict::NotEvaluated, -1.25, "it was observed, and is more often an effect than a cause")
        }
        _ => {
            (TestVerdict::NotEvaluated, -2.0, "it was not observed, and is more often an effect than a cause")
        }
    };
    let evidence = finding.evidence.iter().take(3).map(|e| e.id.clone()).collect();
    Test { evidence, ..test(verdict, log_odds, text) }
}

/// How much of what is felt it explains.
pub fn coverage(
    finding: &Finding,
    explains: &[(usize, f64)],
    symptoms: &[usize],
    findings: &[Finding],
) -> Test {
    let others = |at: &usize| findings.get(*at).filter(|f| f.id != finding.id);
    let total: f64 = symptoms.iter().filter_map(others).map(|f| weight(f.severity)).sum();
    if total == 0.0 {
        let felt = finding.role == Role::Cause
            && finding.confidence == Confidence::Observed
            && finding.severity >= Severity::Error;
        return if felt {
            test(TestVerdict::Supported, ALL_THAT_IS_FELT, "it was seen to hurt, and nothing else is felt")
        } else {
            test(TestVerdict::NotEvaluated, 0.0, "nothing else is felt that it could explain")
        };
    }
    let explained: f64 = explains.iter().filter_map(|(at, c)| Some(weight(others(at)?.severity) * c)).sum();
    let count = explains.iter().filter(|(at, c)| *c >= EXPLAINED && others(at).is_some()).count();
    let all = symptoms.iter().filter_map(others).count();
    let share = explained / total;
    if count == 0 {
        // What it was seen to do itself is felt too: the more of all that is felt that makes, the less the rest speaks against it.
        let seen = finding.role == Role::Cause && finding.confidence == Confidence::Observed;
        let own = if seen { weight(finding.severity) } else { 0.0 };
        let text = format!("it explains none of the {all} other symptoms");
        return test(TestVerdict::Refuted, NOTHING_EXPLAINED * total / (total + own), text);
    }
    // From a lone, distant symptom (0.5) to all of them directly (2.5).
    test(TestVerdict::Supported, 0.5 + 2.0 * share, format!("it explains {count} of {all} symptoms"))
}

/// When what a finding explains began, earliest first: its own evidence may start later than what it explains, since logs
/// of proxies are cut at their beginning; and what it explains may have begun earlier, with another fault.
pub fn felt_since(
    finding: &Finding,
    explains: &[(usize, f64)],
    findings: &[Finding],
    onset: Option<Timestamp>,
) -> Vec<Timestamp> {
    let explained = explains.iter().filter(|(_, closeness)| *closeness >= EXPLAINED);
    let mut onsets: Vec<Timestamp> =
        explained.filter_map(|(at, _)| findings.get(*at)?.onset).chain(finding.onset).collect();
    if onsets.is_empty() {
        onsets.extend(onset);
    }
    onsets.sort_unstable();
    onsets
}

/// Whether it was changed just before it began.
pub fn changed(snapshot: &Snapshot, finding: &Finding, onsets: &[Timestamp]) -> (Test, Option<Change>) {
    let own = finding.onset.filter(|_| finding.role == Role::Cause);
    let Some(onset) = own.or(onsets.first().copied()) else {
        // What nobody was seen to suffer from has no beginning; that it was changed of late is told all the same.
        let lately = match timing::history(snapshot, finding, snapshot.now) {
            History::Before(change, _) if snapshot.window.is_none_or(|w| w.start <= change.time) => {
                Some(change.clone())
            }
            _ => None,
        };
        return (test(TestVerdict::NotEvaluated, 0.0, "when it began is not known"), lately);
    };
    match timing::history(snapshot, finding, onset) {
        History::Before(change, seconds) if seconds <= RECENT => {
            let first =
                onsets.iter().map(|at| at.as_second() - change.time.as_second()).find(|s| *s >= -CLOCK_ERROR);
            let seconds = first.unwrap_or(seconds).max(0);
            // From 1.75 at once down to 0.5 after ten minutes.
            let near = 1.0 - (seconds as f64 / RECENT as f64).min(1.0);
            let text = format!("{} was changed {seconds} s before the first failure", change.subject);
            (test(TestVerdict::Supported, 0.5 + 1.25 * near, text), Some(change.clone()))
        }
        History::Before(change, seconds) => {
            let text =
                format!("{} was last changed {} min before the first failure", change.subject, seconds / 60);
            (test(TestVerdict::NotEvaluated, 0.0, text), None)
        }
        History::After(change, seconds) => {
            let text = format!(
                "{} was changed {seconds} s after the first failure: a cause precedes its effects",
                change.subject
            );
            (test(TestVerdict::Refuted, -1.5, text), None)
        }
        History::Unchanged => (test(TestVerdict::NotEvaluated, 0.0, "no change of it is known"), None),
    }
}

/// A node whose own dependencies fail for another reason is less likely the cause.
pub fn dependencies(
    finding: &Finding,
    explainer: &Explainer<'_>,
    symptoms: &[usize],
    findings: &[Finding],
) -> Option<Test> {
    let service = finding.service.as_ref()?;
    let deeper = symptoms.iter().filter_map(|at| findings.get(*at)).find(|symptom| {
        symptom.service.as_ref().is_some_and(|s| explainer.depends_on(service, s))
            && symptom.severity >= Severity::Error
            && explainer.explains(finding, symptom) < EXPLAINED
    });
    Some(match deeper {
        Some(symptom) => {
            let log_odds = if finding.role == Role::Cause && finding.confidence == Confidence::Observed {
                -0.5
            } else {
                -1.5
            };
            let name = symptom.service.as_ref().map(ToString::to_string).unwrap_or_default();
            test(
                TestVerdict::Refuted,
                log_odds,
                format!("its dependency Service {name} fails, and it does not explain that"),
            )
        }
        None => test(TestVerdict::Supported, 0.25, "what it depends on is well"),
    })
}
