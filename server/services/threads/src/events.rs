//! Events as they are stored, and as they travel.
//!
//! A row of `events` holds one byte that tells the kind, then the
//! encoded event without what the row knows already: thread, sequence, time.
//! Fields of a protobuf message may come in any order, so what a subscriber
//! gets is these three followed by the stored bytes, and nobody decodes a
//! message to push it.

use bytes::Bytes;
use flotilla_kit::{Error, Row, time};
use flotilla_proto::threads::v1::{Event, Member, MemberJoined, MemberLeft, event::Kind};
use prost::Message;

use crate::tables;

/// The first byte of a row: somebody posted.
const MESSAGE: u8 = 0;
/// A user joined. The event is completed from its row.
const JOINED: u8 = 1;
/// A user left.
const LEFT: u8 = 2;
/// The thread was renamed.
const RENAMED: u8 = 3;
/// A member's user was changed.
const CHANGED: u8 = 4;

/// The encoded tag of `SubscribeResponse.event`: field 1, with a length.
const EVENT_TAG: u8 = 0x0a;

/// What an event says of who is a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Membership {
    /// This user is one from here on.
    Joined(String),
    /// This user is none any more.
    Left(String),
}

/// An event as it is pushed.
#[derive(Debug, Clone)]
pub(crate) struct Pushed {
    /// Its place in the outbox.
    pub(crate) sequence: u64,
    /// An encoded `SubscribeResponse`, shared by all who get it.
    pub(crate) bytes: Bytes,
    /// What it says of the membership.
    pub(crate) membership: Option<Membership>,
}

/// The event of a new member. Its row completes it.
pub(crate) fn joined(by: &str, request_id: &str, user: &str, display_name: &str) -> Event {
    let member = Member { user_id: user.to_owned(), display_name: display_name.to_owned(), ..Member::default() };
    event(by, request_id, Kind::MemberJoined(MemberJoined { member: Some(member) }))
}

/// The event of a former member.
pub(crate) fn left(by: &str, request_id: &str, user: &str) -> Event {
    event(by, request_id, Kind::MemberLeft(MemberLeft { user_id: user.to_owned() }))
}

/// An event that somebody's request, or the news of them, leads to.
pub(crate) fn event(user: &str, request_id: &str, kind: Kind) -> Event {
    Event { user_id: user.to_owned(), request_id: request_id.to_owned(), kind: Some(kind), ..Event::default() }
}

/// The value of an event's row.
pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let shape = match &event.kind {
        Some(Kind::MemberJoined(_)) => JOINED,
        Some(Kind::MemberLeft(_)) => LEFT,
        Some(Kind::ThreadRenamed(_)) => RENAMED,
        Some(Kind::MemberChanged(_)) => CHANGED,
        Some(Kind::Message(_)) | None => MESSAGE,
    };
    let mut value = Vec::with_capacity(1 + event.encoded_len());
    value.push(shape);
    event.encode_raw(&mut value);
    value
}

/// The event of a row.
pub(crate) fn decode(thread: &str, sequence: u64, row: &Row) -> Result<Event, Error> {
    let (shape, stored) = split(row)?;
    let mut event = Event::decode(stored).map_err(Error::internal)?;
    let time = time::timestamp(row.create_time);
    if let (JOINED, Some(Kind::MemberJoined(MemberJoined { member: Some(member) }))) = (shape, &mut event.kind) {
        (member.join_sequence, member.join_time) = (sequence, Some(time));
    }
    Ok(Event { thread_id: thread.to_owned(), sequence, time: Some(time), ..event })
}

/// The event of a row, encoded once for whoever is to have it.
pub(crate) fn pushed(key: &[u8], row: &Row) -> Result<Pushed, Error> {
    let (thread, sequence) = tables::split_event_key(key)?;
    let (shape, stored) = split(row)?;
    if !matches!(shape, JOINED | LEFT) {
        let known = header(thread, sequence, row);
        let bytes = wrapped(&known.encode_to_vec(), &stored);
        return Ok(Pushed { sequence, bytes, membership: None });
    }
    let event = decode(thread, sequence, row)?;
    let membership = match &event.kind {
        Some(Kind::MemberJoined(joined)) => {
            joined.member.as_ref().map(|member| Membership::Joined(member.user_id.clone()))
        }
        Some(Kind::MemberLeft(left)) => Some(Membership::Left(left.user_id.clone())),
        _ => None,
    };
    Ok(Pushed { sequence, bytes: wrapped(&event.encode_to_vec(), &[]), membership })
}

