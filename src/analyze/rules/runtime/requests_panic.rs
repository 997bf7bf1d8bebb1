//! RUN104.

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::ErrorGroup;
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::logs::stack::Language;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::since;
use crate::analyze::traffic::text;
use crate::model::change::ChangeKind;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// Requests end in a panic, and the process lives on.
    ///
    /// ## What it detects
    /// Panics that a server caught around a request or a task: `http: panic serving` of Go, recovery of its frameworks, a panicking worker
    /// thread of Rust's runtimes.
    /// ## Why it matters
    /// The request is lost and its caller sees a closed connection or a 500, but nothing restarts and every probe passes: the pods look
    /// well.
    /// ## Evidence
    /// The line with its count, and the innermost frame of the program's own code.
    /// ## How to confirm
    /// `kubectl logs deployment/NAME --since=10m | grep -A20 panic`.
    /// ## How to fix
    /// The frame names the place in the program. Where it began with a rollout, take that back until it is mended.
    /// ## False positives
    /// A single panic is told as a warning. `http: abort Handler` is how a Go handler ends a connection on purpose, and is not counted.
    /// ## References
    /// <https://pkg.go.dev/net/http#Handler>
    RequestsPanic {
        code: "RUN104", name: "requests-end-in-a-panic", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A rollout this many seconds before the first of them brought it.
const RECENT: i64 = 900;

/// Panics around requests.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    marks: Marks,
    /// The stack that belongs to it.
    error: Option<ErrorGroup>,
    /// Whether a rollout came just before.
    rolled_out: bool,
}

impl Check for RequestsPanic {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for (workload, _, marks) in told::marked(snapshot, &[Mark::RequestPanic]) {
            if marks.sample.contains("http: abort Handler") {
                continue;
            }
            let error = told::with_log(snapshot, &workload, |log| {
                let panics = |e: &&ErrorGroup| {
                    e.exception.as_ref().is_some_and(|x| {
                        x.kind == "panic" && matches!(x.language, Language::Go | Language::Rust)
                    })
                };
                log.errors.iter().find(panics).cloned()
            });
            let rolled_out = snapshot.changes.iter().any(|change| {
                change.kind == ChangeKind::Rollout
                    && change.subject.same_object(&workload)
                    && marks.first.is_some_and(|first| {
                        (-5..=RECENT).contains(&(first.as_second() - change.time.as_second()))
                    })
            });
            out.push(Fact { workload, marks, error: error.flatten(), rolled_out });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let subject = told::image_field(snapshot, &fact.workload);
        let often = fact.marks.count >= 3;
        let why = if fact.rolled_out { " It began with the rollout just before." } else { "" };
        let mut finding = told::finding(snapshot, Self::META, subject, &fact.workload, &["5xx", "500", "reset", "UC", "UPE"])
            .title(format!("{}: {} requests or tasks ended in a panic{}", fact.workload, fact.marks.count, since(fact.marks.first)))
            .message(format!(
                "The program in {} panicked {}{} and went on: each time a request or a task was lost, and no container restarted.{why}",
                fact.workload,
                text::times(fact.marks.count),
                since(fact.marks.first)
            ))
            .mechanism("panic in a request handler or task")
            .severity(if often { Severity::Error } else { Severity::Warning })
            // Why it panics is seldom its own image's alone: a setting, a row of data.
            .role(if fact.rolled_out { Role::Cause } else { Role::Symptom }, Confidence::Observed)
            .evidence(told::evidence(&fact.workload, &fact.marks))
            .onset(fact.marks.first)
            .prevention(Prevention::alert("Alert on panics, where the program counts them", "sum by (namespace, pod) (rate(process_panics_total[5m])) > 0"))
            .prevention(Prevention::of("Test", "Tests with the input of the lost requests; supervise tasks and count their ends"));
        if let Some(frame) = fact
            .error
            .as_ref()
            .and_then(|e| e.exception.as_ref())
            .map(|x| x.frame.as_str())
            .filter(|frame| !frame.is_empty())
        {
            finding = finding.evidence(
                Evidence::new("Log", fact.workload.to_string(), "innermost frame of the program's own code")
                    .excerpt(frame),
            );
        }
        if fact.rolled_out {
            finding = finding.remedy(Remedy::undo_rollout(
                &fact.workload,
                format!("Undo the rollout of {} until the place is mended", fact.workload),
            ));
        }
        finding.remedy(Remedy::manual("Mend the place that the stack names; until then keep away what leads there (a flag, a kind of request)"))
    }
}
