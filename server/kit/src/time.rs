//! The log's time, in microseconds since 1970 (UTC), and how it travels.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

const MICROS: u64 = 1_000_000;

/// A time of the log as clients read it.
pub fn timestamp(micros: u64) -> Timestamp {
    let nanos = (micros % MICROS) * 1_000;
    Timestamp { seconds: (micros / MICROS).cast_signed(), nanos: nanos as i32 }
}

/// This server's clock, for signs of life. Nothing that is stored uses it.
pub fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp(u64::try_from(now.as_micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_microseconds() {
        assert_eq!(timestamp(0), Timestamp::default());
        assert_eq!(timestamp(1_700_000_000_123_456), Timestamp { seconds: 1_700_000_000, nanos: 123_456_000 });
    }
}
