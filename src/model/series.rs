//! Time series, as Prometheus gives them.

use serde_json::Value;
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

    /// The growth of a counter between two Unix times, resets taken into account: a fall counts as a start from 0, as
    /// Prometheus' `increase` has it, but without extrapolation. `None` with fewer than two points.
    pub fn increase(&self, start: f64, end: f64) -> Option<f64> {
        let inside: Vec<f64> =
            self.points.iter().filter(|(t, _)| start <= *t && *t <= end).map(|(_, v)| *v).collect();
        if inside.len() < 2 {
            return None;
        }
        let pairs = inside.iter().zip(inside.iter().skip(1));
        Some(pairs.map(|(a, b)| if b >= a { b - a } else { *b }).sum())
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

/// Reads the body of a `query` or `query_range` answer. `fallback` names series whose labels hold no name.
pub fn read(body: &Value, fallback: &str) -> Vec<Series> {
    let data = body.at("data").unwrap_or(body);
    let mut out = vec![];
    for entry in data.list("result") {
        let mut labels = entry.text_map("metric");
        let name = labels.remove("__name__").unwrap_or_else(|| fallback.to_owned());
        let single = entry.at("value").map(std::slice::from_ref).unwrap_or_default();
        let mut points: Vec<(f64, f64)> =
            entry.list("values").iter().chain(single).filter_map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        out.push(Series { name, labels, points });
    }
    out
}

fn point(value: &Value) -> Option<(f64, f64)> {
    let pair = value.as_array()?;
    let number = |v: &Value| v.as_f64().or_else(|| v.as_str()?.parse().ok()).filter(|n: &f64| n.is_finite());
    Some((number(pair.first()?)?, number(pair.get(1)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
