//! Where each thread is, and whether the server keeps its promise: every event of a thread once,
//! in order, without gaps.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use flotilla_proto::threads::v1::{Event, SubscribeRequest, ThreadCursor, event::Kind, subscribe_request::Start};

use super::{Delivery, SubscribeError};

/// The places of a subscription.
#[derive(Debug)]
pub(super) struct Places {
    /// Where threads without a place start.
    pub(super) start: Start,
    caller: Option<String>,
    /// None: all of the caller's.
    named: Option<BTreeSet<String>>,
    places: HashMap<String, Place>,
    /// The history of the cell, shared by the places that count in it.
    history: Arc<str>,
    /// Every thread of the request has been started once.
    complete: bool,
}

#[derive(Debug)]
struct Place {
    history: Arc<str>,
    /// The last event that was handed out.
    sequence: u64,
    /// The last event that the stream sent: behind `sequence` where it begins earlier, which only a
    /// thread may that the caller had left.
    position: u64,
    /// The stream has said where the thread starts.
    said: bool,
    /// The caller isn't a member any more, as far as is known. Kept for when they are again.
    left: bool,
}

impl Places {
    pub(super) fn new(caller: Option<String>, named: Option<Vec<String>>) -> Self {
        let named = named.map(|named| named.into_iter().collect());
        Self { start: Start::Stored, caller, named, places: HashMap::new(), history: "".into(), complete: false }
    }

    /// How to open the stream now.
    pub(super) fn request(&self) -> SubscribeRequest {
        // What isn't known after all threads had started is new, and new threads start with the joining.
        let start = if self.complete { Start::Stored } else { self.start };
        SubscribeRequest {
            thread_ids: self.named.iter().flatten().filter(|thread| !self.has_left(thread)).cloned().collect(),
            cursors: self.cursors(),
            start: start.into(),
        }
    }

    /// Where each thread is.
    pub(super) fn cursors(&self) -> Vec<ThreadCursor> {
        let wanted = |thread| self.named.as_ref().is_none_or(|named| named.contains(thread));
        let places = self.places.iter().filter(|(thread, place)| !place.left && wanted(*thread));
        places.map(|(thread, place)| cursor(thread, place)).collect()
    }

    /// Threads were named, and the caller has left them all. Naming none would mean all.
    pub(super) fn is_without_threads(&self) -> bool {
        self.named.as_ref().is_some_and(|named| named.iter().all(|thread| self.has_left(thread)))
    }

    fn has_left(&self, thread: &str) -> bool {
        self.places.get(thread).is_some_and(|place| place.left)
    }

    /// The server says that the caller isn't a member of a thread any more. False if that is no news
    /// of a thread that was followed.
    pub(super) fn leave(&mut self, thread: &str) -> bool {
        let named = self.named.as_ref().is_some_and(|named| named.contains(thread));
        match self.places.get_mut(thread).filter(|place| named && !place.left) {
            Some(place) => {
                place.left = true;
                true
            }
            None => false,
        }
    }

    /// A stream begins.
    pub(super) fn opened(&mut self) {
        self.places.values_mut().for_each(|place| place.said = false);
    }

    /// All threads of the request have started: of the others the caller isn't a member any more.
    pub(super) fn complete(&mut self) {
        self.complete = true;
        self.places.values_mut().for_each(|place| place.left |= !place.said);
    }

    /// A thread goes on from here.
    pub(super) fn set(&mut self, cursor: &ThreadCursor) {
        if *self.history != cursor.history {
            self.history = cursor.history.as_str().into();
        }
        let (history, sequence) = (self.history.clone(), cursor.sequence);
        let place = Place { history, sequence, position: sequence, said: true, left: false };
        self.places.insert(cursor.thread_id.clone(), place);
    }

    /// A thread starts, which must be where it was.
    pub(super) fn started(&mut self, started: &ThreadCursor) -> Result<(), SubscribeError> {
        let known =
            self.places.get_mut(&started.thread_id).filter(|place| !place.left || *place.history == started.history);
        let Some(place) = known else {
            self.set(started);
            return Ok(());
        };
        let moved = *place.history != started.history || place.sequence != started.sequence;
        if moved && !place.left {
            return Err(SubscribeError::Moved {
                thread_id: started.thread_id.clone(),
                asked: format!("{}:{}", place.history, place.sequence),
                started: format!("{}:{}", started.history, started.sequence),
            });
        }
        // Whoever left and is back may be sent again what came before the leaving, or nothing of
        // what came between.
        place.position = started.sequence;
        place.sequence = place.sequence.max(started.sequence);
        (place.said, place.left) = (true, false);
        Ok(())
    }

    /// An event comes, which must be the next of its thread. None if it was handed out before.
    pub(super) fn event(&mut self, event: Event) -> Result<Option<Delivery>, SubscribeError> {
        let (thread_id, sequence) = (&event.thread_id, event.sequence);
        let Some(place) = self.places.get_mut(thread_id).filter(|place| place.said && !place.left) else {
            return Err(SubscribeError::NotStarted { thread_id: thread_id.clone(), sequence });
        };
        if place.position.checked_add(1) != Some(sequence) {
            return Err(SubscribeError::NotDense { thread_id: thread_id.clone(), after: place.position, sequence });
        }
        place.position = sequence;
        if sequence <= place.sequence {
            return Ok(None);
        }
        place.sequence = sequence;
        let history = place.history.clone();
        let left = matches!(&event.kind, Some(Kind::MemberLeft(left)) if Some(&left.user_id) == self.caller.as_ref());
        if left {
            place.left = true;
        }
        Ok(Some(Delivery { event, history, last: left }))
    }
}

