//! A watch stream that survives broken connections and servers, by the rules of
//! `flotilla.feed.v1`: no gap, no duplicate, or a reset that says so.

use std::{future::Future, time::Duration};

use flotilla_proto::{
    feed::v1::{Cursor, Reset},
    records::v1::{
        RecordEvent, WatchRecordsRequest, WatchRecordsResponse, records_service_client::RecordsServiceClient,
        watch_records_response,
    },
    users::v1::{
        UserEvent, WatchUsersRequest, WatchUsersResponse, users_service_client::UsersServiceClient,
        watch_users_response,
    },
};
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use super::{CallError, Client, MAX_MESSAGE, backoff::Backoff, error::root_cause};

/// A service's watch stream.
pub trait Watch {
    /// What it tells of.
    type Event;
    /// Its messages.
    type Response;

    /// Opens the stream after a cursor, or from now on.
    fn open(
        &self,
        client: &Client,
        cursor: Option<Cursor>,
    ) -> impl Future<Output = Result<Streaming<Self::Response>, Status>> + Send;

    /// Takes a message apart; none for one of a later version.
    fn item(response: Self::Response) -> Option<Item<Self::Event>>;

    /// Where to resume after an event.
    fn cursor(event: &Self::Event) -> Option<&Cursor>;
}

/// What a message of a watch stream holds.
pub enum Item<E> {
    /// A change.
    Event(Box<E>),
    /// A sign of life, and a place to resume.
    Heartbeat(Option<Cursor>),
    /// The stream can't go on from where it was.
    Reset(Reset),
}

/// What a follower has to tell.
pub enum News<E> {
    /// A change. The cursor is now behind it.
    Event(Box<E>),
    /// Nothing happened, but the cursor has moved.
    Quiet,
    /// The stream broke; it will be opened again after the pause.
    Lost {
        /// Why.
        reason: String,
        /// How long until the next try.
        pause: Duration,
    },
    /// The stream is open again, where it had broken.
    Resumed,
    /// There is a gap. The follower goes on from the reset's cursor; whoever keeps what the events
    /// tell of reads everything anew now.
    Reset(Reset),
}

/// A client that hears nothing for this long takes the stream for dead; a server sends a heartbeat
/// after 20 seconds.
const SILENCE: Duration = Duration::from_secs(60);
const OPEN: Duration = Duration::from_secs(10);

/// Follows a watch stream.
pub struct Follower<W: Watch> {
    client: Client,
    watch: W,
    cursor: Option<Cursor>,
    stream: Option<Streaming<W::Response>>,
    backoff: Backoff,
    /// When to open the stream again.
    resume_at: Option<Instant>,
}

impl<W: Watch> Follower<W> {
    /// Follows from after a cursor, or from now on.
    pub fn new(client: Client, watch: W, cursor: Option<Cursor>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        Self { client, watch, cursor, stream: None, backoff, resume_at: None }
    }

