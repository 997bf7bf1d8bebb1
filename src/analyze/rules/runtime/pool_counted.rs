//! RUN109.

use std::collections::BTreeSet;

use super::told;
use crate::analyze::finding::{Confidence, Evidence, Finding, Role, Severity};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::analyze::rules::application::calls;
use crate::model::object::ObjectRef;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

crate::rule! {
    /// A pool of connections is full and requests wait for it, by its own counters.
    ///
    /// ## What it detects
    /// HikariCP with all connections in use and callers waiting, under the names of Micrometer and of its own tracker, and Go's `database/sql` at
    /// its limit with waits that grow.
    /// ## Why it matters
    /// The wait comes before the call: the database looks idle or merely busy while requests time out in the caller.
    /// ## Evidence
    /// Connections in use, the limit, and how many wait.
    /// ## How to confirm
    /// How long a connection is held: `hikaricp_connections_usage_seconds`, slow statements, transactions that wait.
    /// ## How to fix
    /// Slow statements or a slow callee inside a transaction first; a leak (connections that never come back) next; a larger pool only if the
    /// database can bear it.
    /// ## False positives
    /// A full pool without anybody waiting is a pool of the right size. Where the log tells of the same, its own rule has the finding.
    /// Go's limit 0 means none.
    /// ## References
    /// <https://github.com/brettwooldridge/HikariCP/wiki/About-Pool-Sizing>
    PoolCounted {
        code: "RUN109", name: "connection-pool-full", family: Application, severity: Error,
        needs: [Metrics], aliases: [],
    }
}

/// The series of one family of pools: in use, limit, waiting, and the label that names a pool.
struct Names {
    used: &'static str,
    limit: &'static str,
    waiting: &'static str,
    pool: &'static str,
    /// Whether `waiting` counts waits since the start instead of those at the moment.
    counter: bool,
}

const FAMILIES: &[Names] = &[
    Names {
        used: "hikaricp_connections_active",
        limit: "hikaricp_connections_max",
        waiting: "hikaricp_connections_pending",
        pool: "pool",
        counter: false,
    },
    Names {
        used: "hikaricp_active_connections",
        limit: "hikaricp_max_connections",
        waiting: "hikaricp_pending_threads",
        pool: "pool",
        counter: false,
    },
    Names {
        used: "go_sql_in_use_connections",
        limit: "go_sql_max_open_connections",
        waiting: "go_sql_wait_count_total",
        pool: "db_name",
        counter: true,
    },
];

/// A pool that is full.
#[derive(Debug)]
pub struct Fact {
    workload: ObjectRef,
    used: f64,
    limit: f64,
    waiting: f64,
    counter: bool,
}

/// The fullest pool of one family in a workload's pods, where somebody waits for it.
fn full(series: &[&Series], names: &Names) -> Option<(f64, f64, f64)> {
    let of = |name: &str, like: &Series| {
        series
            .iter()
            .find(|s| {
                s.name == name
                    && s.label("pod") == like.label("pod")
                    && s.label(names.pool) == like.label(names.pool)
            })
            .copied()
    };
    let pools = series.iter().filter(|s| s.name == names.used).filter_map(|used| {
        let limit = of(names.limit, used)?.last().filter(|limit| *limit > 0.0)?;
        let waiting = of(names.waiting, used)?;
        let waiting = if names.counter { waiting.total_increase()? } else { waiting.last()? };
        let used = used.last()?;
        (used >= limit && waiting > 0.0).then_some((used, limit, waiting))
    });
    pools.max_by(|a, b| a.2.total_cmp(&b.2))
}

impl Check for PoolCounted {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let failing = calls::failing(snapshot);
        let told_of: BTreeSet<&ObjectRef> =
            failing.all.iter().filter(|c| c.kind() == Some(Kind::Pool)).map(|c| &c.caller).collect();
        let mut out: Vec<Fact> = vec![];
        for names in FAMILIES {
            for (workload, series) in told::by_workload(snapshot, &[names.used, names.limit, names.waiting]) {
                let known = told_of.contains(&workload) || out.iter().any(|fact| fact.workload == workload);
                if let Some((used, limit, waiting)) = full(&series, names).filter(|_| !known) {
                    out.push(Fact { workload, used, limit, waiting, counter: names.counter });
                }
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let waiting = if fact.counter {
            format!("{:.0} calls had to wait", fact.waiting)
        } else {
            format!("{:.0} calls wait", fact.waiting)
        };
        let words = format!("{:.0} of {:.0} connections are in use and {waiting}", fact.used, fact.limit);
        told::finding(snapshot, Self::META, fact.workload.clone(), &fact.workload, &["slow", "timeout", "5xx", "pool"])
            .title(format!("{}: its pool of connections is full: {words}", fact.workload))
            .message(format!("A pool of connections of {} is full: {words}. Requests wait before anything is sent to the other side.", fact.workload))
            .mechanism("connection pool exhausted")
            // Why connections are held so long was not seen.
            .role(Role::Symptom, Confidence::Observed)
            .severity(Severity::Error)
            .evidence(Evidence::new("Metric", fact.workload.to_string(), words))
            .remedy(Remedy::manual("Find what holds connections so long (slow statements, calls inside a transaction, connections that never come back); raise the pool only if the database can bear it"))
            .prevention(Prevention::alert(
                "Alert when calls wait for a connection, under the names of both families",
                "max by (namespace, pod, pool) (hikaricp_connections_pending) > 0 or max by (namespace, pod, pool) (hikaricp_pending_threads) > 0",
            ))
            .prevention(Prevention::alert("The same for Go", "rate(go_sql_wait_count_total[5m]) > 0 and go_sql_in_use_connections >= go_sql_max_open_connections > 0"))
    }
}
