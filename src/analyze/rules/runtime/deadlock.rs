//! RUN103.

use super::told;
use crate::analyze::finding::{Effect, Evidence, Finding};
use crate::analyze::logs::marks::Mark;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::since;
use crate::analyze::rules::application::settings::restart;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use jiff::Timestamp;

crate::rule! {
    /// Threads of a program wait for each other for ever.
    ///
    /// ## What it detects
    /// The JVM's own finding of a deadlock in a thread dump or in `jvm_threads_deadlocked`, and the end of a Go program whose goroutines all
    /// sleep.
    /// ## Why it matters
    /// A deadlock never ends by itself: what needs one of the locks waits, one request after the other, until no thread is left. A Go
    /// program that has nothing else to do ends with exit code 2.
    /// ## Evidence
    /// The lines, or the number of threads that are deadlocked.
    /// ## How to confirm
    /// `jcmd 1 Thread.print` ends with `Found one Java-level deadlock` and the two stacks.
    /// ## How to fix
    /// A restart frees it until the next time. The program must take its locks in one order, or a time-out on them; where it began with a
    /// rollout, take that back.
    /// ## False positives
    /// Threads that wait long for one lock are busy and not deadlocked: nothing but the runtime's own finding counts.
    /// ## References
    /// <https://docs.oracle.com/en/java/javase/21/troubleshoot/>
    Deadlock {
        code: "RUN103", name: "deadlock", family: Application, severity: Error,
        needs: [], aliases: [],
    }
}

/// Threads that wait for each other.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    words: String,
    evidence: Evidence,
    first: Option<Timestamp>,
    /// Whether the program ends with it.
    ends: bool,
}

impl Check for Deadlock {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for (workload, mark, marks) in told::marked(snapshot, &[Mark::Deadlock, Mark::AllAsleep]) {
            let ends = mark == Mark::AllAsleep;
            let words =
                if ends { "all goroutines sleep, and the program ends" } else { "the JVM found a deadlock" };
            out.push(Fact {
                evidence: told::evidence(&workload, &marks),
                words: words.to_owned(),
                first: marks.first,
                ends,
                workload,
            });
        }
        for (workload, series) in told::by_workload(snapshot, &["jvm_threads_deadlocked"]) {
            let most = series.iter().filter_map(|s| Series::last(s)).fold(0.0, f64::max);
            if most > 0.0 && !out.iter().any(|fact| fact.workload == workload) {
                let words = format!("{most:.0} threads are deadlocked");
                out.push(Fact {
                    evidence: Evidence::new("Metric", workload.to_string(), words.clone()),
                    words,
                    first: None,
                    ends: false,
                    workload,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let subject = told::image_field(snapshot, &fact.workload);
        let finding = told::finding(snapshot, Self::META, subject, &fact.workload, &["slow", "timeout", "5xx"])
            .title(format!("{}: deadlock: {}{}", fact.workload, fact.words, since(fact.first)))
            .message(format!("Threads of {} wait for each other for ever: {}{}. It does not end by itself.", fact.workload, fact.words, since(fact.first)))
            .mechanism("deadlock")
            .evidence(fact.evidence.clone())
            .onset(fact.first)
            .remedy(Remedy {
                commands: vec![restart(&fact.workload)],
                ..Remedy::manual(format!("Restart {}: it is free until the next time; then let the program take its locks in one order", fact.workload))
            })
            .prevention(Prevention::alert("Alert on deadlocks", "max by (namespace, pod) (jvm_threads_deadlocked) > 0"))
            .prevention(Prevention::of("Probe", "A liveness probe that needs the same locks as requests do ends a deadlocked process"));
        if fact.ends { finding.effect(Effect::pods(&fact.workload)) } else { finding }
    }
}
