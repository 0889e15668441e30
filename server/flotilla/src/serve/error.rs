//! Why a server doesn't start, or doesn't end well.

use std::{io, net::SocketAddr, time::Duration};

use flotilla_replica::OpenError;

use crate::config::ConfigError;

/// Why a server doesn't start, or doesn't end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `telemetry.log` can't be understood.
    #[error("`telemetry.log` is neither a level (error, warn, info, debug, trace) nor directives")]
    Log(#[from] tracing_subscriber::filter::ParseError),
    /// A port can't be had.
    #[error("can't listen on {address}, the address of {what}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What was to be served there.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The system doesn't tell where it listens.
    #[error("can't learn which address was bound")]
    Address(#[source] io::Error),
    /// Signals can't be received.
    #[error("can't wait for signals")]
    Signal(#[source] io::Error),
    /// The secret of the cell can't be used.
    #[error(transparent)]
    Secret(#[from] flotilla_peers::SecretError),
    /// The data directory can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The contract compiled in can't be told to others.
    #[error("the descriptors of the services can't be served by reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Accepting ended by itself.
    #[error("the server stopped accepting")]
    Ended(#[source] Option<tonic::transport::Error>),
    /// The log failed while the server ran.
    #[error("the log failed while the server ran, and nothing was acknowledged since: {reason}")]
    LogFailed {
        /// What failed.
        reason: String,
    },
    /// The log was not closed in time.
    #[error("the data directory was not closed within {waited:?}; what was acknowledged is safe in the log")]
    CloseTimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// The log could not be closed well.
    #[error("the data directory could not be closed; what was acknowledged is safe in the log")]
    Close {
        /// What failed.
        #[source]
        source: OpenError,
    },
}
