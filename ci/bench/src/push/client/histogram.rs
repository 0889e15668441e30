//! Times in buckets that are 1.6 % wide at most, because a run has millions of them.

/// Buckets for each doubling.
const STEPS: u64 = 64;

/// Counts nanoseconds.
#[derive(Clone, Default)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    pub(crate) fn note(&mut self, nanoseconds: u64) {
        let bucket = bucket(nanoseconds);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many were not longer than so many microseconds.
    pub(crate) fn within(&self, microseconds: u64) -> u64 {
        self.buckets.iter().take(bucket(microseconds * 1000) + 1).sum()
    }

    /// What this fraction didn't exceed, in microseconds; none of none.
    pub(crate) fn microseconds(&self, fraction: f64) -> Option<f64> {
        let rank = ((fraction * self.count as f64).ceil() as u64).max(1);
        let mut sum = 0;
        let reaches = |count: &u64| {
            sum += count;
            sum >= rank
        };
        self.buckets.iter().position(reaches).map(|bucket| end(bucket) as f64 / 1000.0)
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let doublings = u64::from((nanoseconds / STEPS).max(1).ilog2());
    (doublings * STEPS + (nanoseconds >> doublings)) as usize
}

/// The last nanosecond of a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = bucket - doublings * STEPS;
    ((step + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_at_most_a_64th_wide() {
        for nanoseconds in [0, 1, 63, 64, 127, 128, 129, 1_000, 65_535, 123_456_789, 60_000_000_000] {
            let end = end(bucket(nanoseconds));
            assert!(end >= nanoseconds && end <= nanoseconds + nanoseconds / 64 + 1, "{nanoseconds}: {end}");
        }
    }

    #[test]
    fn percentiles_are_by_rank() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.microseconds(0.5), None);
        (1..=100).for_each(|number| histogram.note(number * 10_000));
        let near = |fraction, wanted: f64| {
            let found = histogram.microseconds(fraction).unwrap();
            assert!((found / wanted - 1.0).abs() < 0.02, "{found} for {wanted}");
        };
        near(0.50, 500.0);
        near(0.99, 990.0);
        assert_eq!(histogram.within(2_000), 100);
    }
}
