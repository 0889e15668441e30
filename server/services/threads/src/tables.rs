//! The tables, and the keys of their rows.
//!
//! | table | key | value |
//! |---|---|---|
//! | `threads` | thread | the thread, as `row` stores it |
//! | `members` | thread, user | the member, as `row` stores it |
//! | `memberships` | user, thread | the sequence of the joining (8 bytes, big-endian) |
//! | `events` | thread, sequence (8 bytes, big-endian) | the event, as `events` stores it |
//! | `cursors` | thread, user, device | how far the device has come |
//! | `changed` | one byte, or none | nothing: see `people` |
//!
//! Ids are ULIDs, 26 bytes each, so a key of several needs no marks between
//! them, and the beginning of one is never a part of another.

use flotilla_kit::Error;

pub(crate) const THREADS: &str = "threads";
pub(crate) const MEMBERS: &str = "members";
pub(crate) const MEMBERSHIPS: &str = "memberships";
pub(crate) const EVENTS: &str = "events";
pub(crate) const CURSORS: &str = "cursors";
pub(crate) const CHANGED: &str = "changed";

/// Bytes of an id.
const ID: usize = 26;

pub(crate) fn member_key(thread: &str, user: &str) -> String {
    [thread, user].concat()
}

pub(crate) fn membership_key(user: &str, thread: &str) -> String {
    [user, thread].concat()
}

pub(crate) fn event_key(thread: &str, sequence: u64) -> Vec<u8> {
    [thread.as_bytes(), &sequence.to_be_bytes()].concat()
}

pub(crate) fn cursor_key(thread: &str, user: &str, device: &str) -> String {
    [thread, user, device].concat()
}

/// Two ids, and what comes after them.
pub(crate) fn split_ids(key: &[u8]) -> Result<(&str, &str, &str), Error> {
    let text = std::str::from_utf8(key).map_err(Error::internal)?;
    let ids = text.split_at_checked(ID).and_then(|(first, rest)| Some((first, rest.split_at_checked(ID)?)));
    let (first, (second, rest)) = ids.ok_or_else(|| damaged(key))?;
    Ok((first, second, rest))
}

/// The thread and the sequence of a row of [`EVENTS`].
pub(crate) fn split_event_key(key: &[u8]) -> Result<(&str, u64), Error> {
    let (thread, sequence) = key.split_last_chunk::<8>().ok_or_else(|| damaged(key))?;
    Ok((std::str::from_utf8(thread).map_err(Error::internal)?, u64::from_be_bytes(*sequence)))
}

fn damaged(key: &[u8]) -> Error {
    Error::internal(format!("a row has the key {key:02x?}"))
}
