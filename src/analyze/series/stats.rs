//! Robust statistics over short series.

/// The middle value, the mean of the two middle ones of an even number. `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// A quantile (0 to 1), linear between the two nearest values. `None` of nothing.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    // Most looks are of one to three points, and not worth a copy.
    match (values, share == 0.5) {
        ([one], _) => return Some(*one),
        ([a, b], true) => {
            let (low, high) = if a.total_cmp(b).is_le() { (*a, *b) } else { (*b, *a) };
            return Some(low + (high - low) * 0.5);
        }
        ([a, b, c], true) => {
            let (low, high) = if a.total_cmp(b).is_le() { (*a, *b) } else { (*b, *a) };
            let under = if c.total_cmp(&high).is_le() { *c } else { high };
            return Some(if under.total_cmp(&low).is_le() { low } else { under });
        }
        _ => {}
    }
    quantile_within(&mut values.to_vec(), share)
}

/// The same, which leaves the values in another order.
pub fn quantile_within(values: &mut [f64], share: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (_, low, above) = values.select_nth_unstable_by(at.floor() as usize, f64::total_cmp);
    let low = *low;
    let next = above.iter().copied().min_by(f64::total_cmp);
    let high = next.filter(|_| at.fract() > 0.0).unwrap_or(low);
    Some(low + (high - low) * at.fract())
}

/// The same of values in ascending order.
pub fn of_sorted(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (*sorted.get(at.floor() as usize)?, *sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

/// The median distance of values in ascending order from one among or between them. Those below it, and those above, are in order of their
/// distance already, and the middle of two lists in order is found by halving.
pub fn median_distance(sorted: &[f64], middle: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let below = sorted.partition_point(|value| *value < middle);
    let above = sorted.len() - below;
    let far = f64::INFINITY;
    let distance = |at: usize| sorted.get(at).map_or(far, |value| (value - middle).abs());
    let under = |nth: usize| if nth < below { distance(below - 1 - nth) } else { far };
    let over = |nth: usize| distance(below + nth);
    // How many of the first `rank + 1` lie below.
    let rank = last / 2;
    let (mut from, mut to) = ((rank + 1).saturating_sub(above), below.min(rank + 1));
    while from < to {
        let half = usize::midpoint(from, to);
        if under(half) < over(rank - half) {
            from = half + 1;
        } else {
            to = half;
        }
    }
    let beside = rank + 1 - from;
    let of_under = from.checked_sub(1).map_or(0.0, under);
    let low = beside.checked_sub(1).map_or(of_under, |nth| of_under.max(over(nth)));
    let high = if last % 2 == 0 { low } else { under(from).min(over(beside)) };
    Some(low + (high - low) * 0.5)
}

/// The last so many values, in order of size.
#[derive(Debug, Clone, Default)]
pub struct Window(Vec<f64>);

impl Window {
    /// Takes a value in.
    pub fn insert(&mut self, value: f64) {
        let at = self.0.partition_point(|known| known.total_cmp(&value).is_lt());
        self.0.insert(at, value);
    }

    /// Takes a value in, in the place of one that was taken in.
    pub fn replace(&mut self, leaving: f64, entering: f64) {
        let place = |value: f64| self.0.partition_point(|known| known.total_cmp(&value).is_lt());
        let (from, to) = (place(leaving), place(entering));
        if from >= self.0.len() {
            return;
        }
        let at = if from < to {
            self.0.copy_within(from + 1..to, from);
            to - 1
        } else {
            self.0.copy_within(to..from, to + 1);
            to
        };
        if let Some(slot) = self.0.get_mut(at) {
            *slot = entering;
        }
    }

    /// Takes these in the place of all.
    pub fn fill(&mut self, values: &[f64]) {
        self.0.clear();
        self.0.extend_from_slice(values);
        self.0.sort_unstable_by(f64::total_cmp);
    }

    /// Its values in ascending order.
    pub fn sorted(&self) -> &[f64] {
        &self.0
    }
}

/// Ranks from 1; equal values share their mean rank.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.iter().copied().enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut out = vec![0.0; values.len()];
    let mut passed = 0;
    for equal in order.chunk_by(|a, b| a.1 == b.1) {
        let shared = passed as f64 + (equal.len() as f64 + 1.0) / 2.0;
        for (at, _) in equal {
            if let Some(rank) = out.get_mut(*at) {
                *rank = shared;
            }
        }
        passed += equal.len();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_do_not_move_the_middle() {
        let values = [1.0, 2.0, 3.0, 4.0, 1e9];
        assert_eq!(median(&values), Some(3.0));
        assert_eq!(quantile(&values, 0.25), Some(2.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn short_cuts_change_nothing() {
        let draw = |seed: usize, n: usize| ((n * 7919 + seed * 104_729) % 13) as f64 - 4.0;
        let mut window = Window::default();
        for seed in 0..200 {
            let mut values: Vec<f64> = (0..1 + seed % 9).map(|n| draw(seed, n)).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            assert_eq!(median(&values), of_sorted(&sorted, 0.5));
            let middle = median(&values).unwrap();
            let away: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
            assert_eq!(median_distance(&sorted, middle), median(&away), "{values:?}");
            window.fill(&[]);
            values.iter().for_each(|value| window.insert(*value));
            assert_eq!(window.sorted(), sorted);
            let shifted: Vec<f64> = values.iter().map(|value| (value * 7.0) % 5.0).collect();
            values.iter().zip(&shifted).for_each(|(old, new)| window.replace(*old, *new));
            sorted = shifted;
            sorted.sort_by(f64::total_cmp);
            assert_eq!(window.sorted(), sorted);
            for share in [0.0, 0.25, 0.6, 1.0] {
                assert_eq!(quantile(&values, share), {
                    values.sort_by(f64::total_cmp);
                    of_sorted(&values, share)
                });
            }
        }
        assert_eq!(median_distance(&[], 0.0), None);
    }

    #[test]
    fn equal_values_share_a_rank() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 0.0]), [3.5, 2.0, 3.5, 1.0]);
    }
}
