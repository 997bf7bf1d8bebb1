//! APP110.

use jiff::Timestamp;

use crate::analyze::finding::{Confidence, Effect, Evidence, Finding, Role, Severity};
use crate::analyze::logs::digest::{Digest, percentile};
use crate::analyze::logs::failure_text::Kind;
use crate::analyze::remedy::{Prevention, Remedy};
use crate::analyze::rule::{Check, Declared};
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;

use super::calls::{self, Calls, clock, plain, service_of, since};
use super::settings::{Setting, settings};

crate::rule! {
    /// A caller gives up on a dependency after a time that is shorter than what the dependency usually takes.
    ///
    /// ## What it detects
    /// Timeouts of a caller that all come after the same time, a setting of the caller that names a timeout of just that
    /// length, and a callee that takes as long as it always did: requests that were answered well, before the timeouts began or
    /// by other callers, took about as long as the timeout or longer.
    /// ## Why it matters
    /// The callee is well and works on; the caller has thrown the answer away, and often asks again. The more the usual
    /// time and the timeout overlap, the more requests fail.
    /// ## Evidence
    /// The caller's log lines with the time they took or the limit they state, the setting with its value, durations of requests
    /// that were answered well, and when the setting was written.
    /// ## How to confirm
    /// Time the call by hand from a pod of the caller: `kubectl exec deploy/CALLER -- curl -s -o /dev/null -w '%{time_total}' URL`.
    /// ## How to fix
    /// Give the setting its previous value, or twice the 99th percentile of what the callee needs, and restart the pods
    /// where they read it only when they start.
    /// ## False positives
    /// A callee that became slow: there the timeout is much longer than what was usual, and the rule is silent. Where nothing tells
    /// what was usual and the setting was not written lately, it is silent too.
    /// ## References
    /// <https://sre.google/sre-book/addressing-cascading-failures/>
    ClientTimeoutTooShort {
        code: "APP110", name: "client-timeout-too-short", family: Application, severity: Error,
        needs: [Objects, Logs], aliases: [],
    }
}

/// Durations may lie this far above the limit that they hit: timers fire late, and the record is written later still.
const LATE: f64 = 1.25;
/// The same for short limits, in milliseconds.
const LATE_MS: f64 = 30.0;
/// From this share of the timeout on, what is usual collides with it.
const COLLIDES: f64 = 0.7;
/// A setting written at most this many seconds before the first timeout speaks for itself.
const RECENT: i64 = 900;
/// Samples from which on a percentile says something.
const MIN_SAMPLES: usize = 20;

/// A caller, its timeout, and what it waits for.
#[derive(Debug)]
pub struct Fact {
    calls: Calls,
    setting: Setting,
    caller: Option<ServiceName>,
    /// The time after which it gives up, in milliseconds.
    limit: f64,
    /// What well answered requests take, in milliseconds: the 50th and the 99th percentile, how many, and whose.
    usual: Option<(f64, f64, usize, String)>,
    /// Whether the setting was written shortly before.
    written: bool,
    /// Whether the value itself was seen, and fits.
    value_seen: bool,
}

impl Check for ClientTimeoutTooShort {
    type Fact<'a> = Fact;

    fn detect(&self, snapshot: &Snapshot) -> Vec<Fact> {
        let mut out = vec![];
        for calls in &calls::failing(snapshot).all {
            if calls.kind() == Some(Kind::Timeout) && calls.severity() >= Severity::Warning {
                out.extend(too_short(snapshot, calls.clone()));
            }
        }
        out
    }