    /// Where the follower is: everything up to here has been told.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.cursor.as_ref()
    }

    /// The next news; waits for it. Safe to cancel: what wasn't returned will be.
    ///
    /// # Errors
    /// If the server refuses the stream for a reason that trying again doesn't remove.
    pub async fn next(&mut self) -> Result<News<W::Event>, CallError> {
        loop {
            let Some(stream) = &mut self.stream else {
                match self.open().await? {
                    Some(news) => return Ok(news),
                    None => continue,
                }
            };
            let news = match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(response))) => match W::item(response) {
                    Some(item) => self.take(item),
                    None => continue,
                },
                Ok(Ok(None)) => self.lost("the server ended the stream".to_owned()),
                Ok(Err(status)) if is_final(&status) => return Err(self.refused(&status)),
                Ok(Err(status)) => self.lost(describe(&status)),
                Err(_) => self.lost(format!("nothing was heard for {SILENCE:?}")),
            };
            return Ok(news);
        }
    }

    /// Opens the stream, after the pause if it broke before.
    async fn open(&mut self) -> Result<Option<News<W::Event>>, CallError> {
        if let Some(at) = self.resume_at {
            tokio::time::sleep_until(at).await;
        }
        let opened = tokio::time::timeout(OPEN, self.watch.open(&self.client, self.cursor.clone())).await;
        match opened {
            Ok(Ok(stream)) => {
                self.stream = Some(stream);
                Ok(self.resume_at.take().map(|_| News::Resumed))
            }
            Ok(Err(status)) if is_final(&status) => Err(self.refused(&status)),
            Ok(Err(status)) => Ok(Some(self.lost(describe(&status)))),
            Err(_) => Ok(Some(self.lost(format!("no answer within {OPEN:?}")))),
        }
    }

    fn take(&mut self, item: Item<W::Event>) -> News<W::Event> {
        self.backoff.reset();
        match item {
            Item::Event(event) => {
                self.cursor = W::cursor(&event).cloned().or(self.cursor.take());
                News::Event(event)
            }
            Item::Heartbeat(cursor) => {
                self.cursor = cursor.or(self.cursor.take());
                News::Quiet
            }
            Item::Reset(reset) => {
                self.cursor.clone_from(&reset.cursor);
                self.stream = None;
                News::Reset(reset)
            }
        }
    }

    fn lost(&mut self, reason: String) -> News<W::Event> {
        let pause = self.backoff.next();
        self.stream = None;
        self.resume_at = Some(Instant::now() + pause);
        News::Lost { reason, pause }
    }

    fn refused(&self, status: &Status) -> CallError {
        CallError::from_status(self.client.endpoint(), status)
    }
}

/// Whether trying again can't help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}

fn describe(status: &Status) -> String {
    use std::error::Error;
    match status.source() {
        Some(source) => root_cause(source),
        None => status.message().to_owned(),
    }
}

/// WatchUsers.
pub struct Users;

impl Watch for Users {
    type Event = UserEvent;
    type Response = WatchUsersResponse;

    async fn open(&self, client: &Client, cursor: Option<Cursor>) -> Result<Streaming<WatchUsersResponse>, Status> {
        let mut users = UsersServiceClient::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
        Ok(users.watch_users(client.request(WatchUsersRequest { cursor })).await?.into_inner())
    }

    fn item(response: WatchUsersResponse) -> Option<Item<UserEvent>> {
        Some(match response.item? {
            watch_users_response::Item::Event(event) => Item::Event(Box::new(event)),
            watch_users_response::Item::Heartbeat(heartbeat) => Item::Heartbeat(heartbeat.cursor),
            watch_users_response::Item::Reset(reset) => Item::Reset(reset),
        })
    }

    fn cursor(event: &UserEvent) -> Option<&Cursor> {
        event.cursor.as_ref()
    }
}

/// WatchRecords.
pub struct Records {
    /// The tables to watch; none: all.
    pub tables: Vec<String>,
}

impl Watch for Records {
    type Event = RecordEvent;
    type Response = WatchRecordsResponse;

    async fn open(&self, client: &Client, cursor: Option<Cursor>) -> Result<Streaming<WatchRecordsResponse>, Status> {
        let mut records = RecordsServiceClient::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
        let request = WatchRecordsRequest { cursor, tables: self.tables.clone() };
        Ok(records.watch_records(client.request(request)).await?.into_inner())
    }

    fn item(response: WatchRecordsResponse) -> Option<Item<RecordEvent>> {
        Some(match response.item? {
            watch_records_response::Item::Event(event) => Item::Event(Box::new(event)),
            watch_records_response::Item::Heartbeat(heartbeat) => Item::Heartbeat(heartbeat.cursor),
            watch_records_response::Item::Reset(reset) => Item::Reset(reset),
        })
    }

    fn cursor(event: &RecordEvent) -> Option<&Cursor> {
        event.cursor.as_ref()
    }
}
