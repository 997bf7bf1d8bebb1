//! How the figures of a service grow with its load: the curve that fits best over the time before the trouble, whether what
//! was measured since still lies on it, and what is left of a figure when its load is taken out.

use serde::Serialize;
use std::collections::BTreeMap;

use super::meaning::Side;
use super::prepare::{Reading, Readings};
use super::stats::{median, quantile, ranks};
use crate::analyze::anomaly::Kind;
use crate::analyze::causal::suspects::Suspects;
use crate::model::network::ServiceName;
use crate::model::snapshot::Snapshot;
use crate::model::time::to_unix;

/// Fewer points tell no curve from another.
const FEWEST: usize = 12;
/// The load must spread this much (its 90th percentile by its 10th), or a curve is a guess.
const SPREAD: f64 = 1.5;
/// A difference of this much in the Bayesian information criterion is "very strong" (Kass and Raftery 1995, table in §3.2).
const VERY_STRONG: f64 = 10.0;
/// A load whose rank follows the clock this closely (Spearman's ρ) only rises or only falls in the window: whatever else grows
/// with time would seem to follow it.
const ONLY_A_TREND: f64 = 0.9;
/// The share of a figure's variance that its load must explain to be taken out of it: less than half of it is mostly something else.
const DRIVES: f64 = 0.5;
/// A figure's correlation with its load (Pearson's r) below which no curve through both explains half of anything.
const FOLLOWS: f64 = 0.4;
/// Points that such a curve is fitted to, evenly chosen: it has two parameters, and there is one for each figure and each onset looked at.
const FITTED: usize = 64;
/// Curves kept, the best fitting first.
const MAX_KEPT: usize = 32;
/// A residue smaller than this share of the mean is none: it keeps the logarithm finite where a curve fits exactly.
const EXACT: f64 = 1e-9;

/// The shape of a curve. `x` is the load, `a` and `b` are fitted by least squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Class {
    /// `a`: load makes no difference.
    Constant,
    /// `a + b·ln x`.
    Logarithmic,
    /// `a + b·x`.
    Linear,
    /// `a + b·x·ln x`.
    Linearithmic,
    /// `a + b·x²`.
    Quadratic,
    /// `a / (1 - x/capacity)`: the mean time in a queue with one server (M/M/1; Kleinrock, Queueing Systems I, §3.2).
    Queueing,
}

impl Class {
    /// How it grows, in words.
    pub fn words(self) -> &'static str {
        match self {
            Class::Constant => "does not depend on",
            Class::Logarithmic => "grows with the logarithm of",
            Class::Linear => "grows in proportion to",
            Class::Linearithmic => "grows a little faster than",
            Class::Quadratic => "grows with the square of",
            Class::Queueing => "grows like a queue with",
        }
    }
}

/// How one figure of a service grows with its load.
#[derive(Debug, Clone, PartialEq)]
pub struct Growth {
    /// The service.
    pub service: ServiceName,
    /// The metric that grows, with what tells it apart.
    pub measure: String,
    /// The metric of the load.
    pub load: String,
    /// The shape.
    pub class: Class,
    /// The share of the variance that it explains (R²), 0 to 1.
    pub fit: f64,
    /// Points that it was fitted to.
    pub points: usize,
    /// How often the load's 10th percentile goes into its 90th.
    pub spread: f64,
    /// The load at which a queue would grow without end, in the load's own unit.
    pub capacity: Option<f64>,
    /// How many times what the curve says for their load was measured since the trouble began, by the median; `None` where
    /// it has not begun, or too few points tell.
    pub since: Option<f64>,
}

/// How figures grow with load, for each service with a series of requests that spreads enough: the best fitting first.
pub fn growths(snapshot: &Snapshot) -> Vec<Growth> {
    let readings = snapshot.derived::<Readings>();
    let onset = snapshot.derived::<Suspects>().onset.map(|onset| to_unix(onset.at) - onset.margin);
    let mut by_service: BTreeMap<&ServiceName, Vec<&Reading>> = BTreeMap::new();
    for reading in &readings.0 {
        if let Some(service) = reading.service() {
            by_service.entry(service).or_default().push(reading);
        }
    }
    let mut out = vec![];
    for (service, own) in by_service {
        let Some(load) = most_detailed(own.iter().copied()) else { continue };
        for measure in own.iter().filter(|reading| measures(reading.meaning.kind)) {
            out.extend(growth(service, load, measure, onset));
        }
    }
    out.sort_by(|a, b| {
        let names = |g: &Growth| (g.service.clone(), g.measure.clone());
        b.fit.total_cmp(&a.fit).then_with(|| names(a).cmp(&names(b)))
    });
    out.truncate(MAX_KEPT);
    out
}

