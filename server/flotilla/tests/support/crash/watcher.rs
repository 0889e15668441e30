//! Watchers: they follow users or records over every crash by their cursors, and keep what they saw.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::{Cursor, Heartbeat, Reset},
    records::v1::{RecordEvent, WatchRecordsRequest, WatchRecordsResponse, record_event, watch_records_response},
    users::v1::{UserEvent, WatchUsersRequest, WatchUsersResponse, user_event, watch_users_response},
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tonic::{Status, Streaming};

use super::{
    ledger::{Client, Key, record_key, user_key},
    writer::Ending,
};

/// How long a watcher may take to hear of what was written.
const HEAR_LIMIT: Duration = Duration::from_secs(20);

/// What is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    Users,
    Records,
}

/// An event as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) request_id: String,
    pub(crate) key: Key,
    /// None: the row is gone.
    pub(crate) etag: Option<String>,
    pub(crate) cursor: Cursor,
}

#[derive(Debug)]
enum Message {
    Event(Seen),
    Heartbeat(Heartbeat),
    Reset(Reset),
}

/// One watcher. Clones share what was seen.
#[derive(Clone)]
pub(crate) struct Watcher {
    of: Of,
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    cursor: Option<Cursor>,
    seen: Vec<Seen>,
    /// The rows' etags, for one that started from a scan.
    mirror: BTreeMap<Key, String>,
}

impl Watcher {
    /// From now on, or from a cursor.
    pub(crate) fn new(of: Of, cursor: Option<Cursor>) -> Self {
        let state = State { cursor, ..State::default() };
        Self { of, state: Arc::new(state.into()), changes: watch::Sender::new(0) }
    }

    /// What is watched.
    pub(crate) fn of(&self) -> Of {
        self.of
    }