    fn describe(&self, fact: &Fact, snapshot: &Snapshot) -> Finding {
        let setting = &fact.setting;
        let callee = fact.calls.main().map(|group| group.callee()).unwrap_or_default();
        let short = fact.calls.service().map_or_else(|| callee.clone(), |s| s.name.clone());
        let value = setting
            .value
            .as_deref()
            .and_then(plain)
            .filter(|_| fact.value_seen)
            .map(|v| format!("={v}"))
            .unwrap_or_default();
        let usual = match &fact.usual {
            Some((half, most, count, whose)) => {
                format!(
                    "{whose} take {half:.0} ms by the median and {most:.0} ms by the 99th percentile ({count} requests)"
                )
            }
            None => "the setting was written just before the first of them".to_owned(),
        };
        let mut message = format!(
            "{} gives up on {callee} after {:.0} ms, as its setting {}{value} says, while {usual}. {} timed out, all after the same time: the \
             callee answers, and the caller no longer waits.",
            fact.calls.caller,
            fact.limit,
            setting.name,
            fact.calls.amount()
        );
        if let Some(before) = setting.previous.as_deref().and_then(plain) {
            message.push_str(&format!(" The setting was {before} before."));
        }
        let mut finding = Finding::new(Self::META, setting.subject.clone(), &[&callee])
            .title(format!(
                "{} waits only {:.0} ms for {short} ({}{value}): {} timed out{}",
                fact.calls.caller.name,
                fact.limit,
                setting.name,
                fact.calls.amount(),
                since(fact.calls.first)
            ))
            .message(message)
            .mechanism("client timeout too short")
            .severity(fact.calls.severity())
            .role(
                Role::Cause,
                if fact.usual.is_some() || fact.written {
                    Confidence::Observed
                } else {
                    Confidence::Possible
                },
            )
            .service(fact.caller.clone())
            .related(fact.calls.caller.clone())
            .evidences(fact.calls.evidence())
            .evidence(Evidence::object(&setting.subject, format!("{}{value}", setting.name)))
            .onset(fact.calls.first)
            .effect(Effect::calls(&fact.calls.caller));
        if let Some((half, most, count, whose)) = &fact.usual {
            finding = finding.evidence(Evidence::new(
                "Log",
                fact.calls.caller.to_string(),
                format!("{whose}: median {half:.0} ms, 99th percentile {most:.0} ms, {count} requests"),
            ));
        }
        if let Some(at) = setting.changed {
            finding = finding.evidence(
                Evidence::object(&setting.subject, format!("written at {}", clock(at))).at(Some(at)),
            );
        }
        if let Some(service) = &fact.caller {
            finding = finding.effect(Effect::requests(service, &["5xx", "timeout", "UT"]));
        }
        if let Some(service) = fact.calls.service() {
            finding = finding.effect(Effect::requests(service, &["timeout"]));
        }
        for remedy in remedies(fact, snapshot) {
            finding = finding.remedy(remedy);
        }
        let name = fact.calls.service().map(|s| s.name.clone()).unwrap_or_default();
        finding
            .prevention(Prevention::alert(
                format!("Alert when what {short} needs comes near the timeout of {:.0} ms", fact.limit),
                format!("histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{{destination_service_name=\"{name}\"}}[5m]))) > {:.0}", fact.limit * COLLIDES),
            ))
            .prevention(Prevention::of("Test", format!("In the pipeline: {} is at least twice the 99th percentile of what it waits for", setting.name)))
    }
}

/// Whether a setting names a time that a caller waits, and not one of a pool, a probe, a session or the server's own.
fn names_a_timeout(setting: &Setting) -> bool {
    let words = setting.words();
    let has = |list: &[&str]| words.iter().any(|w| list.contains(&w.as_str()));
    has(&["timeout", "deadline", "timeoutms", "timeouts", "timelimit"])
        && !has(&[
            "pool",
            "idle",
            "keepalive",
            "alive",
            "session",
            "probe",
            "shutdown",
            "grace",
            "graceful",
            "lock",
            "cache",
            "ttl",
            "drain",
            "worker",
        ])
}

fn too_short(snapshot: &Snapshot, calls: Calls) -> Option<Fact> {
    let workload = snapshot.workload(&calls.caller)?;
    let first = calls.first;
    let (limits, took) = (calls.limits(), calls.took());
    // What the text states is exact; what a record took is that or a little more.
    let stated = percentile(&limits, 0.5);
    let named: Vec<Setting> = settings(snapshot, workload).into_iter().filter(names_a_timeout).collect();
    let Some(observed) = stated.or_else(|| constant(&took)) else {
        return shortened(&named, first).map(|(setting, limit)| {
            let caller = service_of(snapshot, &calls.caller);
            Fact { caller, limit, usual: None, written: true, value_seen: true, setting, calls }
        });
    };
    let fits = |setting: &&Setting| {
        setting
            .millis()
            .into_iter()
            .any(|value| observed >= 0.98 * value && observed <= LATE * value + LATE_MS)
    };
    let recent = |setting: &Setting| {
        setting.changed.zip(first).is_some_and(|(at, first)| {
            let before = first.as_second() - at.as_second();
            (-5..=RECENT).contains(&before)
        })
    };
    let (setting, value_seen) = match named.iter().find(fits) {
        Some(setting) => (setting.clone(), true),
        None => {
            // Values were not read: the one timeout that it has, or the one that was just written.
            let unread: Vec<&Setting> = named.iter().filter(|s| s.value.is_none()).collect();
            let written: Vec<&&Setting> = unread.iter().filter(|s| recent(s)).collect();
            match (unread.as_slice(), written.as_slice()) {
                (_, [one]) => ((**one).clone(), false),
                ([one], _) => ((*one).clone(), false),
                _ => return None,
            }
        }
    };
    let limit = if value_seen {
        let values = setting.millis();
        values
            .into_iter()
            .find(|value| observed >= 0.98 * value && observed <= LATE * value + LATE_MS)
            .unwrap_or(observed)
    } else {
        observed
    };
    let usual = usual(snapshot, &calls, first);
    let written = recent(&setting) || setting.previous.is_some();
    match &usual {
        // Nothing that was answered took nearly as long: what it waits for became slow.
        Some((_, most, _, _)) if *most < COLLIDES * limit => return None,
        None if !written => return None,
        _ => {}
    }
    let caller = service_of(snapshot, &calls.caller);
    Some(Fact { caller, limit, usual, written, value_seen, setting, calls })
}

