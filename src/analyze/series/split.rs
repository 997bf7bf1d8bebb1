//! Where a series changes its level: the exact best split in two by ranks.

use super::stats::ranks;

/// Points that a part must hold: one alone is an outlier, and the last two of a window may be a fault that just began.
const FEWEST: usize = 2;

/// Where a series falls apart in two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// The index of the first point of the second part.
    pub at: usize,
    /// How surely the two differ: the Mann-Whitney statistic in standard deviations, positive where the second is higher.
    pub z: f64,
}

/// The split into two parts that differ most by the Mann-Whitney test, over all splits: O(n log n). `None` where there are too few
/// points, or all are equal. Pettitt's test takes the largest U; standardised, a split near an end is not at a disadvantage.
pub fn best(values: &[f64]) -> Option<Split> {
    let n = values.len();
    let ranks = ranks(values);
    let total = n as f64;
    // The variance of ranks as they are, ties included.
    let mean = (total + 1.0) / 2.0;
    let variance = ranks.iter().map(|rank| (rank - mean).powi(2)).sum::<f64>() / (total - 1.0);
    if n < 2 * FEWEST || variance <= 0.0 {
        return None;
    }
    let mut best: Option<Split> = None;
    let mut sum = 0.0;
    for (at, rank) in ranks.iter().enumerate() {
        let (first, second) = (at as f64, total - at as f64);
        if at >= FEWEST && n - at >= FEWEST {
            let z = (first * mean - sum) / (variance * first * second / total).sqrt();
            if best.is_none_or(|known| z.abs() > known.z.abs()) {
                best = Some(Split { at, z });
            }
        }
        sum += rank;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_where_it_is() {
        let values: Vec<f64> = (0..30).map(|n| f64::from(n % 3) + if n >= 24 { 10.0 } else { 0.0 }).collect();
        let split = best(&values).unwrap();
        assert_eq!(split.at, 24);
        assert!(split.z > 3.0);
        let falling: Vec<f64> = values.iter().map(|value| -value).collect();
        assert_eq!(best(&falling).map(|s| (s.at, s.z)), Some((24, -split.z)));
    }

    #[test]
    fn nothing_is_no_step() {
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[1.0; 20]), None);
    }
}
