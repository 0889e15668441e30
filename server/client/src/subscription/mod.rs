//! The events of threads, on one device of one user: in order and once, whatever happens to
//! connections and servers.
//!
//! * `places`: where each thread is, and whether the server keeps its promise.
//! * `acks`: telling the server how far the device has come.
//! * `error`: why a subscription is over.

mod acks;
mod error;
mod places;

use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::Heartbeat,
    threads::v1::{
        Event, SubscribeRequest, SubscribeResponse, ThreadCursor, ThreadReset, subscribe_request::Start,
        subscribe_response::Item, threads_service_client::ThreadsServiceClient,
    },
};
use tokio::sync::mpsc;

pub use acks::{AckFailure, Acknowledger, MAX_ACKS};
pub use error::{CloseError, SubscribeError};

use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    CallError, Client, MAX_MESSAGE,
    cell::{Kind, Lease, Link},
    resume::{Heard, Line, Opening},
    retry,
};
use acks::Acks;
use places::Places;

/// What a subscription has to tell.
#[derive(Debug)]
pub enum News {
    /// The next event of one of the threads.
    Event(Box<Delivery>),
    /// A thread starts, after this place. Told again for each thread when the stream was opened again.
    Started(ThreadCursor),
    /// A thread can't go on from where it was. Its events after the reset's cursor follow; what lies
    /// before, whoever keeps what the events tell of reads anew by ListEvents.
    Reset(ThreadReset),
    /// Nothing happened: everything before it on the stream is complete.
    Quiet,
    /// While the stream was broken the caller was removed from a thread that was named. Nothing more of it comes.
    Gone {
        /// The thread's id.
        thread_id: String,
    },
    /// The stream broke; it will be opened again after the pause.
    Lost {
        /// Why.
        reason: String,
        /// How long until the next try.
        pause: Duration,
    },
    /// The stream is open again, where it had broken.
    Resumed,
    /// The server wasn't told how far the device has come.
    AckFailed(AckFailure),
}

/// An event, and the history that its sequence counts in.
#[derive(Debug, Clone)]
pub struct Delivery {
    event: Event,
    history: Arc<str>,
    /// It took the caller out of the thread: nothing of it can be acknowledged any more.
    last: bool,
}

impl Delivery {
    /// Where a client that has dealt with this event goes on.
    pub fn cursor(&self) -> ThreadCursor {
        let history = self.history.as_ref().to_owned();
        ThreadCursor { thread_id: self.event.thread_id.clone(), history, sequence: self.event.sequence }
    }

    /// The event alone.
    pub fn into_event(self) -> Event {
        self.event
    }
}

impl Deref for Delivery {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// The events of threads, as a stream that goes on where it broke.
///
/// The client acts as a user and as a device. A device has one subscription: a newer one ends an
/// older one with [`SubscribeError::TakenOver`].
pub struct Subscription {
    client: Client,
    places: Places,
    line: Line<SubscribeResponse>,
    acks: Acks,
    ack_failures: mpsc::Receiver<AckFailure>,
    ended: Option<SubscribeError>,
}

impl Subscription {
    /// All threads of the user, also later ones: each after what the device last acknowledged, or
    /// from the user's joining. Must be called within a tokio runtime.
    pub fn all(client: &Client) -> Self {
        Self::new(client, None)
    }

    /// The threads with these ids, at most 1,000. They must be threads of the user.
    pub fn of(client: &Client, thread_ids: impl IntoIterator<Item = String>) -> Self {
        Self::new(client, Some(thread_ids.into_iter().collect()))
    }

    fn new(client: &Client, named: Option<Vec<String>>) -> Self {
        let (acks, ack_failures) = Acks::start(client.clone());
        let places = Places::new(client.user().map(str::to_owned), named);
        Self { client: client.clone(), places, line: Line::new(), acks, ack_failures, ended: None }
    }

    /// Threads without a cursor start with what happens from now on, instead of where the device
    /// was. Set before the first [`next`](Self::next).
    #[must_use]
    pub fn from_now(mut self) -> Self {
        self.places.start = Start::Now;
        self
    }

    /// These threads start after these places: for applications that keep their place themselves.
    /// Set before the first [`next`](Self::next).
    #[must_use]
    pub fn after(mut self, cursors: impl IntoIterator<Item = ThreadCursor>) -> Self {
        cursors.into_iter().for_each(|cursor| self.places.set(&cursor));
        self
    }

    /// Where the subscription is: everything up to these places was told.
    pub fn cursors(&self) -> Vec<ThreadCursor> {
        self.places.cursors()
    }

