//! When the trouble began: given, or found in what was seen.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::anomaly::{Kind, Place};
use super::beginnings;
use super::series::prepare::{Reading, Readings};
use super::series::shift::{self, own_share};
use super::series::stats::median;
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};

/// A jump counts from this many robust standard deviations on, and for at most [`MOST`] (natural logarithm).
const TELLING: f64 = 3.0;
/// No single series decides when it began.
const MOST: f64 = 5.0;
/// Points before a jump that it is measured against.
const BASELINE: usize = 60;
/// An incident that began this long before the end of the window is half as likely the one that is asked about: people ask
/// while it lasts, and look back for an hour at most.
const HALF_LIFE: f64 = 1800.0;
/// What a jump still says that is over at the end of the window.
const OVER: f64 = 0.3;
/// A given onset is an alert's, which fires minutes after the trouble began: so many seconds, or steps, are looked back.
const ALERT_DELAY: (f64, f64) = (1200.0, 3.0);
/// And so many forward: the next scrape or two show it.
const SCRAPES: (f64, f64) = (120.0, 1.5);
/// How fast a beginning loses weight with its distance from a given onset, in seconds.
const DISTANCE: f64 = 900.0;
/// Weight that a beginning needs to replace what somebody said, or to be one at all: two services that jump at once.
const CONVINCING: f64 = 2.0;

/// How the onset is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Somebody said so.
    Given,
    /// Series jump there, or spans and logs where no series does.
    Found,
}

/// When the trouble began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Onset {
    /// The instant.
    pub at: Timestamp,
    /// How it is known.
    pub known: Known,
    /// It may be this many seconds off, either way.
    pub margin: f64,
}

/// The onset of a snapshot, as [`Snapshot::derived`] keeps it: `None` where nobody said it and nothing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate(pub Option<Onset>);

impl Derived for Estimate {
    fn derive(snapshot: &Snapshot) -> Self {
        Estimate(estimate(snapshot))
    }
}

/// When the trouble began: where most jumps at once, near what somebody said if anybody did. Expensive: read it through
/// `snapshot.derived::<Estimate>()`.
pub fn estimate(snapshot: &Snapshot) -> Option<Onset> {
    let found = of_series(&snapshot.derived::<Readings>().0, snapshot.onset.map(to_unix));
    let given = snapshot.onset.map(|at| Onset { at, known: Known::Given, margin: 60.0 });
    let shown = || {
        let (at, margin) = beginnings::together(snapshot)?;
        Some(Onset { at, known: Known::Found, margin })
    };
    found.or(given).or_else(shown)
}

/// One reading that jumps: where, what, when, how surely.
struct Jump<'a> {
    what: (&'a Place, Kind),
    at: f64,
    weight: f64,
}

/// The instant at which most readings jump, each kind at each place counted once.
fn of_series(readings: &[Reading], given: Option<f64>) -> Option<Onset> {
    let steps: Vec<f64> = readings.iter().map(|reading| reading.step).collect();
    let step = median(&steps)?.max(1.0);
    let start = readings.iter().filter_map(|r| r.times.first().copied()).reduce(f64::min)?;
    let end = readings.iter().filter_map(|r| r.times.last().copied()).reduce(f64::max)?;
    let near = |at: f64| {
        given.is_none_or(|given| {
            let back = ALERT_DELAY.0.max(ALERT_DELAY.1 * step);
            (given - back..=given + SCRAPES.0.max(SCRAPES.1 * step)).contains(&at)
        })
    };
    let mut pieces: BTreeMap<i64, BTreeMap<(&Place, Kind), f64>> = BTreeMap::new();
    for jump in readings.iter().flat_map(|reading| jumps(reading, given, &near)) {
        let piece = ((jump.at - start) / step).round() as i64;
        let known = pieces.entry(piece).or_default().entry(jump.what).or_default();
        *known = known.max(jump.weight);
    }
    let weight = |piece: i64| pieces.get(&piece).map_or(0.0, |all| all.values().sum::<f64>());
    let mut best: Option<(f64, f64)> = None;
    for piece in pieces.keys() {
        let at = start + *piece as f64 * step;
        // Scrapes of different targets fall into neighbouring pieces, and effects show after their cause.
        let raw = weight(*piece) + 0.5 * weight(piece + 1) + 0.25 * weight(piece - 1);
        let likely = match given {
            Some(given) => (-(at - given).abs() / DISTANCE.max(3.0 * step)).exp(),
            None => 1.0 / (1.0 + (end - at) / HALF_LIFE),
        };
        if raw >= CONVINCING && best.is_none_or(|(most, _)| raw * likely > most * (1.0 + 1e-9)) {
            best = Some((raw * likely, at));
        }
    }
    // It began somewhere between the last quiet point and the first loud one.
    let at = from_unix(best?.1 - step / 2.0)?;
    Some(Onset { at, known: Known::Found, margin: step })
}

