//! What can go wrong, in the words of the log and the store. The transport's
//! codes are given in one table, in `flotilla-kit`.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use flotilla_store::{InvalidTransaction, StoreError};

/// Why a transaction was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// A condition of the transaction did not hold. Nothing happened.
    #[error("condition {condition} of the transaction does not hold")]
    Conflict {
        /// Which condition, counted from 0.
        condition: usize,
    },
    /// The request id was used before, with another body. Nothing happened.
    #[error("this request id was used for another request")]
    RequestIdReused,
    /// No state of the rows could make the transaction acceptable.
    #[error(transparent)]
    Invalid(#[from] InvalidTransaction),
    /// Too little room is left on the disk. Nothing happened; reads go on.
    #[error("{free} bytes are free where the data is, and {required} must be")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        required: u64,
    },
    /// More transactions wait than the queue holds. Nothing happened.
    #[error("{waiting} transactions wait already")]
    Overloaded {
        /// How many wait.
        waiting: usize,
    },
    /// No leader became known within the deadline. Nothing happened.
    #[error("the cell has no leader")]
    NoLeader,
    /// Leadership was lost on the way. The transaction may or may not have happened; only a retry with
    /// the same request id tells.
    #[error("the cell's leader was lost while the transaction was on its way")]
    LeaderLost,
    /// Another server refused it for a reason that this one doesn't know. Nothing happened.
    #[error("the leader refused the transaction: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The deadline passed. Before `submitted`, nothing happened; after it,
    /// the transaction may still happen, and only a retry with the same
    /// request id tells.
    #[error("the deadline passed {}", if *.submitted { "after the transaction entered the log" } else { "while the transaction waited for its turn" })]
    DeadlineExpired {
        /// Whether the log had taken the transaction.
        submitted: bool,
    },
    /// The log could not be written. This server acknowledges nothing any more.
    #[error("the log failed: {reason}")]
    LogFailed {
        /// What failed.
        reason: String,
    },
    /// This server is stopping. The transaction may or may not have happened
    /// if it had been submitted.
    #[error("the server is stopping")]
    ShuttingDown,
}

/// Why a read can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader became known within the deadline.
    #[error("the cell has no leader")]
    NoLeader,
    /// The deadline passed.
    #[error("the deadline passed while the read waited to be current")]
    DeadlineExpired,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This server is further behind than the read allows.
    #[error("this server {}, and the read allows {max_lag:?}", behind(.lag))]
    TooStale {
        /// How far it is behind at most; none: unknown.
        lag: Option<Duration>,
        /// What the read allows.
        max_lag: Duration,
    },
    /// The log failed, so this server can't know what is current.
    #[error("the log failed: {reason}")]
    LogFailed {
        /// What failed.
        reason: String,
    },
    /// This server is stopping.
    #[error("the server is stopping")]
    ShuttingDown,
}

/// Why a reader can't go on in the feed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The records that come next are gone. Start over from a scan.
    #[error("revision {wanted} is no longer in the feed, which starts at {floor}")]
    BelowFloor {
        /// The revision that comes next for the reader.
        wanted: u64,
        /// The first revision that can still be read.
        floor: u64,
    },
    /// The cursor belongs to other data. Start over from a scan.
    #[error("the cursor belongs to history {theirs}, and this is {ours}")]
    HistoryChanged {
        /// The cursor's history.
        theirs: String,
        /// This cell's history.
        ours: String,
    },
    /// The cursor is ahead of everything that ever happened here.
    #[error("revision {wanted} has not happened; the last is {last}")]
    InFuture {
        /// The cursor's revision.
        wanted: u64,
        /// The last revision.
        last: u64,
    },
    /// A changes file can't be read.
    #[error("the change records can't be read")]
    Io(#[source] io::Error),
    /// This server is stopping.
    #[error("the server is stopping")]
    ShuttingDown,
}

/// Why a check gave no answer. (That hashes differ is an answer.)
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The check did not enter the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The rows could not be read, or changed too fast to be read.
    #[error("{0}")]
    Store(#[source] Arc<StoreError>),
}

