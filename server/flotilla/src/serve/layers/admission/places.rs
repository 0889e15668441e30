//! Who holds how many of the places, and who gets the next one.
//!
//! Up to half of the places go to whoever comes. From there on a caller that holds its share of all
//! places is refused, however many are free; and the last eighth is for callers that hold less than
//! they would if one more came. So one caller never keeps the others out, and alone it has almost
//! everything. A quarter of the places for requests is kept for those that change something: reads
//! don't keep writes from the log.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::config::Limits;

/// Places of one kind: how many there are, and how many one caller may have at a busy time.
#[derive(Debug, Clone, Copy)]
struct Bound {
    all: usize,
    per_caller: usize,
}

impl Bound {
    /// What one of the callers may hold; none while there is enough for all.
    fn share(self, taken: usize, callers: usize) -> Option<usize> {
        if taken < self.all / 2 {
            return None;
        }
        let callers = if taken >= self.all - self.all / 8 { callers + 1 } else { callers };
        Some((self.all / callers.max(1)).clamp(1, self.per_caller))
    }

    fn admit(self, what: &'static str, taken: usize, held: usize, callers: usize) -> Result<(), Refused> {
        if taken >= self.all {
            return Err(Refused::Full { what, bound: self.all });
        }
        // Who holds none yet is a caller too.
        match self.share(taken, callers + usize::from(held == 0)) {
            Some(share) if held >= share => Err(Refused::Share { what, held, share }),
            _ => Ok(()),
        }
    }
}

/// Why a caller gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody gets one.
    Full { what: &'static str, bound: usize },
    /// The caller has its share.
    Share { what: &'static str, held: usize, share: usize },
}

/// All places of a server.
pub(super) struct Places {
    requests: Bound,
    /// Of the requests, those that change nothing.
    reads: usize,
    streams: Bound,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    requests: usize,
    reads: usize,
    streams: usize,
    /// Callers that hold a request, and a stream.
    requesting: usize,
    streaming: usize,
    callers: HashMap<u64, Held>,
}

#[derive(Default, Clone, Copy)]
struct Held {
    requests: usize,
    streams: usize,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let all = limits.concurrent_requests;
        Arc::new(Self {
            requests: Bound { all, per_caller: limits.requests_per_caller.max(1) },
            reads: all - all / 4,
            streams: Bound { all: limits.streams, per_caller: limits.streams_per_caller.max(1) },
            state: Mutex::default(),
        })
    }

    /// A place for a request, until it is dropped.
    pub(super) fn request(self: &Arc<Self>, caller: u64, changes: bool) -> Result<RequestPlace, Refused> {
        let mut state = self.state();
        let held = state.held(caller);
        self.requests.admit("requests in work", state.requests, held.requests, state.requesting)?;
        if !changes && state.reads >= self.reads {
            return Err(Refused::Full { what: "reads in work", bound: self.reads });
        }
        state.requests += 1;
        state.reads += usize::from(!changes);
        state.requesting += usize::from(held.requests == 0);
        state.callers.entry(caller).or_default().requests += 1;
        Ok(RequestPlace { places: self.clone(), caller, changes })
    }

    /// A place for a stream, until it is dropped.
    pub(super) fn stream(self: &Arc<Self>, caller: u64) -> Result<StreamPlace, Refused> {
        let mut state = self.state();
        let held = state.held(caller);
        self.streams.admit("streams open", state.streams, held.streams, state.streaming)?;
        state.streams += 1;
        state.streaming += usize::from(held.streams == 0);
        state.callers.entry(caller).or_default().streams += 1;
        Ok(StreamPlace { places: self.clone(), caller })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn held(&self, caller: u64) -> Held {
        self.callers.get(&caller).copied().unwrap_or_default()
    }

    fn give_back(&mut self, caller: u64, give: impl FnOnce(&mut Held)) -> Held {
        let Some(held) = self.callers.get_mut(&caller) else { return Held::default() };
        give(held);
        let left = *held;
        if (left.requests, left.streams) == (0, 0) {
            self.callers.remove(&caller);
        }
        left
    }
}

/// A place for a request.
pub(super) struct RequestPlace {
    places: Arc<Places>,
    caller: u64,
    changes: bool,
}

impl Drop for RequestPlace {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.requests -= 1;
        state.reads -= usize::from(!self.changes);
        let left = state.give_back(self.caller, |held| held.requests -= 1);
        state.requesting -= usize::from(left.requests == 0);
    }
}

/// A place for a stream.
pub(super) struct StreamPlace {
    places: Arc<Places>,
    caller: u64,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut state = self.places.state();
        state.streams -= 1;
        let left = state.give_back(self.caller, |held| held.streams -= 1);
        state.streaming -= usize::from(left.streams == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(requests: usize, streams: usize, per_caller: usize) -> Arc<Places> {
        Places::new(&Limits {
            concurrent_requests: requests,
            requests_per_caller: per_caller,
            streams,
            streams_per_caller: per_caller,
            ..Limits::default()
        })
    }

    /// As many as a caller gets.
    fn all(places: &Arc<Places>, caller: u64) -> Vec<RequestPlace> {
        std::iter::from_fn(|| places.request(caller, true).ok()).collect()
    }

    #[test]
    fn a_caller_alone_has_almost_everything_and_never_keeps_others_out() {
        let places = places(32, 32, 1000);
        let greedy = all(&places, 1);
        assert_eq!(greedy.len(), 28);
        let modest = all(&places, 2);
        assert_eq!(modest.len(), 4, "the last eighth");
        assert!(matches!(places.request(3, true), Err(Refused::Full { bound: 32, .. })));
    }

    #[test]
    fn what_a_greedy_caller_gives_back_goes_to_the_others() {
        let places = places(32, 32, 1000);
        let mut greedy = all(&places, 1);
        let mut modest = all(&places, 2);
        for _ in 0..64 {
            if greedy.pop().is_some() {
                greedy.extend(places.request(1, true).ok());
                modest.extend(places.request(2, true).ok());
            }
        }
        assert!(greedy.len() <= 16 && modest.len() >= 12, "{} and {}", greedy.len(), modest.len());
    }

    #[test]
    fn a_cap_counts_only_at_a_busy_time() {
        let places = places(32, 32, 4);
        let first = all(&places, 1);
        assert_eq!(first.len(), 16, "up to half nobody is counted");
        assert_eq!(all(&places, 2).len(), 4);
        drop(first);
        assert_eq!(places.state().requesting, 0);
    }

    #[test]
    fn reads_leave_room_for_writes() {
        let places = places(8, 8, 1000);
        let reads: Vec<_> = (0..20).filter_map(|caller| places.request(caller, false).ok()).collect();
        assert_eq!(reads.len(), 6);
        assert!(places.request(100, true).is_ok());
        assert!(matches!(places.request(100, false), Err(Refused::Full { bound: 6, .. })));
    }

    #[test]
    fn streams_are_counted_apart_and_given_back() {
        let places = places(8, 16, 1000);
        let streams: Vec<_> = std::iter::from_fn(|| places.stream(1).ok()).collect();
        assert_eq!(streams.len(), 14);
        assert!(places.stream(2).is_ok() && places.request(1, false).is_ok());
        drop(streams);
        let state = places.state();
        assert_eq!((state.streams, state.streaming, state.callers.len()), (0, 0, 0));
    }

    #[test]
    fn one_place_is_for_one_call_of_any_kind() {
        let places = places(1, 1, 1);
        let read = places.request(1, false).ok();
        assert!(read.is_some() && places.request(2, true).is_err());
        drop(read);
        assert!(places.request(2, true).is_ok() && places.stream(1).is_ok());
    }
}
