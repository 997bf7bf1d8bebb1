//! How surprising counts are, and what that says of a place.

/// Surprise beyond this many nats says nothing more: at that point it is not chance, and the question is what it means.
const SATURATION: f64 = 3.0;

/// The surprise, in nats, that two shares (`a` of `n` before, `b` of `m` after) are one: half of the G statistic.
pub(super) fn of_shares(a: f64, n: f64, b: f64, m: f64) -> f64 {
    if n <= 0.0 || m <= 0.0 {
        return 0.0;
    }
    let pooled = (a + b) / (n + m);
    term(a, n * pooled)
        + term(n - a, n * (1.0 - pooled))
        + term(b, m * pooled)
        + term(m - b, m * (1.0 - pooled))
}

/// The same for two rates: `a` events in an exposure of `x` before, `b` in one of `y` after.
pub(super) fn of_rates(a: f64, x: f64, b: f64, y: f64) -> f64 {
    if x <= 0.0 || y <= 0.0 {
        return 0.0;
    }
    let pooled = (a + b) / (x + y);
    term(a, x * pooled) + term(b, y * pooled)
}

fn term(observed: f64, expected: f64) -> f64 {
    if observed > 0.0 && expected > 0.0 { observed * (observed / expected).ln() } else { 0.0 }
}

/// What is left of a surprise when so many things could have surprised; `None` where chance would do.
pub(super) fn corrected(nats: f64, tests: usize) -> Option<f64> {
    let left = nats - (tests.max(1) as f64).ln();
    (left >= MIN_NATS).then_some(left)
}

/// A surprise that is left counts from here on: 1 : 7.
const MIN_NATS: f64 = 2.0;

/// What a deviation of a sort that weighs `full` at best says, by how surely it is there.
pub(super) fn weight(full: f64, nats: f64) -> f64 {
    full * nats / (nats + SATURATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_and_rates_surprise_nobody() {
        assert!(of_shares(10.0, 100.0, 20.0, 200.0).abs() < 1e-9);
        assert!(of_rates(10.0, 1.0, 20.0, 2.0).abs() < 1e-9);
        assert!(of_shares(0.0, 100.0, 50.0, 100.0) > 20.0);
        assert!(of_rates(0.0, 1.0, 30.0, 1.0) > 20.0);
        assert_eq!(of_shares(1.0, 0.0, 1.0, 1.0), 0.0);
    }

    #[test]
    fn many_tests_need_more_surprise() {
        assert!(corrected(5.0, 1).is_some());
        assert!(corrected(5.0, 1000).is_none());
        assert!(weight(2.0, 1e9) <= 2.0 && weight(2.0, 3.0) == 1.0);
    }
}