    /// Notes that an event, and what came before it in its thread, has been dealt with. Returns at
    /// once; the server is told within moments, at most once a second. What isn't acknowledged comes
    /// again when the device subscribes another time.
    pub fn ack(&self, event: &Delivery) {
        self.acks.handle().ack(event);
    }

    /// A handle for acknowledging from elsewhere.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acks.handle().clone()
    }

    /// The next news; waits for it. Safe to cancel: what wasn't returned will be.
    ///
    /// # Errors
    /// If the subscription is over. It stays so: further calls give the same error.
    pub async fn next(&mut self) -> Result<News, SubscribeError> {
        if let Some(ended) = &self.ended {
            return Err(ended.clone());
        }
        let news = self.advance().await;
        if let Err(error) = &news {
            self.line.leave();
            self.ended = Some(error.clone());
        }
        news
    }

    /// Ends the subscription, and waits until the server knows all that was acknowledged.
    ///
    /// # Errors
    /// If that takes longer than `within`, or is refused. What isn't known comes again another time.
    pub async fn close(mut self, within: Duration) -> Result<(), CloseError> {
        self.line.leave();
        self.acks.flush(within).await
    }

    async fn advance(&mut self) -> Result<News, SubscribeError> {
        loop {
            // A leaving may be followed at once by where the caller is back, so an open stream is heard out.
            if !self.line.is_open() && self.places.is_without_threads() {
                return Err(SubscribeError::NoThreadLeft);
            }
            let heard = tokio::select! {
                biased;
                Some(failure) = self.ack_failures.recv() => return Ok(News::AckFailed(failure)),
                heard = self.line.hear(|tried| open(&self.client, tried, self.places.request())) => heard,
            };
            return Ok(match heard {
                Heard::Opened { again } => {
                    self.places.opened();
                    if again { News::Resumed } else { continue }
                }
                Heard::Message(SubscribeResponse { item: Some(item) }) => match self.take(item)? {
                    Some(news) => news,
                    None => continue,
                },
                // Of a later version.
                Heard::Message(SubscribeResponse { item: None }) => continue,
                Heard::Lost { reason, pause } => News::Lost { reason, pause },
                Heard::Refused(status) if retry::reason(&status) == Some(Reason::DeviceTakenOver) => {
                    let device = self.client.device().unwrap_or_default().to_owned();
                    return Err(SubscribeError::TakenOver { device });
                }
                Heard::Refused(status) => {
                    if let Some(thread_id) = left(&status).filter(|thread| self.places.leave(thread)) {
                        self.acks.handle().forget(&thread_id);
                        return Ok(News::Gone { thread_id });
                    }
                    return Err(SubscribeError::Call(CallError::from_status(self.client.endpoint(), &status)));
                }
            });
        }
    }

    /// What an item has to tell; none for an event that was handed out before.
    fn take(&mut self, item: Item) -> Result<Option<News>, SubscribeError> {
        Ok(Some(match item {
            Item::Event(event) => {
                self.line.works();
                let Some(delivery) = self.places.event(event)? else { return Ok(None) };
                if delivery.last {
                    self.acks.handle().forget(&delivery.thread_id);
                }
                News::Event(Box::new(delivery))
            }
            Item::Heartbeat(Heartbeat { .. }) => {
                self.line.lives();
                self.places.complete();
                if self.places.is_without_threads() {
                    return Err(SubscribeError::NoThreadLeft);
                }
                News::Quiet
            }
            Item::Started(cursor) => {
                self.places.started(&cursor)?;
                self.acks.handle().counts_in(&cursor.history);
                News::Started(cursor)
            }
            Item::Reset(reset) => {
                if let Some(cursor) = &reset.cursor {
                    self.places.set(cursor);
                    self.acks.handle().forget(&cursor.thread_id);
                    self.acks.handle().counts_in(&cursor.history);
                }
                News::Reset(reset)
            }
        }))
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("client", &self.client)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

/// The thread that the caller isn't a member of any more, if that is why a stream was refused.
fn left(status: &Status) -> Option<String> {
    let reason = retry::reason(status)?;
    let details = matches!(reason, Reason::NotMember | Reason::ThreadNotFound).then(|| status.get_error_details())?;
    details.error_info()?.metadata.get("thread_id").cloned()
}

fn open(client: &Client, tried: &[Arc<Link>], request: SubscribeRequest) -> (Lease, Opening<SubscribeResponse>) {
    let lease = client.lease(Kind::stream("threads"), tried);
    let mut threads = ThreadsServiceClient::new(lease.channel()).max_decoding_message_size(MAX_MESSAGE);
    let request = client.request(request);
    (lease, Box::pin(async move { Ok(threads.subscribe(request).await?.into_inner()) }))
}
