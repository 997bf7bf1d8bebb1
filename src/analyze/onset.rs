//! When the trouble may have begun: as somebody said, or where series jump. Which of these it was is decided together with who did
//! it, in `causal/scan.rs`.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::anomaly::{Kind, Place};
use super::beginnings;
use super::series;
use super::series::prepare::{Reading, Readings};
use super::series::shift::{self, own_share};
use super::series::stats::{Window, median, quantile_within};
use crate::model::memo::Derived;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};

/// A jump counts from this many robust standard deviations on, and for at most [`MOST`] (natural logarithm).
const TELLING: f64 = 3.0;
/// No single series decides when it began.
const MOST: f64 = 5.0;
/// A bound that spares the exact test gives way by this part, for arithmetic rounds.
const ROUNDING: f64 = 1e-9;
/// Points before a jump that it is measured against.
const BASELINE: usize = 60;
/// Points from which on a new baseline takes less time than sliding along.
const CATCH_UP: usize = 16;
/// An incident that began this long before the end of the window is half as likely the one that is asked about: people ask
/// while it lasts, and look back for an hour at most.
const HALF_LIFE: f64 = 1800.0;
/// What a jump still says that is over at the end of the window.
const OVER: f64 = 0.3;
/// A given onset is an alert's, which fires minutes after the trouble began: so many seconds, or steps, are looked back.
const ALERT_DELAY: (f64, f64) = (1200.0, 3.0);
/// How fast a beginning loses weight with its distance from a given onset, in seconds.
const DISTANCE: f64 = 900.0;
/// Weight that a beginning needs to be one at all: two services that jump at once.
const CONVINCING: f64 = 2.0;
/// Beginnings that are looked at closely: each costs as much as one that is given.
const MAX_CANDIDATES: usize = 5;
/// What somebody says is off by so many seconds: alerts and people round to minutes.
const MINUTE: f64 = 60.0;

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

impl Onset {
    /// Seconds before [`Onset::at`] from which on what was measured belongs to neither side for sure. An alert is late by a step or two;
    /// what was found lies between two points already.
    pub fn slack(&self) -> f64 {
        if self.known == Known::Given { self.margin } else { 0.0 }
    }
}

/// An instant at which it may have begun, before anything is known of who did it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The instant, how it is known, and how far it may be off.
    pub onset: Onset,
    /// The natural logarithm of how likely it is beforehand, relative to the likeliest.
    pub prior: f64,
}

/// Instants at which the trouble may have begun, at most [`MAX_CANDIDATES`]: what somebody said, instants that other signals
/// name (`named`, in Unix seconds), and where most readings jump. Empty where nobody said anything and nothing jumps.
pub fn candidates(snapshot: &Snapshot, named: &[f64]) -> Vec<Candidate> {
    let readings = &snapshot.derived::<Readings>().0;
    let steps: Vec<f64> = readings.iter().map(|reading| reading.step).collect();
    let step = median(&steps).unwrap_or(MINUTE).max(1.0);
    let given = snapshot.onset.map(to_unix);
    let mut out: Vec<Candidate> = vec![];
    if let Some(at) = snapshot.onset {
        let onset = Onset { at, known: Known::Given, margin: step.max(MINUTE) };
        out.push(Candidate { onset, prior: 0.0 });
    }
    let bounds = |readings: &[Reading]| {
        let start = readings.iter().filter_map(|r| r.times.first().copied()).reduce(f64::min)?;
        let end = readings.iter().filter_map(|r| r.times.last().copied()).reduce(f64::max)?;
        Some((start, end))
    };
    let (start, end) = bounds(readings).unwrap_or_default();
    let search = Search { given, step, start, end };
    let jumped = search.jumped(readings);
    // Where no series says anything, spans and logs may.
    if given.is_none()
        && jumped.is_empty()
        && let Some((at, margin)) = beginnings::together(snapshot)
    {
        out.push(Candidate { onset: Onset { at, known: Known::Found, margin }, prior: 0.0 });
    }
    let told = named.iter().copied().filter(|at| search.covers(*at));
    for at in told.chain(jumped) {
        let near = |one: &Candidate| (to_unix(one.onset.at) - at).abs() < step / 2.0;
        if out.len() >= MAX_CANDIDATES || out.iter().any(near) {
            continue;
        }
        if let Some(instant) = from_unix(at) {
            let onset = Onset { at: instant, known: Known::Found, margin: step };
            out.push(Candidate { onset, prior: search.prior(at) });
        }
    }
    out
}