/// Of several series of requests at a service the most detailed one; of equals the first by name.
fn most_detailed<'a>(own: impl Iterator<Item = &'a Reading>) -> Option<&'a Reading> {
    own.filter(|r| r.meaning.kind == Kind::Traffic && r.meaning.side == Side::Own)
        .max_by(|a, b| a.times.len().cmp(&b.times.len()).then(b.name.cmp(&a.name)))
}

/// What load can drive.
fn measures(kind: Kind) -> bool {
    matches!(kind, Kind::Latency | Kind::Cpu | Kind::Saturation)
}

/// The load of each service that spreads enough before an onset for a curve to be more than a guess.
pub(super) fn loads(readings: &[Reading], onset: f64) -> BTreeMap<&ServiceName, &Reading> {
    let mut by_service: BTreeMap<&ServiceName, Vec<&Reading>> = BTreeMap::new();
    for reading in readings.iter().filter(|reading| reading.meaning.kind == Kind::Traffic) {
        if let Some(service) = reading.service() {
            by_service.entry(service).or_default().push(reading);
        }
    }
    let spreads = |load: &&Reading| {
        let before = load.times.partition_point(|at| *at < onset);
        spread(load.values.get(..before).unwrap_or_default()).is_some()
    };
    by_service
        .into_iter()
        .filter_map(|(service, own)| Some((service, most_detailed(own.into_iter()).filter(spreads)?)))
        .collect()
}

/// A figure as it would be at its service's usual load: what the curve of the time before `onset` says for the load of each point is taken
/// out of it, and what it says for the usual load is put in. Loads that were not seen before count as the nearest that was, for nothing tells how the curve goes
/// on. `None` where load does not drive the figure.
pub(super) fn at_usual_load(load: &Reading, measure: &Reading, onset: f64) -> Option<Reading> {
    if !measures(measure.meaning.kind) {
        return None;
    }
    let pairs = paired(load, measure);
    let until = pairs.partition_point(|(at, _, _)| *at < onset);
    let before = pairs.iter().take(until).step_by(until.div_ceil(FITTED).max(1));
    let before: Vec<(f64, f64)> = before.map(|(_, x, y)| (*x, *y)).collect();
    if before.len() < FEWEST {
        return None;
    }
    let (seen, figures): (Vec<f64>, Vec<f64>) = before.iter().copied().unzip();
    // Whatever grows along any of the curves grows along a straight line to some degree, which takes a tenth of the time to tell.
    if correlation(&seen, &figures) < FOLLOWS {
        return None;
    }
    let curve = best(&before).filter(|curve| curve.class != Class::Constant && curve.fit >= DRIVES)?;
    let loads = pairs.iter().take(until).map(|(_, x, _)| *x);
    let (low, high) = loads.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let usual = curve.at(median(&seen)?)?;
    let mut out = measure.clone();
    let mut pairs = pairs.into_iter().peekable();
    for (time, value) in out.times.iter().zip(&mut out.values) {
        while pairs.next_if(|(at, _, _)| at < time).is_some() {}
        if let Some(at_load) =
            pairs.next_if(|(at, _, _)| at == time).and_then(|(_, x, _)| curve.at(x.clamp(low, high)))
        {
            *value += usual - at_load;
        }
    }
    out.put_in_order();
    Some(out)
}

/// How often the 10th percentile of loads goes into their 90th; `None` where they are too few, spread too little, or only rise or fall.
fn spread(loads: &[f64]) -> Option<f64> {
    if loads.len() < FEWEST {
        return None;
    }
    let (low, high) = (quantile(loads, 0.1)?, quantile(loads, 0.9)?);
    if low <= 0.0 || high / low < SPREAD {
        return None;
    }
    let clock: Vec<f64> = (0..loads.len()).map(|at| at as f64).collect();
    (correlation(&ranks(loads), &clock).abs() <= ONLY_A_TREND).then_some(high / low)
}

fn growth(service: &ServiceName, load: &Reading, measure: &Reading, onset: Option<f64>) -> Option<Growth> {
    let pairs = paired(load, measure);
    let before: Vec<(f64, f64)> = pairs
        .iter()
        .filter(|(at, _, _)| onset.is_none_or(|onset| *at < onset))
        .map(|(_, x, y)| (*x, *y))
        .collect();
    let loads: Vec<f64> = before.iter().map(|(x, _)| *x).collect();
    let spread = spread(&loads)?;
    let curve = best(&before)?;
    let since: Vec<f64> = pairs
        .iter()
        .filter(|(at, _, _)| onset.is_some_and(|onset| *at >= onset))
        .filter_map(|(_, x, y)| Some(y / curve.at(*x).filter(|y| *y > 0.0)?))
        .collect();
    Some(Growth {
        service: service.clone(),
        measure: format!("{} {}", measure.name, measure.variant).trim_end().to_owned(),
        load: load.name.clone(),
        class: curve.class,
        fit: curve.fit,
        points: before.len(),
        spread,
        capacity: curve.capacity(),
        since: median(&since).filter(|_| since.len() >= 3),
    })
}

