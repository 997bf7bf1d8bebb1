//! Series made comparable: rates instead of counters, means instead of sums, failures instead of successes.

use std::collections::{BTreeMap, BTreeSet};

use super::meaning::{self, Meaning};
use super::place;
use super::stats::median;
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
}

impl Reading {
    /// A value as the series itself had it.
    pub fn original(&self, value: f64) -> f64 {
        self.ceiling.map_or(value, |ceiling| ceiling - value)
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
    let mut levels: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    for reading in &out {
        let sizes: Vec<f64> = reading.values.iter().map(|value| value.abs()).collect();
        levels.entry((&reading.name, &reading.variant)).or_default().extend(median(&sizes));
    }
    let usual: Vec<f64> = out
        .iter()
        .map(|reading| {
            let all = levels.get(&(reading.name.as_str(), reading.variant.as_str()));
            all.filter(|all| all.len() >= FEWEST_PEERS && reading.ceiling.is_none())
                .and_then(|all| median(all))
                .unwrap_or(0.0)
        })
        .collect();
    for (reading, peers) in out.iter_mut().zip(usual) {
        reading.peers = peers;
    }
    out.sort_by(|a, b| (&a.place, &a.name, &a.variant).cmp(&(&b.place, &b.name, &b.variant)));
    out
}

fn read(snapshot: &Snapshot, series: &Series) -> Option<Reading> {
    let meaning = meaning::of(series)?;
    let place = place::of(snapshot, series)?;
    let mut points = if meaning.counter { rate(&series.points) } else { series.points.clone() };
    // Nothing that is counted or measured in time is below zero: while consumers are shared out anew a lag is, and means nothing.
    points.retain(|(_, value)| meaning.kind == Kind::Unknown || *value >= 0.0);
    let (times, mut values): (Vec<f64>, Vec<f64>) = points.into_iter().unzip();
    let steps: Vec<f64> = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b - a).collect();
    let step = median(&steps).filter(|step| *step > 0.0)?;
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
    })
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
    use crate::model::series::read as parse;
    use crate::model::snapshot::Builder;
    use serde_json::{Value, json};

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
