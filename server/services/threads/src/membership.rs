//! Who may do what in a thread, and the rows that change together when
//! somebody comes or goes.

use flotilla_kit::{Call, Error, Row, TransactionBuilder, View};
use prost::Message;
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    events,
    people::Person,
    refusals,
    row::MemberRow,
    tables::{CURSORS, EVENTS, MEMBERS, MEMBERSHIPS, THREADS, member_key, membership_key},
};

/// How often a change is tried anew when others get in between.
pub(crate) const ATTEMPTS: usize = 8;
/// Turns for which changes of members wait.
const TURNS: usize = 64;

/// A member's row.
///
/// # Errors
/// NOT_MEMBER, or THREAD_NOT_FOUND.
pub(crate) fn require(view: &View, thread: &str, user: &str) -> Result<Row, Error> {
    match view.get(MEMBERS, member_key(thread, user).as_bytes())? {
        Some(row) => Ok(row),
        None => Err(refusal(view, thread, user)?),
    }
}

/// Why somebody who isn't a member is refused.
pub(crate) fn refusal(view: &View, thread: &str, user: &str) -> Result<Error, Error> {
    Ok(match view.get(THREADS, thread.as_bytes())? {
        Some(_) => refusals::not_member(thread, user),
        None => refusals::thread_not_found(thread),
    })
}

/// The sequence of the event by which a user joined, if they are a member.
pub(crate) fn join_sequence(view: &View, thread: &str, user: &str) -> Result<Option<u64>, Error> {
    let row = view.get(MEMBERSHIPS, membership_key(user, thread).as_bytes())?;
    row.map(|row| sequence_of(&row)).transpose()
}

/// The sequence that a row of `memberships` holds.
pub(crate) fn sequence_of(row: &Row) -> Result<u64, Error> {
    let bytes = row.value.as_ref().try_into();
    bytes.map(u64::from_be_bytes).map_err(|_| Error::internal("the row of a membership is not 8 bytes long"))
}

/// The sequence of a thread's newest event.
pub(crate) fn last_sequence(view: &View, thread: &str) -> Result<u64, Error> {
    match view.scan_prefix(EVENTS, thread.as_bytes()).next_back() {
        Some(row) => Ok(crate::tables::split_event_key(&row?.0)?.1),
        None => Ok(0),
    }
}

/// Adds what makes a user a member: three operations, of which the last gives
/// the sequence.
pub(crate) fn join(
    transaction: TransactionBuilder,
    thread: &str,
    by: &str,
    request_id: &str,
    person: &Person,
) -> TransactionBuilder {
    let Person { user_id, display_name, heard } = person;
    let member = MemberRow { display_name: display_name.clone(), heard: *heard };
    let event = events::joined(by, request_id, user_id, display_name);
    transaction.put(MEMBERS, member_key(thread, user_id), member.encode_to_vec()).append_indexed(
        EVENTS,
        thread.to_owned(),
        events::encode(&event),
        MEMBERSHIPS,
        membership_key(user_id, thread),
    )
}

/// Adds what makes a user no member any more.
pub(crate) fn leave(
    transaction: TransactionBuilder,
    thread: &str,
    by: &str,
    request_id: &str,
    user: &str,
) -> TransactionBuilder {
    transaction
        .delete(MEMBERS, member_key(thread, user))
        .delete(MEMBERSHIPS, membership_key(user, thread))
        .delete_prefix(CURSORS, member_key(thread, user))
        .append(EVENTS, thread.to_owned(), events::encode(&events::left(by, request_id, user)))
}

/// Lets those who change one thread's members do so one after another. They
/// would get in each other's way: each changes the number of members.
pub(crate) struct Turns(Vec<Mutex<()>>);

impl Turns {
    pub(crate) fn new() -> Self {
        Self(std::iter::repeat_with(Mutex::default).take(TURNS).collect())
    }

    /// Waits for a thread's turn.
    ///
    /// # Errors
    /// If the call's deadline passes first.
    pub(crate) async fn take(&self, call: &Call, thread: &str) -> Result<MutexGuard<'_, ()>, Error> {
        let turn = thread.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let turn = self.0.get(turn % TURNS).ok_or_else(|| Error::internal("there are no turns"))?;
        tokio::time::timeout_at(call.deadline(), turn.lock()).await.map_err(|_| Error::DeadlineExpired)
    }
}
