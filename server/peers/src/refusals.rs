//! Why a peer got no answer, as a gRPC status and back. A refusal travels as `google.rpc.ErrorInfo`,
//! so that nothing is lost; whatever else goes wrong may have had an effect, and comes back as such.

use std::collections::HashMap;

use flotilla_proto::ERROR_DOMAIN;
use flotilla_replica::peer::{PeerError, Refusal};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::route::RouteError;

/// Every kind.
pub(crate) const KINDS: [Refusal; 7] = [
    Refusal::Cell,
    Refusal::History,
    Refusal::Recipient,
    Refusal::Protocol,
    Refusal::Secret,
    Refusal::Malformed,
    Refusal::NotServing,
];
/// Bytes of a sentence: it travels in headers, twice.
const MAX_MESSAGE_TEXT: usize = 1024;

/// A refusal on its way.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) message: String,
}

impl Refused {
    pub(crate) fn new(refusal: Refusal, message: impl Into<String>) -> Self {
        Self { refusal, message: message.into() }
    }

    pub(crate) fn status(&self) -> Status {
        let details = ErrorDetails::with_error_info(wire_name(self.refusal), ERROR_DOMAIN, HashMap::new());
        Status::with_error_details(code(self.refusal), shortened(&self.message), details)
    }
}

impl From<Refused> for PeerError {
    fn from(Refused { refusal, message }: Refused) -> Self {
        Self::Refused { refusal, message }
    }
}

/// What a host's failure that is no refusal is told as: its call may have had an effect.
pub(crate) fn failure(error: &PeerError) -> Status {
    Status::unknown(shortened(&error.to_string()))
}

/// What a status says of a call that this server made.
pub(crate) fn error(status: &Status) -> PeerError {
    let routed = std::error::Error::source(status).and_then(|source| source.downcast_ref::<RouteError>());
    match routed {
        Some(RouteError::NotSent(why)) => return PeerError::Unreachable(why.clone()),
        Some(RouteError::Broken(why)) => return PeerError::Broken(why.clone()),
        None => {}
    }
    let message = status.message().to_owned();
    if let Some(refusal) = refusal(status) {
        return PeerError::Refused { refusal, message };
    }
    match status.code() {
        // No program answers that it doesn't know a method after it did what the method does.
        Code::Unimplemented => PeerError::Refused {
            refusal: Refusal::Protocol,
            message: format!("it doesn't know this call, so it is another program, or of another version: {message}"),
        },
        code => PeerError::Broken(format!("{code}: {message}")),
    }
}

/// The refusal that a status carries.
pub(crate) fn refusal(status: &Status) -> Option<Refusal> {
    let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN)?;
    KINDS.into_iter().find(|kind| wire_name(*kind) == info.reason)
}

/// The name that metrics and logs have for it.
pub(crate) fn name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Cell => "cell",
        Refusal::History => "history",
        Refusal::Recipient => "recipient",
        Refusal::Protocol => "protocol",
        Refusal::Secret => "secret",
        Refusal::Malformed => "malformed",
        Refusal::NotServing => "not_serving",
    }
}

fn wire_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Cell => "PEER_OF_OTHER_CELL",
        Refusal::History => "PEER_OF_OTHER_HISTORY",
        Refusal::Recipient => "PEER_MEANS_OTHER_SERVER",
        Refusal::Protocol => "PEER_OF_OTHER_PROTOCOL",
        Refusal::Secret => "PEER_WITHOUT_SECRET",
        Refusal::Malformed => "PEER_MALFORMED",
        Refusal::NotServing => "PEER_NOT_SERVING",
    }
}

fn code(refusal: Refusal) -> Code {
    match refusal {
        Refusal::Cell | Refusal::History | Refusal::Recipient | Refusal::Protocol => Code::FailedPrecondition,
        Refusal::Secret => Code::Unauthenticated,
        Refusal::Malformed => Code::InvalidArgument,
        Refusal::NotServing => Code::Unavailable,
    }
}

fn shortened(text: &str) -> String {
    match text.len() <= MAX_MESSAGE_TEXT {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(MAX_MESSAGE_TEXT)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_returns_from_its_status() {
        for kind in KINDS {
            let status = Refused::new(kind, "why, für Menschen").status();
            let PeerError::Refused { refusal, message } = error(&status) else { panic!("{kind:?} is a refusal") };
            assert_eq!((refusal, message.as_str()), (kind, "why, für Menschen"));
        }
    }
}
