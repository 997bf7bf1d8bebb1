//! When the trouble began: given, or found in what was seen.

use jiff::Timestamp;
use std::collections::BTreeMap;

use super::series::split;
use crate::model::memo::Derived;
use crate::model::series::Series;
use crate::model::snapshot::Snapshot;
use crate::model::time::{from_unix, to_unix};

/// A split counts from this many standard deviations on: of the some 25 splits of a short series the best is beyond 3 by
/// chance in about one of twenty.
const TELLING: f64 = 3.0;
/// Time is looked at in this many pieces at most; finer than the points of most series.
const MAX_PIECES: usize = 720;

/// How the onset is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Somebody said so.
    Given,
    /// Many series change their level there.
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

/// When the trouble began, given or found. Expensive: read it through `snapshot.derived::<Estimate>()`.
pub fn estimate(snapshot: &Snapshot) -> Option<Onset> {
    let given = snapshot.onset.map(|at| Onset { at, known: Known::Given, margin: 60.0 });
    given.or_else(|| of_series(&snapshot.series))
}

/// The instant at which most series change their level, each counted by how surely it does.
fn of_series(series: &[Series]) -> Option<Onset> {
    let times = || series.iter().flat_map(|s| s.points.first().into_iter().chain(s.points.last()));
    let start = times().map(|(at, _)| *at).reduce(f64::min)?;
    let end = times().map(|(at, _)| *at).reduce(f64::max)?;
    let mut steps: Vec<f64> = vec![];
    let mut votes: Vec<(f64, f64)> = vec![];
    for one in series {
        let values: Vec<f64> = one.points.iter().map(|(_, value)| *value).collect();
        let Some(found) = split::best(&values).filter(|split| split.z.abs() >= TELLING) else { continue };
        let at = one.points.get(found.at).map(|(at, _)| *at);
        let before = found.at.checked_sub(1).and_then(|at| one.points.get(at)).map(|(at, _)| *at);
        if let (Some(at), Some(before)) = (at, before) {
            // The change lies between two points, most likely soon after the first.
            votes.push((before, found.z.abs() - TELLING + 1.0));
            steps.push(at - before);
        }
    }
    let step = super::series::stats::median(&steps)?.max((end - start) / MAX_PIECES as f64).max(1.0);
    let mut pieces: BTreeMap<i64, f64> = BTreeMap::new();
    for (at, weight) in votes {
        let piece = ((at - start) / step).floor() as i64;
        // Scrapes of different targets fall into neighbouring pieces.
        for (beside, share) in [(-1, 0.5), (0, 1.0), (1, 0.5)] {
            *pieces.entry(piece + beside).or_default() += weight * share;
        }
    }
    let best = pieces.iter().fold(None::<(i64, f64)>, |best, (piece, weight)| match best {
        Some((_, most)) if most >= *weight => best,
        _ => Some((*piece, *weight)),
    })?;
    let at = from_unix((start + (best.0 as f64 + 0.5) * step).clamp(start, end))?;
    Some(Onset { at, known: Known::Found, margin: step })
}

/// The points of a series before an onset, and those from it on.
pub fn around(series: &Series, onset: Timestamp) -> (&[(f64, f64)], &[(f64, f64)]) {
    let at = series.points.partition_point(|(time, _)| *time < to_unix(onset));
    series.points.split_at_checked(at).unwrap_or((&series.points, &[]))
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
