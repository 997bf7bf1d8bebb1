//! When spans of a service begin to fail or to last, without being told when to look.

use std::collections::BTreeMap;

use super::errors::{Failure, failure};
use super::measure::{Measured, Operation};
use super::stats::{log_ratio_of_p, log_ratio_of_shares};
use crate::analyze::beginnings::Beginning;
use crate::model::network::ServiceName;
use crate::model::span::Spans;

/// Splits that are weighed of one population, evenly chosen: the best lies near one of them.
const MAX_SPLITS: usize = 256;
/// Spans that each side of a split needs.
const LEAST: usize = 5;
/// Spans of one population that are ranked, evenly chosen.
const MOST: usize = 2_000;
/// Errors are rare as a rule: before anything is seen, one in eleven spans may fail.
const PRIOR: (f64, f64) = (0.5, 5.0);

/// What a service does by itself, in order of time: whether each span fails, and how long it works.
type Population = Vec<(i64, bool, u64)>;

/// The strongest beginning of each service.
pub fn beginnings(spans: &Spans, measured: &Measured) -> Vec<(ServiceName, Beginning)> {
    let mut populations: BTreeMap<(usize, Operation), Population> = BTreeMap::new();
    for (at, span) in spans.all().iter().enumerate() {
        let fails = matches!(failure(spans, measured, at), Some(Failure::Own | Failure::Unanswered));
        let key = (spans.service_index(span), measured.operation_of(span.operation));
        populations.entry(key).or_default().push((span.start, fails, measured.own(at)));
    }
    let mut best: BTreeMap<usize, Beginning> = BTreeMap::new();
    // One of all populations begins something by chance.
    let tests = 2 * populations.len();
    for ((service, _), population) in &mut populations {
        population.sort_unstable();
        for found in [fails(population, tests), lasts(population, tests)].into_iter().flatten() {
            let known = best.entry(*service).or_insert(found);
            if (found.weight, known.at) > (known.weight, found.at) {
                *known = found;
            }
        }
    }
    best.into_iter()
        .filter_map(|(service, found)| Some((spans.services().get(service)?.clone(), found)))
        .collect()
}

/// The split that tells best those that fail from those before, who did not as often.
fn fails(population: &Population, tests: usize) -> Option<Beginning> {
    let all = population.iter().filter(|(_, fails, _)| *fails).count();
    let mut before = 0;
    let mut splits: Vec<(usize, usize)> = vec![];
    for (at, (_, fails, _)) in population.iter().enumerate() {
        if *fails {
            splits.push((at, before));
            before += 1;
        }
    }
    let step = splits.len().div_ceil(MAX_SPLITS).max(1);
    let weighed = splits.iter().step_by(step).filter(|(at, _)| *at >= LEAST).filter_map(|(at, before)| {
        let (old, new) = ((*before, *at), (all - before, population.len() - at));
        let rises = new.0 as f64 * old.1 as f64 > old.0 as f64 * new.1 as f64;
        let weight = log_ratio_of_shares(old, new, PRIOR.0, PRIOR.1) - (tests.max(1) as f64).ln();
        rises.then_some((*at, weight))
    });
    let (at, weight) = weighed.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
    Some(Beginning { at: population.get(at)?.0 / 1_000, weight })
}

/// Pettitt's test (1979): where the ranks of what comes after differ most from those of what came before.
fn lasts(population: &Population, tests: usize) -> Option<Beginning> {
    let step = population.len().div_ceil(MOST).max(1);
    let picked: Vec<(i64, u64)> = population.iter().step_by(step).map(|(at, _, own)| (*at, *own)).collect();
    let count = picked.len();
    if count < 2 * LEAST {
        return None;
    }
    let mut sorted: Vec<u64> = picked.iter().map(|(_, own)| *own).collect();
    sorted.sort_unstable();
    // Twice the middle rank among equals, so that it is a whole number.
    let rank = |own: u64| sorted.partition_point(|v| *v < own) + sorted.partition_point(|v| *v <= own) + 1;
    let (mut sum, mut best) = (0i64, (0i64, 0usize));
    for (at, (_, own)) in picked.iter().enumerate().take(count - LEAST) {
        sum += rank(*own) as i64;
        let below = (at as i64 + 1) * (count as i64 + 1) - sum;
        if at + 1 >= LEAST && below > best.0 {
            best = (below, at + 1);
        }
    }
    let (largest, n) = (best.0 as f64, count as f64);
    let p = (-6.0 * largest * largest / (n * n * n + n * n)).exp();
    let weight = log_ratio_of_p(p, tests);
    Some(Beginning { at: picked.get(best.1)?.0 / 1_000, weight }).filter(|_| best.1 > 0)
}