/// The likeliest onset before anything is known of who did it, as [`Snapshot::derived`] keeps it: `None` where nobody said it and nothing
/// shows it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Estimate(pub Option<Onset>);

impl Derived for Estimate {
    fn derive(snapshot: &Snapshot) -> Self {
        Estimate(candidates(snapshot, &[]).first().map(|candidate| candidate.onset))
    }
}

/// Where beginnings are looked for.
#[derive(Debug, Clone, Copy)]
struct Search {
    /// What somebody said.
    given: Option<f64>,
    /// Seconds between points, typically.
    step: f64,
    /// The first and the last point of all.
    start: f64,
    end: f64,
}

impl Search {
    /// Seconds that are looked back from what somebody said.
    fn back(&self) -> f64 {
        ALERT_DELAY.0.max(ALERT_DELAY.1 * self.step)
    }

    /// Whether the trouble may have begun at an instant. What came after somebody said so shows in the looks after that as well.
    fn covers(&self, at: f64) -> bool {
        self.given.is_none_or(|given| (given - self.back()..=given).contains(&at))
    }

    /// The natural logarithm of how likely an instant is beforehand. As likely as what was said is all the time before it together,
    /// so each step of that has its part; unless somebody said anything, the latest are the likeliest.
    fn prior(&self, at: f64) -> f64 {
        match self.given {
            Some(given) => {
                -(1.0 + self.back() / self.step).ln() - (given - at).abs() / DISTANCE.max(3.0 * self.step)
            }
            None => -(1.0 + (self.end - at).max(0.0) / HALF_LIFE).ln(),
        }
    }

