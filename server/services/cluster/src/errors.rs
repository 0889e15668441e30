//! Why members were not changed, in the contract's words.

use flotilla_kit::{Error, Refusal};
use flotilla_proto::errors::v1::Reason;
use flotilla_replica::{ChangeError, FormError};

/// The server has not caught up with its cell yet.
pub(crate) fn starting() -> Error {
    Refusal::new(Reason::Starting, "the server is starting: it is not part of a formed cell yet, or catches up").into()
}

pub(crate) fn not_found(server: u64) -> Error {
    Refusal::new(Reason::ServerNotFound, format!("the cell has no server {server}"))
        .with("server_id", server.to_string())
        .into()
}

/// Why a change that concerns a server was not made.
pub(crate) fn of_change(error: ChangeError, server: u64, address: &str) -> Error {
    let message = error.to_string();
    let about = |reason| Refusal::new(reason, message.clone()).with("server_id", server.to_string());
    match error {
        ChangeError::NoLeader => Error::NoLeader,
        ChangeError::Exists { .. } => about(Reason::ServerExists).with("address", address).into(),
        ChangeError::NotFound { server } => not_found(server),
        ChangeError::MajorityAtRisk { voters, reachable, .. } => Refusal::new(Reason::MajorityAtRisk, message)
            .with("voters", voters.to_string())
            .with("reachable", reachable.to_string())
            .into(),
        ChangeError::NotVoter { .. } => about(Reason::NotVoter).into(),
        ChangeError::Busy => Refusal::new(Reason::Conflict, message).into(),
        ChangeError::Unsuitable { .. } | ChangeError::MustBeAdded { .. } => {
            about(Reason::ServerUnsuitable).with("address", address).into()
        }
        ChangeError::Expired => Error::OutcomeUnknown,
        ChangeError::Stopped { .. } => Error::ShuttingDown,
    }
}

/// Why a cell was not formed.
pub(crate) fn of_forming(error: FormError) -> Error {
    let message = error.to_string();
    match error {
        FormError::AlreadyFormed { server, .. } => {
            Refusal::new(Reason::AlreadyFormed, message).with("server_id", server.to_string()).into()
        }
        FormError::MajorityAtRisk { voters, reachable, .. } => Refusal::new(Reason::MajorityAtRisk, message)
            .with("voters", voters.to_string())
            .with("reachable", reachable.to_string())
            .into(),
        FormError::Failed { reason } => Error::internal(reason),
    }
}
