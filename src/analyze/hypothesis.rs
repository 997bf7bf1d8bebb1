//! From findings to a ranking of hypotheses.

use super::diagnosis::{Diagnosis, NotEvaluated, RootCause, Verdict};
use super::finding::{Finding, Role, Severity};
use crate::model::gap::Gap;
use crate::model::snapshot::Snapshot;

/// Ranks the causes among the findings and puts the diagnosis together.
pub fn conclude(
    snapshot: &Snapshot,
    findings: Vec<Finding>,
    gaps: Vec<Gap>,
    evaluated: usize,
    not_evaluated: Vec<NotEvaluated>,
) -> Diagnosis {
    let root_causes: Vec<RootCause> = findings
        .iter()
        .enumerate()
        .filter(|(_, f)| f.role == Role::Cause && f.severity >= Severity::Warning)
        .enumerate()
        .map(|(rank, (index, finding))| RootCause {
            rank: rank + 1,
            probability: 0.5,
            finding: index,
            subject: finding.subject.clone(),
            service: finding.service.clone(),
            explains: vec![finding.id.clone()],
            chain: vec![finding.title.clone()],
            tests: vec![],
            change: None,
        })
        .collect();
    Diagnosis {
        verdict: if root_causes.is_empty() { Verdict::Healthy } else { Verdict::RootCauseFound },
        headline: root_causes
            .first()
            .and_then(|c| findings.get(c.finding))
            .map(|f| f.title.clone())
            .unwrap_or_default(),
        now: snapshot.now,
        window: snapshot.window,
        target: snapshot.target.clone(),
        onset: snapshot.onset,
        root_causes,
        findings,
        changes: vec![],
        timeline: vec![],
        ruled_out: vec![],
        graph: snapshot.graph.clone(),
        gaps,
        evaluated,
        not_evaluated,
    }
}
