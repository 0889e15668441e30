//! What the hub knows of a stream.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::SystemTime,
};

use futures::task::AtomicWaker;

use super::channel::Subscription;

/// Threads that a stream may have been added to without having looked.
pub(crate) const MAX_JOINED: usize = 1_000;

/// Why a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its device opened a newer one.
    TakenOver,
    /// The server stops, or push begins anew: the client comes back.
    Restart,
    /// It hasn't looked while its user was added to many threads: opened anew,
    /// it lists them.
    Behind,
}

/// One stream of one device.
pub(crate) struct Subscriber {
    pub(crate) id: u64,
    pub(crate) user: Box<str>,
    pub(crate) device: Box<str>,
    pub(crate) since: SystemTime,
    waker: AtomicWaker,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    /// Threads with news, each once.
    news: VecDeque<Arc<Subscription>>,
    /// Threads that the user was added to, and by which event.
    joined: VecDeque<(Box<str>, u64)>,
    end: Option<End>,
    /// The stream is gone.
    gone: bool,
}

/// What a stream finds when it looks.
pub(crate) enum Found {
    /// The stream ends.
    End(End),
    /// The user was added to a thread by this event.
    Joined(Box<str>, u64),
    /// A thread with news.
    News(Arc<Subscription>),
}

impl Subscriber {
    pub(crate) fn new(id: u64, user: &str, device: &str) -> Self {
        let since = SystemTime::now();
        Self { id, user: user.into(), device: device.into(), since, waker: AtomicWaker::new(), inbox: Mutex::default() }
    }

    /// A thread has news. Subscriptions see to it that each is told once.
    pub(crate) fn news(&self, subscription: Arc<Subscription>) {
        let mut inbox = self.lock();
        // They know each other: what came in now would stay for ever.
        if inbox.gone {
            return;
        }
        inbox.news.push_back(subscription);
        drop(inbox);
        self.waker.wake();
    }

    /// The user was added to a thread.
    pub(crate) fn joined(&self, thread: &str, sequence: u64) {
        let mut inbox = self.lock();
        match inbox.joined.len() < MAX_JOINED {
            true => inbox.joined.push_back((thread.into(), sequence)),
            false => inbox.end = inbox.end.or(Some(End::Behind)),
        }
        drop(inbox);
        self.waker.wake();
    }

    /// Ends the stream. The first reason counts.
    pub(crate) fn end(&self, end: End) {
        let mut inbox = self.lock();
        inbox.end = inbox.end.or(Some(end));
        drop(inbox);
        self.waker.wake();
    }

    /// What there is, the most urgent first.
    pub(crate) fn look(&self) -> Option<Found> {
        let mut inbox = self.lock();
        if let Some(end) = inbox.end {
            return Some(Found::End(end));
        }
        if let Some((thread, sequence)) = inbox.joined.pop_front() {
            return Some(Found::Joined(thread, sequence));
        }
        inbox.news.pop_front().map(Found::News)
    }

    /// Who is woken by news.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// The stream is gone: gives up what it knows of subscriptions, which know it.
    pub(crate) fn clear(&self) {
        let mut inbox = self.lock();
        inbox.gone = true;
        let news = std::mem::take(&mut inbox.news);
        inbox.joined = VecDeque::new();
        drop(inbox);
        drop(news);
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