/// Pearson's correlation; of ranks it is Spearman's.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len() as f64;
    let mean = |of: &[f64]| of.iter().sum::<f64>() / count;
    let (ma, mb) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        ab += (a - ma) * (b - mb);
        aa += (a - ma) * (a - ma);
        bb += (b - mb) * (b - mb);
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

/// Time, load and figure, where both were measured within half a step.
fn paired(load: &Reading, measure: &Reading) -> Vec<(f64, f64, f64)> {
    let near = load.step.max(measure.step) / 2.0;
    let mut out = vec![];
    let mut at = 0;
    for (time, y) in measure.times.iter().zip(&measure.values) {
        let distance = |at: usize| load.times.get(at).map_or(f64::INFINITY, |t| (t - time).abs());
        while distance(at + 1) <= distance(at) && at + 1 < load.times.len() {
            at += 1;
        }
        if distance(at) <= near
            && let Some(x) = load.values.get(at)
        {
            out.push((*time, *x, *y));
        }
    }
    out
}

/// A fitted curve.
#[derive(Debug, Clone, Copy)]
struct Curve {
    class: Class,
    /// `a` and `b` of the class; of a queue those of `1/y = a + b·x`.
    a: f64,
    b: f64,
    /// What loads and figures were divided by before fitting, so that units do not matter.
    scale: (f64, f64),
    fit: f64,
    /// The Bayesian information criterion, less is better.
    criterion: f64,
}

impl Curve {
    /// The figure at a load; `None` beyond a queue's capacity.
    fn at(&self, load: f64) -> Option<f64> {
        let scaled = value(self.class, self.a, self.b, load / self.scale.0)?;
        Some(scaled * self.scale.1)
    }

    fn capacity(&self) -> Option<f64> {
        (self.class == Class::Queueing).then(|| -self.a / self.b * self.scale.0)
    }
}

fn feature(class: Class, x: f64) -> f64 {
    match class {
        Class::Constant => 0.0,
        Class::Logarithmic => x.ln(),
        Class::Linear | Class::Queueing => x,
        // 1 + x keeps it growing from 0 on.
        Class::Linearithmic => x * x.ln_1p(),
        Class::Quadratic => x * x,
    }
}

fn value(class: Class, a: f64, b: f64, x: f64) -> Option<f64> {
    let straight = a + b * feature(class, x);
    match class {
        Class::Queueing => (straight > 0.0).then(|| 1.0 / straight),
        _ => straight.is_finite().then_some(straight),
    }
}

/// The curve that explains most for its parameters. Anything but a constant must be very much better than one, and grow.
fn best(pairs: &[(f64, f64)]) -> Option<Curve> {
    let positive: Vec<(f64, f64)> = pairs.iter().copied().filter(|(x, _)| *x > 0.0).collect();
    let count = positive.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| positive.iter().map(of).sum::<f64>() / count;
    let scale = (mean(|p| p.0), mean(|p| p.1));
    if positive.len() < FEWEST || !(scale.0 > 0.0 && scale.1 > 0.0) {
        return None;
    }
    let scaled: Vec<(f64, f64)> = positive.iter().map(|(x, y)| (x / scale.0, y / scale.1)).collect();
    let constant = fit(Class::Constant, &scaled, scale)?;
    [Class::Logarithmic, Class::Linear, Class::Linearithmic, Class::Quadratic, Class::Queueing]
        .into_iter()
        .filter_map(|class| fit(class, &scaled, scale))
        .filter(|curve| constant.criterion - curve.criterion >= VERY_STRONG)
        .min_by(|a, b| a.criterion.total_cmp(&b.criterion))
        .or(Some(constant))
}

