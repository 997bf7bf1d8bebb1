//! A lasting step in a series of durations.

use crate::analyze::logs::digest::percentile;

/// A step up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// The level before, in the samples' unit.
    pub before: f64,
    /// The level after.
    pub after: f64,
    /// When, in Unix seconds.
    pub at: f64,
    /// How many samples it rests on.
    pub samples: usize,
}

/// The later level is at least this many times the earlier one.
const RATIO: f64 = 2.0;
/// And at least this much above it, in milliseconds.
const RISE: f64 = 50.0;
/// The time looked at is cut into this many slots.
const SLOTS: usize = 40;
/// Slots on either side of a step, at least: a fifth of the time is a level, less is a burst.
const MIN_SIDE: usize = 8;
/// The share of slots that must lie on their own side of the middle.
const STEADY: f64 = 0.8;

/// The strongest step up of a percentile (`share`, 0 to 1) in samples of time and value, times in order. Where `onset` is known it
/// is looked for there alone.
pub fn shift(samples: &[(f64, f64)], share: f64, onset: Option<f64>) -> Option<Shift> {
    let (start, end) = (samples.first()?.0, samples.last()?.0);
    let width = (end - start) / SLOTS as f64;
    if width <= 0.0 {
        return None;
    }
    let mut slots: Vec<Vec<f64>> = vec![vec![]; SLOTS];
    for (at, value) in samples {
        let slot = (((at - start) / width) as usize).min(SLOTS - 1);
        if let Some(slot) = slots.get_mut(slot) {
            slot.push(*value);
        }
    }
    let levels: Vec<(usize, f64)> = slots
        .iter_mut()
        .enumerate()
        .filter_map(|(at, values)| {
            values.sort_by(f64::total_cmp);
            Some((at, percentile(values, share)?))
        })
        .collect();
    let median = |part: &[(usize, f64)]| {
        let mut values: Vec<f64> = part.iter().map(|(_, v)| *v).collect();
        values.sort_by(f64::total_cmp);
        percentile(&values, 0.5)
    };
    let mut best: Option<(f64, Shift)> = None;
    for split in MIN_SIDE..levels.len().saturating_sub(MIN_SIDE) + 1 {
        let Some((left, right)) = levels.split_at_checked(split) else { continue };
        let Some(first) = right.first() else { continue };
        let at = start + first.0 as f64 * width;
        if onset.is_some_and(|onset| (onset - at).abs() > 1.5 * width) {
            continue;
        }
        let (Some(before), Some(after)) = (median(left), median(right)) else { continue };
        if after < RATIO * before || after < before + RISE {
            continue;
        }
        let middle = (before.max(1e-3) * after).sqrt();
        let low = left.iter().filter(|(_, v)| *v < middle).count() as f64;
        let high = right.iter().filter(|(_, v)| *v > middle).count() as f64;
        let steady = (low / left.len() as f64).min(high / right.len() as f64);
        let fit = low + high;
        if steady >= STEADY && best.as_ref().is_none_or(|(known, _)| fit > *known) {
            best = Some((fit, Shift { before, after, at, samples: samples.len() }));
        }
    }
    best.map(|(_, shift)| shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(value: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
        (0..400).map(|n| (n as f64, value(n))).collect()
    }

    #[test]
    fn a_step_is_found_where_it_is() {
        let shift = shift(
            &samples(|n| if n < 240 { 20.0 + (n % 7) as f64 } else { 400.0 + (n % 9) as f64 }),
            0.5,
            None,
        )
        .unwrap();
        assert!((shift.at - 240.0).abs() <= 10.0, "{shift:?}");
        assert!(shift.before < 30.0 && shift.after > 399.0);
    }

    #[test]
    fn noise_bursts_small_steps_and_falls_are_none() {
        assert_eq!(shift(&samples(|n| 20.0 + ((n * 7919) % 97) as f64), 0.95, None), None);
        assert_eq!(shift(&samples(|n| if (200..230).contains(&n) { 900.0 } else { 20.0 }), 0.5, None), None);
        assert_eq!(shift(&samples(|n| if n < 200 { 10.0 } else { 40.0 }), 0.5, None), None);
        assert_eq!(shift(&samples(|n| if n < 200 { 900.0 } else { 40.0 }), 0.5, None), None);
        assert_eq!(shift(&[], 0.5, None), None);
        assert_eq!(shift(&[(1.0, 1.0)], 0.5, None), None);
    }

    #[test]
    fn a_share_of_slow_requests_shows_in_the_high_percentile_alone() {
        let some_slow = samples(|n| if n >= 200 && n % 5 == 0 { 2000.0 } else { 20.0 });
        assert_eq!(shift(&some_slow, 0.5, None), None);
        assert!(shift(&some_slow, 0.95, None).is_some());
    }
}
