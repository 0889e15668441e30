//! What may be tried again, and how much of it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use flotilla_proto::errors::v1::Reason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How much may be tried again, so that clients don't bury a server that struggles: the token
/// bucket of gRPC (proposal A6, `retryThrottling`). It begins full. A failure that could be tried
/// again takes one token, an answer gives `token_ratio` back, and with half of the tokens or fewer
/// nothing is tried again: failures are told at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// The size of the bucket, up to 1,000.
    pub max_tokens: u32,
    /// What an answer gives back, 0.001 and more.
    pub token_ratio: f32,
}

impl Default for RetryBudget {
    /// 100 tokens, a tenth back for each answer: a short outage is survived by dozens of calls at
    /// once, and in a long one a client adds a tenth to its load.
    fn default() -> Self {
        Self { max_tokens: 100, token_ratio: 0.1 }
    }
}

/// The bucket that the clones of a client share. Counts thousandths of a token.
#[derive(Debug)]
pub(crate) struct Bucket {
    level: AtomicU32,
    max: u32,
    gain: u32,
}

const TOKEN: u32 = 1000;

impl Bucket {
    pub(crate) fn new(budget: RetryBudget) -> Self {
        let max = budget.max_tokens.min(1000) * TOKEN;
        // As the proposal has it, digits past the third are ignored; a negative ratio is none.
        let gain = (budget.token_ratio * TOKEN as f32).clamp(0.0, max as f32) as u32;
        Self { level: AtomicU32::new(max), max, gain }
    }

    /// An answer came.
    pub(crate) fn succeeded(&self) {
        self.change(|level| (level + self.gain).min(self.max));
    }

    /// A failure that could be tried again came; says whether that is affordable.
    pub(crate) fn failed(&self) -> bool {
        self.change(|level| level.saturating_sub(TOKEN)) > self.max / 2
    }

    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        let former = self.level.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |level| Some(change(level)));
        // It never declines.
        change(former.unwrap_or_else(|level| level))
    }
}

/// Whether a call may be tried again, and after which pause if the server says.
pub(crate) fn after(status: &Status) -> Option<Option<Duration>> {
    let asked = asked(status);
    match (status.code(), reason(status)) {
        // Only a person can help this server with these.
        (_, Some(Reason::LogFailed | Reason::DiskFull)) => None,
        (Code::Unavailable, _) | (Code::Aborted, Some(Reason::Conflict)) => Some(asked),
        (Code::ResourceExhausted, _) => asked.map(Some),
        _ if is_broken(status) => Some(None),
        _ => None,
    }
}

/// Whether the status says something of the server rather than of the call: others may do better.
pub(crate) fn blames_server(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_broken(status)
}

/// Whether a call that this server can never answer may be answered by another one.
pub(crate) fn helps_elsewhere(status: &Status) -> bool {
    matches!(reason(status), Some(Reason::LogFailed | Reason::ServiceNotHere))
}

/// The pause that the server asks for.
pub(crate) fn asked(status: &Status) -> Option<Duration> {
    status.get_error_details().retry_info().and_then(|info| info.retry_delay)
}

/// The reason that the server gives, if this build knows it.
pub(crate) fn reason(status: &Status) -> Option<Reason> {
    status.get_error_details().error_info().and_then(|info| Reason::from_wire_name(&info.reason))
}

/// tonic says CANCELLED when its own timer ends a call.
pub(crate) fn is_timeout(status: &Status) -> bool {
    status.code() == Code::Cancelled && status.message().contains("Timeout expired")
}

/// The connection broke under the call: the status has a cause on this side, so no server made it.
/// Whether the call happened is unknown; its request id makes another try harmless.
pub(crate) fn is_broken(status: &Status) -> bool {
    use std::error::Error;
    let broken = matches!(status.code(), Code::Unknown | Code::Internal | Code::Cancelled | Code::Unavailable);
    broken && status.source().is_some() && !is_timeout(status)
}

/// Whether trying again can't help, however long: what streams and acknowledgements end with.
pub(crate) fn is_final(status: &Status) -> bool {
    reason(status) == Some(Reason::DeviceTakenOver)
        || matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented
        )
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn half_a_bucket_of_failures_ends_retries_and_answers_allow_them_again() {
        let bucket = Bucket::new(RetryBudget { max_tokens: 10, token_ratio: 0.5 });
        let affordable: Vec<bool> = (0..6).map(|_| bucket.failed()).collect();
        assert_eq!(affordable, [true, true, true, true, false, false]);
        for _ in 0..5 {
            bucket.succeeded();
        }
        assert!(bucket.failed(), "4 tokens and 5 halves are 6.5, one less is more than half");
        assert!(!bucket.failed());
    }

    #[test]
    fn a_bucket_neither_overflows_nor_runs_dry() {
        let bucket = Bucket::new(RetryBudget { max_tokens: 2, token_ratio: -1.0 });
        assert!((0..5).all(|_| !bucket.failed()));
        bucket.succeeded();
        assert!(!bucket.failed());
        let full = Bucket::new(RetryBudget { max_tokens: 4, token_ratio: 9.0 });
        full.succeeded();
        assert!(full.failed() && !full.failed());
    }

    #[test]
    fn only_what_the_contract_says_is_tried_again() {
        let status = |code, reason: Reason, delay: Option<u64>| {
            let metadata = std::collections::HashMap::new();
            let mut details = ErrorDetails::with_error_info(reason.wire_name(), flotilla_proto::ERROR_DOMAIN, metadata);
            if let Some(seconds) = delay {
                details.set_retry_info(Some(Duration::from_secs(seconds)));
            }
            Status::with_error_details(code, "", details)
        };
        let second = Some(Some(Duration::from_secs(1)));
        assert_eq!(after(&status(Code::Unavailable, Reason::NoLeader, Some(1))), second);
        assert_eq!(after(&status(Code::Unavailable, Reason::Starting, None)), Some(None));
        assert_eq!(after(&status(Code::ResourceExhausted, Reason::Overloaded, Some(1))), second);
        assert_eq!(after(&status(Code::Aborted, Reason::Conflict, None)), Some(None));
        for (code, reason) in [
            (Code::Unavailable, Reason::LogFailed),
            (Code::ResourceExhausted, Reason::DiskFull),
            (Code::Aborted, Reason::EtagStale),
            (Code::Aborted, Reason::DeviceTakenOver),
            (Code::InvalidArgument, Reason::InvalidField),
            (Code::Internal, Reason::Internal),
        ] {
            assert_eq!(after(&status(code, reason, None)), None, "{reason:?}");
        }
        assert_eq!(after(&Status::unknown("a server said so")), None);
    }

    #[test]
    fn a_connection_that_broke_is_tried_again() {
        let error = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset");
        assert_eq!(after(&Status::from_error(Box::new(error))), Some(None));
    }
}
