//! Statements that are new, more frequent than before, or gone, and what errors say of whom.

use std::collections::BTreeSet;

use super::super::events::{ServiceEvents, Template};
use super::super::failure_text;
use super::super::marks::mark;
use super::super::reading::of_the_system;
use super::super::record::Level;
use super::weigh::{corrected, of_rates, weight};
use super::{Context, evidence, time};
use crate::analyze::anomaly::{Anomaly, Direction, Kind, Place, Signal};
use crate::model::network::ServiceName;

// What deviations of each sort say at best, as natural logarithms: shares of services at fault that show one, over shares of the
// others, counted on recorded incidents with known causes and drawn towards nothing, because they are few.
/// An error of its own that was not there before.
const OWN_ERROR: f64 = 1.6;
/// The same, where an exception was thrown or the runtime or the system speaks of its own trouble.
const OWN_EXCEPTION: f64 = 2.2;
/// A warning of its own.
const OWN_WARNING: f64 = 0.8;
/// A line of its own that tells of no trouble.
const OWN_LINE: f64 = 0.3;
/// An error or warning that says that somebody else failed, without a name.
const OF_OTHERS: f64 = 0.2;
/// An error whose text names another service: what it says of that one.
const NAMES_OTHER: f64 = 1.2;
/// The same, where it names only what the service is about ("payment").
const NAMES_STEM: f64 = 0.5;
/// A line that ceased while the service went on.
const CEASED: f64 = 0.3;

/// A statement is new where this share of all lines had come before it.
const MIN_BEFORE: f64 = 0.08;
/// A rate counts as risen from this factor on.
const RISE: f64 = 2.0;

/// The anomalies of all statements. What a service whose requests are followed line by line does not write any more is told by
/// its steps (`stepping`).
pub(super) fn anomalies(context: &Context<'_>, stepping: &BTreeSet<ServiceName>) -> Vec<Anomaly> {
    // Errors are few: that one of them deviates is less likely by chance than that one of all statements does.
    let templates = || context.events.services.values().flat_map(|s| &s.templates);
    let grave = templates().filter(|t| is_grave(t)).count();
    let calm = templates().count() - grave;
    let mut out = vec![];
    for (service, log) in &context.events.services {
        let mut times: Vec<Vec<i64>> = vec![vec![]; log.templates.len()];
        for event in &log.events {
            if let Some(list) = times.get_mut(event.template as usize) {
                list.push(event.at);
            }
        }
        for (template, times) in log.templates.iter().zip(&times) {
            if !template.has_words() {
                continue;
            }
            let tests = if is_grave(template) { grave } else { calm };
            out.extend(more(context, service, template, times, tests));
            if !stepping.contains(service) {
                out.extend(fewer(context, service, log, template, times, tests));
            }
        }
    }
    out
}

fn is_grave(template: &Template) -> bool {
    template.level.is_some_and(|level| level >= Level::Warn)
}

/// A statement that came up or became frequent.
fn more(
    context: &Context<'_>,
    service: &ServiceName,
    template: &Template,
    times: &[i64],
    tests: usize,
) -> Option<Anomaly> {
    let first = *times.first()?;
    let count = times.len() as f64;
    // Trouble floods logs, and then the time before it looks short in lines: whichever clock shows more of it.
    let before = context.elapsed(first).max(context.recorded(first));
    let is_new = before >= MIN_BEFORE && context.is_of_onset(first);
    // Had it always come as often, would none have come in all the time before?
    let (nats, split, was) = if is_new {
        (-count * (1.0 - before).max(1e-6).ln(), first, 0.0)
    } else {
        let rise = |split: i64| {
            let x = context.elapsed(split);
            let early = times.partition_point(|at| *at < split) as f64;
            let late = count - early;
            let risen = late / (1.0 - x) > RISE * early / x;
            (if risen { of_rates(early, x, late, 1.0 - x) } else { 0.0 }, split, early)
        };
        context.splits.iter().map(|split| rise(*split)).max_by(|a, b| a.0.total_cmp(&b.0))?
    };
    let searched = if context.named.is_some() { tests } else { tests * context.splits.len().max(1) };
    let nats = corrected(nats, searched)?;
    let x = context.elapsed(split);
    let total = context.clock.len() as f64;
    // For each thousand lines of all services.
    let (rate_before, rate_after) =
        (was / (x * total) * 1e3, (count - was) / ((1.0 - x) * total).max(1.0) * 1e3);
    let (kind, direction) =
        if is_new { (Kind::NewTemplate, Direction::New) } else { (Kind::SpikingTemplate, Direction::Up) };
    let level = template.level.unwrap_or(Level::Info);
    let own = own_weight(template, level);
    let callee = template.call.as_ref().and_then(|call| {
        call.service.clone().or_else(|| context.behind(&call.host, service)).map(|callee| (callee, call))
    });
    let (place, kind, full, blamed) = match callee {
        Some((callee, call)) => {
            let place = Place::Edge { caller: service.clone(), callee: callee.clone() };
            (place, Kind::Errors, says_of_callee(call.kind, call.passed_on), Some(callee))
        }
        // Somebody outside of what is known here.
        None if template.call.is_some() => (Place::Service(service.clone()), Kind::Errors, OWN_LINE, None),
        None => {
            let named =
                (level >= Level::Warn).then(|| context.named_in(&template.sample.0, service)).flatten();
            let full = match &named {
                Some((_, true)) => NAMES_OTHER,
                Some((_, false)) => NAMES_STEM,
                None => own,
            };
            (Place::Service(service.clone()), kind, full, named.map(|(other, _)| other))
        }
    };
    let spread = if direction == Direction::New { 1.0 } else { 0.7 };
    let onset = times.get(times.partition_point(|at| *at < split)).copied().unwrap_or(first);
    let last = times.last().copied().unwrap_or(first);
    let gap = (last - onset) as f64 / 1e6 / (count - was).max(1.0);
    let value = format!("{} lines, {} of them since it began", times.len(), count - was);
    Some(
        Anomaly::new(place, Signal::Log, kind, &template.text, direction)
            .weighing(weight(full * spread, nats), nats)
            .values(rate_before, rate_after, "lines per 1000")
            .since(time(onset), gap.max(0.001))
            .blaming(blamed)
            .evidence(evidence(template, value, time(onset))),
    )
}

