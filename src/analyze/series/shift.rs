//! How far a series has moved from what it was, in units of its own noise.

use super::meaning::Side;
use super::prepare::Reading;
use super::stats::{median, median_distance, of_sorted, quantile_within};
use crate::analyze::anomaly::Kind;

/// Points before the onset that a baseline needs: fewer have no spread to speak of.
pub const FEWEST_BEFORE: usize = 4;
/// Points that make one look, where they are close to each other.
pub const LOOK: usize = 3;
/// Seconds that a look takes: a point that stands for five minutes is as much as five that stand for one.
const LOOK_SECONDS: f64 = 180.0;
/// Points after the onset among which the worst look is taken, or those of so many seconds: a fault of three minutes must not drown
/// in what follows, and one that takes minutes to show must be waited for.
const AFTER: (usize, f64) = (8, 480.0);
/// Points before the onset that make the baseline: what was long ago is another day.
const BEFORE: usize = 600;
/// A change below this part of the usual level is no trouble, however quiet the series was.
const LEVEL_FLOOR: f64 = 0.05;
/// Nor is one below this part of the metric's usual size at other services.
const PEER_FLOOR: f64 = 0.1;
/// The scale of a series that was always 0, as a part of its largest value: it cannot move by more than 50 of these.
const FROM_NOTHING: f64 = 0.02;
/// Failures out of all requests that anybody would notice, as a share: twice what an objective of 99.9 % allows.
const SHARE_FLOOR: f64 = 0.002;
/// Makes the distance of the quartiles comparable with a standard deviation, for a normal distribution.
const IQR_TO_SIGMA: f64 = 1.349;
/// Makes the median absolute deviation comparable with it.
const MAD_TO_SIGMA: f64 = 1.4826;
/// The share of looks at the baseline itself of which a shift must be in excess: a quarter of it may be an earlier incident.
const QUIET: f64 = 0.75;
/// Shifts that three of four looks stay within, in robust standard deviations, with room for tails wider than normal ones (1.15).
const NOISE: f64 = 1.5;

/// A move away from the baseline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// In robust standard deviations, with its sign; floors and the restlessness of the baseline are in it.
    pub z: f64,
    /// The typical value before, in the reading's own terms.
    pub before: f64,
    /// The worst look after.
    pub after: f64,
    /// Index of the first point of the first look that shows half of it: the worst one may come much later.
    pub at: usize,
    /// Index of the last point of the last look that shows half of it.
    pub until: usize,
    /// What it says at most, since looks before the onset went as far now and then (natural logarithm); infinite where none did.
    pub at_most: f64,
}

/// The middle and the scale of a baseline. The scale is never nothing: the series' own spread, a part of its level, a part
/// of the metric's size elsewhere. All of them have the series' own unit, so a change of units changes no score. The baseline is in
/// ascending order.
pub fn scale(reading: &Reading, sorted: &[f64]) -> Option<(f64, f64)> {
    let middle = of_sorted(sorted, 0.5)?;
    let own = (median_distance(sorted, middle)? * MAD_TO_SIGMA).max(quartiles_apart(sorted)?);
    let scale = own.hypot(floor(reading, middle));
    if scale > 0.0 {
        return Some((middle, scale));
    }
    // A series that was always 0 has neither spread nor level: it is measured against its own largest value.
    Some((middle, FROM_NOTHING * reading.largest())).filter(|(_, scale)| *scale > 0.0)
}

/// What the scale of a baseline in ascending order is at least, at the cost of three looks: it spares the exact one at most points.
pub fn least_scale(reading: &Reading, sorted: &[f64]) -> Option<f64> {
    Some(quartiles_apart(sorted)?.max(floor(reading, of_sorted(sorted, 0.5)?)))
}

fn quartiles_apart(sorted: &[f64]) -> Option<f64> {
    Some((of_sorted(sorted, 0.75)? - of_sorted(sorted, 0.25)?) / IQR_TO_SIGMA)
}

/// The part of a scale that is no noise: a part of the level, of the metric's size elsewhere, and what anybody would notice.
fn floor(reading: &Reading, middle: f64) -> f64 {
    (LEVEL_FLOOR * middle.abs()).max(least_floor(reading))
}

/// What the scale of any baseline of a reading is at least.
pub fn least_floor(reading: &Reading) -> f64 {
    (PEER_FLOOR * reading.peers).max(reading.noticeable)
}

/// What of a change in a reading anybody would notice; 0 where nothing tells.
pub fn noticeable(reading: &Reading) -> f64 {
    match (reading.ceiling, reading.meaning.kind) {
        (Some(ceiling), _) => SHARE_FLOOR * ceiling,
        // A share of errors that was 0: what names itself a ratio is one.
        (None, Kind::Errors) if reading.share || is_ratio(reading) => SHARE_FLOOR,
        _ => 0.0,
    }
}

/// What a look shows: its median, which forgives an outlier, and of two points the one nearer to `middle` for the same reason; of
/// failures the mean, since every one of them was felt and most points hold none.
fn typical(reading: &Reading, look: &[f64], middle: f64) -> Option<f64> {
    match (reading.meaning.kind, look) {
        (Kind::Errors | Kind::Availability, _) => Some(look.iter().sum::<f64>() / look.len().max(1) as f64),
        (_, [a, b]) => Some(if (a - middle).abs() <= (b - middle).abs() { *a } else { *b }),
        _ => median(look),
    }
}

