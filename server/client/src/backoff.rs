//! Growing, jittered pauses.

use std::time::Duration;

/// Pauses that double up to a bound. Each is a random part of its turn's length, at least half, so
/// that many clients don't come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    most: Duration,
    turn: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, turn: 0 }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let length = self.first.saturating_mul(1 << self.turn.min(16)).min(self.most);
        self.turn += 1;
        length.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Something worked: begin again.
    pub(crate) fn reset(&mut self) {
        self.turn = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_again() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, most);
        for turn in 0..40 {
            let length = first.saturating_mul(1 << turn.min(16)).min(most);
            let pause = backoff.next();
            assert!(pause >= length / 2 && pause <= length, "turn {turn}: {pause:?} of {length:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
