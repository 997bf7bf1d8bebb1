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
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    of_sorted(&sorted, share)
}

/// The same of values in ascending order.
pub fn of_sorted(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (*sorted.get(at.floor() as usize)?, *sorted.get(at.ceil() as usize)?);
    Some(low + (high - low) * at.fract())
}

/// The median distance of values in ascending order from one among or between them: the nearest come first, from both sides.
pub fn median_distance(sorted: &[f64], middle: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let (mut below, mut above) = (sorted.partition_point(|value| *value < middle), 0);
    above += below;
    let mut nearest = || {
        let under = below.checked_sub(1).and_then(|at| sorted.get(at)).map(|value| (value - middle).abs());
        let over = sorted.get(above).map(|value| (value - middle).abs());
        match (under, over) {
            (Some(under), over) if over.is_none_or(|over| under <= over) => {
                below -= 1;
                Some(under)
            }
            (_, over) => {
                above += 1;
                over
            }
        }
    };
    let (mut low, mut high) = (0.0, 0.0);
    for at in 0..=last.div_ceil(2) {
        high = nearest()?;
        if at == last / 2 {
            low = high;
        }
    }
    Some(low + (high - low) * (0.5 * last as f64).fract())
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

    /// Takes a value out that was taken in.
    pub fn remove(&mut self, value: f64) {
        let at = self.0.partition_point(|known| known.total_cmp(&value).is_lt());
        if at < self.0.len() {
            self.0.remove(at);
        }
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
            let values: Vec<f64> = (0..1 + seed % 9).map(|n| draw(seed, n)).collect();
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            assert_eq!(median(&values), of_sorted(&sorted, 0.5));
            let middle = median(&values).unwrap();
            let away: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
            assert_eq!(median_distance(&sorted, middle), median(&away), "{values:?}");
            values.iter().for_each(|value| window.insert(*value));
            assert_eq!(window.sorted(), sorted);
            values.iter().for_each(|value| window.remove(*value));
            assert!(window.sorted().is_empty());
        }
        assert_eq!(median_distance(&[], 0.0), None);
    }

    #[test]
    fn equal_values_share_a_rank() {
        assert_eq!(ranks(&[5.0, 1.0, 5.0, 0.0]), [3.5, 2.0, 3.5, 1.0]);
    }
}
