//! The streams of changes of users and records: they survive broken connections and servers, by
//! the rules of `flotilla.feed.v1`: no gap, no duplicate, or a reset that says so.
//!
//! ```no_run
//! # async fn run(client: flotilla_client::Client) -> Result<(), flotilla_client::CallError> {
//! use flotilla_client::watch::{Follower, News, Users};
//!
//! let mut follower = Follower::new(client, Users, None);
//! loop {
//!     match follower.next().await? {
//!         News::Event(event) => println!("{:?} {:?}", event.kind(), event.user),
//!         News::Reset(reset) => println!("read everything anew: {}", reset.message),
//!         _ => {}
//!     }
//!     // Whoever stores follower.cursor() goes on from there another day.
//! }
//! # }
//! ```

use std::time::Duration;

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

pub use crate::resume::Opening;
use crate::{
    CallError, Client, MAX_MESSAGE,
    cell::Kind,
    resume::{Heard, Line},
};

/// A service's watch stream.
pub trait Watch {
    /// What it tells of.
    type Event;
    /// Its messages.
    type Response;

    /// The short name of the service: the stream is opened at a server that runs it.
    const SERVICE: &'static str;

    /// Opens the stream after a cursor, or from now on.
    fn open(&self, client: Client, cursor: Option<Cursor>) -> Opening<Self::Response>;

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
#[derive(Debug)]
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

/// Follows a watch stream.
pub struct Follower<W: Watch> {
    client: Client,
    watch: W,
    cursor: Option<Cursor>,
    line: Line<W::Response>,
}

impl<W: Watch> Follower<W> {
    /// Follows from after a cursor, or from now on.
    pub fn new(client: Client, watch: W, cursor: Option<Cursor>) -> Self {
        Self { client, watch, cursor, line: Line::new() }
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
            let heard = self.line.hear(|tried| {
                let lease = self.client.lease(Kind::stream(W::SERVICE), tried);
                let opening = self.watch.open(self.client.pinned(&lease), self.cursor.clone());
                (lease, opening)
            });
            let heard = heard.await;
            return Ok(match heard {
                Heard::Opened { again: true } => News::Resumed,
                Heard::Opened { again: false } => continue,
                Heard::Message(response) => match W::item(response) {
                    Some(item) => self.take(item),
                    None => continue,
                },
                Heard::Lost { reason, pause } => News::Lost { reason, pause },
                Heard::Refused(status) => return Err(CallError::from_status(self.client.endpoint(), &status)),
            });
        }
    }

    fn take(&mut self, item: Item<W::Event>) -> News<W::Event> {
        self.line.works();
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
                self.line.leave();
                News::Reset(reset)
            }
        }
    }
}

/// WatchUsers.
#[derive(Debug)]
pub struct Users;

impl Watch for Users {
    type Event = UserEvent;
    type Response = WatchUsersResponse;

    const SERVICE: &'static str = "users";

    fn open(&self, client: Client, cursor: Option<Cursor>) -> Opening<WatchUsersResponse> {
        let mut users = UsersServiceClient::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
        let request = client.request(WatchUsersRequest { cursor });
        Box::pin(async move { Ok(users.watch_users(request).await?.into_inner()) })
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
#[derive(Debug)]
pub struct Records {
    /// The tables to watch; none: all.
    pub tables: Vec<String>,
}

impl Watch for Records {
    type Event = RecordEvent;
    type Response = WatchRecordsResponse;

    const SERVICE: &'static str = "records";

    fn open(&self, client: Client, cursor: Option<Cursor>) -> Opening<WatchRecordsResponse> {
        let mut records = RecordsServiceClient::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
        let request = client.request(WatchRecordsRequest { cursor, tables: self.tables.clone() });
        Box::pin(async move { Ok(records.watch_records(request).await?.into_inner()) })
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
