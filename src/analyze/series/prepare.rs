//! Series made comparable: rates instead of counters, means instead of sums, failures instead of successes.

use std::collections::{BTreeMap, BTreeSet};

use super::meaning::{self, Meaning, Side};
use super::place;
use super::shift::noticeable;
use super::stats::{median, quantile_within};
use crate::analyze::anomaly::{Kind, Place};
use crate::model::memo::Derived;
use crate::model::network::ServiceName;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;

/// Series looked at; a snapshot of a whole cluster can hold more, and the first by name and labels count.
const MAX_SERIES: usize = 50_000;
/// Fewer services with the same metric tell nothing of its usual size.
const FEWEST_PEERS: usize = 3;
/// Letters that a service's name must have to be recognised within a metric's name.
const TELLING_NAME: usize = 5;
/// Seconds between points below which several are looked at as one: three of these make a look of a minute.
const FINEST: f64 = 20.0;
/// Points that must be left of a series then.
const FEWEST_COARSE: f64 = 60.0;
/// Requests below this part of their usual number are taken for so many.
const FEW: f64 = 0.1;
/// Counters are read one after the other: failures can seem to be so much more than all.
const SLACK_OF_SHARES: f64 = 0.2;
/// Labels that only say where a series was measured: two series that differ in nothing else are the same metric.
const IDENTITY: &[&str] = &["statistic", "quantile", "reporter", "le", "type", "mode", "state", "direction"];

/// One series, ready for comparison.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The metric's name.
    pub name: String,
    /// What tells it apart from others of its name at its place: `p99`.
    pub variant: String,
    /// Where it was measured.
    pub place: Place,
    /// What it is about.
    pub meaning: Meaning,
    /// Unix seconds, ascending.
    pub times: Vec<f64>,
    /// Values, one a time: rates for a counter, failures out of `ceiling` for a share of successes.
    pub values: Vec<f64>,
    /// Typical seconds between points.
    pub step: f64,
    /// The whole of which the values are the failing part, where the series was turned over: 1 or 100.
    pub ceiling: Option<f64>,
    /// The usual size of this metric over all services; 0 where too few have it.
    pub peers: f64,
    /// The values are shares of all requests, 0 to 1.
    pub share: bool,
    /// What of a change anybody would notice; 0 where nothing tells.
    pub noticeable: f64,
    /// Series of its kind at its place, itself among them.
    pub beside: usize,
    /// Indices of the values, from the least on: every part of them is in order by this.
    order: Vec<u32>,
}

impl Reading {
    /// A value as the series itself had it.
    pub fn original(&self, value: f64) -> f64 {
        self.ceiling.map_or(value, |ceiling| ceiling - value)
    }

    /// The values of a range of indices, in ascending order.
    pub fn sorted_part(&self, part: &std::ops::Range<usize>, out: &mut Vec<f64>) {
        out.clear();
        out.resize(self.order.len(), 0.0);
        let mut kept = 0;
        for index in &self.order {
            let at = *index as usize;
            // Written first and kept or not then: nothing to guess wrong.
            if let (Some(slot), Some(value)) = (out.get_mut(kept), self.values.get(at)) {
                *slot = *value;
            }
            kept += usize::from(part.contains(&at));
        }
        out.truncate(kept);
    }

    /// Puts the values in order, once they are what they stay.
    pub(super) fn put_in_order(&mut self) {
        let mut order: Vec<(f64, u32)> = self.values.iter().copied().zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        self.order = order.into_iter().map(|(_, at)| at).collect();
    }

    /// Its values from the least on.
    fn nth(&self, at: usize) -> Option<f64> {
        self.values.get(*self.order.get(at)? as usize).copied()
    }

    /// The size of its largest value, either way.
    pub fn largest(&self) -> f64 {
        let size = |at: usize| self.nth(at).map_or(0.0, f64::abs);
        size(0).max(size(self.order.len().saturating_sub(1)))
    }

    /// The middle of the sizes of its values.
    fn usual_size(&self) -> Option<f64> {
        let last = self.order.len().checked_sub(1)?;
        if self.nth(0)? < 0.0 {
            let mut sizes: Vec<f64> = self.values.iter().map(|value| value.abs()).collect();
            return quantile_within(&mut sizes, 0.5);
        }
        let (low, high) = (self.nth(last / 2)?, self.nth(last.div_ceil(2))?);
        Some(low + (high - low) * 0.5)
    }