    /// The instants at which most readings jump, each kind at each place counted once: the most telling first.
    fn jumped(&self, readings: &[Reading]) -> Vec<f64> {
        let near = |at: f64| self.covers(at);
        let mut pieces: BTreeMap<i64, BTreeMap<(&Place, Kind), f64>> = BTreeMap::new();
        let mut room = vec![];
        for jump in readings.iter().flat_map(|reading| jumps(reading, self.given, &near, &mut room)) {
            let piece = ((jump.at - self.start) / self.step).round() as i64;
            let known = pieces.entry(piece).or_default().entry(jump.what).or_default();
            *known = known.max(jump.weight);
        }
        // Unless somebody says when it began, what ceases may begin it as well as what jumps.
        let mut silences: BTreeMap<i64, f64> = BTreeMap::new();
        if self.given.is_none() {
            for (at, weight) in series::silences(readings) {
                let piece = ((at - self.start) / self.step).round() as i64;
                *silences.entry(piece).or_default() += weight;
                pieces.entry(piece).or_default();
            }
        }
        let weight = |piece: i64| {
            let jumped = pieces.get(&piece).map_or(0.0, |all| all.values().sum::<f64>());
            jumped + silences.get(&piece).copied().unwrap_or_default()
        };
        let mut found: Vec<(f64, f64)> = vec![];
        for piece in pieces.keys() {
            let at = self.start + *piece as f64 * self.step;
            // Scrapes of different targets fall into neighbouring pieces, and effects show after their cause.
            let raw = weight(*piece) + 0.5 * weight(piece + 1) + 0.25 * weight(piece - 1);
            if raw >= CONVINCING {
                // It began somewhere between the last quiet point and the first loud one.
                found.push((raw * self.prior(at).exp(), at - self.step / 2.0));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        found.into_iter().map(|(_, at)| at).collect()
    }
}

/// The values before a point, [`BASELINE`] at most, in ascending order: they slide along with the point.
#[derive(Debug, Default)]
struct Baseline {
    window: Window,
    /// The point before which they are.
    at: usize,
}

impl Baseline {
    /// Those before a point that is none of the earlier ones.
    fn before(&mut self, values: &[f64], at: usize) -> &[f64] {
        if at - self.at > CATCH_UP {
            self.window.fill(values.get(at.saturating_sub(BASELINE)..at).unwrap_or_default());
            self.at = at;
        }
        while self.at < at {
            let entering = values.get(self.at).copied().unwrap_or_default();
            match self.at.checked_sub(BASELINE).and_then(|leaving| values.get(leaving)) {
                Some(leaving) => self.window.replace(*leaving, entering),
                None => self.window.insert(entering),
            }
            self.at += 1;
        }
        self.window.sorted()
    }
}

/// One reading that jumps: where, what, when, how surely.
struct Jump<'a> {
    what: (&'a Place, Kind),
    at: f64,
    weight: f64,
}

/// Where a reading jumps: the next look differs from the last two points by most of what it differs from the baseline.
fn jumps<'a>(
    reading: &'a Reading,
    given: Option<f64>,
    near: &dyn Fn(f64) -> bool,
    room: &mut Vec<f64>,
) -> Vec<Jump<'a>> {
    let (times, values) = (&reading.times, &reading.values);
    let count = values.len();
    let share = own_share(reading.meaning.kind, reading.meaning.side);
    let typical = |from: usize, to: usize| values.get(from..to.min(count)).and_then(median);
    // How much neighbours differ anyhow: a cheap bound that spares the exact test at most points.
    room.clear();
    room.extend(values.iter().zip(values.iter().skip(1)).map(|(a, b)| (b - a).abs()));
    let restless = quantile_within(room, 0.5).unwrap_or(0.0);
    // What is sudden enough differs from its neighbours by half of what tells at least.
    let telling = |scale: f64| TELLING / 2.0 * scale * (1.0 - ROUNDING);
    let floor = telling(shift::least_floor(reading));
    let last = typical(count.saturating_sub(shift::LOOK), count);
    // Whoever names an onset sees the trouble then: what was over before is another one.
    let named = given.map(|given| times.partition_point(|time| *time < given));
    let at_named = named.and_then(|at| typical(at.saturating_sub(2), at + 1));
    let mut out = vec![];
    let mut baseline = Baseline::default();
    for (at, time) in times.iter().enumerate().take(count.saturating_sub(1)).skip(shift::FEWEST_BEFORE) {
        let Some(value) = values.get(at) else { continue };
        let Some(earlier) = typical(at - 2, at) else { continue };
        let step = value - earlier;
        if step.abs() <= restless || step.abs() < floor || !near(*time) {
            continue;
        }
        // So does what follows, on the same side.
        let Some(look) = typical(at, at + shift::LOOK) else { continue };
        let follows = (look - earlier) * step.signum();
        if follows < floor {
            continue;
        }
        let sorted = baseline.before(values, at);
        let least = telling(shift::least_scale(reading, sorted).unwrap_or(0.0));
        if step.abs() < least || follows < least {
            continue;
        }
        let Some((middle, scale)) = shift::scale(reading, sorted) else { continue };
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
    use crate::model::json::json;
    use crate::model::series::read;
    use crate::model::snapshot::Builder;

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
    fn the_instant_at_which_most_series_change_comes_first() {
        for offset in [0, 1_700_000_000] {
            let found = candidates(&snapshot(offset), &[])[0].onset;
            let away = found.at.as_second() - (offset + 22 * 60);
            assert!(away.abs() <= 60, "{away}");
            assert_eq!(found.known, Known::Found);
        }
    }

    #[test]
    fn what_somebody_said_is_the_likeliest_and_nothing_after_it_is() {
        let mut said = snapshot(0);
        said.onset = "1970-01-01T00:30:00Z".parse().ok();
        let all = candidates(&said, &[]);
        assert_eq!((Some(all[0].onset.at), all[0].onset.known), (said.onset, Known::Given));
        assert!(all.len() > 1 && all.iter().skip(1).all(|one| one.prior < all[0].prior));
        assert!(all.iter().all(|one| Some(one.onset.at) <= said.onset), "{all:?}");
        said.onset = "1970-01-01T00:05:00Z".parse().ok();
        assert_eq!(candidates(&said, &[]).len(), 1, "the jump comes long after that");
    }
}
