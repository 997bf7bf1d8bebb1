//! RUN108.

use super::told;
use crate::analyze::finding::{Effect, Evidence, Finding};
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::since;
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A Go program ends, because several goroutines use one map without a lock.
    ///
    /// ## What it detects
    /// `fatal error: concurrent map writes` and its two sisters in the log, also of the instance before.
    /// ## Why it matters
    /// The runtime ends the whole process with exit code 2 and no handler can catch it. It depends on timing, so it comes with load and
    /// on some pods only; settings, memory and callees have no part in it.
    /// ## Evidence
    /// The line, its count, and the innermost frame of the program's own code.
    /// ## How to confirm
    /// `kubectl logs POD --previous` shows it with the stacks; `go test -race` finds the place.
    /// ## How to fix
    /// A `sync.Mutex` or `sync.Map` around the map that the frame names. Until then the version before, or less load on each pod.
    /// ## False positives
    /// None: only the runtime writes these words.
    /// ## References
    /// <https://go.dev/doc/articles/race_detector>
    SharedMap {
        code: "RUN108", name: "map-shared-without-a-lock", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// A program that ended so.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    marks: Marks,
    frame: Option<String>,
}

impl Check for SharedMap {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let found = told::marked(snapshot, &[Mark::SharedMap]).into_iter();
        found
            .map(|(workload, _, marks)| {
                let frame = told::with_log(snapshot, &workload, |log| {
                    let own = log
                        .errors
                        .iter()
                        .filter_map(|e| e.exception.as_ref())
                        .find(|x| x.message.contains("concurrent map"));
                    own.map(|x| x.frame.clone()).filter(|frame| !frame.is_empty())
                });
                Fact { workload, marks, frame: frame.flatten() }
            })
            .collect()
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let subject = told::image_field(snapshot, &fact.workload);
        let finding = told::finding(snapshot, Self::META, subject, &fact.workload, &["5xx", "reset", "refused", "UC", "UF", "UH"])
            .title(format!("{}: the program ends, for goroutines share a map without a lock{}", fact.workload, since(fact.marks.first)))
            .message(format!(
                "The Go runtime ended the program in {} {}{}: several goroutines used one map at once. That is a fault of the program; no setting and no callee has a part in it.",
                fact.workload,
                text::times(fact.marks.count),
                since(fact.marks.first)
            ))
            .mechanism("crash: concurrent map access (data race)")
            .evidence(told::evidence(&fact.workload, &fact.marks))
            .evidences(fact.frame.as_ref().map(|frame| Evidence::new("Log", fact.workload.to_string(), "innermost frame of the program's own code").excerpt(frame)))
            .onset(fact.marks.first)
            .effect(Effect::pods(&fact.workload))
            .remedy(Remedy::undo_rollout(&fact.workload, format!("Go back to the revision of {} before, if it did not do this", fact.workload)))
            .remedy(Remedy::manual("Guard the map that the frame names with a sync.Mutex, or use a sync.Map"));
        finding
            .prevention(Prevention::of(
                "Test",
                "Run the tests with the race detector (go test -race) in the pipeline",
            ))
            .prevention(Prevention::alert(
                "Alert on restarts",
                "increase(kube_pod_container_status_restarts_total[15m]) > 2",
            ))
    }
}
