//! Who posts: one message after the other, each until it is acknowledged, over every crash.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla_client::{Client, request_id};
use flotilla_proto::threads::v1::{Message, PostMessageRequest, Thread, UpdateThreadRequest};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{
    network::insist,
    truth::{Place, hash},
};
use crate::crash::ledger::now;

/// The longest pause between two messages, in microseconds.
const PAUSE: u64 = 8_000;

/// A change of a thread that was acknowledged.
pub(crate) struct Posted {
    pub(crate) request_id: String,
    pub(crate) thread: String,
    /// Sequence and hash of the event; a renaming's answer doesn't tell them.
    pub(crate) event: Option<(u64, u64)>,
    /// When the answer had arrived, in nanoseconds since 1970.
    pub(crate) at: u64,
}

/// What posters share.
#[derive(Clone, Default)]
pub(crate) struct Board {
    /// The threads that there are.
    threads: Arc<Mutex<Vec<Place>>>,
    posted: Arc<Mutex<Vec<Posted>>>,
    /// Post nothing more.
    pub(crate) ending: Arc<AtomicBool>,
}

impl Board {
    pub(crate) fn add_thread(&self, place: Place) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }

    pub(crate) fn threads(&self) -> Vec<Place> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at what was acknowledged.
    pub(crate) fn with_posted<T>(&self, look: impl FnOnce(&[Posted]) -> T) -> T {
        look(&self.posted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Posts to random threads until that ends. What was begun is acknowledged then.
    pub(crate) async fn post(self, number: usize, client: Client, mut random: StdRng) {
        for count in 0.. {
            if self.ending.load(Ordering::Acquire) {
                return;
            }
            let threads = self.threads();
            let Place { thread, users } = threads.choose(&mut random).expect("a thread");
            let client = client.acting_as(users.choose(&mut random).expect("a member")).expect("an id");
            let posted = match random.random_bool(0.05) {
                true => rename(&client, thread, format!("thread {number}-{count}")).await,
                false => {
                    post(&client, thread, format!("{number}-{count} {}", "x".repeat(random.random_range(0..300)))).await
                }
            };
            self.posted.lock().unwrap_or_else(PoisonError::into_inner).push(posted);
            tokio::time::sleep(Duration::from_micros(random.random_range(0..PAUSE))).await;
        }
    }
}

async fn post(client: &Client, thread: &str, text: String) -> Posted {
    let message = Some(Message { text, data: None });
    let request = PostMessageRequest { thread_id: thread.to_owned(), message, request_id: request_id() };
    let event = insist(client, request.clone()).await;
    assert_eq!((&event.thread_id, &event.request_id), (&request.thread_id, &request.request_id));
    let PostMessageRequest { thread_id: thread, request_id, .. } = request;
    Posted { request_id, thread, event: Some((event.sequence, hash(&event))), at: now() }
}

async fn rename(client: &Client, thread: &str, display_name: String) -> Posted {
    let named = Thread { id: thread.to_owned(), display_name, ..Thread::default() };
    let request = UpdateThreadRequest { thread: Some(named), update_mask: None, request_id: request_id() };
    insist(client, request.clone()).await;
    Posted { request_id: request.request_id, thread: thread.to_owned(), event: None, at: now() }
}
