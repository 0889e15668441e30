//! What this service alone refuses.

use flotilla_kit::{Error, Refusal, etag};
use flotilla_proto::errors::v1::Reason;

const USER: &str = "flotilla.users.v1.User";

pub(crate) fn not_found(id: &str) -> Error {
    let message = format!("no user has the id {id}: it was deleted, or never was");
    Refusal::new(Reason::UserNotFound, message).with("user_id", id).about(USER, id).into()
}

/// Says which field, and not whose address it is.
pub(crate) fn email_taken() -> Error {
    let message = "user.email is the address of another user (case doesn't matter): \
                   use another, or look that user up by it";
    Refusal::new(Reason::EmailTaken, message).with("field", "user.email").into()
}

pub(crate) fn stale(id: &str, current: u64) -> Error {
    etag::stale(format!("user {id}"), Some(current)).about(USER, id).into()
}
