//! What series say: any series of numbers, whether its metric is known or not.
//!
//! ```text
//! series ─prepare─> readings ─shift─> z against the own baseline ─weigh─> likelihood ratio ─> anomalies
//!            │ rates, means, failures      │ floors without a unit       │ corrected for how many were looked at
//!            └ meaning (words), place (labels)
//! ```

pub mod load;
pub mod meaning;
mod place;
pub mod prepare;
pub mod shift;
pub mod stats;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::anomaly::{Anomaly, Direction, Kind, MAX_LOG_LR, Place, Signal, bounded};
use super::finding::Evidence;
use super::onset::Onset;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};
use meaning::Side;
use prepare::{Reading, Readings};
use shift::{Shift, measure, own_share};

/// The shift, in robust standard deviations, at which "faulty" and "not faulty" are equally likely for one series looked at.
const EVEN: f64 = 3.0;
/// How fast the ratio grows with the shift: shifts of healthy series fall off like Student's t with three degrees of freedom
/// (density z⁻⁴), those of faulty ones like a half-Cauchy (z⁻²); the ratio grows with z².
const GROWTH: f64 = 2.0;
/// What a move in the good direction still says: a service that fails fast is quick, and one without requests has no errors.
const GOOD_DIRECTION: f64 = 0.2;
/// Ratios below this are not worth a line (natural logarithm; e^0.4 ≈ 1.5).
const WORTH_TELLING: f64 = 0.4;
/// What a shift still says that was over long before the end: whoever names no onset asks about what is wrong now, and an earlier
/// incident that passed is another one.
const OVER: f64 = 0.3;
/// Half of the rest of it is gone after so many seconds, or steps: whoever looks for a cause looks within some minutes.
const FORGOTTEN: (f64, f64) = (200.0, 5.0 / 3.0);
/// What was seen within so many seconds, or steps, before the end of the window may still last.
const STILL: (f64, f64) = (120.0, 2.0);
/// A series that has no point for this many of its steps at the end of the window has ceased.
const SILENT_STEPS: f64 = 5.0;
/// The same for a place with [`SEVERAL`] series or more.
const SILENT_TOGETHER: f64 = 2.5;
/// See [`SILENT_TOGETHER`].
const SEVERAL: usize = 3;
/// What a pod, or a node, says whose series all ceased: pods come and go (natural logarithm of a likelihood ratio).
const GONE: f64 = 2.0;
/// What a service says of which nothing goes on: hardly anything else stops all that is measured of one service only.
const SERVICE_GONE: f64 = 5.0;

/// The natural logarithm of the likelihood ratio of a shift, when the largest of `looked_at` series is reported. The largest
/// of m shifts with tails z⁻³ is typically m^⅓ times larger: Šidák's correction for these tails.
fn log_lr(z: f64, looked_at: usize) -> f64 {
    let typical = EVEN * (looked_at.max(1) as f64).cbrt();
    // Bounded softly, so that of two that are certain the larger one still says more.
    MAX_LOG_LR * (GROWTH * (z.abs() / typical).ln() / MAX_LOG_LR).max(0.0).tanh()
}

/// What deviates in series since an onset; nothing where no onset is known, for then there is no "before".
pub fn anomalies(snapshot: &Snapshot, onset: Option<Onset>) -> Vec<Anomaly> {
    let Some((onset, slack)) = onset.map(|onset| (to_unix(onset.at), onset.slack())) else { return vec![] };
    let readings = snapshot.derived::<Readings>();
    let end = readings.0.iter().filter_map(|reading| reading.times.last().copied()).fold(f64::MIN, f64::max);
    // Of each kind at each place the worst counts: percentiles and pods say the same thing several times.
    let mut worst: BTreeMap<(&Place, Kind, Side), Moved<'_>> = BTreeMap::new();
    let mut room = vec![];
    let loads = load::loads(&readings.0, onset - slack);
    for reading in &readings.0 {
        let meaning = &reading.meaning;
        let own = own_share(meaning.kind, meaning.side);
        // Everything else that is known of a shift makes it say less.
        let worth = |z: f64| log_lr(z, reading.beside) * own >= WORTH_TELLING;
        // What follows from its load is no deviation, and hides none.
        let load = reading.service().and_then(|service| loads.get(service));
        let steady = load.and_then(|load| load::at_usual_load(load, reading, onset - slack));
        let looked_at = steady.as_ref().unwrap_or(reading);
        let Some(shift) = measure(looked_at, onset, slack, &mut room, worth) else { continue };
        let good = match bad_direction(reading) {
            Some(Direction::Up) => shift.z < 0.0,
            Some(Direction::Down) => shift.z > 0.0,
            _ => false,
        };
        let towards = if good { GOOD_DIRECTION } else { 1.0 };
        // Who names no onset asks about what is wrong now.
        let quiet = reading.times.get(shift.until).map_or(0.0, |until| end - until);
        let lasting = if snapshot.onset.is_none() { lasting(quiet, reading.step) } else { 1.0 };
        let over = quiet > STILL.0.max(STILL.1 * reading.step);
        let odds = log_lr(shift.z, reading.beside).min(shift.at_most) * own * towards * lasting;
        let this = Moved { odds, shift, reading, steady: steady.is_some(), over };
        let best = worst.entry((&reading.place, meaning.kind, meaning.side)).or_insert(this);
        if odds > best.odds {
            *best = this;
        }
    }
    let moved = worst.into_values().filter(|moved| moved.odds >= WORTH_TELLING);
    let mut out: Vec<Anomaly> = moved.map(moved_away).collect();
    out.extend(ceased(&readings.0, onset));
    bounded(out)
}