/// Why a snapshot or backup can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is another kind of file.
    #[error("it does not begin as a backup does")]
    NotASnapshot,
    /// It was written by a newer Flotilla.
    #[error("it has format {found}, and this version reads up to {known}: use a newer flotilla")]
    NewerFormat {
        /// Its format.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// It has no end.
    #[error("it is cut: it should go on after byte {after}")]
    Cut {
        /// Bytes that make sense, about.
        after: u64,
    },
    /// It holds what it can't hold.
    #[error("it is damaged in the record at byte {at}: {what}")]
    Damaged {
        /// Where the record starts.
        at: u64,
        /// What was found.
        what: String,
    },
    /// The disk refused.
    #[error("the system does not give it")]
    Io(#[source] io::Error),
}

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// As many as possible are under way.
    #[error("{at_most} backups are under way already")]
    TooMany {
        /// How many may be.
        at_most: usize,
    },
    /// All rows were being read for something else.
    #[error("all rows were being read by snapshots, checks or other backups for {waited:?}")]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
    /// Rows changed faster than their former values can be kept.
    #[error("the rows changed too fast for a backup, {tries} times")]
    ChangedTooFast {
        /// How often it was tried.
        tries: u32,
    },
    /// Too little room is left for the file that is sent.
    #[error("{free} bytes are free where the data is, and a backup needs {required}")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        required: u64,
    },
    /// The rows are not what the log led to.
    #[error("the rows are not what the log led to: {what}")]
    Diverged {
        /// Which spaces differ.
        what: String,
    },
    /// What is current could not be learnt.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk refused.
    #[error("the file that is sent can't be written or read")]
    Io(#[source] io::Error),
    /// This server is stopping.
    #[error("the server is stopping")]
    ShuttingDown,
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup can't be read, or is not whole.
    #[error("the backup {} can't be restored", .file.display())]
    Backup {
        /// The backup.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Unreadable,
    },
    /// There is something already.
    #[error(
        "{path} is not empty (it has {found}), and a restore never writes over data: choose another directory, or move \
         away what is there", path = .path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// Too little room is left.
    #[error("{free} bytes are free at {path}, and the restored data needs {required}", path = .path.display())]
    DiskFull {
        /// The directory.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that must be free.
        required: u64,
    },
    /// The directory can't be made. What was begun is begun anew by another restore.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Why a lost cell was not recovered from a directory.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// It holds no server's data.
    #[error("{} holds no data of a server that was part of a cell", .path.display())]
    NoData {
        /// The directory.
        path: PathBuf,
    },
    /// The rows are not what the log led to.
    #[error("the rows can't be saved: {0}")]
    Rows(String),
    /// Its log can't be read or applied.
    #[error("the log in {} can't be applied", .path.display())]
    Log {
        /// The directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// It can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new directory can't be made.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl From<crate::snapshot::SnapshotError> for RecoverError {
    fn from(error: crate::snapshot::SnapshotError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Rows(format!("{error}{cause}"))
    }
}

/// Why a data directory can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {path} is in use by {holder}", path = .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who has it, as far as its lock file says.
        holder: String,
    },
    /// It belongs to another cell or server.
    #[error("the data directory {path} belongs to {what} {found:?}, and the config says {configured:?}", path = .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// "cell" or "server".
        what: &'static str,
        /// What the directory says.
        found: String,
        /// What the config says.
        configured: String,
    },
    /// It was written by a newer Flotilla.
    #[error("the data directory {path} has format {found}, and this version reads up to {known}: use a newer flotilla", path = .path.display())]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this version reads.
        known: u32,
    },
    /// A file holds what it can't hold, and it is not a torn tail.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// Entries that must be there aren't.
    #[error("the log is incomplete: {what}")]
    Incomplete {
        /// What is missing.
        what: String,
    },
    /// A restore into it was interrupted.
    #[error(
        "a restore into {path} was interrupted, and what is there is not whole: run the restore again, which begins \
         anew", path = .path.display()
    )]
    HalfRestored {
        /// The directory.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("can't {operation} {path}", path = .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The store failed even though it is new.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Raft refused to start.
    #[error("the log can't be started: {reason}")]
    Raft {
        /// Its reason.
        reason: String,
    },
    /// The server stopped with something still under way, or with rows that are
    /// not what the log led to. Nothing is lost: the next start checks.
    #[error("the server did not stop cleanly; the next start checks every row")]
    NotClean,
    /// A server of the same number and life is alive.
    #[error(
        "server {server} of cell {cell:?} is alive at {address}, with the same data directory or a copy of it: stop that \
         one, or give this one an empty data directory and a number of its own"
    )]
    Alive {
        /// The cell's name.
        cell: String,
        /// The server's number.
        server: u64,
        /// Where the other one is.
        address: String,
    },
    /// The cell went on without this server.
    #[error(
        "server {server} was removed from cell {cell:?}, and its data in {path} is not the cell's any more: to take it in \
         again, move that directory away and start it empty", path = .path.display()
    )]
    Removed {
        /// The cell's name.
        cell: String,
        /// The server's number.
        server: u64,
        /// The data directory.
        path: PathBuf,
    },
    /// The store did not catch up with the log in time.
    #[error("the store did not catch up with the log within {waited:?}")]
    NotCaughtUp {
        /// How long was waited.
        waited: Duration,
    },
}

fn behind(lag: &Option<Duration>) -> String {
    match lag {
        Some(lag) => format!("may be {lag:?} behind"),
        None => "has not heard of a leader yet".to_owned(),
    }
}

impl OpenError {
    pub(crate) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }
}
