//! Tells of calls that took long: one line each, and not too many of them.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use flotilla_kit::call::USER;
use flotilla_replica::Replica;
use http::{HeaderValue, Request, uri::PathAndQuery};
use tonic::{Code, body::Body, transport::server::TcpConnectInfo};

use super::admission::MethodKind;

/// Lines in a second.
const LINES: u32 = 10;

/// Watches for slow calls.
pub(in super::super) struct SlowLog {
    threshold: Duration,
    methods: Arc<HashMap<String, MethodKind>>,
    replica: Replica,
    limiter: Mutex<Limiter>,
}

/// One call that may turn out to be slow.
pub(super) struct Watched {
    log: Arc<SlowLog>,
    path: Option<PathAndQuery>,
    user: Option<HeaderValue>,
    address: Option<SocketAddr>,
    /// When its answer began, after its start.
    answered: Option<Duration>,
}

impl SlowLog {
    /// Tells of calls that take longer than `threshold`; of none if it is zero. Streams are meant to
    /// last, so they are left out.
    pub(in super::super) fn new(
        threshold: Duration,
        methods: Arc<HashMap<String, MethodKind>>,
        replica: Replica,
    ) -> Self {
        Self { threshold, methods, replica, limiter: Mutex::default() }
    }

    /// Notes who calls what.
    pub(super) fn watch(self: &Arc<Self>, request: &Request<Body>) -> Option<Watched> {
        if self.threshold.is_zero() || self.methods.get(request.uri().path()).is_some_and(|kind| kind.streams) {
            return None;
        }
        Some(Watched {
            log: self.clone(),
            path: request.uri().path_and_query().cloned(),
            user: request.headers().get(USER).cloned(),
            address: request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr),
            answered: None,
        })
    }
}

impl Watched {
    /// The answer begins: what comes after is for the network to take.
    pub(super) fn answered(&mut self, after: Duration) {
        self.answered = Some(after);
    }

    /// The call has ended.
    pub(super) fn end(&self, code: Code, took: Duration) {
        if took < self.log.threshold {
            return;
        }
        let admitted = self.log.limiter.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Some(left_out) = admitted else { return };
        let left_out = (left_out > 0).then_some(left_out);
        tracing::warn!(
            method = self.path.as_ref().map(PathAndQuery::path),
            user = self.user.as_ref().and_then(|user| user.to_str().ok()),
            address = self.address.map(tracing::field::display),
            ?code,
            took_ms = milliseconds(took),
            answered_ms = self.answered.map(milliseconds),
            last_fsync_ms = milliseconds(self.log.replica.last_sync()),
            left_out,
            "a request was slow"
        );
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

/// Lets so many lines through in a second, and counts the others.
#[derive(Default)]
struct Limiter {
    second: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Limiter {
    /// How many were left out since the last line, if this one may be told.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            (self.second, self.told) = (Some(now), 0);
        }
        if self.told == LINES {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_in_a_second_and_the_next_one_counts_those_left_out() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let told: Vec<_> = (0..25).filter_map(|_| limiter.admit(now)).collect();
        assert_eq!(told, [0; 10]);
        let later = now + Duration::from_secs(1);
        assert_eq!((limiter.admit(later), limiter.admit(later)), (Some(15), Some(0)));
    }
}
