//! What a status may weigh, and in which order it is cut until it does.
//!
//! Every watcher of sessions holds every status in memory, and etcd and the API server refuse large objects, so a status
//! has [`BUDGET`] bytes as JSON. What does not fit goes in a fixed order, evidence of low rank first, and is counted in
//! `truncated`; the whole is in the report.

use serde::Serialize;

use crate::api::v1alpha1::status::{DebugSessionStatus, Truncated};

/// A status is cut until it is no larger than this, in bytes of JSON.
pub const BUDGET: usize = 64 << 10;

/// Cuts a status to [`BUDGET`]: evidence from the last finding upwards, then findings from the last upwards, what is
/// ruled out, history, and at the end what else can be missed. The first finding and the first root cause stay.
pub(super) fn cut_to_budget(status: &mut DebugSessionStatus) {
    let before = size(status);
    if before <= BUDGET {
        return;
    }
    let mut cut = status.truncated.take().unwrap_or_default();
    "StatusBudget".clone_into(&mut cut.reason);
    cut.bytes_before = count(before);
    // `truncated` is part of what must fit: it stands while the rest is measured.
    status.truncated =
        Some(Truncated { findings: i64::MAX, evidence: i64::MAX, other: i64::MAX, ..cut.clone() });
    // What goes is measured and taken off, so that the whole is not measured again for each piece. Separators are
    // left out of account: they make the estimate too large, never too small.
    let mut left = size(status);
    for (index, finding) in status.findings.iter_mut().enumerate().rev() {
        if left <= BUDGET {
            break;
        }
        // The first finding keeps one piece: an answer without any evidence is a claim.
        let gone = finding.evidence.split_off(finding.evidence.len().min(usize::from(index == 0)));
        left -= gone.iter().map(length).sum::<usize>();
        cut.evidence += count(gone.len());
    }
    while status.findings.len() > 1 && left > BUDGET {
        let Some(gone) = status.findings.pop() else { break };
        left -= length(&gone);
        cut.evidence += count(gone.evidence.len());
        cut.findings += 1;
    }
    let steps: [fn(&mut DebugSessionStatus) -> usize; 7] = [
        |status| std::mem::take(&mut status.map).len(),
        |status| std::mem::take(&mut status.ruled_out).len(),
        |status| std::mem::take(&mut status.history).len(),
        |status| std::mem::take(&mut status.timeline).len(),
        |status| status.root_causes.split_off(status.root_causes.len().min(1)).len(),
        |status| {
            status
                .findings
                .iter_mut()
                .map(|f| f.remediation.split_off(f.remediation.len().min(1)).len())
                .sum()
        },
        |status| std::mem::take(&mut status.collectors).len(),
    ];
    for step in steps {
        if size(status) <= BUDGET {
            break;
        }
        cut.other += count(step(status));
    }
    status.truncated = Some(cut);
}

/// What is left where the API server refuses even a status within the budget: how the run ended must always show.
pub fn minimal(status: &DebugSessionStatus) -> DebugSessionStatus {
    let evidence: usize = status.findings.iter().map(|finding| finding.evidence.len()).sum();
    let other = status.root_causes.len()
        + status.timeline.len()
        + status.map.len()
        + status.ruled_out.len()
        + status.collectors.len()
        + status.history.len();
    let already = status.truncated.clone().unwrap_or_default();
    DebugSessionStatus {
        truncated: Some(Truncated {
            findings: already.findings.saturating_add(count(status.findings.len())),
            evidence: already.evidence.saturating_add(count(evidence)),
            other: already.other.saturating_add(count(other)),
            bytes_before: already.bytes_before.max(count(size(status))),
            reason: "Refused".to_owned(),
        }),
        progress: None,
        root_causes: vec![],
        findings: vec![],
        timeline: vec![],
        map: vec![],
        ruled_out: vec![],
        collectors: vec![],
        history: vec![],
        ..status.clone()
    }
}

/// The size of a status as JSON, in bytes.
pub fn size(status: &DebugSessionStatus) -> usize {
    length(status)
}

/// The size of a value as JSON, in bytes.
pub fn length<T: Serialize>(part: &T) -> usize {
    let mut counter = Counter(0);
    // These types hold nothing that JSON cannot, and the counter takes everything.
    let _ = serde_json::to_writer(&mut counter, part);
    counter.0
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn count(items: usize) -> i64 {
    i64::try_from(items).unwrap_or(i64::MAX)
}
