//! RUN101.

use super::told;
use crate::analyze::finding::{Evidence, Finding, Role, Severity};
use crate::analyze::logs::marks::{Mark, Marks};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls::{percent, since};
use crate::analyze::traffic::text;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

crate::rule! {
    /// A JVM spends its time on collecting its heap instead of serving.
    ///
    /// ## What it detects
    /// Full collections that take a tenth of the time and more, or no room to copy what lives (`To-space exhausted`), three times
    /// and more, in the log; or more than a tenth of the time in pauses, or a heap that stays over 90 % full after collecting,
    /// by the names of Micrometer and of the older client.
    /// ## Why it matters
    /// In a pause nothing runs: requests wait, probes and heartbeats time out, and callers see a slow or dead service while its CPU is busy.
    /// ## Evidence
    /// The lines with their pauses, the share of time in pauses, the fill of the heap after collecting, and the setting of its size.
    /// ## How to confirm
    /// `jcmd 1 GC.heap_info` in the container; `-Xlog:gc` shows each pause. A heap that is as full after a full collection as before it
    /// is too small or leaks.
    /// ## How to fix
    /// A larger heap and memory limit (`-XX:MaxRAMPercentage=75`), or find what holds the memory (a heap dump) where it grows without end.
    /// ## False positives
    /// Where a CPU limit holds the container back, pauses are long for this reason and it is reported as a symptom. Short young
    /// collections are normal.
    /// ## References
    /// <https://docs.oracle.com/en/java/javase/21/gctuning/>
    Collections {
        code: "RUN101", name: "garbage-collection-takes-the-time", family: Application, severity: Error,
        needs: [], aliases: [],
    }
}

/// From this share of time in pauses on users feel it.
const SHARE: f64 = 0.1;
/// A heap fuller than this after a collection has no room.
const FULL: f64 = 0.9;

/// A JVM that collects.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    /// What tells it, with its figures.
    evidence: Vec<Evidence>,
    words: String,
    marks: Option<Marks>,
    throttled: bool,
}

impl Check for Collections {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out: Vec<Fact> = vec![];
        for (workload, mark, marks) in
            told::marked(snapshot, &[Mark::FullCollection, Mark::CollectionOverhead])
        {
            let span = match (marks.first, marks.last) {
                (Some(first), Some(last)) => (to_unix(last) - to_unix(first)).max(1.0),
                _ => continue,
            };
            let share = marks.millis / 1000.0 / span;
            let words = match mark {
                Mark::CollectionOverhead if marks.count >= 3 => {
                    format!("it had no room to copy what lives, {}", text::times(marks.count))
                }
                Mark::CollectionOverhead => continue,
                _ if marks.count >= 3 && share >= SHARE => {
                    format!(
                        "{} full collections took {:.1} s of {span:.0} s",
                        marks.count,
                        marks.millis / 1000.0
                    )
                }
                _ => continue,
            };
            if out.iter().any(|fact| fact.workload == workload) {
                continue;
            }
            let throttled = told::throttled(snapshot, &workload);
            out.push(Fact {
                evidence: vec![told::evidence(&workload, &marks)],
                words,
                marks: Some(marks),
                throttled,
                workload,
            });
        }
        let names = [
            "jvm_gc_pause_seconds_sum",
            "jvm_gc_collection_seconds_sum",
            "jvm_gc_overhead",
            "jvm_gc_overhead_percent",
            "jvm_memory_usage_after_gc",
            "jvm_memory_usage_after_gc_percent",
        ];
        for (workload, series) in told::by_workload(snapshot, &names) {
            if out.iter().any(|fact| fact.workload == workload) {
                continue;
            }
            // Each pod by itself: the causes and collectors of one are added up.
            let pods: std::collections::BTreeSet<&str> = series.iter().map(|s| s.label("pod")).collect();
            let worst = |names: &[&str], value: fn(&crate::model::series::Series) -> Option<f64>| -> f64 {
                let of = |pod: &str| -> f64 {
                    series
                        .iter()
                        .filter(|s| s.label("pod") == pod && names.contains(&s.name.as_str()))
                        .filter_map(|s| value(s))
                        .sum()
                };
                pods.iter().map(|pod| of(pod)).fold(0.0, f64::max)
            };
            let paused = worst(&names[..2], told::rate).max(worst(&names[2..4], |s| s.last()));
            let after = worst(&names[4..], |s| s.last());
            let words = if paused >= SHARE {
                format!("{} of the time is spent in pauses", percent(paused.min(1.0)))
            } else if after >= FULL {
                format!("its heap is {} full after collecting", percent(after.min(1.0)))
            } else {
                continue;
            };
            let evidence = Evidence::new("Metric", workload.to_string(), words.clone());
            let throttled = told::throttled(snapshot, &workload);
            out.push(Fact { evidence: vec![evidence], words, marks: None, throttled, workload });
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        const OPTIONS: &[&str] =
            &["JAVA_OPTS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CATALINA_OPTS"];
        let (subject, field) = snapshot
            .workload(&fact.workload)
            .map_or_else(|| (fact.workload.clone(), String::new()), |w| told::memory_field(w, OPTIONS));
        let first = fact.marks.as_ref().and_then(|m| m.first);
        let mut finding = told::finding(snapshot, Self::META, subject.clone(), &fact.workload, &["slow", "timeout", "5xx", "UT"])
            .title(format!("{}: the JVM collects instead of serving: {}", fact.workload, fact.words))
            .message(format!(
                "The JVM of {} stops to collect its heap: {}{}. In these pauses no request is served. The size of its heap comes from {field}.{}",
                fact.workload,
                fact.words,
                since(first),
                if fact.throttled { " Its CPU limit holds the container back as well, and makes every pause longer." } else { "" }
            ))
            .mechanism("JVM garbage collection: heap too small or leaking")
            .evidences(fact.evidence.iter().cloned())
            .onset(first)
            .remedy(Remedy::manual(format!("Raise the heap and with it the memory limit ({subject}); where the heap fills again, take a heap dump and find what holds it")))
            .prevention(Prevention::alert("Alert on the time in pauses", "sum by (namespace, pod) (rate(jvm_gc_pause_seconds_sum[5m])) > 0.1"))
            .prevention(Prevention::alert("Alert on a heap that stays full", "jvm_memory_usage_after_gc > 0.9 or jvm_memory_usage_after_gc_percent > 0.9"));
        if !field.is_empty() && !subject.field_path.is_empty() {
            finding = finding.evidence(Evidence::object(&subject, field));
        }
        if fact.throttled {
            finding.role = Role::Symptom;
            finding.severity = Severity::Warning;
        }
        finding
    }
}