/// A statement that ceased while its service wrote on.
fn fewer(
    context: &Context<'_>,
    service: &ServiceName,
    log: &ServiceEvents,
    template: &Template,
    times: &[i64],
    tests: usize,
) -> Option<Anomaly> {
    // An error that is gone is no fault.
    if is_grave(template) {
        return None;
    }
    let best = context.splits.iter().map(|split| {
        let lines_before = log.events.partition_point(|event| event.at < *split) as f64;
        let lines_after = log.events.len() as f64 - lines_before;
        let before = times.partition_point(|at| at < split) as f64;
        let after = times.len() as f64 - before;
        let fallen = after * lines_before * RISE < before * lines_after;
        let nats = if fallen { of_rates(before, lines_before, after, lines_after) } else { 0.0 };
        (nats, *split, before / lines_before.max(1.0) * 1e3, after / lines_after.max(1.0) * 1e3)
    });
    let (nats, split, before, after) = best.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let searched = if context.named.is_some() { tests } else { tests * context.splits.len().max(1) };
    let nats = corrected(nats, searched)?;
    let last = times.get(times.partition_point(|at| *at < split).checked_sub(1)?).copied()?;
    let (kind, direction) =
        (Kind::VanishedTemplate, if after == 0.0 { Direction::Gone } else { Direction::Down });
    let value = format!("{before:.1} of 1000 lines of the service before, {after:.1} since");
    Some(
        Anomaly::new(Place::Service(service.clone()), Signal::Log, kind, &template.text, direction)
            .weighing(weight(CEASED, nats), nats)
            .values(before, after, "lines per 1000")
            .since(time(last), 1.0)
            .evidence(evidence(template, value, time(last))),
    )
}

/// What a statement that names nobody else says of its own service, at best.
fn own_weight(template: &Template, level: Level) -> f64 {
    if level < Level::Warn {
        return OWN_LINE;
    }
    let text = &template.sample.0;
    if is_of_others(text) {
        OF_OTHERS
    } else if template.thrown || mark(text).is_some() || of_the_system(text) {
        OWN_EXCEPTION
    } else if level == Level::Warn {
        OWN_WARNING
    } else {
        OWN_ERROR
    }
}

/// Whether a text says that somebody who was called failed.
fn is_of_others(text: &str) -> bool {
    const WORDS: &[&str] =
        &["upstream", "downstream", "dependency", "backend", "remote host", "remote server", "by peer"];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

/// What a caller's error says of the one that it called, at best.
fn says_of_callee(kind: failure_text::Kind, passed_on: bool) -> f64 {
    use failure_text::Kind::*;
    let full = match kind {
        // Nothing listens there, or nobody is there.
        Refused | NoAddresses => 2.0,
        // Its certificate, its protocol, its limits, its answers.
        Tls | Scheme | TooMany | TooLarge | Unimplemented => 1.4,
        Reset | ConnectTimeout | Unreachable => 1.4,
        Timeout => 1.2,
        Status(429) => 1.2,
        Status(code) if code >= 500 => 1.2,
        // The caller asks for what is not there, or may not.
        Status(_) | NoSuchHost | Pings => 0.2,
        // The resolver, and the caller's own pool, say little of the callee.
        Resolver | Pool => 0.2,
    };
    if passed_on { full / 4.0 } else { full }
}
