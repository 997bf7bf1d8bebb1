//! RUN105.

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::marks::Mark;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::since;
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use jiff::Timestamp;

crate::rule! {
    /// The one thread that serves all requests is blocked.
    ///
    /// ## What it detects
    /// An event loop that is late: Vert.x' checker says that its thread is blocked, or Node's lag is over 0.2 s (its 99th percentile, or its
    /// mean where no percentile is there).
    /// ## Why it matters
    /// One slow piece of work delays every request of the process, also health checks. The CPU is busy with about one core, or not at all
    /// where it waits in a blocking call.
    /// ## Evidence
    /// The lines with their count, or the lag in seconds.
    /// ## How to confirm
    /// A CPU profile of the process (`node --cpu-prof`, `clinic flame`); Vert.x prints the stack of the blocked thread.
    /// ## How to fix
    /// Move computing and blocking calls to worker threads; split large JSON, synchronous files and regular expressions; more replicas
    /// until then.
    /// ## False positives
    /// Where a CPU limit holds the container back the loop is late for this reason: then it is a symptom.
    /// ## References
    /// <https://nodejs.org/en/learn/asynchronous-work/dont-block-the-event-loop>
    EventLoopBlocked {
        code: "RUN105", name: "event-loop-blocked", family: Application, severity: Error,
        needs: [], aliases: [],
    }
}

/// A lag longer than this, in seconds, is felt by users.
const LAG: f64 = 0.2;
/// Fewer lines than this are a start.
const MIN_LINES: u64 = 3;

/// A blocked loop.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    words: String,
    evidence: Evidence,
    first: Option<Timestamp>,
    throttled: bool,
}

impl Check for EventLoopBlocked {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for (workload, _, marks) in told::marked(snapshot, &[Mark::LoopBlocked]) {
            if marks.count >= MIN_LINES {
                let words = format!("its event loop was blocked {}", text::times(marks.count));
                let throttled = told::throttled(snapshot, &workload);
                out.push(Fact {
                    evidence: told::evidence(&workload, &marks),
                    words,
                    first: marks.first,
                    throttled,
                    workload,
                });
            }
        }
        for name in [
            "nodejs_eventloop_lag_p99_seconds",
            "nodejs_eventloop_lag_mean_seconds",
            "nodejs_eventloop_lag_seconds",
        ] {
            for (workload, series) in told::by_workload(snapshot, &[name]) {
                let lag = series.iter().filter_map(|s| Series::last(s)).fold(0.0, f64::max);
                if lag > LAG && !out.iter().any(|fact| fact.workload == workload) {
                    let words = format!("its event loop is {lag:.2} s late");
                    let evidence = Evidence::new("Metric", format!("{name} of {workload}"), words.clone());
                    let throttled = told::throttled(snapshot, &workload);
                    out.push(Fact { evidence, words, first: None, throttled, workload });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let role = if fact.throttled { Role::Symptom } else { Role::Cause };
        let why = if fact.throttled { " Its CPU limit holds the container back." } else { "" };
        told::finding(snapshot, Self::META, told::image_field(snapshot, &fact.workload), &fact.workload, &["slow", "timeout", "5xx", "UT"])
            .title(format!("{}: {}{}", fact.workload, fact.words, since(fact.first)))
            .message(format!("One thread serves all requests of {}, and {}{}: every request waits behind one piece of work.{why}", fact.workload, fact.words, since(fact.first)))
            .mechanism("event loop blocked")
            // What blocks it stands in the program, and was not seen itself.
            .role(role, Confidence::Possible)
            .severity(Severity::Error)
            .evidence(fact.evidence.clone())
            .onset(fact.first)
            .remedy(Remedy::manual("Move what computes or blocks off the event loop (worker threads); add replicas until then"))
            .prevention(Prevention::alert("Alert on a late event loop", "nodejs_eventloop_lag_p99_seconds > 0.2 or nodejs_eventloop_lag_seconds > 0.2"))
            .prevention(Prevention::of("Test", "A load test with the largest real inputs that watches the lag of the event loop"))
    }
}
