//! Threads and members as they are stored, and as they are answered. A row has
//! revision and times already, and its key the ids, so its value leaves them out.

use flotilla_kit::{Committed, Error, Row, etag, time};
use flotilla_proto::threads::v1::{Member, Thread};
use prost::Message;

/// The value of a row of `members`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberRow {
    /// As far as the thread has heard of it.
    #[prost(string, tag = "1")]
    pub(crate) display_name: String,
    /// The revision of the users service up to which the thread has heard of
    /// the user: a change up to it has been told, or was known at the joining.
    #[prost(uint64, tag = "2")]
    pub(crate) heard: u64,
}

/// The value of a row of `cursors`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CursorRow {
    /// The history that the sequence counts in.
    #[prost(string, tag = "1")]
    pub(crate) history: String,
    /// The last sequence dealt with.
    #[prost(uint64, tag = "2")]
    pub(crate) sequence: u64,
}

/// The value of a thread's row.
pub(crate) fn encode_thread(display_name: &str, member_count: i32) -> Vec<u8> {
    Thread { display_name: display_name.to_owned(), member_count, ..Thread::default() }.encode_to_vec()
}

/// The thread that a row holds.
pub(crate) fn decode_thread(id: &str, row: &Row, last_sequence: u64) -> Result<Thread, Error> {
    let stored = Thread::decode(row.value.clone()).map_err(Error::internal)?;
    Ok(Thread {
        id: id.to_owned(),
        last_sequence,
        etag: etag::of(row.revision),
        create_time: Some(time::timestamp(row.create_time)),
        update_time: Some(time::timestamp(row.update_time)),
        ..stored
    })
}

/// The thread that a transaction has written by its first operation.
pub(crate) fn written(thread: Thread, committed: &Committed) -> Thread {
    let age = committed.results.first().copied().unwrap_or(0);
    Thread {
        etag: etag::of(committed.revision),
        create_time: Some(time::timestamp(committed.time.saturating_sub(age))),
        update_time: Some(time::timestamp(committed.time)),
        ..thread
    }
}

/// The value of a member's row.
pub(crate) fn decode_member_row(row: &Row) -> Result<MemberRow, Error> {
    MemberRow::decode(row.value.clone()).map_err(Error::internal)
}

/// The member that a row holds, who joined by the event with a sequence.
pub(crate) fn decode_member(user: &str, row: &Row, join_sequence: u64) -> Result<Member, Error> {
    let MemberRow { display_name, .. } = decode_member_row(row)?;
    let join_time = Some(time::timestamp(row.create_time));
    Ok(Member { user_id: user.to_owned(), display_name, join_time, join_sequence })
}

/// The value of a row of `cursors`.
pub(crate) fn decode_cursor(row: &Row) -> Result<CursorRow, Error> {
    CursorRow::decode(row.value.clone()).map_err(Error::internal)
}