    /// The service that it is about.
    pub fn service(&self) -> Option<&ServiceName> {
        self.place.service()
    }
}

/// All series of a snapshot, ready for comparison, in order of place and name.
#[derive(Debug, Clone, Default)]
pub struct Readings(pub Vec<Reading>);

impl Derived for Readings {
    fn derive(snapshot: &Snapshot) -> Self {
        Readings(all(snapshot))
    }
}

fn all(snapshot: &Snapshot) -> Vec<Reading> {
    let mut sorted: Vec<&Series> = snapshot.series.iter().collect();
    sorted.sort_by(|a, b| (&a.name, &a.labels).cmp(&(&b.name, &b.labels)));
    sorted.truncate(MAX_SERIES);
    let means = means(&sorted);
    let mut out: Vec<Reading> = sorted
        .iter()
        .copied()
        .chain(&means)
        .filter(|series| series.points.len() > 1)
        .filter_map(|series| read(snapshot, series))
        .collect();
    same_case(&mut out);
    point_at_callees(&mut out);
    errors_of_all(&mut out);
    // Of one name can be requests and, by another label, those of them that fail: their sizes have nothing to do with each other.
    out.iter_mut().for_each(Reading::put_in_order);
    let mut levels: BTreeMap<(&str, &str, Kind), Vec<f64>> = BTreeMap::new();
    let mut beside: BTreeMap<(&Place, Kind), usize> = BTreeMap::new();
    for reading in &out {
        levels.entry(same(reading)).or_default().extend(reading.usual_size());
        *beside.entry((&reading.place, reading.meaning.kind)).or_default() += 1;
    }
    let usual: BTreeMap<(&str, &str, Kind), f64> = levels
        .into_iter()
        .filter(|(_, all)| all.len() >= FEWEST_PEERS)
        .filter_map(|(of, mut all)| Some((of, quantile_within(&mut all, 0.5)?)))
        .collect();
    let found: Vec<(f64, usize, f64)> = out
        .iter()
        .map(|reading| {
            let peers = usual.get(&same(reading)).copied().filter(|_| reading.ceiling.is_none());
            let count = beside.get(&(&reading.place, reading.meaning.kind)).copied();
            (peers.unwrap_or(0.0), count.unwrap_or(1), noticeable(reading))
        })
        .collect();
    for (reading, (peers, beside, noticeable)) in out.iter_mut().zip(found) {
        (reading.peers, reading.beside, reading.noticeable) = (peers, beside, noticeable);
    }
    out.sort_by(|a, b| (&a.place, &a.name, &a.variant).cmp(&(&b.place, &b.name, &b.variant)));
    out
}

/// What makes two readings the same metric.
fn same(reading: &Reading) -> (&str, &str, Kind) {
    (&reading.name, &reading.variant, reading.meaning.kind)
}

fn read(snapshot: &Snapshot, series: &Series) -> Option<Reading> {
    let meaning = meaning::of(series)?;
    let place = place::of(snapshot, series)?;
    let mut points = if meaning.counter { rate(&series.points) } else { series.points.clone() };
    // Nothing that is counted or measured in time is below zero: while consumers are shared out anew a lag is, and means nothing.
    points.retain(|(_, value)| meaning.kind == Kind::Unknown || *value >= 0.0);
    let mut step = typical_step(&points)?;
    let coarse = coarse(&points, step);
    if coarse > 1.0 {
        points = together(&points, coarse * step, is_felt_each(meaning.kind));
        step = typical_step(&points)?;
    }
    let (times, mut values): (Vec<f64>, Vec<f64>) = points.into_iter().unzip();
    let highest = values.iter().copied().fold(f64::MIN, f64::max);
    let lowest = values.iter().copied().fold(f64::MAX, f64::min);
    let share = meaning.kind == Kind::Availability && lowest >= 0.0 && highest <= 100.0 * (1.0 + 1e-9);
    let ceiling = share.then_some(if highest <= 1.0 + 1e-9 { 1.0 } else { 100.0 });
    if let Some(ceiling) = ceiling {
        values.iter_mut().for_each(|value| *value = (ceiling - *value).max(0.0));
    }
    let variant = IDENTITY.iter().map(|label| series.label(label)).filter(|text| !text.is_empty());
    Some(Reading {
        name: series.name.clone(),
        variant: variant.collect::<Vec<_>>().join(" "),
        place,
        meaning,
        times,
        values,
        step,
        ceiling,
        peers: 0.0,
        share: false,
        noticeable: 0.0,
        beside: 1,
        order: vec![],
    })
}

