//! Telling the server how far the device has come: collected per thread, sent about once a second.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_proto::threads::v1::{AckRequest, ThreadCursor, threads_service_client::ThreadsServiceClient};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use super::{CloseError, Delivery};
use crate::{CallError, Client, backoff::Backoff, client::request_id, methods::Directed, retry};

/// The most threads in one Ack.
pub const MAX_ACKS: usize = 200;
/// From one Ack to the next.
const PACE: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(15);
/// How long one Ack may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a subscription that was dropped goes on telling what was acknowledged.
const LEFT_BEHIND: Duration = Duration::from_secs(5);
/// How many failures wait to be read; more are left out.
const FAILURES: usize = 16;

/// The server wasn't told how far the device has come.
#[derive(Debug, Clone)]
pub struct AckFailure {
    /// The places that it wasn't told.
    pub cursors: Vec<ThreadCursor>,
    /// They will be tried again, with what is acknowledged meanwhile; it is said once until that
    /// works. Otherwise they were given up.
    pub will_retry: bool,
    /// Why.
    pub error: CallError,
}

/// A handle for acknowledging events; clones belong to the same subscription. When that is closed or
/// dropped, they do nothing.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    shared: Arc<Shared>,
}

impl Acknowledger {
    /// As [`Subscription::ack`](super::Subscription::ack).
    pub fn ack(&self, event: &Delivery) {
        if !event.last {
            self.note(&event.thread_id, &event.history, event.sequence);
        }
    }

    /// Notes that everything in a thread up to this place has been dealt with: after a reset, the
    /// place up to which ListEvents was read.
    pub fn ack_to(&self, cursor: &ThreadCursor) {
        self.note(&cursor.thread_id, &cursor.history, cursor.sequence);
    }

    fn note(&self, thread: &str, history: &str, sequence: u64) {
        if self.shared.is_closing() {
            return;
        }
        let mut state = self.shared.state();
        // What was acknowledged late, of another history, has no meaning in this one.
        if state.history.as_deref().is_some_and(|current| current != history) {
            return;
        }
        state.history.get_or_insert_with(|| history.into());
        match state.pending.get_mut(thread) {
            Some(highest) => *highest = sequence.max(*highest),
            None => {
                state.pending.insert(thread.to_owned(), sequence);
            }
        }
        drop(state);
        self.shared.news.notify_one();
    }

    /// Sequences count in this history now.
    pub(super) fn counts_in(&self, history: &str) {
        let mut state = self.shared.state();
        if state.history.as_deref() != Some(history) {
            state.history = Some(history.into());
            state.pending.clear();
        }
    }

    /// What was acknowledged of a thread can't be told any more.
    pub(super) fn forget(&self, thread: &str) {
        self.shared.state().pending.remove(thread);
    }
}

/// What handles, subscription and task share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is pending.
    news: Notify,
    /// When the task must have ended, once the subscription has.
    closing: watch::Sender<Option<Instant>>,
}

#[derive(Debug, Default)]
struct State {
    /// The highest sequence acknowledged of each thread, until the server knows it.
    pending: BTreeMap<String, u64>,
    /// What the sequences count in.
    history: Option<Arc<str>>,
    /// The last thread of the last Ack: the next one begins behind it, so that each gets its turn.
    turn: String,
    /// Why the last Ack wasn't stored.
    failure: Option<String>,
    /// How many places were given up since the end began.
    given_up: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closing(&self) -> bool {
        self.closing.borrow().is_some()
    }

    fn begin_end(&self, within: Duration) {
        let mut state = self.state();
        (state.failure, state.given_up) = (None, 0);
        drop(state);
        self.closing.send_if_modified(|until| {
            let begins = until.is_none();
            until.get_or_insert_with(|| Instant::now() + within);
            begins
        });
    }

    /// What to send next. It stays pending until it is told or given up.
    fn batch(&self) -> Vec<ThreadCursor> {
        let mut state = self.state();
        let history = state.history.as_deref().unwrap_or_default().to_owned();
        let behind = state.pending.range::<str, _>((Bound::Excluded(state.turn.as_str()), Bound::Unbounded));
        let up_to = state.pending.range::<str, _>((Bound::Unbounded, Bound::Included(state.turn.as_str())));
        let cursor = |(thread, &sequence): (&String, &u64)| ThreadCursor {
            thread_id: thread.clone(),
            history: history.clone(),
            sequence,
        };
        let batch: Vec<ThreadCursor> = behind.chain(up_to).take(MAX_ACKS).map(cursor).collect();
        state.turn = batch.last().map(|last| last.thread_id.clone()).unwrap_or_default();
        batch
    }

    /// These needn't be sent again, unless more was acknowledged meanwhile.
    fn remove(&self, cursors: &[ThreadCursor]) {
        let mut state = self.state();
        for cursor in cursors {
            // What is pending may count in another history by now.
            if state.history.as_deref() != Some(cursor.history.as_str()) {
                continue;
            }
            if state.pending.get(&cursor.thread_id).is_some_and(|highest| *highest <= cursor.sequence) {
                state.pending.remove(&cursor.thread_id);
            }
        }
    }
}

/// The acknowledgements of a subscription, and the task that sends them.
pub(super) struct Acks {
    handle: Acknowledger,
    task: Option<JoinHandle<()>>,
}

