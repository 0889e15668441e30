//! An event as a person reads it: `harbour  #17  12:03:04  bob: hello`.

use std::time::SystemTime;

use flotilla_proto::threads::v1::{Event, Message, event::Kind};
use prost_types::Timestamp;

use super::names::Names;
use crate::cli::{json::to_json, row::time};

/// Who and what an event is about, by name.
pub(super) trait Called {
    /// A user's name.
    fn user<'a>(&'a self, id: &'a str) -> &'a str;
    /// A thread's name.
    fn thread<'a>(&'a self, id: &'a str) -> &'a str;
}

impl Called for Names {
    fn user<'a>(&'a self, id: &'a str) -> &'a str {
        Names::user(self, id)
    }

    fn thread<'a>(&'a self, id: &'a str) -> &'a str {
        Names::thread(self, id)
    }
}

/// An event in one line, which output keeps from acting on the terminal.
pub(super) fn line(event: &Event, names: &impl Called) -> String {
    let thread = names.thread(&event.thread_id);
    let clock = clock(event.time.as_ref(), SystemTime::now().into());
    format!("{thread}  #{}  {clock}  {}", event.sequence, words(event, names))
}

fn words(event: &Event, names: &impl Called) -> String {
    let who = names.user(&event.user_id);
    match &event.kind {
        Some(Kind::Message(message)) => format!("{who}: {}", said(message)),
        Some(Kind::MemberJoined(joined)) => match &joined.member {
            Some(member) if member.user_id != event.user_id => format!("{who} added {}", names.user(&member.user_id)),
            _ => format!("{who} joined"),
        },
        Some(Kind::MemberLeft(left)) if left.user_id == event.user_id => format!("{who} left"),
        Some(Kind::MemberLeft(left)) => format!("{who} removed {}", names.user(&left.user_id)),
        Some(Kind::ThreadRenamed(renamed)) => {
            format!("{who} renamed {:?} to {:?}", renamed.previous_display_name, renamed.display_name)
        }
        Some(Kind::MemberChanged(changed)) => match &changed.member {
            _ if changed.deleted => format!("{who} was deleted"),
            Some(member) if member.display_name != who => format!("{who} is called {} now", member.display_name),
            _ => format!("{who} was changed"),
        },
        None => format!("{who} did something that this version doesn't know"),
    }
}

fn said(message: &Message) -> String {
    match &message.data {
        None => message.text.clone(),
        Some(data) if message.text.is_empty() => to_json(data).to_string(),
        Some(data) => format!("{}  {}", message.text, to_json(data)),
    }
}

/// A time of the day, UTC, and the day if it isn't today.
fn clock(at: Option<&Timestamp>, now: Timestamp) -> String {
    let (at, today) = (time(at), time(Some(&now)));
    match (at.split_once('T'), today.split_once('T')) {
        (Some((day, clock)), Some((today, _))) => {
            let clock = clock.trim_end_matches('Z');
            if day == today { clock.to_owned() } else { format!("{day} {clock}") }
        }
        _ => at,
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::threads::v1::{Member, MemberChanged, MemberJoined, MemberLeft, ThreadRenamed};

    use super::*;

    /// Everybody is called by their id, and ada.
    struct Ids;

    impl Called for Ids {
        fn user<'a>(&'a self, id: &'a str) -> &'a str {
            if id == "1" { "ada" } else { id }
        }

        fn thread<'a>(&'a self, id: &'a str) -> &'a str {
            id
        }
    }

    fn told(kind: Kind) -> String {
        words(&Event { user_id: "1".to_owned(), kind: Some(kind), ..Event::default() }, &Ids)
    }

    fn member(user_id: &str, name: &str) -> Option<Member> {
        Some(Member { user_id: user_id.to_owned(), display_name: name.to_owned(), ..Member::default() })
    }

    #[test]
    fn what_happened_is_told_in_words() {
        let left = |user: &str| Kind::MemberLeft(MemberLeft { user_id: user.to_owned() });
        let joined = |user: &str| Kind::MemberJoined(MemberJoined { member: member(user, "") });
        let changed = |name: &str, deleted| Kind::MemberChanged(MemberChanged { member: member("1", name), deleted });
        let renamed = ThreadRenamed { display_name: "quay".to_owned(), previous_display_name: "pier".to_owned() };
        assert_eq!(told(Kind::Message(Message { text: "hello".to_owned(), data: None })), "ada: hello");
        assert_eq!(told(joined("1")), "ada joined");
        assert_eq!(told(joined("bob")), "ada added bob");
        assert_eq!(told(left("1")), "ada left");
        assert_eq!(told(left("bob")), "ada removed bob");
        assert_eq!(told(changed("The Countess", false)), "ada is called The Countess now");
        assert_eq!(told(changed("ada", false)), "ada was changed");
        assert_eq!(told(changed("ada", true)), "ada was deleted");
        assert_eq!(told(Kind::ThreadRenamed(renamed)), "ada renamed \"pier\" to \"quay\"");
    }

    #[test]
    fn a_line_begins_with_thread_sequence_and_time() {
        let message = Message { text: "hello".to_owned(), data: None };
        let event = Event {
            thread_id: "harbour".to_owned(),
            sequence: 17,
            time: Some(Timestamp { seconds: 43_384, nanos: 5 }),
            user_id: "1".to_owned(),
            kind: Some(Kind::Message(message)),
            ..Event::default()
        };
        assert_eq!(line(&event, &Ids), "harbour  #17  1970-01-01 12:03:04  ada: hello");
    }

    #[test]
    fn the_day_is_told_where_it_is_another() {
        let at = |seconds| Timestamp { seconds, nanos: 0 };
        assert_eq!(clock(Some(&at(43_384)), at(80_000)), "12:03:04");
        assert_eq!(clock(Some(&at(43_384)), at(100_000)), "1970-01-01 12:03:04");
        assert_eq!(clock(None, at(0)), "");
    }
}