/// The usual number of seconds between points.
fn typical_step(points: &[(f64, f64)]) -> Option<f64> {
    let mut steps: Vec<f64> =
        points.iter().zip(points.iter().skip(1)).map(|((a, _), (b, _))| b - a).collect();
    quantile_within(&mut steps, 0.5).filter(|step| *step > 0.0)
}

/// How many points are looked at as one: noise between seconds says nothing of a fault, and three looks at a minute do.
fn coarse(points: &[(f64, f64)], step: f64) -> f64 {
    let span = points.first().zip(points.last()).map_or(0.0, |((from, _), (to, _))| to - from);
    (FINEST.min((span + step) / FEWEST_COARSE) / step).floor()
}

/// Whether each single occurrence counts, so that several points are as bad as their mean.
fn is_felt_each(kind: Kind) -> bool {
    matches!(kind, Kind::Errors | Kind::Availability | Kind::Traffic | Kind::Restarts)
}

/// Points of each `width` seconds as one: their mean, or their median, which forgives outliers.
fn together(points: &[(f64, f64)], width: f64, mean: bool) -> Vec<(f64, f64)> {
    let Some((start, _)) = points.first().copied() else { return vec![] };
    let piece = |at: f64| ((at - start) / width).floor();
    let pieces = points.chunk_by(|(a, _), (b, _)| piece(*a) == piece(*b));
    pieces
        .filter_map(|piece| {
            let (times, values): (Vec<f64>, Vec<f64>) = piece.iter().copied().unzip();
            let count = piece.len() as f64;
            let value = if mean { values.iter().sum::<f64>() / count } else { median(&values)? };
            Some((times.iter().sum::<f64>() / count, value))
        })
        .collect()
}

/// What a counter grew by for each second between its points. A fall is a fresh start from 0, as Prometheus has it.
fn rate(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let pairs = points.iter().zip(points.iter().skip(1)).filter(|((a, _), (b, _))| b > a);
    pairs.map(|((ta, a), (tb, b))| (*tb, if b >= a { b - a } else { *b } / (tb - ta))).collect()
}

/// The mean of a histogram or summary over time: what its `_sum` grew by for each that its `_count` did.
fn means(series: &[&Series]) -> Vec<Series> {
    let counts: BTreeMap<(&str, &BTreeMap<String, String>), &Series> = series
        .iter()
        .filter_map(|series| Some(((series.name.strip_suffix("_count")?, &series.labels), *series)))
        .collect();
    let mut out = vec![];
    for sum in series {
        let Some(name) = sum.name.strip_suffix("_sum") else { continue };
        let Some(count) = counts.get(&(name, &sum.labels)) else { continue };
        let grown: BTreeMap<u64, f64> =
            rate(&count.points).iter().map(|(at, n)| (at.to_bits(), *n)).collect();
        let points: Vec<(f64, f64)> = rate(&sum.points)
            .into_iter()
            .filter_map(|(at, total)| Some((at, total / grown.get(&at.to_bits()).filter(|n| **n > 0.0)?)))
            .collect();
        out.push(Series { name: name.to_owned(), labels: sum.labels.clone(), points });
    }
    out
}

/// A label's `Frontend` is the `frontend` that others name: names in a cluster hold no capitals.
fn same_case(readings: &mut [Reading]) {
    let known: BTreeSet<ServiceName> = readings.iter().filter_map(Reading::service).cloned().collect();
    for reading in readings {
        let Place::Service(service) = &mut reading.place else { continue };
        let lower = ServiceName::new(&service.namespace, service.name.to_lowercase());
        if lower != *service && known.contains(&lower) {
            *service = lower;
        }
    }
}

