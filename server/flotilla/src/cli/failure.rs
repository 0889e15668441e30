//! How a command ends badly, and its exit code: 64 usage or config, 69 unreachable, 70 a bug, 74
//! I/O, 1 a server's no, 130 interrupted.

use std::{error::Error, io, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use flotilla_client::{CallError, SubscribeError};
use flotilla_replica::{OpenError, RecoverError, RestoreError, Unreadable};

use super::{advice, import::ImportError, talk};
use crate::{config::ConfigError, serve::ServeError};

pub(super) const USAGE: u8 = 64;
const UNREACHABLE: u8 = 69;
const BUG: u8 = 70;
const IO: u8 = 74;
const REFUSED: u8 = 1;
const INTERRUPTED: u8 = 130;

/// How a command ends badly.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A value in the client's file is refused.
    #[error("the client's config file: `{key}` can't be {value:?}")]
    FileValue {
        /// The key.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// An argument is refused.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which.
        argument: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A file that an argument names can't be read or written.
    #[error("can't {operation} {path}", path = .path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A server didn't start, or didn't end well.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A port of `dev` is taken.
    #[error(
        "{address} is taken, perhaps by another `flotilla dev`: stop that one, or choose another port with \
         `--listen 127.0.0.1:7410`"
    )]
    PortTaken {
        /// The address.
        address: SocketAddr,
    },
    /// `dev --fresh` on a directory that isn't ours.
    #[error(
        "{path} has files but no identity.json, so it is not Flotilla's data: it was left alone. \
         Choose another with --dir", path = .path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// A `dev` where one runs.
    #[error(
        "a `flotilla dev` runs already in {dir}: `flotilla dev status` shows its servers. Stop it, or start another \
         one elsewhere with --dir and --listen", dir = .dir.display()
    )]
    DevRuns {
        /// Where.
        dir: PathBuf,
    },
    /// No `dev` to act on.
    #[error(
        "no `flotilla dev` runs in {dir}: start one with `flotilla dev` (or `make dev`), or say with --dir where it \
         runs", dir = .dir.display()
    )]
    NoDev {
        /// Where.
        dir: PathBuf,
    },
    /// The `dev` that runs doesn't do it.
    #[error("{0}")]
    DevRefused(String),
    /// Nothing of `dev` is left.
    #[error("all servers have ended by themselves: what they logged last says why")]
    DevEnded,
    /// `dev` on a directory that a server uses.
    #[error("{path} is in use by {holder}: it was left alone. Stop that server first", path = .path.display())]
    FreshInUse {
        /// The directory.
        path: PathBuf,
        /// Who uses it.
        holder: String,
    },
    /// A call failed.
    #[error("{}", advice::told(.0))]
    Call(CallError),
    /// A subscription is over.
    #[error("{}", advice::told_of_subscription(.0))]
    Subscribe(SubscribeError),
    /// An import stopped.
    #[error(transparent)]
    Import(#[from] Box<ImportError>),
    /// A check found differences.
    #[error("{0}")]
    Differs(String),
    /// What was begun goes on, and is not done yet.
    #[error("{begun}, but {missing} after {}\n  try: {advice}", humantime::format_duration(*.waited))]
    NotYet {
        /// What has happened.
        begun: String,
        /// What hasn't.
        missing: String,
        /// How long it was waited for.
        waited: Duration,
        /// What to do.
        advice: &'static str,
    },
    /// A server is not serving.
    #[error("{service} is {status}")]
    NotServing {
        /// Which service.
        service: String,
        /// Its status.
        status: String,
    },
    /// A backup would replace a file.
    #[error("{path} exists, and was left alone: choose another name, or write over it with --force", path = .path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A backup is not whole.
    #[error("the backup is cut, and nothing of it was kept: {reason}; try again")]
    Cut {
        /// What is missing.
        reason: String,
    },
    /// A backup was not restored.
    #[error(transparent)]
    Restore(#[from] Box<RestoreError>),
    /// A lost cell was not recovered.
    #[error(transparent)]
    Recover(#[from] Box<RecoverError>),
    /// A person stopped it.
    #[error("interrupted: {left}")]
    Interrupted {
        /// What is left of it.
        left: String,
    },
    /// stdout can't be written.
    #[error("can't write to stdout")]
    Output(#[source] io::Error),
    /// The process can't get going.
    #[error("can't start the runtime")]
    Runtime(#[source] io::Error),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        Self::Subscribe(error)
    }
}

impl Failure {
    /// Says what happened, unless the reader of stdout has gone away, and gives the exit code.
    pub fn report(self) -> ExitCode {
        if self.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(source) = cause {
            text.push_str(&format!(": {source}"));
            cause = source.source();
        }
        talk::error(&text);
        ExitCode::from(self.exit_code())
    }

    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Config(ConfigError::Read { .. }) => IO,
            Self::Config(_) | Self::FileValue { .. } | Self::Argument { .. } | Self::NotOurs { .. } => USAGE,
            Self::Restore(error) => restore_code(error),
            Self::Recover(error) => match &**error {
                RecoverError::NoData { .. } => USAGE,
                RecoverError::Restore(error) => restore_code(error),
                _ => IO,
            },
            Self::Exists { .. } => USAGE,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Cut { .. } => IO,
            Self::File { .. } | Self::PortTaken { .. } | Self::FreshInUse { .. } => IO,
            Self::DevRuns { .. } | Self::DevEnded => IO,
            Self::NoDev { .. } => UNREACHABLE,
            Self::DevRefused(_) => REFUSED,
            Self::Output(_) | Self::Runtime(_) => IO,
            Self::Serve(error) => serve_code(error),
            Self::Call(error) | Self::Subscribe(SubscribeError::Call(error)) => call_code(error),
            Self::Subscribe(SubscribeError::TakenOver { .. } | SubscribeError::NoThreadLeft) => REFUSED,
            Self::Subscribe(_) => BUG,
            Self::Import(error) => import_code(error),
            Self::NotYet { .. } => UNREACHABLE,
            Self::Differs(_) | Self::NotServing { .. } => REFUSED,
        }
    }
}

fn serve_code(error: &ServeError) -> u8 {
    match error {
        ServeError::Config(_) | ServeError::Log(_) | ServeError::Secret(_) => USAGE,
        ServeError::Open(
            OpenError::Foreign { .. }
            | OpenError::NewerFormat { .. }
            | OpenError::Alive { .. }
            | OpenError::Removed { .. },
        ) => USAGE,
        ServeError::Open(OpenError::Raft { .. }) | ServeError::Reflection(_) | ServeError::Ended(_) => BUG,
        ServeError::Open(_) | ServeError::Close { .. } | ServeError::CloseTimedOut { .. } => IO,
        ServeError::LogFailed { .. } => IO,
        ServeError::Bind { .. } | ServeError::Address(_) | ServeError::Signal(_) => IO,
    }
}

fn call_code(error: &CallError) -> u8 {
    match error {
        CallError::Endpoint { .. } | CallError::Name { .. } => USAGE,
        CallError::Unreachable { .. } | CallError::TimedOut { .. } => UNREACHABLE,
        CallError::Refused(_) => REFUSED,
    }
}

fn restore_code(error: &RestoreError) -> u8 {
    match error {
        RestoreError::NotEmpty { .. } => USAGE,
        RestoreError::Backup { source: Unreadable::Io(_), .. } | RestoreError::DiskFull { .. } => IO,
        RestoreError::Backup { .. } => REFUSED,
        RestoreError::Open(_) => IO,
    }
}

fn import_code(error: &ImportError) -> u8 {
    match error {
        ImportError::BadLine { .. } => REFUSED,
        ImportError::OtherImport { .. } | ImportError::Changed { .. } | ImportError::SkippedTooFar { .. } => USAGE,
        ImportError::Read { .. } | ImportError::Checkpoint { .. } => IO,
        ImportError::Call { error, .. } => call_code(error),
        ImportError::Interrupted { .. } => INTERRUPTED,
    }
}
