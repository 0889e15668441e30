//! Percentiles, medians and ratios. It knows nothing of what was measured.

use std::collections::BTreeMap;

/// The value that `fraction` (0 to 1) of the sorted values don't exceed, by nearest rank; none of none.
pub(crate) fn percentile(sorted: &[u64], fraction: f64) -> Option<u64> {
    let rank = (fraction * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle value, or the mean of the two middle ones; none of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// The median of `ours / theirs` over the rounds that both have: within a round both met the same disk.
pub(crate) fn median_ratio(ours: &BTreeMap<usize, f64>, theirs: &BTreeMap<usize, f64>) -> Option<f64> {
    let of_round = |(round, mine): (&usize, &f64)| {
        let other = theirs.get(round).filter(|other| **other > 0.0)?;
        Some(mine / other)
    };
    median(ours.iter().filter_map(of_round))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let sorted: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&sorted, 0.50), Some(50));
        assert_eq!(percentile(&sorted, 0.99), Some(99));
        assert_eq!(percentile(&sorted, 1.0), Some(100));
        assert_eq!(percentile(&sorted, 0.0), Some(1));
    }

    #[test]
    fn the_99th_percentile_of_few_values_is_the_largest() {
        assert_eq!(percentile(&[7, 8, 9], 0.99), Some(9));
        assert_eq!(percentile(&[7], 0.5), Some(7));
    }

    #[test]
    fn nothing_measured_has_no_percentile_and_no_median() {
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(median([]), None);
    }

    #[test]
    fn one_slow_round_does_not_move_the_median() {
        assert_eq!(median([10.0, 11.0, 12.0, 9.0, 1.0]), Some(10.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }

    #[test]
    fn a_ratio_compares_within_rounds_so_a_drifting_disk_cancels() {
        let ours = BTreeMap::from([(0, 100.0), (1, 10.0), (2, 1000.0)]);
        let theirs = BTreeMap::from([(0, 50.0), (1, 5.0), (2, 500.0)]);
        assert_eq!(median_ratio(&ours, &theirs), Some(2.0));
    }

    #[test]
    fn a_round_that_one_side_lacks_does_not_count() {
        let ours = BTreeMap::from([(0, 100.0), (1, 30.0)]);
        let theirs = BTreeMap::from([(1, 10.0), (2, 1.0)]);
        assert_eq!(median_ratio(&ours, &theirs), Some(3.0));
        assert_eq!(median_ratio(&ours, &BTreeMap::new()), None);
        assert_eq!(median_ratio(&ours, &BTreeMap::from([(0, 0.0)])), None);
    }
}
