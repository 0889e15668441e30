//! What a request may hold, as the contract says.

use flotilla_kit::{
    Call, Error, Violations,
    call::USER,
    fields::{self, FieldViolation},
};
use flotilla_proto::threads::v1::ThreadCursor;

/// Members of a thread.
pub(crate) const MAX_MEMBERS: i32 = 10_000;
/// Users that CreateThread adds beside the caller.
pub(crate) const MAX_FIRST_MEMBERS: usize = 200;
/// Bytes of an encoded event.
pub(crate) const MAX_EVENT: usize = 1024 * 1024;
/// Threads that a Subscribe names.
pub(crate) const MAX_NAMED_THREADS: usize = 1_000;
/// Devices of a user whose places in a thread are kept.
pub(crate) const MAX_DEVICES: usize = 100;
/// Cursors of an Ack.
pub(crate) const MAX_ACKS: usize = 200;

/// The user who calls. Ids are parts of keys, so nothing else may pass as one.
pub(crate) fn caller(call: &Call) -> Result<&str, Error> {
    let user = call.require_user()?;
    fields::id(USER, "user", user)?;
    Ok(user)
}

pub(crate) fn thread_id(field: &str, id: &str) -> Result<(), FieldViolation> {
    fields::id(field, "thread", id)
}

pub(crate) fn user_id(field: &str, id: &str) -> Result<(), FieldViolation> {
    fields::id(field, "user", id)
}

/// A thread's name: as any, but there must be one.
pub(crate) fn display_name(field: &str, name: &str) -> Result<(), FieldViolation> {
    match name.is_empty() {
        true => Err(FieldViolation::new(field, "is empty; a thread has a name")),
        false => fields::name(field, name),
    }
}

/// Cursors, of each thread at most one.
pub(crate) fn cursors(violations: &mut Violations, cursors: &[ThreadCursor]) {
    let mut seen = std::collections::HashSet::new();
    for (position, cursor) in cursors.iter().enumerate() {
        let field = |name: &str| format!("cursors[{position}].{name}");
        violations.check(thread_id(&field("thread_id"), &cursor.thread_id));
        if !seen.insert(cursor.thread_id.as_str()) {
            violations.add(field("thread_id"), "names a thread for the second time");
        }
        if cursor.history.is_empty() {
            violations.add(field("history"), "is empty; a sequence counts in a history");
        }
    }
}