/// Failures for each second become failures out of all requests, where those are measured at the same place: more requests are no
/// more trouble, and who is called by everybody fails most in numbers.
fn errors_of_all(readings: &mut [Reading]) {
    let mut traffic: BTreeMap<&Place, Vec<usize>> = BTreeMap::new();
    for (at, reading) in readings.iter().enumerate() {
        if reading.meaning.kind == Kind::Traffic && reading.meaning.side == Side::Own {
            traffic.entry(&reading.place).or_default().push(at);
        }
    }
    let shares = |errors: &Reading| -> Option<Vec<f64>> {
        let beside = traffic.get(&errors.place)?;
        let of = |at: &usize| readings.get(*at);
        // Of its own name are those that went well; of another name are all.
        let same: Vec<&Reading> =
            beside.iter().filter_map(of).filter(|reading| reading.name == errors.name).collect();
        let (all, is_whole) = if same.is_empty() {
            let only = beside.iter().filter_map(of).filter(|r| r.meaning.counter == errors.meaning.counter);
            (vec![only.max_by(|a, b| a.times.len().cmp(&b.times.len()).then(b.name.cmp(&a.name)))?], true)
        } else {
            (same, false)
        };
        let mut totals = vec![0.0; errors.times.len()];
        for reading in all {
            for (total, value) in totals.iter_mut().zip(at_times(reading, &errors.times)) {
                *total += value;
            }
        }
        if !is_whole {
            totals.iter_mut().zip(&errors.values).for_each(|(total, failed)| *total += failed);
        }
        let usual = median(&totals).filter(|usual| *usual > 0.0)?;
        // Where nearly nobody asks a share says nothing.
        let share = |(failed, all): (&f64, &f64)| failed / all.max(FEW * usual);
        let shares: Vec<f64> = errors.values.iter().zip(&totals).map(share).collect();
        // Failures of something else than these requests can be more than they are.
        shares.iter().all(|share| *share <= 1.0 + SLACK_OF_SHARES).then_some(shares)
    };
    let found: Vec<Option<Vec<f64>>> = readings
        .iter()
        .map(|reading| (reading.meaning.kind == Kind::Errors).then(|| shares(reading)).flatten())
        .collect();
    for (reading, shares) in readings.iter_mut().zip(found) {
        if let Some(shares) = shares {
            (reading.values, reading.share) = (shares, true);
        }
    }
}

/// The last value of a reading at or before each instant, or its first one.
fn at_times<'a>(reading: &'a Reading, times: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    times.iter().filter_map(|time| {
        let after = reading.times.partition_point(|at| *at <= time + reading.step / 2.0);
        reading.values.get(after.saturating_sub(1)).copied()
    })
}