/// Least squares over one feature of the load.
fn fit(class: Class, pairs: &[(f64, f64)], scale: (f64, f64)) -> Option<Curve> {
    let queue = class == Class::Queueing;
    if queue && pairs.iter().any(|(_, y)| *y <= 0.0) {
        return None;
    }
    let count = pairs.len() as f64;
    let points: Vec<(f64, f64)> =
        pairs.iter().map(|(x, y)| (feature(class, *x), if queue { 1.0 / y } else { *y })).collect();
    let (mx, my) = points.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x / count, sum.1 + y / count));
    let (sxx, sxy) = points
        .iter()
        .fold((0.0, 0.0), |sum, (x, y)| (sum.0 + (x - mx) * (x - mx), sum.1 + (x - mx) * (y - my)));
    let b = if class == Class::Constant { 0.0 } else { (sxx > 0.0).then(|| sxy / sxx)? };
    let a = my - b * mx;
    // A figure that falls with load is not what this asks about.
    let grows = match class {
        Class::Constant => true,
        Class::Queueing => b < 0.0,
        _ => b > 0.0,
    };
    if !grows {
        return None;
    }
    let mean = pairs.iter().map(|(_, y)| y).sum::<f64>() / count;
    let (mut residue, mut total) = (0.0, 0.0);
    for (x, y) in pairs {
        let off = y - value(class, a, b, *x)?;
        residue += off * off;
        total += (y - mean) * (y - mean);
    }
    let parameters = if class == Class::Constant { 1.0 } else { 2.0 };
    let criterion = count * (residue / count).max(EXACT * EXACT).ln() + parameters * count.ln();
    let fit = if total > 0.0 { (1.0 - residue / total).clamp(0.0, 1.0) } else { 0.0 };
    Some(Curve { class, a, b, scale, fit, criterion })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::series::read;
    use crate::model::snapshot::Builder;

    /// A service whose load rises and falls, and a figure made of it; `broken` multiplies it in the last ten minutes.
    fn grown(figure: impl Fn(f64) -> f64, unit: f64, broken: f64) -> Option<Growth> {
        swinging(80.0, figure, unit, broken)
    }

    fn swinging(by: f64, figure: impl Fn(f64) -> f64, unit: f64, broken: f64) -> Option<Growth> {
        let loads: Vec<f64> = (0..60).map(|at| 100.0 + by * (f64::from(at) / 6.0).sin()).collect();
        let wobble = |at: usize| 1.0 + 0.01 * if at.is_multiple_of(2) { 1.0 } else { -1.0 };
        let points = |values: Vec<f64>| -> Vec<Value> {
            values.iter().enumerate().map(|(at, v)| json!([at * 60, v.to_string()])).collect()
        };
        let figures = loads
            .iter()
            .enumerate()
            .map(|(at, load)| figure(*load) * unit * wobble(at) * if at >= 50 { broken } else { 1.0 })
            .collect();
        let mut builder = Builder::new();
        for (name, values) in [("requests_per_second", loads.clone()), ("latency_seconds", figures)] {
            let series = json!({"metric": {"__name__": name, "service": "a", "namespace": "n"}, "values": points(values)});
            builder.series(read(&json!({"data": {"result": [series]}}), name));
        }
        builder.onset("1970-01-01T00:50:00Z".parse().ok());
        growths(&builder.finish()).into_iter().next()
    }

    #[test]
    fn each_shape_is_recognised_whatever_the_unit() {
        type Figure = fn(f64) -> f64;
        let shapes: [(Class, Figure); 4] = [
            (Class::Constant, |_| 5.0),
            (Class::Linear, |x| 1.0 + 0.05 * x),
            (Class::Quadratic, |x| 1.0 + 0.001 * x * x),
            (Class::Queueing, |x| 0.01 / (1.0 - x / 220.0)),
        ];
        for (class, figure) in shapes {
            for unit in [1e-3, 1.0, 1e6] {
                let growth = grown(figure, unit, 1.0).unwrap();
                assert_eq!(growth.class, class, "{growth:?}");
            }
        }
        let queue = grown(|x| 0.01 / (1.0 - x / 220.0), 1.0, 1.0).unwrap();
        assert!(queue.capacity.is_some_and(|c| (c - 220.0).abs() < 11.0), "{queue:?}");
    }

    #[test]
    fn what_came_with_the_trouble_is_measured_against_the_curve() {
        let well = grown(|x| 1.0 + 0.05 * x, 1.0, 1.0).unwrap();
        assert!(well.since.is_some_and(|since| (since - 1.0).abs() < 0.05), "{well:?}");
        let broken = grown(|x| 1.0 + 0.05 * x, 1.0, 6.0).unwrap();
        assert!(broken.since.is_some_and(|since| (since - 6.0).abs() < 0.3), "{broken:?}");
        assert_eq!(broken.class, Class::Linear, "the trouble is no part of what the curve is fitted to");
    }

    #[test]
    fn a_load_that_does_not_spread_tells_nothing() {
        assert!(grown(|x| 1.0 + 0.05 * x, 1.0, 1.0).is_some());
        assert_eq!(swinging(10.0, |x| 1.0 + 0.05 * x, 1.0, 1.0), None);
        let rising: Vec<f64> = (0..20).map(f64::from).collect();
        assert!(correlation(&ranks(&rising), &rising) > ONLY_A_TREND);
        let turning: Vec<f64> = rising.iter().map(|at| (at / 3.0).sin()).collect();
        assert!(correlation(&ranks(&turning), &rising).abs() < ONLY_A_TREND);
    }
}
