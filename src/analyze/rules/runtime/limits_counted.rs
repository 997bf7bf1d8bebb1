//! RUN110.

use std::collections::BTreeMap;

use super::told;
use crate::analyze::finding::{Evidence, Finding, Severity};
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::from_unix;

crate::rule! {
    /// A process is about to run out of file descriptors or threads, by its own counters.
    ///
    /// ## What it detects
    /// More than nine tenths of a process' file descriptors in use (`process_open_fds` against `process_max_fds`), or of the threads
    /// that its container may have (`container_threads` against `container_threads_max`), at the end of the time that is looked at.
    /// ## Why it matters
    /// The next connection cannot be accepted, the next file not opened, the next thread not started; what runs goes on, so it looks
    /// like a fault of the network.
    /// ## Evidence
    /// The counters of the fullest pod and when they passed nine tenths.
    /// ## How to confirm
    /// `ls /proc/1/fd | wc -l` in the container against `ulimit -n`; `kubectl top` shows nothing of it.
    /// ## How to fix
    /// Close what is opened: connections without a pool or an idle time-out are the usual leak. A restart buys time. Raise the limit
    /// where the load really needs that many.
    /// ## False positives
    /// A limit that is not set counts as 0 or as a very large number, and is no limit. Errors in the log tell the same: APP115.
    /// ## References
    /// <https://man7.org/linux/man-pages/man2/getrlimit.2.html>
    LimitsCounted {
        code: "RUN110", name: "descriptors-or-threads-run-out", family: Application, severity: Error,
        needs: [Metrics], aliases: ["K8S-FD-PID"],
    }
}

/// From this share on it is nearly over.
const NEARLY: f64 = 0.9;

/// In use, the limit, and what it is.
const FAMILIES: &[(&str, &str, &str)] = &[
    ("process_open_fds", "process_max_fds", "file descriptors"),
    ("container_threads", "container_threads_max", "threads"),
];

/// A limit that is nearly reached.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    pod: String,
    what: &'static str,
    used: f64,
    limit: f64,
    /// When it passed nine tenths, in Unix seconds.
    since: f64,
}

impl Check for LimitsCounted {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for (used, limit, what) in FAMILIES {
            for (workload, series) in told::by_workload(snapshot, &[used, limit]) {
                let limits: BTreeMap<_, f64> = series
                    .iter()
                    .filter(|s| s.name == *limit)
                    .filter_map(|s| Some((target(s), s.last().filter(|limit| *limit > 0.0)?)))
                    .collect();
                let fullest = series.iter().filter(|s| s.name == *used).filter_map(|s| {
                    let limit = *limits.get(&target(s))?;
                    let last = s.last().filter(|last| *last > NEARLY * limit)?;
                    let since = s.points.iter().find(|(_, value)| *value > NEARLY * limit)?.0;
                    Some((
                        last / limit,
                        Fact {
                            workload: workload.clone(),
                            pod: s.label("pod").to_owned(),
                            what,
                            used: last,
                            limit,
                            since,
                        },
                    ))
                });
                out.extend(fullest.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, fact)| fact));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let Fact { workload, what, used, limit, .. } = fact;
        let onset = from_unix(fact.since);
        let pod = ObjectRef::new("Pod", &workload.namespace, &fact.pod);
        let subject = told::image_field(snapshot, workload);
        told::finding(snapshot, Self::META, subject, workload, &["refused", "timeout", "reset", "5xx", "UF"])
            .title(format!("{workload}: {used:.0} of {limit:.0} {what} are in use"))
            .message(format!(
                "{pod} has {used:.0} of {limit:.0} {what} in use, and they do not come back. Without {what} it takes no further connections, while those that it has go on."
            ))
            .mechanism(format!("resource limit: {what} run out"))
            .severity(Severity::Error)
            .evidence(Evidence::new("Metric", pod.to_string(), format!("{used:.0} of {limit:.0} {what} in use")).at(onset))
            .onset(onset)
            .remedy(Remedy::lasting(
                "Restart it to gain time, then look for what it opens and does not close",
                vec![crate::analyze::rules::pods::common::restart_command(workload)],
                "pods that were replaced stay replaced",
            ))
            .remedy(Remedy::manual(format!("Read the program's {what} while it runs (/proc/1/fd, a thread dump): connections without a pool or an idle time-out are the usual leak")))
            .prevention(Prevention::alert("Alert before descriptors run out", "process_open_fds / process_max_fds > 0.8"))
            .prevention(Prevention::alert("Alert before threads run out", "container_threads / (container_threads_max > 0) > 0.8"))
    }
}

/// What tells one process' series from another's.
fn target(series: &Series) -> (&str, &str, &str) {
    (series.label("pod"), series.label("container"), series.label("instance"))
}
