//! RUN106.

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, since};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A server kills its own workers, because they take too long or are killed for memory.
    ///
    /// ## What it detects
    /// `WORKER TIMEOUT` of gunicorn, `HARAKIRI` of uWSGI, php-fpm's `execution timed out`, Celery's hard time limit; and workers that end by a
    /// `SIGKILL` which nobody in the pod sent, which is the kernel's for memory.
    /// ## Why it matters
    /// The request in the worker is lost and its caller sees a closed connection or a 502, while the container lives on and no restart is
    /// counted.
    /// ## Evidence
    /// The lines with their count, the calls that the workers wait for, and the memory limit.
    /// ## How to confirm
    /// `kubectl logs deployment/NAME --since=10m | grep -E 'TIMEOUT|HARAKIRI|SIGKILL'`.
    /// ## How to fix
    /// Time: a worker waits in a call or computes too long: bound the call below the worker's limit. Memory: raise the limit, or run fewer
    /// workers for each pod.
    /// ## False positives
    /// A worker that is killed right after a `WORKER TIMEOUT` is killed for time: only where no timeout stands before it, memory is said.
    /// ## References
    /// <https://docs.gunicorn.org/en/stable/settings.html#timeout>
    WorkersKilled {
        code: "RUN106", name: "workers-killed", family: Application, severity: Error,
        needs: [Logs], aliases: [],
    }
}

/// Killed workers.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    memory: bool,
    marks: Marks,
    /// The callee whose calls fail in the same time.
    waits_for: Option<String>,
}

impl Check for WorkersKilled {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for (workload, mark, marks) in told::marked(snapshot, &[Mark::WorkerTimeout, Mark::WorkerKilled]) {
            // gunicorn sends the signal itself after a timeout, and says the same words.
            if out.iter().any(|fact| fact.workload == workload) || marks.count < 2 {
                continue;
            }
            let failing = calls::failing(snapshot);
            let own =
                failing.all.iter().filter(|c| c.caller.same_object(&workload) && !c.ended && c.count >= 2);
            let waits_for = own.max_by_key(|c| c.count).and_then(|c| c.main().map(|group| group.callee()));
            out.push(Fact { memory: mark == Mark::WorkerKilled, waits_for, marks, workload });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let (subject, field) = match (fact.memory, snapshot.workload(&fact.workload)) {
            (true, Some(workload)) => told::memory_field(workload, &[]),
            _ => (fact.workload.clone(), String::new()),
        };
        let words = if fact.memory {
            "were killed from outside, as for memory"
        } else {
            "took longer than their server allows and were killed"
        };
        let why = match (&fact.waits_for, fact.memory) {
            (Some(callee), false) => {
                format!(" Calls of it to {callee} fail in the same time: that is what they wait for.")
            }
            (_, true) => format!(
                " The kernel kills the largest process of a container at its limit ({field}); the server starts a new worker, so no restart is counted."
            ),
            _ => String::new(),
        };
        let (role, confidence) = match fact.memory {
            true => (Role::Cause, Confidence::Observed),
            false => (Role::Symptom, Confidence::Observed),
        };
        let finding = told::finding(
            snapshot,
            Self::META,
            subject.clone(),
            &fact.workload,
            &["5xx", "502", "reset", "timeout", "UC"],
        )
        .title(format!(
            "{}: workers {words}, {}{}",
            fact.workload,
            text::times(fact.marks.count),
            since(fact.marks.first)
        ))
        .message(format!(
            "Workers of the server in {} {words}, {}{}; the requests in them were lost.{why}",
            fact.workload,
            text::times(fact.marks.count),
            since(fact.marks.first)
        ))
        .mechanism(if fact.memory { "worker killed: out of memory" } else { "worker timeout" })
        .role(role, confidence)
        .severity(Severity::Error)
        .evidence(told::evidence(&fact.workload, &fact.marks))
        .onset(fact.marks.first)
        .prevention(Prevention::alert(
            "Alert on kills for memory inside a container",
            "sum by (namespace, pod) (increase(container_oom_events_total[10m])) > 0",
        ))
        .prevention(Prevention::of(
            "Setting",
            "Time-outs grow from the inside out: call < worker < proxy < client",
        ));
        if fact.memory {
            let finding =
                if field.is_empty() { finding } else { finding.evidence(Evidence::object(&subject, field)) };
            return finding.remedy(Remedy::manual(format!(
                "Raise the memory limit or run fewer workers in each pod: {subject}"
            )));
        }
        finding.remedy(Remedy::manual(match &fact.waits_for {
            Some(callee) => format!("Heal {callee}, and bound the calls to it below the worker's time limit"),
            None => {
                "Find what a worker does for so long (a dump of its stack), and bound it below its time limit"
                    .to_owned()
            }
        }))
    }
}