/// A metric at one service whose name holds that of another speaks of the way between the two: `inventory_call_errors`
/// at a shop.
fn point_at_callees(readings: &mut [Reading]) {
    let mut stems: BTreeMap<String, Option<ServiceName>> = BTreeMap::new();
    for service in readings.iter().filter_map(Reading::service) {
        let words = meaning::words(&service.name);
        let stem = words
            .iter()
            .map(|word| word.strip_suffix("service").unwrap_or(word))
            .find(|word| !word.is_empty());
        let Some(stem) = stem.filter(|stem| stem.len() >= TELLING_NAME) else { continue };
        // A word that begins the names of two services names neither.
        stems
            .entry(stem.to_owned())
            .and_modify(|known| *known = known.take().filter(|known| known == service))
            .or_insert_with(|| Some(service.clone()));
    }
    for reading in readings {
        let Place::Service(own) = &reading.place else { continue };
        let named = meaning::words(&reading.name).into_iter().find_map(|word| stems.get(&word)?.as_ref());
        if let Some(callee) = named.filter(|callee| *callee != own) {
            reading.place = Place::Edge { caller: own.clone(), callee: callee.clone() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{Value, json};
    use crate::model::series::read as parse;
    use crate::model::snapshot::Builder;

    fn readings(series: &[(Value, &[f64])]) -> Vec<Reading> {
        let mut builder = Builder::new();
        for (metric, values) in series {
            let points: Vec<Value> =
                values.iter().enumerate().map(|(at, value)| json!([at * 60, value.to_string()])).collect();
            builder.series(parse(&json!({"data": {"result": [{"metric": metric, "values": points}]}}), "m"));
        }
        all(&builder.finish())
    }

    #[test]
    fn counters_become_rates_and_survive_a_reset() {
        let all = readings(&[(
            json!({"__name__": "calls_total", "service": "a"}),
            &[0.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 420.0, 480.0, 540.0, 30.0],
        )]);
        assert_eq!(all[0].values, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn what_cannot_be_below_zero_is_no_reading_there() {
        let lag = [(json!({"__name__": "consumer_lag", "service": "a"}), [5.0, -3.0, 6.0].as_slice())];
        assert_eq!(readings(&lag)[0].values, [5.0, 6.0]);
        let unknown = [(json!({"__name__": "celsius", "service": "a"}), [5.0, -3.0, 6.0].as_slice())];
        assert_eq!(readings(&unknown)[0].values, [5.0, -3.0, 6.0]);
    }

    #[test]
    fn failures_are_counted_out_of_all_requests() {
        let counted = |code: &str, values: &'static [f64]| {
            (json!({"__name__": "requests_total", "service": "a", "code": code}), values)
        };
        let well = counted("200", &[0.0, 600.0, 1200.0, 1500.0]);
        let all = readings(&[well, counted("503", &[0.0, 0.0, 0.0, 300.0])]);
        let errors = all.iter().find(|reading| reading.meaning.kind == Kind::Errors).unwrap();
        assert_eq!((errors.values.as_slice(), errors.share), ([0.0, 0.0, 0.5].as_slice(), true));
    }

    #[test]
    fn few_failures_are_not_measured_against_many_requests() {
        let of = |service: &str, code: &str, each: f64| {
            let values: Vec<f64> = (0..10).map(|n| f64::from(n) * each).collect();
            (json!({"__name__": "requests_total", "service": service, "code": code}), values)
        };
        let all: Vec<(Value, Vec<f64>)> = ["a", "b", "c"]
            .iter()
            .flat_map(|service| [of(service, "200", 6000.0), of(service, "503", 0.0)])
            .collect();
        let all: Vec<(Value, &[f64])> =
            all.iter().map(|(metric, values)| (metric.clone(), values.as_slice())).collect();
        for reading in readings(&all) {
            let usual = if reading.meaning.kind == Kind::Errors { 0.0 } else { 100.0 };
            assert_eq!(reading.peers, usual);
        }
    }

    #[test]
    fn points_of_seconds_are_looked_at_together() {
        let points: Vec<(f64, f64)> = (0..1200).map(|n| (f64::from(n), f64::from(n / 600))).collect();
        assert_eq!(coarse(&points, 1.0), FINEST);
        let few = together(&points, FINEST, false);
        assert_eq!((few.len(), few[29].1, few[30].1), (60, 0.0, 1.0));
        assert_eq!(coarse(&points[..100], 1.0), 1.0);
    }

    #[test]
    fn successes_become_failures() {
        let all = readings(&[(json!({"__name__": "success_rate", "service": "a"}), &[100.0, 99.0, 100.0])]);
        assert_eq!((all[0].values.as_slice(), all[0].ceiling), ([0.0, 1.0, 0.0].as_slice(), Some(100.0)));
        assert_eq!(all[0].original(1.0), 99.0);
    }

    #[test]
    fn a_sum_and_a_count_become_a_mean() {
        let all = readings(&[
            (json!({"__name__": "call_seconds_sum", "service": "a"}), &[0.0, 6.0, 18.0]),
            (json!({"__name__": "call_seconds_count", "service": "a"}), &[0.0, 60.0, 120.0]),
        ]);
        let mean = all.iter().find(|reading| reading.name == "call_seconds").unwrap();
        assert_eq!(mean.values, [0.1, 0.2]);
    }

    #[test]
    fn a_metric_that_names_another_service_speaks_of_the_way_there() {
        let all = readings(&[
            (json!({"__name__": "cpu", "service": "inventory", "namespace": "n"}), &[1.0, 1.0]),
            (json!({"__name__": "inventory_call_errors", "service": "front", "namespace": "n"}), &[1.0, 1.0]),
        ]);
        assert_eq!(all[0].place.to_string(), "n/inventory");
        assert_eq!(all[1].place.to_string(), "n/front → n/inventory");
    }
}