/// What is left of a shift that was last seen so many seconds before the end, in a series with so many between points.
fn lasting(quiet: f64, step: f64) -> f64 {
    let over = (quiet - STILL.0.max(STILL.1 * step)).max(0.0);
    OVER + (1.0 - OVER) * 0.5f64.powf(over / FORGOTTEN.0.max(FORGOTTEN.1 * step))
}

/// The direction that is bad for a reading's values: failures that were turned over from successes are bad when they rise.
fn bad_direction(reading: &Reading) -> Option<Direction> {
    if reading.ceiling.is_some() { Some(Direction::Up) } else { reading.meaning.bad }
}

/// A reading that moved, and what that says (natural logarithm of a likelihood ratio).
#[derive(Clone, Copy)]
struct Moved<'a> {
    odds: f64,
    shift: Shift,
    reading: &'a Reading,
    /// Its load was taken out.
    steady: bool,
    /// It was seen no more at the end of the window.
    over: bool,
}

fn moved_away(moved: Moved<'_>) -> Anomaly {
    let Moved { odds, shift, reading, steady, over } = moved;
    let (before, after) = (reading.original(shift.before), reading.original(shift.after));
    let direction = if after >= before { Direction::Up } else { Direction::Down };
    let name = if reading.variant.is_empty() {
        reading.name.clone()
    } else {
        format!("{} {}", reading.name, reading.variant)
    };
    let onset = reading.times.get(shift.at).copied().and_then(from_unix);
    let value = format!(
        "{} {} from {} to {}{}, {:.0} times its usual spread",
        reading.meaning.kind.as_str(),
        direction.as_str(),
        short(before),
        short(after),
        if steady { " beyond what its load accounts for" } else { "" },
        shift.z.abs()
    );
    // What a client measures speaks of what it calls; whom exactly, the graph decides.
    let kind = if reading.meaning.side == Side::Client && reading.meaning.kind == Kind::Latency {
        Kind::Waiting
    } else {
        reading.meaning.kind
    };
    let evidence = Evidence::new("Metric", reading.place.to_string(), value).at(onset).excerpt(&name);
    Anomaly::new(reading.place.clone(), Signal::Series, kind, &name, direction)
        .weighing(odds, shift.z)
        .values(before, after, unit(reading))
        .since(onset, reading.step)
        .until(reading.times.get(shift.until).copied().filter(|_| over).and_then(from_unix))
        .evidence(evidence)
}

/// Places all of whose series ceased while others go on: the pod is gone, or, where none of a service's goes on, the service.
fn ceased(readings: &[Reading], onset: f64) -> Vec<Anomaly> {
    let end = readings.iter().filter_map(|r| r.times.last().copied()).fold(f64::MIN, f64::max);
    let mut places: BTreeMap<Place, Vec<&Reading>> = BTreeMap::new();
    for reading in readings.iter().filter(|reading| !matches!(reading.place, Place::Edge { .. })) {
        match places.get_mut(&reading.place) {
            Some(own) => own.push(reading),
            None => drop(places.insert(reading.place.clone(), vec![reading])),
        }
        if let (Place::Pod { .. }, Some(service)) = (&reading.place, reading.service()) {
            places.entry(Place::Service(service.clone())).or_default().push(reading);
        }
    }
    let gone = |(place, own): (Place, Vec<&Reading>)| {
        let at = own.iter().filter_map(|reading| reading.times.last().copied()).fold(f64::MIN, f64::max);
        let step = own.iter().map(|reading| reading.step).fold(0.0, f64::max);
        let points: usize = own.iter().map(|reading| reading.times.len()).sum();
        // That one series misses some points happens; that several miss the same ones seldom does.
        let steps = if own.len() >= SEVERAL { SILENT_TOGETHER } else { SILENT_STEPS };
        let silent =
            end - at > steps * step && at >= onset - SILENT_STEPS * step && points > shift::FEWEST_BEFORE;
        let weight = if matches!(place, Place::Service(_)) { SERVICE_GONE } else { GONE };
        silent.then(|| {
            let since = from_unix(at + step);
            let value = format!("no series of it goes on; others do for {} s more", short(end - at));
            Anomaly::new(place.clone(), Signal::Series, Kind::Missing, "all series", Direction::Gone)
                .weighing(weight, (end - at) / step)
                .since(since, step)
                .evidence(Evidence::new("Metric", place.to_string(), value).at(since))
        })
    };
    places.into_iter().filter_map(gone).collect()
}

/// When places ceased, in Unix seconds, with what that says of each.
pub fn silences(readings: &[Reading]) -> impl Iterator<Item = (f64, f64)> {
    let all = ceased(readings, f64::NEG_INFINITY);
    all.into_iter().filter_map(|anomaly| Some((to_unix(anomaly.onset?), anomaly.log_lr)))
}

/// A unit that the metric's name gives away.
fn unit(reading: &Reading) -> &'static str {
    let name = reading.name.to_ascii_lowercase();
    let words = meaning::words(&reading.name);
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let base = if name.contains('%') || any(&["pct", "percent"]) || reading.ceiling == Some(100.0) {
        "%"
    } else if any(&["ms", "milliseconds"]) {
        "ms"
    } else if any(&["seconds", "s"]) {
        "s"
    } else if any(&["ratio"]) || reading.ceiling.is_some() {
        "share"
    } else if any(&["bytes"]) {
        "bytes"
    } else {
        ""
    };
    if reading.meaning.counter { "1/s" } else { base }
}

/// A number as a reader wants it: three significant digits.
pub fn short(value: f64) -> String {
    let magnitude = if value == 0.0 { 0 } else { value.abs().log10().floor() as i32 };
    let digits = (2 - magnitude).clamp(0, 6) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
