//! What can go wrong, in the words of the services. Nothing here knows the
//! transport: [`crate::status`] says how an error travels.

use std::{error::Error as StdError, fmt::Display, time::Duration};

use flotilla_proto::errors::v1::Reason;
use flotilla_replica::{FeedError, ProposeError, ReadError};
use flotilla_store::{InvalidTransaction, StoreError, limits};

use crate::fields::{FieldViolation, sentence};

/// Why a request was refused, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields are missing, malformed or not allowed.
    #[error("{}", sentence(.0))]
    InvalidFields(Vec<FieldViolation>),
    /// The request is over a fixed limit.
    #[error("{limit} is {actual}, and {max} is the most possible: split or shorten the request")]
    LimitExceeded {
        /// The limit's name.
        limit: &'static str,
        /// The most that is possible.
        max: u64,
        /// What the request has.
        actual: u64,
    },
    /// The page token was given out for another query.
    #[error(
        "the page token was given out for another query: start again without a token, or repeat the filters of the first page"
    )]
    PageTokenMismatch,
    /// The request id was used before, with another body.
    #[error("this request id was used for another request: make a new id for every new intent")]
    RequestIdReused,
    /// The caller must say who it is.
    #[error("metadata {key} is missing, and this method acts for the caller: send it")]
    CallerMissing {
        /// The metadata's key.
        key: &'static str,
    },
    /// What one service alone refuses.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// A condition of the transaction did not hold. A service that knows what
    /// its condition meant says that instead.
    #[error("another change came in between: try again")]
    Conflict {
        /// Which condition, counted from 0.
        condition: usize,
    },
    /// The feed no longer has what comes after the cursor.
    #[error(
        "revision {wanted} is no longer in the feed, which starts at {floor}: list everything, then go on from the new cursor"
    )]
    BelowFloor {
        /// The revision that comes next for the reader.
        wanted: u64,
        /// The first that can still be read.
        floor: u64,
    },
    /// A cursor or page token of other data.
    #[error(
        "the cursor or page token is of another history, and this cell's is {ours}: it was restored or recovered since, so list everything anew"
    )]
    HistoryChanged {
        /// The history of this cell.
        ours: String,
    },
    /// A cursor that this cell never gave out.
    #[error("revision {wanted} has not happened, the newest is {last}: list everything anew")]
    RevisionInFuture {
        /// The cursor's revision.
        wanted: u64,
        /// The newest revision.
        last: u64,
    },
    /// The log takes no more at the moment.
    #[error("{waiting} writes wait already: try again in a moment")]
    Overloaded {
        /// How many writes wait.
        waiting: usize,
    },
    /// The disk takes no more.
    #[error("{free} bytes are free on the server's disk, and writing needs {required}: free some; reads go on")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        required: u64,
    },
    /// The deadline had passed before anything was done.
    #[error("the deadline passed before the server began: nothing was changed")]
    DeadlineExpired,
    /// The deadline passed while a write was on its way.
    #[error(
        "the deadline passed while the write was on its way: a retry with the same request id tells whether it happened"
    )]
    OutcomeUnknown,
    /// Nobody leads the cell.
    #[error("the cell has no leader at the moment: try again")]
    NoLeader,
    /// This server is further behind than the call allows.
    #[error(
        "this server {}, and the call allows {max_lag:?}: try another server, or read without flotilla-max-lag",
        behind(.lag)
    )]
    TooStale {
        /// How far it is behind at most; none: unknown.
        lag: Option<Duration>,
        /// What the call allows.
        max_lag: Duration,
    },
    /// This server can't write its log any more.
    #[error(
        "this server's log failed, and it acknowledges nothing until it is restarted: try another server ({reason})"
    )]
    LogFailed {
        /// What failed.
        reason: String,
    },
    /// This server is stopping.
    #[error("the server is stopping: try another one, or this one when it is back")]
    ShuttingDown,
    /// A bug, or damage. What it was is for the log, not for the caller.
    #[error("an internal error")]
    Internal(#[source] Box<dyn StdError + Send + Sync>),
}

/// A refusal that only one service knows: a reason from the contract's list,
/// a sentence for people, and what it is about.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) message: String,
    pub(crate) metadata: Vec<(&'static str, String)>,
    pub(crate) resource: Option<(&'static str, String)>,
}

impl Refusal {
    /// A refusal. The message says what was refused, on what, and what to do.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), metadata: Vec::new(), resource: None }
    }

    /// Adds to what programs read: the keys that the reason's documentation names.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Display) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// Names the resource by its message type and id.
    #[must_use]
    pub fn about(mut self, message_type: &'static str, id: impl Into<String>) -> Self {
        self.resource = Some((message_type, id.into()));
        self
    }
}

