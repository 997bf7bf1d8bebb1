//! Words by which a runtime tells of its own trouble, whatever the level of the line.

use jiff::Timestamp;
use regex::Regex;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::digest::Place;
use crate::analyze::finding::{MAX_EXCERPT, cut};

/// What a runtime tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mark {
    /// The JVM stops everything to collect its whole heap; the line ends with the milliseconds.
    FullCollection,
    /// The JVM has no room to copy what lives, and stops everything instead.
    CollectionOverhead,
    /// A pool of threads takes no more work.
    Rejected,
    /// A bulkhead takes no more calls.
    Bulkhead,
    /// All workers of a server are busy.
    AllBusy,
    /// Threads wait for each other.
    Deadlock,
    /// All goroutines sleep.
    AllAsleep,
    /// A panic that ends a request and not the process.
    RequestPanic,
    /// A map is written by several goroutines at once.
    SharedMap,
    /// The thread that serves all requests is blocked.
    LoopBlocked,
    /// A supervisor killed a worker that did not answer in time.
    WorkerTimeout,
    /// A worker was killed, and its supervisor supposes memory.
    WorkerKilled,
}

/// Texts and what they mean; each is written by a runtime or server itself, and not found in prose.
const TEXTS: &[(&str, Mark)] = &[
    ("Pause Full", Mark::FullCollection),
    ("[Full GC", Mark::FullCollection),
    ("To-space exhausted", Mark::CollectionOverhead),
    ("RejectedExecutionException", Mark::Rejected),
    ("TaskRejectedException", Mark::Rejected),
    ("ThreadPool starvation", Mark::Rejected),
    ("BulkheadFullException", Mark::Bulkhead),
    ("' is full and does not permit further calls", Mark::Bulkhead),
    ("server reached pm.max_children setting", Mark::AllBusy),
    ("server reached max_children setting", Mark::AllBusy),
    ("server reached MaxRequestWorkers setting", Mark::AllBusy),
    ("uWSGI listen queue of socket", Mark::AllBusy),
    ("*** uWSGI listen queue", Mark::AllBusy),
    ("Maximum number of threads (", Mark::AllBusy),
    ("Found one Java-level deadlock", Mark::Deadlock),
    ("Java-level deadlock:", Mark::Deadlock),
    ("all goroutines are asleep - deadlock!", Mark::AllAsleep),
    ("http: panic serving ", Mark::RequestPanic),
    ("panic recovered:", Mark::RequestPanic),
    ("thread 'tokio-runtime-worker'", Mark::RequestPanic),
    ("thread 'tokio-rt-worker'", Mark::RequestPanic),
    ("thread 'actix-rt", Mark::RequestPanic),
    ("concurrent map writes", Mark::SharedMap),
    ("concurrent map read and map write", Mark::SharedMap),
    ("concurrent map iteration and map write", Mark::SharedMap),
    ("vertx-blocked-thread-checker", Mark::LoopBlocked),
    ("event loop blocked", Mark::LoopBlocked),
    ("WORKER TIMEOUT (pid:", Mark::WorkerTimeout),
    ("HARAKIRI ON WORKER", Mark::WorkerTimeout),
    ("execution timed out (", Mark::WorkerTimeout),
    ("Hard time limit (", Mark::WorkerTimeout),
    ("was sent SIGKILL! Perhaps out of memory?", Mark::WorkerKilled),
];

/// One expression over all texts: it is searched for all of them at once.
static ANY: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let texts: Vec<String> = TEXTS.iter().map(|(text, _)| regex::escape(text)).collect();
    Regex::new(&texts.join("|")).ok()
});

/// Lines of one sort.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Marks {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Option<Timestamp>,
    /// The last of them.
    pub last: Option<Timestamp>,
    /// Milliseconds that they name at their end, all together.
    pub millis: f64,
    /// One of them, word for word.
    pub sample: String,
    /// Where that one stands.
    pub place: Place,
}

/// What a line tells.
pub fn mark(line: &str) -> Option<Mark> {
    let found = ANY.as_ref()?.find(line)?.as_str();
    TEXTS.iter().find(|(text, _)| *text == found).map(|(_, mark)| *mark)
}

/// `… 3212.456ms` at the end of a line, in milliseconds; Java 8 writes seconds.
fn millis(line: &str) -> Option<f64> {
    let line = line.trim_end();
    if let Some(rest) = line.strip_suffix("ms") {
        return rest.rsplit(|c: char| !(c.is_ascii_digit() || c == '.')).next()?.parse().ok();
    }
    let seconds = line.strip_suffix(" secs]")?;
    seconds.rsplit(' ').next()?.parse::<f64>().ok().map(|seconds| seconds * 1000.0)
}

/// Adds a line to what its sort has.
pub(super) fn add(
    marks: &mut BTreeMap<Mark, Marks>,
    mark: Mark,
    line: &str,
    at: Option<Timestamp>,
    place: impl FnOnce() -> Place,
) {
    let group = marks.entry(mark).or_insert_with(|| Marks {
        sample: cut(line, MAX_EXCERPT).to_owned(),
        place: place(),
        ..Marks::default()
    });
    group.count += 1;
    group.first = group.first.into_iter().chain(at).min();
    group.last = group.last.into_iter().chain(at).max();
    group.millis += millis(line).filter(|ms| ms.is_finite() && *ms < 3_600_000.0).unwrap_or(0.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_tell_of_their_trouble() {
        for (line, expected) in [
            (
                "[12.345s][info][gc] GC(42) Pause Full (G1 Compaction Pause) 2010M->1990M(2048M) 3212.456ms",
                Mark::FullCollection,
            ),
            (
                "WARN [vertx-blocked-thread-checker] Thread Thread[vert.x-eventloop-thread-1,5,main] has been blocked for 5123 ms",
                Mark::LoopBlocked,
            ),
            ("fatal error: all goroutines are asleep - deadlock!", Mark::AllAsleep),
            ("[2025-01-01 00:00:00 +0000] [1] [CRITICAL] WORKER TIMEOUT (pid:12)", Mark::WorkerTimeout),
            ("thread 'tokio-runtime-worker' panicked at src/main.rs:12:5:", Mark::RequestPanic),
        ] {
            assert_eq!(mark(line), Some(expected), "{line}");
        }
        assert_eq!(mark("a full pause for lunch, no deadlock"), None);
    }

    #[test]
    fn pauses_are_summed_up() {
        assert_eq!(millis("GC(42) Pause Full 2010M->1990M(2048M) 3212.5ms"), Some(3212.5));
        assert_eq!(millis("[Full GC (Ergonomics) 1M->1M(2M), 0.5 secs]"), Some(500.0));
        assert_eq!(millis("nothing"), None);
    }
}