/// Where a reading jumps: the next look differs from the last two points by most of what it differs from the baseline.
fn jumps<'a>(reading: &'a Reading, given: Option<f64>, near: &dyn Fn(f64) -> bool) -> Vec<Jump<'a>> {
    let (times, values) = (&reading.times, &reading.values);
    let count = values.len();
    let share = own_share(reading.meaning.kind, reading.meaning.side);
    let typical = |from: usize, to: usize| values.get(from..to.min(count)).and_then(median);
    // How much neighbours differ anyhow: a cheap bound that spares the exact test at most points.
    let steps: Vec<f64> = values.iter().zip(values.iter().skip(1)).map(|(a, b)| (b - a).abs()).collect();
    let restless = median(&steps).unwrap_or(0.0);
    let last = typical(count.saturating_sub(shift::LOOK), count);
    // Whoever names an onset sees the trouble then: what was over before is another one.
    let named = given.map(|given| times.partition_point(|time| *time < given));
    let at_named = named.and_then(|at| typical(at.saturating_sub(2), at + 1));
    let mut out = vec![];
    for (at, time) in times.iter().enumerate().skip(shift::FEWEST_BEFORE) {
        if !near(*time) || at + 1 >= count {
            continue;
        }
        let (Some(value), Some(earlier)) = (values.get(at), typical(at - 2, at)) else { continue };
        if (value - earlier).abs() <= restless {
            continue;
        }
        let Some(before) = values.get(at.saturating_sub(BASELINE)..at) else { continue };
        let (Some((middle, scale)), Some(look)) =
            (shift::scale(reading, before), typical(at, at + shift::LOOK))
        else {
            continue;
        };
        let (first, typical_after, just_before) =
            ((value - middle) / scale, (look - middle) / scale, (earlier - middle) / scale);
        let height = first.abs().min(typical_after.abs());
        let sudden = if just_before * first > 0.0 { height - just_before.abs() } else { height };
        if first * typical_after <= 0.0 || height < TELLING || sudden < height / 2.0 {
            continue;
        }
        let persists =
            |look: Option<f64>| look.is_some_and(|v| (v - middle) / scale * first.signum() >= height / 2.0);
        if named.is_some_and(|named| at < named) && !persists(at_named) {
            continue;
        }
        let lasts = persists(last);
        let weight = (2.0 * (height / TELLING).ln()).min(MOST) * share * if lasts { 1.0 } else { OVER };
        out.push(Jump { what: (&reading.place, reading.meaning.kind), at: *time, weight });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::series::read;
    use crate::model::snapshot::Builder;
    use serde_json::json;

    fn snapshot(offset: i64) -> Snapshot {
        let mut builder = Builder::new();
        for service in 0..6 {
            let points: Vec<_> = (0..30)
                .map(|n| {
                    let risen = if n >= 22 && service < 4 { 50 } else { 0 };
                    json!([offset + n * 60, format!("{}", (n * 7 + service * 3) % 11 + risen)])
                })
                .collect();
            let metric = json!({"__name__": "m", "service": format!("s{service}")});
            builder.series(read(&json!({"data": {"result": [{"metric": metric, "values": points}]}}), "m"));
        }
        builder.finish()
    }

    #[test]
    fn the_instant_at_which_most_series_change_is_the_onset() {
        for offset in [0, 1_700_000_000] {
            let found = estimate(&snapshot(offset)).unwrap();
            let away = found.at.as_second() - (offset + 22 * 60);
            assert!(away.abs() <= 60, "{away}");
            assert_eq!(found.known, Known::Found);
        }
    }

    #[test]
    fn what_somebody_said_counts() {
        let mut said = snapshot(0);
        said.onset = "1970-01-01T00:05:00Z".parse().ok();
        assert_eq!(estimate(&said).map(|o| (o.at, o.known)), said.onset.map(|at| (at, Known::Given)));
    }
}