impl Error {
    /// The reason from the contract's list; none when the outcome is unknown.
    pub fn reason(&self) -> Option<Reason> {
        Some(match self {
            Self::InvalidFields(_) => Reason::InvalidField,
            Self::LimitExceeded { .. } => Reason::LimitExceeded,
            Self::PageTokenMismatch => Reason::PageTokenMismatch,
            Self::RequestIdReused => Reason::RequestIdReused,
            Self::CallerMissing { .. } => Reason::CallerMissing,
            Self::Refused(refusal) => refusal.reason,
            Self::Conflict { .. } => Reason::Conflict,
            Self::BelowFloor { .. } => Reason::BelowFloor,
            Self::HistoryChanged { .. } => Reason::HistoryChanged,
            Self::RevisionInFuture { .. } => Reason::RevisionInFuture,
            Self::Overloaded { .. } => Reason::Overloaded,
            Self::DiskFull { .. } => Reason::DiskFull,
            Self::DeadlineExpired => Reason::DeadlineExpired,
            Self::OutcomeUnknown => return None,
            Self::NoLeader => Reason::NoLeader,
            Self::TooStale { .. } => Reason::TooStale,
            Self::LogFailed { .. } => Reason::LogFailed,
            Self::ShuttingDown => Reason::ShuttingDown,
            Self::Internal(_) => Reason::Internal,
        })
    }

    /// What programs read beside the reason.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::LimitExceeded { limit, max, actual } => {
                vec![("limit", (*limit).into()), ("max", max.to_string()), ("actual", actual.to_string())]
            }
            Self::CallerMissing { key } => vec![("key", (*key).into())],
            Self::Refused(refusal) => refusal.metadata.clone(),
            Self::BelowFloor { floor, .. } => vec![("floor", floor.to_string())],
            Self::HistoryChanged { ours } => vec![("history", ours.clone())],
            Self::RevisionInFuture { last, .. } => vec![("revision", last.to_string())],
            Self::TooStale { lag: Some(lag), .. } => vec![("lag_ms", lag.as_millis().to_string())],
            _ => Vec::new(),
        }
    }

    /// A bug or damage, from whatever it was noticed by.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<FieldViolation> for Error {
    fn from(violation: FieldViolation) -> Self {
        Self::InvalidFields(vec![violation])
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Conflict { condition } => Self::Conflict { condition },
            ProposeError::RequestIdReused => Self::RequestIdReused,
            ProposeError::Invalid(invalid) => invalid.into(),
            ProposeError::DiskFull { free, required } => Self::DiskFull { free, required },
            ProposeError::Overloaded { waiting } => Self::Overloaded { waiting },
            ProposeError::NoLeader | ProposeError::LeaderLost => Self::NoLeader,
            ProposeError::Refused { reason } => Self::internal(reason),
            ProposeError::DeadlineExpired { submitted: false } => Self::DeadlineExpired,
            ProposeError::DeadlineExpired { submitted: true } => Self::OutcomeUnknown,
            ProposeError::LogFailed { reason } => Self::LogFailed { reason },
            ProposeError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<InvalidTransaction> for Error {
    fn from(invalid: InvalidTransaction) -> Self {
        let over =
            |limit, max: usize, actual: usize| Self::LimitExceeded { limit, max: max as u64, actual: actual as u64 };
        match invalid {
            InvalidTransaction::TooMany { what, count } => over(what, limits::MAX_OPERATIONS, count),
            InvalidTransaction::KeyTooLong { bytes, .. } => over("key_bytes", limits::MAX_KEY, bytes),
            InvalidTransaction::ValueTooLarge { bytes, .. } => over("row_bytes", limits::MAX_VALUE, bytes),
            InvalidTransaction::TooLarge { bytes } => over("transaction_bytes", limits::MAX_TRANSACTION, bytes),
            // The services choose these two, so the caller can't help it.
            invalid @ (InvalidTransaction::TableName { .. } | InvalidTransaction::AnswerTooLarge { .. }) => {
                Self::internal(invalid)
            }
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NoLeader => Self::NoLeader,
            ReadError::TooStale { lag, max_lag } => Self::TooStale { lag, max_lag },
            ReadError::DeadlineExpired => Self::DeadlineExpired,
            ReadError::Store(error) => Self::internal(error),
            ReadError::LogFailed { reason } => Self::LogFailed { reason },
            ReadError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<FeedError> for Error {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::BelowFloor { wanted, floor } => Self::BelowFloor { wanted, floor },
            FeedError::HistoryChanged { ours, .. } => Self::HistoryChanged { ours },
            FeedError::InFuture { wanted, last } => Self::RevisionInFuture { wanted, last },
            FeedError::Io(error) => Self::internal(error),
            FeedError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::internal(error)
    }
}

fn behind(lag: &Option<Duration>) -> String {
    match lag {
        Some(lag) => format!("may be {lag:?} behind"),
        None => "has not heard of a leader yet".to_owned(),
    }
}