fn cursor(thread: &str, place: &Place) -> ThreadCursor {
    ThreadCursor { thread_id: thread.to_owned(), history: place.history.as_ref().to_owned(), sequence: place.sequence }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::threads::v1::MemberLeft;

    use super::*;

    fn at(thread: &str, history: &str, sequence: u64) -> ThreadCursor {
        ThreadCursor { thread_id: thread.to_owned(), history: history.to_owned(), sequence }
    }

    fn event(thread: &str, sequence: u64) -> Event {
        Event { thread_id: thread.to_owned(), sequence, ..Event::default() }
    }

    fn leaving(thread: &str, sequence: u64, user: &str) -> Event {
        let kind = Some(Kind::MemberLeft(MemberLeft { user_id: user.to_owned() }));
        Event { kind, ..event(thread, sequence) }
    }

    /// Takes an event that must be handed out.
    fn next(places: &mut Places, event: Event) -> Delivery {
        places.event(event).unwrap().unwrap()
    }

    #[test]
    fn an_event_that_is_not_the_next_of_its_thread_is_refused() {
        let mut places = Places::new(None, None);
        assert!(matches!(places.event(event("a", 1)), Err(SubscribeError::NotStarted { .. })));
        places.started(&at("a", "h", 3)).unwrap();
        assert_eq!(next(&mut places, event("a", 4)).cursor(), at("a", "h", 4));
        for wrong in [4, 6, 0] {
            assert!(matches!(places.event(event("a", wrong)), Err(SubscribeError::NotDense { after: 4, .. })));
        }
    }

    #[test]
    fn a_thread_that_starts_elsewhere_without_a_reset_is_refused() {
        let mut places = Places::new(None, None);
        places.set(&at("a", "h", 3));
        places.started(&at("a", "h", 3)).unwrap();
        for wrong in [at("a", "h", 2), at("a", "h", 4), at("a", "other", 3)] {
            assert!(matches!(places.started(&wrong), Err(SubscribeError::Moved { .. })), "{wrong:?}");
        }
        places.set(&at("a", "other", 9));
        assert_eq!(next(&mut places, event("a", 10)).cursor(), at("a", "other", 10));
    }

    #[test]
    fn from_now_holds_until_all_threads_have_started() {
        let mut places = Places::new(None, None);
        places.start = Start::Now;
        assert_eq!(places.request().start(), Start::Now);
        places.started(&at("a", "h", 3)).unwrap();
        places.complete();
        assert_eq!(places.request().start(), Start::Stored, "a thread that came meanwhile begins with the joining");
        assert_eq!(places.request().cursors, [at("a", "h", 3)]);
    }

    #[test]
    fn a_thread_that_the_caller_left_is_not_asked_for_again() {
        let mut places = Places::new(Some("ada".to_owned()), Some(vec!["a".to_owned(), "b".to_owned()]));
        places.started(&at("a", "h", 0)).unwrap();
        places.started(&at("b", "h", 0)).unwrap();
        assert!(!next(&mut places, leaving("a", 1, "bob")).last);
        assert!(next(&mut places, leaving("a", 2, "ada")).last);
        assert_eq!(places.request().thread_ids, ["b"]);
        assert_eq!(places.request().cursors, [at("b", "h", 0)]);
        places.event(leaving("b", 1, "ada")).unwrap();
        assert!(places.is_without_threads());
    }

    #[test]
    fn whoever_is_back_in_a_thread_gets_no_event_twice() {
        let mut places = Places::new(Some("ada".to_owned()), None);
        places.started(&at("a", "h", 8)).unwrap();
        next(&mut places, event("a", 9));
        next(&mut places, leaving("a", 10, "ada"));
        assert!(places.event(event("a", 11)).is_err(), "nothing comes after the leaving");
        assert_eq!(places.request().cursors, []);
        places.started(&at("a", "h", 8)).unwrap();
        assert!(places.event(event("a", 9)).unwrap().is_none());
        assert!(places.event(leaving("a", 10, "ada")).unwrap().is_none());
        assert_eq!(next(&mut places, event("a", 11)).sequence, 11);
    }

    #[test]
    fn a_thread_that_a_new_stream_does_not_start_was_left_meanwhile() {
        let mut places = Places::new(None, None);
        places.started(&at("a", "h", 8)).unwrap();
        places.started(&at("b", "h", 1)).unwrap();
        places.opened();
        places.started(&at("b", "h", 1)).unwrap();
        places.complete();
        assert_eq!(places.request().cursors, [at("b", "h", 1)]);
        places.started(&at("a", "h", 15)).unwrap();
        assert_eq!(next(&mut places, event("a", 16)).sequence, 16);
    }
}
