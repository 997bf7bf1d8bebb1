//! Tests that compare few values with many, and what their outcome is worth.

/// The chance that a value of `after` is above one of `before`, ties counted half: the area under the ROC curve, Mann and
/// Whitney's U divided by its maximum. `before` must be sorted.
pub(super) fn above(before: &[f64], after: &[f64]) -> f64 {
    if before.is_empty() || after.is_empty() {
        return 0.5;
    }
    let place = |value: f64| {
        let low = before.partition_point(|b| *b < value);
        let high = before.partition_point(|b| *b <= value);
        (low + high) as f64 / 2.0
    };
    after.iter().map(|value| place(*value)).sum::<f64>() / (before.len() * after.len()) as f64
}

/// One-sided p-value of [`above`], by the normal approximation of U for `n` and `m` values.
pub(super) fn p_of_above(area: f64, n: usize, m: usize) -> f64 {
    let (n, m) = (n as f64, m as f64);
    let z = (area - 0.5) * (12.0 * n * m / (n + m + 1.0)).sqrt();
    upper_tail(z).max(1e-12)
}

/// One-sided p-value of seeing `beyond` or more of `m` values above all of `n` others, where all are alike: each of the
/// `beyond` largest of `n + m` must be among the `m`.
pub(super) fn p_of_beyond(beyond: usize, n: usize, m: usize) -> f64 {
    let chance = |at: usize| (m - at.min(m)) as f64 / ((n + m).saturating_sub(at)).max(1) as f64;
    (0..beyond).map(chance).product::<f64>().max(1e-12)
}

/// The chance of a normal deviate above `z` (Abramowitz and Stegun 7.1.26, error below 1.5e-7).
fn upper_tail(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let coefficients = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let tail = coefficients.iter().fold(0.0, |sum, c| (sum + c) * t) * (-x * x).exp() / 2.0;
    if z >= 0.0 { tail } else { 1.0 - tail }
}

/// What a p-value is worth at most, as the logarithm of a likelihood ratio: 1 / (−e · p · ln p), the bound of Sellke, Bayarri
/// and Berger (2001). `tests` is of how many tests it is the smallest.
pub(super) fn log_ratio_of_p(p: f64, tests: usize) -> f64 {
    let p = 1.0 - (1.0 - p).powf(tests.max(1) as f64);
    let p = p.max(1e-12);
    if p >= 1.0 / std::f64::consts::E { 0.0 } else { -(-std::f64::consts::E * p * p.ln()).ln() }
}

/// How much likelier it is that two shares differ than that they are one: `k1` of `n1` against `k2` of `n2`, each share beta-distributed
/// with `a` and `b` (½ and ½ is Jeffreys' prior). The natural logarithm of the ratio.
pub(super) fn log_ratio_of_shares(first: (usize, usize), second: (usize, usize), a: f64, b: f64) -> f64 {
    let beta = |(k, n): (f64, f64)| ln_beta(k + a, n - k + b);
    let (k1, n1) = (first.0 as f64, first.1 as f64);
    let (k2, n2) = (second.0 as f64, second.1 as f64);
    beta((k1, n1)) + beta((k2, n2)) - ln_beta(a, b) - beta((k1 + k2, n1 + n2))
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// The logarithm of the gamma function for positive numbers: Stirling's series, shifted to where it is exact to 1e-10.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 8.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0)));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

/// The value at a share of the way through sorted values; 0 of none.
pub(super) fn at_share(sorted: &[f64], share: f64) -> f64 {
    let at = (sorted.len().saturating_sub(1)) as f64 * share;
    let (low, part) = (at.floor() as usize, at.fract());
    let get = |at: usize| sorted.get(at).copied().unwrap_or_default();
    if part == 0.0 { get(low) } else { get(low) * (1.0 - part) + get(low + 1) * part }
}

/// The mean of sorted values, those beyond the 95th percentile counted as it: one stuck request is no trend.
pub(super) fn calm_mean(sorted: &[f64]) -> f64 {
    let cap = at_share(sorted, 0.95);
    sorted.iter().map(|value| value.min(cap)).sum::<f64>() / sorted.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert!((ln_gamma(0.5) - 0.572_364_942_9).abs() < 1e-9);
        assert!((ln_gamma(10.0) - 12.801_827_480_1).abs() < 1e-9);
        assert!(
            (upper_tail(1.644_853_6) - 0.05).abs() < 1e-6 && (upper_tail(-1.0) - 0.841_344_7).abs() < 1e-6
        );
        assert_eq!(above(&[1.0, 2.0, 3.0], &[4.0, 5.0]), 1.0);
        assert_eq!(above(&[1.0, 1.0], &[1.0]), 0.5);
        assert!((p_of_beyond(3, 11, 4) - 24.0 / 2730.0).abs() < 1e-12);
        assert_eq!(at_share(&[1.0, 2.0], 0.5), 1.5);
        assert!((log_ratio_of_p(0.01, 1) - 2.077).abs() < 1e-3);
        assert_eq!(log_ratio_of_p(0.01, 100), 0.0);
        // 20 of 20, then 0 of 2: odds of several hundred to one.
        let ratio = log_ratio_of_shares((20, 20), (0, 2), 0.5, 0.5);
        assert!((4.0..6.5).contains(&ratio), "{ratio}");
        assert!(log_ratio_of_shares((10, 20), (10, 20), 0.5, 0.5) < 0.0);
    }
}
