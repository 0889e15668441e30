//! A server's clock in simulated time, which may jump.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use flotilla_replica::clock::Clock;
use tokio::time::Instant;

/// When simulations begin, in microseconds since 1970.
const BEGIN: u64 = 1_700_000_000_000_000;

/// Clones are the same clock.
#[derive(Clone)]
pub(crate) struct SimClock {
    began: Instant,
    offset: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock that is off by so many microseconds.
    pub(crate) fn new(began: Instant, offset: i64) -> Self {
        Self { began, offset: Arc::new(AtomicI64::new(offset)) }
    }

    /// Jumps forwards or back.
    pub(crate) fn jump(&self, micros: i64) {
        self.offset.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> u64 {
        let now = BEGIN + self.began.elapsed().as_micros() as u64;
        now.saturating_add_signed(self.offset.load(Ordering::Relaxed))
    }
}
