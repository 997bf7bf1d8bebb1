//! RUN102.

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{self, since};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// All threads or workers of a server are busy, and work waits or is rejected.
    ///
    /// ## What it detects
    /// Pools of threads that reject work, full bulkheads, servers that say that all their workers are busy; or all threads of Tomcat or
    /// Jetty busy, an executor with a queue, a queue before .NET's pool, by the names of their usual exporters.
    /// ## Why it matters
    /// Requests wait for a thread before anything else happens, so even health checks time out while CPU and memory look idle.
    /// ## Evidence
    /// The lines with counts, threads in use and their limit, and the calls that its threads wait for, where its log tells of them.
    /// ## How to confirm
    /// `jstack 1` or `kill -QUIT 1` in the container: what most threads wait for is what is slow.
    /// ## How to fix
    /// Where they wait for a callee: heal it, and give the call a shorter timeout and a pool of its own. Where they compute: CPU, replicas, or
    /// a larger pool.
    /// ## False positives
    /// A rejection while a program shuts down is normal. Busy threads alone say nothing about why: it is reported as a symptom.
    /// ## References
    /// <https://tomcat.apache.org/tomcat-10.1-doc/config/http.html>
    WorkerThreads {
        code: "RUN102", name: "worker-threads-exhausted", family: Application, severity: Error,
        needs: [], aliases: [],
    }
}

/// Fewer lines than this are a restart.
const MIN_LINES: u64 = 3;
/// A queue before .NET's pool longer than this waits for threads.
const QUEUE: f64 = 50.0;

/// A server without a free thread.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    words: String,
    evidence: Evidence,
    marks: Option<Marks>,
    /// The callee that fails or is slow in the same time.
    waits_for: Option<String>,
}

impl Check for WorkerThreads {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for (workload, mark, marks) in
            told::marked(snapshot, &[Mark::AllBusy, Mark::Rejected, Mark::Bulkhead])
        {
            // A server says once that all its workers are busy; a pool says it for each piece of work.
            if (mark != Mark::AllBusy && marks.count < MIN_LINES)
                || out.iter().any(|fact| fact.workload == workload)
            {
                continue;
            }
            let words = match mark {
                Mark::Bulkhead => format!("a bulkhead is full, {} calls were turned away", marks.count),
                Mark::Rejected => format!("a pool of threads rejects work, {}", text::times(marks.count)),
                _ => format!("all its workers are busy, said {}", text::times(marks.count)),
            };
            out.push(Fact {
                evidence: told::evidence(&workload, &marks),
                waits_for: waits_for(snapshot, &workload),
                words,
                marks: Some(marks),
                workload,
            });
        }
        for (workload, words) in counted(snapshot) {
            if !out.iter().any(|fact| fact.workload == workload) {
                let evidence = Evidence::new("Metric", workload.to_string(), words.clone());
                out.push(Fact {
                    waits_for: waits_for(snapshot, &workload),
                    workload,
                    words,
                    evidence,
                    marks: None,
                });
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let first = fact.marks.as_ref().and_then(|m| m.first);
        let why = match &fact.waits_for {
            Some(callee) => format!(
                " Its log tells of failing calls to {callee} in the same time: threads that wait for it are busy."
            ),
            None => " Its log tells of no failing call: what its threads wait for was not seen.".to_owned(),
        };
        told::finding(snapshot, Self::META, fact.workload.clone(), &fact.workload, &["slow", "timeout", "5xx", "503"])
            .title(format!("{}: {}{}", fact.workload, fact.words, since(first)))
            .message(format!("{} has no free thread for new work: {}{}.{why}", fact.workload, fact.words, since(first)))
            .mechanism("thread pool exhausted")
            .role(Role::Symptom, Confidence::Observed)
            .severity(Severity::Error)
            .evidence(fact.evidence.clone())
            .onset(first)
            .remedy(Remedy::manual(match &fact.waits_for {
                Some(callee) => format!("Heal {callee}; then bound the calls to it: a timeout shorter than the callers' and a pool of its own"),
                None => format!("See what the threads of {} wait for (jstack, dotnet-stack, py-spy dump); bound that call, or raise the pool with the CPU", fact.workload),
            }))
            .prevention(Prevention::alert("Alert before all threads are busy", "tomcat_threads_busy_threads / tomcat_threads_config_max_threads > 0.9 or jetty_threads_busy / jetty_threads_config_max > 0.9"))
            .prevention(Prevention::of("Setting", "Every call that a thread waits for has a timeout shorter than its caller's, and slow callees have a bulkhead"))
    }
}

/// The callee whose calls fail in the workload's log in the same time.
fn waits_for(snapshot: &Snapshot, workload: &ObjectRef) -> Option<String> {
    let failing = calls::failing(snapshot);
    let own =
        failing.all.iter().filter(|c| c.caller.same_object(workload) && !c.ended && c.count >= MIN_LINES);
    own.max_by_key(|c| c.count).and_then(|c| c.main().map(|group| group.callee()))
}

/// Pools that are full by their own counters.
fn counted(snapshot: &Snapshot) -> Vec<(ObjectRef, String)> {
    const PAIRS: &[(&str, &str)] = &[
        ("tomcat_threads_busy_threads", "tomcat_threads_config_max_threads"),
        ("jetty_threads_busy", "jetty_threads_config_max"),
    ];
    const QUEUES: &[&str] = &[
        "dotnet_threadpool_queue_length",
        "dotnet_thread_pool_queue_length",
        "process_runtime_dotnet_thread_pool_queue_length",
    ];
    let mut out = vec![];
    for (used, limit) in PAIRS {
        for (workload, series) in told::by_workload(snapshot, &[used, limit]) {
            let full = series.iter().filter(|s| s.name == *used).find_map(|busy| {
                let of = |s: &&&Series| {
                    s.name == *limit
                        && s.label("pod") == busy.label("pod")
                        && s.label("name") == busy.label("name")
                };
                let max = series.iter().find(of)?.last().filter(|max| *max > 0.0)?;
                let busy = busy.last()?;
                (busy >= max).then_some((busy, max))
            });
            if let Some((busy, max)) = full {
                out.push((workload, format!("{busy:.0} of {max:.0} threads are busy")));
            }
        }
    }
    for (workload, series) in told::by_workload(snapshot, QUEUES) {
        let longest = series.iter().filter_map(|s| s.last()).fold(0.0, f64::max);
        if longest > QUEUE {
            out.push((workload, format!("{longest:.0} pieces of work wait before the pool of threads")));
        }
    }
    out
}