impl Acks {
    pub(super) fn start(client: Client) -> (Self, mpsc::Receiver<AckFailure>) {
        let (closing, closed) = watch::channel(None);
        let shared = Arc::new(Shared { state: Mutex::default(), news: Notify::new(), closing });
        let (failures, receiver) = mpsc::channel(FAILURES);
        let backoff = Backoff::new(PACE, MOST);
        let sender = Sender { client, shared: shared.clone(), failures, backoff, failing: false };
        let task = Some(tokio::spawn(sender.run(closed)));
        (Self { handle: Acknowledger { shared }, task }, receiver)
    }

    pub(super) fn handle(&self) -> &Acknowledger {
        &self.handle
    }

    /// Sends the rest.
    pub(super) async fn flush(mut self, within: Duration) -> Result<(), CloseError> {
        let shared = self.handle.shared.clone();
        shared.begin_end(within);
        if let Some(task) = self.task.take() {
            // It ends by itself, and only a panic would make it fail.
            let _ = task.await;
        }
        let state = shared.state();
        let threads = state.pending.len() + state.given_up;
        match &state.failure {
            None if threads == 0 => Ok(()),
            failure => {
                let reason = failure.clone().unwrap_or_else(|| format!("no answer within {within:?}"));
                Err(CloseError { threads, reason })
            }
        }
    }
}

impl Drop for Acks {
    fn drop(&mut self) {
        self.handle.shared.begin_end(LEFT_BEHIND);
    }
}

/// The task.
struct Sender {
    client: Client,
    shared: Arc<Shared>,
    failures: mpsc::Sender<AckFailure>,
    backoff: Backoff,
    /// It was told that Acks don't arrive.
    failing: bool,
}

impl Sender {
    async fn run(mut self, mut closed: watch::Receiver<Option<Instant>>) {
        let closing = async { closed.wait_for(Option::is_some).await.map_or(None, |until| *until) };
        let until = tokio::select! {
            () = self.send_as_it_comes() => None,
            until = closing => until,
        };
        // A batch that was on its way is sent again: what was acknowledged twice counts once.
        let _ = tokio::time::timeout_at(until.unwrap_or_else(Instant::now), self.send_rest()).await;
    }

    async fn send_as_it_comes(&mut self) {
        loop {
            let batch = self.shared.batch();
            if batch.is_empty() {
                self.shared.news.notified().await;
                continue;
            }
            let sent = Instant::now();
            let pause = self.send(batch).await.map_or(PACE, |pause| pause.max(PACE));
            tokio::time::sleep_until(sent + pause).await;
        }
    }

    async fn send_rest(&mut self) {
        loop {
            let batch = self.shared.batch();
            if batch.is_empty() {
                return;
            }
            if let Some(pause) = self.send(batch).await {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Sends one Ack; gives the pause before the next try if it didn't arrive.
    async fn send(&mut self, batch: Vec<ThreadCursor>) -> Option<Duration> {
        let lease = self.client.lease(AckRequest::kind(), &[]);
        let mut threads = ThreadsServiceClient::new(lease.channel());
        let mut request = self.client.request(AckRequest { cursors: batch.clone(), request_id: request_id() });
        request.set_timeout(PATIENCE);
        let answer = tokio::time::timeout(PATIENCE, threads.ack(request)).await;
        let endpoint = self.client.endpoint();
        match &answer {
            Ok(Ok(_)) => lease.link().succeeded(),
            Ok(Err(status)) if retry::blames_server(status) => lease.link().failed(retry::is_broken(status)),
            Ok(Err(_)) => {}
            Err(_) => lease.link().failed(true),
        }
        let (error, asked) = match answer {
            Ok(Ok(_)) => {
                self.shared.remove(&batch);
                self.shared.state().failure = None;
                self.backoff.reset();
                self.failing = false;
                return None;
            }
            Ok(Err(status)) if retry::is_final(&status) => {
                self.give_up(batch, CallError::from_status(endpoint, &status));
                return None;
            }
            Ok(Err(status)) if !retry::is_timeout(&status) => {
                (CallError::from_status(endpoint, &status), retry::asked(&status))
            }
            Ok(Err(_)) | Err(_) => (CallError::TimedOut { endpoint: endpoint.to_owned(), after: PATIENCE }, None),
        };
        self.shared.state().failure = Some(error.to_string());
        if !self.failing {
            self.failing = true;
            self.tell(AckFailure { cursors: batch, will_retry: true, error });
        }
        Some(self.backoff.next().max(asked.unwrap_or_default()))
    }

    /// A refusal that names a thread is about that one only; the others are sent again without it.
    fn give_up(&self, mut batch: Vec<ThreadCursor>, error: CallError) {
        let named = error.refusal().and_then(|refusal| refusal.metadata.get("thread_id"));
        if batch.iter().any(|cursor| Some(&cursor.thread_id) == named) {
            batch.retain(|cursor| Some(&cursor.thread_id) == named);
        }
        self.shared.remove(&batch);
        let mut state = self.shared.state();
        state.failure = Some(error.to_string());
        state.given_up += batch.len();
        drop(state);
        self.tell(AckFailure { cursors: batch, will_retry: false, error });
    }

    fn tell(&self, failure: AckFailure) {
        // If nobody reads them, so many are enough.
        let _ = self.failures.try_send(failure);
    }
}
