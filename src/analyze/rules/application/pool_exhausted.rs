//! APP111.

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::Digest;
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::logs::record::Level;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::object::ObjectRef;
use crate::model::snapshot::Snapshot;

use super::calls::{self, Calls, clock, plain, service_of, since};
use super::settings::{Setting, settings};

crate::rule! {
    /// An application waits for a connection of its own pool and gets none in time.
    ///
    /// ## What it detects
    /// Errors that say that a pool of connections had none to give, the size of the pool where the text tells it, and the
    /// setting of the application that names the pool's size.
    /// ## Why it matters
    /// Each request holds a connection as long as its queries run. A pool of N connections serves at most N divided by that
    /// time; all beyond waits, and fails after the pool's own timeout, while the database is idle.
    /// ## Evidence
    /// The error with its figures (size, in use, waiting), the setting with its value, when it was written, and that the database
    /// itself logs no error.
    /// ## How to confirm
    /// The pool's metrics: `hikaricp_connections_pending` (or `go_sql_wait_count_total`) above 0 while all of
    /// `hikaricp_connections_max` are active.
    /// ## How to fix
    /// Give the setting its previous value, or enough connections for requests per second times seconds per query, below what
    /// the database allows in all, and restart the pods.
    /// ## False positives
    /// A large pool that fills because the database became slow or because connections are never given back: without a recent
    /// change of the size, a pool of ten or more is reported as a symptom.
    /// ## References
    /// <https://github.com/brettwooldridge/HikariCP/wiki/About-Pool-Sizing>
    PoolExhausted {
        code: "APP111", name: "pool-exhausted", family: Application, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// A pool of this size or more is not small by itself: defaults of common pools are 10.
const LARGE: u64 = 10;
/// A setting written at most this many seconds before the first failure speaks for itself.
const RECENT: i64 = 900;

/// A pool that ran dry.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    setting: Option<Setting>,
    service: Option<ServiceName>,
    /// Connections, those in use, and callers that wait, as the fullest of the texts has them.
    size: Option<u64>,
    waiting: Option<u64>,
    /// Whether the setting was written shortly before.
    written: bool,
    /// Whether the application's database logs errors of its own.
    database_fails: Option<ObjectRef>,
}

impl Check for PoolExhausted {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            if calls.kind() == Some(Kind::Pool) && calls.severity() >= Severity::Warning {
                out.push(fact(snapshot, calls.clone()));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let caller = &fact.calls.caller;
        let figures = match (fact.size, fact.waiting) {
            (Some(size), Some(waiting)) => format!(" (size {size}, up to {waiting} waiting)"),
            (Some(size), None) => format!(" (size {size})"),
            _ => String::new(),
        };
        let subject = fact.setting.as_ref().map_or_else(|| caller.clone(), |s| s.subject.clone());
        let named = fact.setting.as_ref().map(|setting| {
            let value = setting.value.as_deref().and_then(plain).map(|v| format!("={v}")).unwrap_or_default();
            format!("{}{value}", setting.name)
        });
        let large = fact.size.is_some_and(|size| size >= LARGE);
        let cause = fact.setting.is_some() && fact.database_fails.is_none() && (!large || fact.written);
        let said = named.as_ref().map(|n| format!(" (setting {n})")).unwrap_or_default();
        let database = match &fact.database_fails {
            Some(database) => format!(" {database} logs errors of its own meanwhile."),
            None => " Nothing that it calls logs an error of its own meanwhile.".to_owned(),
        };
        let mut message = format!(
            "Requests of {caller} wait for a connection of its own pool{figures} and give up: {} failed{}. The pool's size{said} limits how many requests \
             can be in the database at once.{database}",
            fact.calls.amount(),
            since(fact.calls.first)
        );
        if let Some(before) = fact.setting.as_ref().and_then(|s| s.previous.as_deref()).and_then(plain) {
            message.push_str(&format!(" The setting was {before} before."));
        }
        let title = match &named {
            Some(named) => format!(
                "{} runs out of pooled connections{figures}, {named}: {} failed",
                caller.name,
                fact.calls.amount()
            ),
            None => format!(
                "{} runs out of pooled connections{figures}: {} failed{}",
                caller.name,
                fact.calls.amount(),
                since(fact.calls.first)
            ),
        };
        let confidence = match (cause, fact.written || fact.size.is_some_and(|size| size < LARGE)) {
            (true, true) => Confidence::Observed,
            (true, false) => Confidence::Possible,
            (false, _) => Confidence::Observed,
        };
        let mut finding = Finding::new(Self::META, subject, &["pool"])
            .title(title)
            .message(message)
            .mechanism("connection pool exhausted")
            .severity(fact.calls.severity())
            .role(if cause { Role::Cause } else { Role::Symptom }, confidence)
            .service(fact.service.clone())
            .evidences(fact.calls.evidence())
            .onset(fact.calls.first)
            .effect(Effect::calls(caller));
        if let Some(setting) = &fact.setting {
            finding = finding
                .related(caller.clone())
                .evidence(Evidence::object(&setting.subject, named.unwrap_or_default()));
            if let Some(at) = setting.changed {
                finding = finding.evidence(
                    Evidence::object(&setting.subject, format!("written at {}", clock(at))).at(Some(at)),
                );
            }
            for remedy in remedies(fact, setting, snapshot) {
                finding = finding.remedy(remedy);
            }
        }
        if let Some(service) = &fact.service {
            finding = finding.effect(Effect::requests(service, &["5xx", "500", "503", "pool", "slow"]));
        }
        finding
            .prevention(Prevention::alert(
                "Alert when requests wait for a connection",
                "max by (namespace, pod, pool) (hikaricp_connections_pending) > 0 and max by (namespace, pod, pool) (hikaricp_connections_active / hikaricp_connections_max) >= 1".to_owned(),
            ))
            .prevention(Prevention::of("Test", "Load test with the production pool size: no request waits for a connection at peak"))
    }
}

/// Whether a setting names the size of a pool of connections.
fn names_a_pool_size(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    let pool = has(&["pool", "poolsize", "connections", "conns", "hikari", "maxconns"]);
    let size = has(&["size", "max", "maximum", "limit", "poolsize", "active", "total", "maxconns", "count"]);
    // `STORE_POOL=8`: a bare number under the pool's own name is its size.
    let number = setting.value.as_ref().is_none_or(|value| value.parse::<u64>().is_ok());
    let bare = words.last().is_some_and(|word| word == "pool") && number;
    pool && (size || bare)
        && !has(&[
            "timeout", "idle", "min", "minimum", "lifetime", "age", "ttl", "wait", "url", "name", "ms",
            "seconds",
        ])
}

fn fact(snapshot: &Snapshot, calls: Calls) -> Fact {
    let pool =
        calls.groups.iter().map(|group| group.pool).find(|pool| pool.size.is_some()).unwrap_or_default();
    let all = snapshot.workload(&calls.caller).map(|w| settings(snapshot, w)).unwrap_or_default();
    let named: Vec<Setting> = all.into_iter().filter(names_a_pool_size).collect();
    let equal = |setting: &&Setting| {
        let value = setting.value.as_ref().and_then(|v| v.parse::<u64>().ok());
        value.is_some() && value == pool.size
    };
    let setting = named
        .iter()
        .find(equal)
        .or_else(|| named.iter().find(|s| s.value.is_none() || pool.size.is_none()))
        .cloned()
        // Where the value was not read, the pool itself tells it.
        .map(|setting| Setting {
            value: setting.value.or(pool.size.map(|size| size.to_string())),
            ..setting
        });
    let recent = |setting: &Setting| {
        setting
            .changed
            .zip(calls.first)
            .is_some_and(|(at, first)| (-5..=RECENT).contains(&(first.as_second() - at.as_second())))
    };
    let written = setting.as_ref().is_some_and(|s| recent(s) || s.previous.is_some());
    let size = pool.size.or_else(|| setting.as_ref()?.value.as_ref()?.parse().ok());
    Fact {
        service: service_of(snapshot, &calls.caller),
        database_fails: failing_dependency(snapshot, &calls),
        size,
        waiting: pool.waiting,
        written,
        setting,
        calls,
    }
}

/// A workload that this one calls and that logs errors of its own in the same time.
fn failing_dependency(snapshot: &Snapshot, calls: &Calls) -> Option<ObjectRef> {
    let digest = snapshot.derived::<Digest>();
    let callees: Vec<&ServiceName> = snapshot.graph.callees(&calls.caller).collect();
    let behind =
        callees.iter().flat_map(|service| snapshot.graph.backing.get(*service).into_iter().flatten());
    behind
        .filter(|workload| !workload.same_object(&calls.caller))
        .find(|workload| {
            let errors = digest.workloads.get(*workload).into_iter().flat_map(|log| &log.errors);
            let mut grave = errors.filter(|e| {
                e.level >= Level::Error && e.last >= calls.first && e.count >= calls::MIN_FAILURES
            });
            grave.next().is_some()
        })
        .cloned()
}

fn remedies(fact: &Fact, setting: &Setting, snapshot: &Snapshot) -> Vec<Remedy> {
    let mut out = vec![];
    if let Some(before) = &setting.previous {
        out.extend(setting.set(snapshot, before, format!("Give {} its previous value", setting.name)));
    } else if let Some((value, whose)) = setting.usual(snapshot)
        && value.parse::<u64>().is_ok_and(|value| fact.size.is_none_or(|size| value > size))
    {
        out.extend(setting.set(
            snapshot,
            &value,
            format!("Set {} to {value}, as {whose} has it", setting.name),
        ));
    }
    if out.is_empty() && setting.value.is_some() {
        // All that waited at once would have had a connection; the usual default at least.
        let size = fact.size.unwrap_or(0);
        let value = (2 * (size + fact.waiting.unwrap_or(size))).max(LARGE).to_string();
        out.extend(setting.set(
            snapshot,
            &value,
            format!(
                "Set {} to {value}: room for twice what waited at once, if the database allows it",
                setting.name
            ),
        ));
    }
    if out.is_empty() {
        let command = super::settings::restart(&setting.workload);
        out.push(Remedy::manual(format!(
            "Raise {} in {} to the value it had, or to at least {LARGE}, then run: {command}",
            setting.name, setting.subject
        )));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str) -> Setting {
        let none = ObjectRef::default();
        Setting {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            previous: None,
            changed: None,
            subject: none.clone(),
            workload: none,
            pointer: String::new(),
        }
    }

    #[test]
    fn names_of_pool_sizes() {
        for name in
            ["DB_POOL_SIZE", "maximumPoolSize", "STORE_POOL", "spring.datasource.hikari.maximum-pool-size"]
        {
            assert!(names_a_pool_size(&setting(name, "8")), "{name}");
        }
        for (name, value) in
            [("POOL_TIMEOUT", "8"), ("STORE_POOL", "shared"), ("STORE_POOL_WAIT", "1s"), ("STORE", "8")]
        {
            assert!(!names_a_pool_size(&setting(name, value)), "{name}");
        }
    }
}