/// The one time-out that was written just before and is shorter than it was, with its value in milliseconds: where texts tell no times
/// this decides.
fn shortened(named: &[Setting], first: Option<Timestamp>) -> Option<(Setting, f64)> {
    let longest = |setting: &Setting| setting.millis().into_iter().reduce(f64::max);
    let mut found = named.iter().filter_map(|setting| {
        let before = Setting { value: Some(setting.previous.clone()?), ..setting.clone() };
        let (now, before) = (longest(setting)?, longest(&before)?);
        let seconds = first?.as_second() - setting.changed?.as_second();
        (now < before && (-5..=RECENT).contains(&seconds)).then(|| (setting.clone(), now))
    });
    let one = found.next()?;
    found.next().is_none().then_some(one)
}

/// The time after which all of them came, where it is one and the same: nine of ten within a quarter.
fn constant(took: &[f64]) -> Option<f64> {
    let (low, high) = (percentile(took, 0.05)?, percentile(took, 0.95)?);
    (took.len() >= 3 && low > 0.0 && high <= LATE * low + LATE_MS).then_some(low)
}

/// What is usual: what the callee itself logs before the timeouts began, else what requests through the caller, or through others
/// behind the caller's Service, took that were answered well.
fn usual(snapshot: &Snapshot, calls: &Calls, first: Option<Timestamp>) -> Option<(f64, f64, usize, String)> {
    let digest = snapshot.derived::<Digest>();
    let first = first?;
    let summary = |sorted: Vec<f64>, whose: String| {
        (sorted.len() >= MIN_SAMPLES).then(|| {
            let at = |share| percentile(&sorted, share).unwrap_or_default();
            (at(0.5), at(0.99), sorted.len(), whose)
        })
    };
    if let Some(service) = calls.service() {
        for workload in snapshot.graph.backing.get(service).into_iter().flatten() {
            let own =
                digest.workloads.get(workload).map(|log| log.durations(first, false)).unwrap_or_default();
            if let Some(usual) = summary(own, format!("requests that {workload} answered before")) {
                return Some(usual);
            }
        }
    }
    let before =
        digest.workloads.get(&calls.caller).map(|log| log.durations(first, false)).unwrap_or_default();
    if let Some(usual) = summary(before, format!("requests through {} before", calls.caller)) {
        return Some(usual);
    }
    let beside = snapshot
        .graph
        .services_of(&calls.caller)
        .flat_map(|s| snapshot.graph.backing.get(s).into_iter().flatten());
    for other in beside.filter(|w| !w.same_object(&calls.caller)) {
        let Some(log) = digest.workloads.get(other) else { continue };
        let mut all = log.durations(first, false);
        all.extend(log.durations(first, true));
        all.sort_by(f64::total_cmp);
        if let Some(usual) = summary(all, format!("requests through {other}, beside it,")) {
            return Some(usual);
        }
    }
    None
}

fn remedies(fact: &Fact, snapshot: &Snapshot) -> Vec<Remedy> {
    let setting = &fact.setting;
    let mut out = vec![];
    if let Some(before) = &setting.previous {
        out.extend(setting.set(snapshot, before, format!("Give {} its previous value", setting.name)));
    } else if let Some((value, whose)) = setting.usual(snapshot) {
        let longer = Setting { value: Some(value.clone()), ..setting.clone() }
            .millis()
            .into_iter()
            .any(|ms| ms > fact.limit);
        if longer {
            out.extend(setting.set(
                snapshot,
                &value,
                format!("Set {} to {value}, as {whose} has it", setting.name),
            ));
        }
    }
    if let Some((_, most, _, _)) = fact.usual.as_ref().filter(|_| fact.value_seen) {
        let value = setting.write_millis((2.0 * most).max(2.0 * fact.limit));
        out.extend(setting.set(
            snapshot,
            &value,
            format!("Set {} to {value}: twice the 99th percentile of what requests take", setting.name),
        ));
    }
    if out.is_empty() {
        let need = fact
            .usual
            .as_ref()
            .map_or(2.0 * fact.limit, |(_, most, _, _)| (2.0 * most).max(2.0 * fact.limit));
        let command = super::settings::restart(&setting.workload);
        out.push(Remedy::manual(format!(
            "Raise {} in {} to at least {need:.0} ms, or to the value it had, then run: {command}",
            setting.name, setting.subject
        )));
    }
    out
}
