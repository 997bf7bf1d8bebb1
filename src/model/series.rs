//! Time series, as Prometheus gives them.

use crate::model::json::Value;
use std::collections::BTreeMap;

use super::fields::Fields;
use super::time::Window;

/// One series: its labels and its points in order of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The metric's name; the file's name where the labels hold none.
    pub name: String,
    /// Its labels, without `__name__`.
    pub labels: BTreeMap<String, String>,
    /// Unix seconds and values; values that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// A label's value; empty where it is absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The last value.
    pub fn last(&self) -> Option<f64> {
        self.points.last().map(|(_, value)| *value)
    }

    /// The largest value.
    pub fn max(&self) -> Option<f64> {
        self.points.iter().map(|(_, value)| *value).reduce(f64::max)
    }

    /// The growth of a counter between two Unix times, by [`growth`] and without extrapolation. `None` with fewer than two points.
    pub fn increase(&self, start: f64, end: f64) -> Option<f64> {
        let inside: Vec<f64> =
            self.points.iter().filter(|(t, _)| start <= *t && *t <= end).map(|(_, v)| *v).collect();
        if inside.len() < 2 {
            return None;
        }
        let pairs = inside.iter().zip(inside.iter().skip(1));
        Some(pairs.map(|(a, b)| growth(*a, *b)).sum())
    }

    /// The growth of a counter over all of it.
    pub fn total_increase(&self) -> Option<f64> {
        self.increase(f64::NEG_INFINITY, f64::INFINITY)
    }

    /// The part of it that lies in a window.
    pub fn within(&self, window: &Window) -> impl Iterator<Item = (f64, f64)> + '_ {
        let (start, end) = (super::time::to_unix(window.start), super::time::to_unix(window.end));
        self.points.iter().copied().filter(move |(t, _)| start <= *t && *t <= end)
    }
}

/// What a counter grew by from one sample to the next. A fall is a start from 0, as Prometheus' `rate` has it, but for one to more
/// than half of what it was: there a counter that sums over several (queues, channels, pods) has lost one of them, nothing
/// started again, and what is left is no growth.
pub fn growth(before: f64, after: f64) -> f64 {
    if after >= before {
        after - before
    } else if after > before / 2.0 {
        0.0
    } else {
        after
    }
}

/// Reads the body of a `query` or `query_range` answer. `fallback` names series whose labels hold no name.
pub fn read(body: &Value, fallback: &str) -> Vec<Series> {
    let data = body.at("data").unwrap_or(body);
    let mut out = vec![];
    for entry in data.list("result") {
        let mut labels: BTreeMap<String, String> = entry.text_map("metric").into();
        let name = labels.remove("__name__").unwrap_or_else(|| fallback.to_owned());
        let single = entry.at("value").map(std::slice::from_ref).unwrap_or_default();
        out.extend(native(entry, &name, &labels));
        let mut points: Vec<(f64, f64)> =
            entry.list("values").iter().chain(single).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !points.is_empty() || entry.at("histograms").is_none() {
            out.push(Series { name, labels, points });
        }
    }
    out
}

/// Bounds of a native histogram that become series of buckets: some thirty are what a classic one has.
const MAX_BOUNDS: usize = 32;

/// The samples of a native histogram as the series of a classic one: `_count`, `_sum` and cumulative `_bucket`s by `le`.
/// Buckets of samples come and go, so each bound's count is the sum of all buckets that end at or below it.
fn native(entry: &Value, name: &str, labels: &BTreeMap<String, String>) -> Vec<Series> {
    let single = entry.at("histogram").map(std::slice::from_ref).unwrap_or_default();
    let samples: Vec<(f64, &Value)> = entry
        .list("histograms")
        .iter()
        .chain(single)
        .filter_map(|sample| Some((sample.get(0).and_then(number)?, sample.get(1)?)))
        .collect();
    if samples.is_empty() {
        return vec![];
    }
    let plain = |suffix: &str, field: &str| Series {
        name: format!("{name}_{suffix}"),
        labels: labels.clone(),
        points: samples
            .iter()
            .filter_map(|(at, body)| Some((*at, body.at(field).and_then(number)?)))
            .collect(),
    };
    let mut out = vec![plain("count", "count"), plain("sum", "sum")];
    // [kind of bounds, lower, upper, count]
    let buckets = |body: &Value| -> Vec<(f64, f64)> {
        let rows = body.list("buckets").iter();
        rows.filter_map(|row| Some((number(row.get(2)?)?, number(row.get(3)?)?))).collect()
    };
    let mut bounds: Vec<f64> =
        samples.iter().flat_map(|(_, body)| buckets(body)).map(|(upper, _)| upper).collect();
    bounds.sort_by(f64::total_cmp);
    bounds.dedup();
    let step = bounds.len().div_ceil(MAX_BOUNDS).max(1);
    let last = bounds.len().saturating_sub(1);
    for (_, bound) in bounds.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last) {
        let mut labels = labels.clone();
        labels.insert("le".to_owned(), bound.to_string());
        let below =
            |body: &Value| buckets(body).iter().filter(|(upper, _)| upper <= bound).map(|(_, n)| n).sum();
        let points = samples.iter().map(|(at, body)| (*at, below(body))).collect();
        out.push(Series { name: format!("{name}_bucket"), labels, points });
    }
    let all = plain("bucket", "count");
    let mut labels = labels.clone();
    labels.insert("le".to_owned(), "+Inf".to_owned());
    out.push(Series { labels, ..all });
    out
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).filter(|n: &f64| n.is_finite())
}

fn point(value: &Value) -> Option<(f64, f64)> {
    let pair = value.as_array()?;
    Some((number(pair.first()?)?, number(pair.get(1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::json;

    #[test]
    fn a_native_histogram_reads_as_a_classic_one() {
        let sample = |count: &str, buckets: Value| json!({"count": count, "sum": "12.5", "buckets": buckets});
        let body = json!({"data": {"result": [{"metric": {"__name__": "d", "pod": "p"}, "histograms": [
            [1, sample("3", json!([[0, "0.5", "1", "1"], [0, "1", "2", "2"]]))],
            [2, sample("7", json!([[0, "0.5", "1", "1"], [0, "1", "2", "2"], [0, "2", "4", "4"]]))]]}]}});
        let series = read(&body, "file");
        let names: Vec<&str> = series.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["d_count", "d_sum", "d_bucket", "d_bucket", "d_bucket", "d_bucket"]);
        assert_eq!(series[0].points, [(1.0, 3.0), (2.0, 7.0)]);
        let bucket = |le: &str| series.iter().find(|s| s.label("le") == le).unwrap().points.clone();
        assert_eq!(bucket("2"), [(1.0, 3.0), (2.0, 3.0)]);
        assert_eq!(bucket("+Inf"), [(1.0, 3.0), (2.0, 7.0)]);
        assert!(series.iter().all(|s| s.label("pod") == "p"));
    }

    #[test]
    fn a_reset_counts_from_zero() {
        let body = json!({"data": {"result": [{"metric": {"__name__": "a", "pod": "p"},
            "values": [[1, "10"], [2, "15"], [3, "2"], [4, "NaN"], [5, "4"]]}]}});
        let series = &read(&body, "file")[0];
        assert_eq!(series.total_increase(), Some(9.0));
        assert_eq!(series.label("pod"), "p");
        assert_eq!(series.points.len(), 4);
    }
}
