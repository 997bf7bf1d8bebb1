//! One finding in a status: new, ongoing or resolved, with as much of its evidence and remedies as fits.

use std::collections::BTreeSet;

use super::{Wishes, confidence, fit, severity, target_ref};
use crate::analyze::diagnosis::Diagnosis;
use crate::analyze::finding::{Evidence, Finding, Role};
use crate::analyze::remedy::{Remedy, Risk};
use crate::analyze::trial::{Introduced, Trial, Verified};
use crate::api::v1alpha1::common::Moment;
use crate::api::v1alpha1::session::CaptureLogs;
use crate::api::v1alpha1::status::{self, FindingState};

/// Findings that the run before had and this one has not.
const MAX_RESOLVED: usize = 10;
/// Pieces of evidence of one finding.
pub(super) const MAX_EVIDENCE: usize = 5;
/// Remedies, and preventions, of one finding.
const MAX_REMEDIES: usize = 3;
/// Commands of one remedy.
const MAX_COMMANDS: usize = 5;
/// Characters of one command: what is longer is no line to paste, and half a command is none at all.
pub(super) const MAX_COMMAND: usize = 2048;

pub(super) fn project_finding(
    finding: &Finding,
    before: &[status::Finding],
    wishes: Wishes<'_>,
) -> status::Finding {
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
pub(super) fn resolved(
    before: Vec<status::Finding>,
    diagnosis: &Diagnosis,
) -> impl Iterator<Item = status::Finding> {
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