    /// Where this watcher is.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.state().cursor.clone()
    }

    /// Follows the server from where this watcher was, until the server is gone. Returns when the stream stands.
    pub(crate) async fn follow(&self, client: Client, ending: Ending) -> JoinHandle<()> {
        let from = self.cursor();
        let mut stream = self.open(client, from.clone()).await.expect("a watch");
        let first = stream.next().await.expect("a first message").expect("a stream that goes on");
        let Message::Heartbeat(Heartbeat { cursor: Some(start), .. }) = first else {
            panic!("a watch of {:?} from {from:?} begins with {first:?}", self.of);
        };
        if let Some(from) = from {
            assert_eq!(start, from, "a watch begins elsewhere than asked for");
        }
        self.state().cursor = Some(start);
        self.spawn(stream, ending)
    }

    /// A client that slept until its cursor fell below the floor: it must be told by a reset, and starts over from a
    /// scan. Returns the task that follows from there; none if the server died meanwhile.
    pub(crate) async fn start_over(
        &self,
        mut client: Client,
        tables: &[String],
        ending: Ending,
    ) -> Option<JoinHandle<()>> {
        let stale = self.cursor();
        let mut stream = self.open(client.clone(), stale.clone()).await.ok()?;
        let message = stream.next().await.ok()??;
        let Message::Reset(reset) = message else {
            panic!("a watch from {stale:?}, below the floor, begins with {message:?}");
        };
        assert_eq!(reset.reason(), Reason::BelowFloor, "{reset:?}");
        if let Ok(Some(more)) = stream.next().await {
            panic!("after a reset comes {more:?}");
        }
        let cursor = reset.cursor.expect("a reset with a cursor");
        let mut stream = self.open(client.clone(), Some(cursor.clone())).await.ok()?;
        let first = stream.next().await.ok()??;
        assert!(matches!(first, Message::Heartbeat(_)), "a watch from a reset's cursor begins with {first:?}");
        let rows = client.records(tables).await.ok()?;
        {
            let mut state = self.state();
            state.cursor = Some(cursor);
            state.mirror = rows.into_iter().map(|(key, content)| (key, content.etag.unwrap_or_default())).collect();
        }
        Some(self.spawn(stream, ending))
    }

    /// Whether a watch from this watcher's cursor is answered with a reset.
    pub(crate) async fn is_below_floor(&self, client: Client) -> bool {
        let mut stream = self.open(client, self.cursor()).await.expect("a watch");
        matches!(stream.next().await, Ok(Some(Message::Reset(_))))
    }

    /// Waits until a request's event was seen.
    pub(crate) async fn hear(&self, request_id: &str) {
        let mut changes = self.changes.subscribe();
        let heard = || self.state().seen.iter().rev().any(|seen| seen.request_id == request_id);
        let hearing = async {
            while !heard() {
                // The sender is in `self`.
                let _ = changes.changed().await;
            }
        };
        if timeout(HEAR_LIMIT, hearing).await.is_err() {
            let state = self.state();
            let last = state.seen.last();
            panic!("a watcher of {:?} did not hear of {request_id} within {HEAR_LIMIT:?}; last was {last:?}", self.of);
        }
    }

    /// Takes out what was seen.
    pub(crate) fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    /// The etags of all rows, as the scan and the events since tell.
    pub(crate) fn mirror(&self) -> BTreeMap<Key, String> {
        self.state().mirror.clone()
    }

    fn spawn(&self, mut stream: Stream, ending: Ending) -> JoinHandle<()> {
        let watcher = self.clone();
        tokio::spawn(async move {
            loop {
                match stream.next().await {
                    Ok(Some(message)) => watcher.take(message),
                    Ok(None) | Err(_) if ending.load(Ordering::Acquire) => return,
                    Ok(None) => panic!("a watch of {:?} ended by itself", watcher.of),
                    Err(status) => panic!("a watch of {:?} ended with {status}", watcher.of),
                }
            }
        })
    }

    fn take(&self, message: Message) {
        let mut state = self.state();
        match message {
            Message::Event(seen) => {
                // Index 0 stands for the whole transaction.
                let order = |cursor: &Cursor| (cursor.revision, cursor.index.wrapping_sub(1));
                let former = state.cursor.as_ref().expect("a cursor");
                assert!(order(&seen.cursor) > order(former), "after {former:?} comes {seen:?}");
                assert_eq!(seen.cursor.history, former.history);
                state.cursor = Some(seen.cursor.clone());
                match &seen.etag {
                    Some(etag) => state.mirror.insert(seen.key.clone(), etag.clone()),
                    None => state.mirror.remove(&seen.key),
                };
                state.seen.push(seen);
            }
            Message::Heartbeat(heartbeat) => state.cursor = heartbeat.cursor.or(state.cursor.take()),
            Message::Reset(reset) => panic!("a watcher of {:?} at {:?} gets {reset:?}", self.of, state.cursor),
        }
        drop(state);
        self.changes.send_modify(|count| *count += 1);
    }

    async fn open(&self, mut client: Client, cursor: Option<Cursor>) -> Result<Stream, Status> {
        match self.of {
            Of::Users => {
                let stream = client.users.watch_users(WatchUsersRequest { cursor }).await?;
                Ok(Stream::Users(stream.into_inner()))
            }
            Of::Records => {
                let request = WatchRecordsRequest { cursor, ..Default::default() };
                Ok(Stream::Records(client.records.watch_records(request).await?.into_inner()))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Stream {
    Users(Streaming<WatchUsersResponse>),
    Records(Streaming<WatchRecordsResponse>),
}

impl Stream {
    async fn next(&mut self) -> Result<Option<Message>, Status> {
        use watch_records_response::Item as OfRecords;
        use watch_users_response::Item as OfUsers;
        match self {
            Self::Users(stream) => {
                let message = stream.message().await?;
                Ok(message.map(|message| match message.item.expect("an item") {
                    OfUsers::Event(event) => Message::Event(user_seen(event)),
                    OfUsers::Heartbeat(heartbeat) => Message::Heartbeat(heartbeat),
                    OfUsers::Reset(reset) => Message::Reset(reset),
                }))
            }
            Self::Records(stream) => {
                let message = stream.message().await?;
                Ok(message.map(|message| match message.item.expect("an item") {
                    OfRecords::Event(event) => Message::Event(record_seen(event)),
                    OfRecords::Heartbeat(heartbeat) => Message::Heartbeat(heartbeat),
                    OfRecords::Reset(reset) => Message::Reset(reset),
                }))
            }
        }
    }
}

fn user_seen(event: UserEvent) -> Seen {
    let deleted = event.kind() == user_event::Kind::Deleted;
    let user = event.user.expect("a user");
    let etag = (!deleted).then_some(user.etag);
    Seen { request_id: event.request_id, key: user_key(&user.email), etag, cursor: event.cursor.expect("a cursor") }
}

fn record_seen(event: RecordEvent) -> Seen {
    let deleted = event.kind() == record_event::Kind::Deleted;
    let record = event.record.expect("a record");
    let etag = (!deleted).then_some(record.etag);
    let key = record_key(&record.table, &record.id);
    Seen { request_id: event.request_id, key, etag, cursor: event.cursor.expect("a cursor") }
}