fn is_ratio(reading: &Reading) -> bool {
    reading.name.to_ascii_lowercase().contains("ratio") && reading.values.iter().all(|value| *value <= 1.0)
}

/// Points that make one look at a reading.
fn width(reading: &Reading) -> usize {
    ((LOOK_SECONDS / reading.step).round() as usize).clamp(1, LOOK)
}

/// The worst look after an onset against what was before. Points of the last `slack` seconds before it are looked at as well, and
/// are no part of what was before. `None` where either side holds too little, or the worst look is not `worth` telling: most are not, and
/// what it takes to tell of one is most of the work. `sorted` is room to work in.
pub fn measure(
    reading: &Reading,
    onset: f64,
    slack: f64,
    sorted: &mut Vec<f64>,
    worth: impl Fn(f64) -> bool,
) -> Option<Shift> {
    let at = reading.times.partition_point(|time| *time < onset - slack);
    let part = at.saturating_sub(BEFORE)..at;
    let before = reading.values.get(part.clone())?;
    let after = reading.values.get(at..)?;
    if before.len() < FEWEST_BEFORE || after.is_empty() {
        return None;
    }
    reading.sorted_part(&part, sorted);
    let (middle, scale) = scale(reading, sorted)?;
    let width = width(reading).min(after.len());
    let mut worst: Option<Shift> = None;
    let looked_at = AFTER.0.max((AFTER.1 / reading.step) as usize);
    for (index, look) in after.windows(width).take(looked_at).enumerate() {
        let typical = typical(reading, look, middle)?;
        let z = (typical - middle) / scale;
        if worst.is_none_or(|known| z.abs() > known.z.abs()) {
            let (at, until) = (at + index, at + index + width - 1);
            worst = Some(Shift { z, before: middle, after: typical, at, until, at_most: f64::INFINITY });
        }
    }
    let mut worst = worst.filter(|worst| worth(worst.z))?;
    let still = |look: &[f64]| {
        let away = typical(reading, look, middle).map_or(0.0, |typical| (typical - middle) / scale);
        away * worst.z.signum() >= worst.z.abs() / 2.0
    };
    let looks = after.windows(width);
    worst.until = looks.clone().rposition(still).map_or(worst.until, |index| at + index + width - 1);
    worst.at = looks.clone().position(still).map_or(worst.at, |index| at + index);
    let distance = |look: &[f64]| Some((typical(reading, look, middle)? - middle).abs() / scale);
    sorted.clear();
    sorted.extend(before.windows(width).filter_map(distance));
    // A baseline that often strays this far by itself says less.
    let restless = quantile_within(sorted, QUIET).unwrap_or(0.0) / NOISE;
    // Looks that go as far just before the onset may belong to it: whoever says when it began says so late.
    let mut earlier = before.rchunks_exact(width).map(still).skip_while(|far| *far).peekable();
    let (mut runs, mut all) = (0, 0);
    while let Some(far) = earlier.next() {
        all += 1;
        // What lasts for several looks is one occurrence.
        runs += usize::from(far && earlier.peek() != Some(&true));
    }
    let seen = after.get(..looked_at).unwrap_or(after);
    let now = seen.chunks_exact(width).filter(|look| still(look)).count();
    let at_most = surprise((runs, all), (now, seen.len() / width));
    Some(Shift { z: worst.z / restless.max(1.0), at_most, ..worst })
}

/// How surprising so many far looks of all after the onset are, where there were so many occurrences in all looks before it: the negative natural logarithm of the
/// chance of as many or more. Infinite where none was, for then the distance alone tells.
fn surprise(before: (usize, usize), after: (usize, usize)) -> f64 {
    let ((far, all), (now, looks)) = (before, after);
    if far == 0 {
        return f64::INFINITY;
    }
    let rate = (far as f64 + 0.5) / (all as f64 + 1.0);
    let odds = rate / (1.0 - rate).max(f64::MIN_POSITIVE);
    // The terms of a binomial distribution, from none on.
    let (mut term, mut below) = ((1.0 - rate).powf(looks as f64), 0.0);
    for count in 0..now {
        below += term;
        term *= odds * (looks - count) as f64 / (count + 1) as f64;
    }
    -(1.0 - below).max(1e-9).ln()
}

/// How much a measurement of this kind speaks of the place itself when it moved: resources are its own, traffic comes from
/// elsewhere, and a caller's view of its callees or a node's of all its pods says little of this one. Rounded to what ablations on
/// public fault data can tell apart (a tenth).
pub fn own_share(kind: Kind, side: Side) -> f64 {
    let by_kind = match kind {
        Kind::Traffic | Kind::Network => 0.4,
        Kind::Unknown => 0.3,
        Kind::Memory => 0.8,
        Kind::Saturation => 0.9,
        _ => 1.0,
    };
    let by_side = match side {
        Side::Own => 1.0,
        Side::Client if kind == Kind::Errors => 0.7,
        Side::Client => 0.15,
        Side::Node => 0.2,
    };
    by_kind * by_side
}