/// The kinds that [`kind`] gives.
pub(crate) const KINDS: [&str; 5] = ["message", "member_joined", "member_left", "thread_renamed", "member_changed"];

/// The kind of a row's event, for counting.
pub(crate) fn kind(row: &Row) -> &'static str {
    match row.value.first() {
        Some(&MESSAGE) => "message",
        Some(&JOINED) => "member_joined",
        Some(&LEFT) => "member_left",
        Some(&RENAMED) => "thread_renamed",
        Some(&CHANGED) => "member_changed",
        _ => "unknown",
    }
}

/// The user who joined by the event of a row, if one did.
pub(crate) fn joined_user(row: &Row) -> Result<Option<String>, Error> {
    let (JOINED, stored) = split(row)? else { return Ok(None) };
    match Event::decode(stored).map_err(Error::internal)?.kind {
        Some(Kind::MemberJoined(MemberJoined { member: Some(member) })) => Ok(Some(member.user_id)),
        _ => Ok(None),
    }
}

/// How long an event is at most, once its row has completed it.
pub(crate) fn encoded_len(thread: &str, event: &Event) -> usize {
    let row = Row { create_time: u64::MAX / 2, ..Row::default() };
    header(thread, u64::MAX, &row).encoded_len() + event.encoded_len()
}

fn header(thread: &str, sequence: u64, row: &Row) -> Event {
    let time = Some(time::timestamp(row.create_time));
    Event { thread_id: thread.to_owned(), sequence, time, ..Event::default() }
}

/// A `SubscribeResponse` with an event in two parts.
fn wrapped(first: &[u8], second: &[u8]) -> Bytes {
    let length = first.len() + second.len();
    let mut bytes = Vec::with_capacity(1 + 10 + length);
    bytes.push(EVENT_TAG);
    // A vector takes any number of bytes.
    let _ = prost::encode_length_delimiter(length, &mut bytes);
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.into()
}

fn split(row: &Row) -> Result<(u8, Bytes), Error> {
    match row.value.first() {
        Some(&shape) => Ok((shape, row.value.slice(1..))),
        None => Err(Error::internal("the row of an event is empty")),
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::threads::v1::{Message as Text, SubscribeResponse, subscribe_response::Item};

    use super::*;

    const THREAD: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn stored(event: &Event) -> Row {
        Row { value: encode(event).into(), create_time: 1_700_000_000_000_001, ..Row::default() }
    }

    #[test]
    fn what_is_pushed_is_what_is_read() {
        let text = Kind::Message(Text { text: "hello".into(), data: None });
        for event in [event("ada", "r-1", text), joined("ada", "r-2", "bob", "Bob"), left("ada", "r-3", "bob")] {
            let row = stored(&event);
            let read = decode(THREAD, 7, &row).expect("an event");
            let pushed = pushed(&tables::event_key(THREAD, 7), &row).expect("an event");
            let response = SubscribeResponse::decode(pushed.bytes).expect("a response");
            assert_eq!(response.item, Some(Item::Event(read)));
        }
    }

    #[test]
    fn a_new_member_is_told_with_time_and_sequence_of_the_joining() {
        let read = decode(THREAD, 7, &stored(&joined("ada", "r", "bob", "Bob"))).expect("an event");
        let Some(Kind::MemberJoined(MemberJoined { member: Some(member) })) = read.kind else { panic!("{read:?}") };
        assert_eq!((member.join_sequence, member.join_time), (7, read.time));
    }

    #[test]
    fn an_event_is_never_longer_than_was_reckoned() {
        let event = event("ada", "r-1", Kind::Message(Text { text: "hello".into(), data: None }));
        let read = decode(THREAD, 7, &stored(&event)).expect("an event");
        assert!(read.encoded_len() <= encoded_len(THREAD, &event));
    }
}
