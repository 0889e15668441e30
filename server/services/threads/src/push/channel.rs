//! A thread's recent events and its subscriptions.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::subscriber::Subscriber;
use crate::events::Pushed;

/// Recent events that a channel keeps at most.
const MAX_EVENTS: usize = 256;
/// Bytes of recent events that a channel keeps at most.
const MAX_BYTES: usize = 256 * 1024;
/// Bytes of recent events that all channels keep together, about. Past it they
/// keep none, and subscribers read the outbox.
const MAX_TOTAL_BYTES: usize = 32 * 1024 * 1024;

/// What is kept of one thread while somebody subscribes to it.
pub(crate) struct Channel {
    thread: Box<str>,
    state: Mutex<State>,
    /// Bytes of recent events of all channels.
    total: Arc<AtomicUsize>,
}

#[derive(Default)]
struct State {
    /// Without a gap, each with the moment it came.
    recent: VecDeque<(Pushed, Instant)>,
    bytes: usize,
    /// By the subscriber's id.
    subscriptions: HashMap<u64, Arc<Subscription>>,
}

/// One thread of one subscriber.
pub(crate) struct Subscription {
    pub(crate) channel: Arc<Channel>,
    subscriber: Arc<Subscriber>,
    /// The sequence that comes next. Only its stream moves it.
    next: AtomicU64,
    /// The sequence of the caller's joining. Only its stream moves it.
    joined: AtomicU64,
    /// Whether it waits among its subscriber's threads with news.
    queued: AtomicBool,
}

/// What a channel has for a place in the outbox.
pub(crate) enum Next {
    /// The event, and when it came.
    Event(Pushed, Instant),
    /// Nothing yet: the subscription is told when there is.
    Nothing,
    /// It is older than what is kept here.
    InOutbox,
}

impl Channel {
    pub(crate) fn new(thread: &str, total: Arc<AtomicUsize>) -> Self {
        Self { thread: thread.into(), state: Mutex::default(), total }
    }

    pub(crate) fn thread(&self) -> &str {
        &self.thread
    }

    /// Keeps the thread's next event, and tells nobody.
    pub(crate) fn keep(&self, event: Pushed) {
        let mut state = self.lock();
        // After a gap, what was before it is of no use.
        if state.recent.back().is_some_and(|(last, _)| last.sequence + 1 != event.sequence) {
            self.forget(&mut state, 0);
        }
        state.bytes += event.bytes.len();
        self.total.fetch_add(event.bytes.len(), Ordering::Relaxed);
        state.recent.push_back((event, Instant::now()));
        let keep = match self.total.load(Ordering::Relaxed) > MAX_TOTAL_BYTES {
            true => 0,
            false => MAX_EVENTS,
        };
        self.forget(&mut state, keep);
    }

    /// Tells every subscription that there is news. Returns how many there are.
    pub(crate) fn wake(&self) -> usize {
        // Woken outside the lock, which they take first.
        let subscriptions: Vec<_> = self.lock().subscriptions.values().cloned().collect();
        subscriptions.iter().for_each(Subscription::queue);
        subscriptions.len()
    }

    /// Forgets the events that were there at a former sweep: who follows has
    /// them by now. Returns the last sequence, for the next sweep.
    pub(crate) fn sweep(&self, former: u64) -> u64 {
        let mut state = self.lock();
        let last = state.recent.back().map_or(former, |(last, _)| last.sequence);
        let keep = state.recent.iter().filter(|(event, _)| event.sequence > former).count();
        self.forget(&mut state, keep);
        last
    }

    /// What comes at a place. `outbox_is_read` says that the outbox was found
    /// to have nothing there, after the subscription was made.
    pub(crate) fn next(&self, sequence: u64, outbox_is_read: bool) -> Next {
        let state = self.lock();
        let Some(first) = state.recent.front().map(|(first, _)| first.sequence) else {
            return if outbox_is_read { Next::Nothing } else { Next::InOutbox };
        };
        match sequence.checked_sub(first) {
            None => Next::InOutbox,
            Some(ahead) => match usize::try_from(ahead).ok().and_then(|ahead| state.recent.get(ahead)) {
                Some((event, came)) => Next::Event(event.clone(), *came),
                None => Next::Nothing,
            },
        }
    }

    pub(crate) fn remove(&self, subscriber: u64) -> bool {
        let mut state = self.lock();
        state.subscriptions.remove(&subscriber);
        state.subscriptions.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().subscriptions.is_empty()
    }

    pub(crate) fn subscribers(&self) -> Vec<Arc<Subscriber>> {
        self.lock().subscriptions.values().map(|subscription| subscription.subscriber.clone()).collect()
    }

    fn forget(&self, state: &mut State, keep: usize) {
        while state.recent.len() > keep || state.bytes > MAX_BYTES {
            let Some((event, _)) = state.recent.pop_front() else { break };
            state.bytes -= event.bytes.len();
            self.total.fetch_sub(event.bytes.len(), Ordering::Relaxed);
        }
        if state.recent.is_empty() {
            state.recent.shrink_to_fit();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let bytes = self.lock().bytes;
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Subscription {
    /// Subscribes to a channel, from a sequence on. It is among the threads
    /// with news at once, for the stream to look what there is.
    pub(crate) fn start(channel: &Arc<Channel>, subscriber: &Arc<Subscriber>, joined: u64) -> Arc<Self> {
        let subscription = Arc::new(Self {
            channel: channel.clone(),
            subscriber: subscriber.clone(),
            next: AtomicU64::new(u64::MAX),
            joined: AtomicU64::new(joined),
            queued: AtomicBool::new(false),
        });
        channel.lock().subscriptions.insert(subscriber.id, subscription.clone());
        subscription
    }

    /// Puts it among its subscriber's threads with news, once.
    pub(crate) fn queue(this: &Arc<Self>) {
        if !this.queued.swap(true, Ordering::AcqRel) {
            this.subscriber.news(this.clone());
        }
    }

    /// Its stream looks after it now; from here on news queue it again.
    pub(crate) fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }

    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn go_to(&self, next: u64) {
        self.next.store(next, Ordering::Relaxed);
    }

    pub(crate) fn joined(&self) -> u64 {
        self.joined.load(Ordering::Relaxed)
    }

    pub(crate) fn joins_again(&self, sequence: u64) {
        self.joined.store(sequence, Ordering::Relaxed);
    }
}
