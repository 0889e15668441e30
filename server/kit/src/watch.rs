//! Watch streams: one event for every row of a service that a transaction
//! changed, in the order of the log; heartbeats; resets.
//!
//! A stream is pulled: it holds a place in the feed and the records read last,
//! and reads on when the transport has taken those. A slow client costs
//! nobody anything, until what comes next for it is gone from the feed.
//!
//! Every event carries the cursor from which its reader resumes, with the
//! number of rows delivered of a transaction that has more of them. So a
//! stream that breaks anywhere, also within a large transaction, is resumed
//! without gap and without duplicate.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use flotilla_proto::{
    errors::v1::Reason,
    feed::v1::{Cursor, Heartbeat, Reset},
};
use flotilla_replica::{self as replica, Change, Feed};
use flotilla_store::{Row, RowChange};
use futures::stream::{self, BoxStream, StreamExt};
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::Status;

use crate::{Call, Context, Error, request, time};

/// The longest silence of a stream.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// Records that are read at once.
const READ_AHEAD: usize = 256;

/// A message of a watch stream, of whatever service.
#[derive(Debug, Clone, PartialEq)]
pub enum Item<E> {
    /// Something happened.
    Event(E),
    /// The stream is alive.
    Heartbeat(Heartbeat),
    /// The stream can't go on from where its client was.
    Reset(Reset),
}

/// One row that a transaction made, changed or removed.
#[derive(Debug, Clone)]
pub struct RowEvent<'a> {
    change: &'a Change,
    row: &'a RowChange,
    cursor: &'a Cursor,
}

/// What happened to a row, with what the row held before and holds after.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Happened<'a> {
    /// It is new.
    Created(&'a Row),
    /// It was written again: before, after.
    Updated(&'a Row, &'a Row),
    /// It is gone.
    Deleted(&'a Row),
}

impl<'a> RowEvent<'a> {
    /// The row's table.
    pub fn table(&self) -> &'a str {
        &self.row.table
    }

    /// The row's key.
    pub fn key(&self) -> &'a [u8] {
        &self.row.key
    }

    /// What happened; none for a record that says nothing.
    pub fn happened(&self) -> Option<Happened<'a>> {
        match (&self.row.before, &self.row.after) {
            (None, Some(after)) => Some(Happened::Created(after)),
            (Some(before), Some(after)) => Some(Happened::Updated(before, after)),
            (Some(before), None) => Some(Happened::Deleted(before)),
            (None, None) => None,
        }
    }

    /// Where a client resumes that has dealt with this event.
    pub fn cursor(&self) -> Cursor {
        self.cursor.clone()
    }

    /// When it happened, by the log's time.
    pub fn time(&self) -> Timestamp {
        time::timestamp(self.change.time)
    }

    /// The id of the request that did it; empty if it had none.
    pub fn request_id(&self) -> &'a str {
        request::id_of(self.change)
    }
}

/// The stream of a Watch method: a heartbeat with the cursor that it starts
/// from, then what `event` makes of the space's changed rows (none: not for
/// this client), a heartbeat after 20 seconds of silence.
///
/// If the cursor can't be served, now or later, the last message is a reset
/// and the stream ends well. When the server stops, it ends UNAVAILABLE.
///
/// # Errors
/// If a cursor of this history is ahead of this server, and it can't catch up
/// before the call's deadline.
pub async fn watch<E, M>(
    context: Context,
    call: &Call,
    from: Option<Cursor>,
    event: impl FnMut(&RowEvent<'_>) -> Result<Option<E>, Error> + Send + 'static,
    message: impl Fn(Item<E>) -> M + Send + 'static,
) -> Result<BoxStream<'static, Result<M, Status>>, Error>
where
    E: Send + 'static,
    M: Send + 'static,
{
    // Another server of the cell may have given out what isn't applied here yet.
    let here = context.cursor();
    if from.as_ref().is_some_and(|from| from.history == here.history && from.revision > here.revision) {
        context.latest(call).await?;
    }
    let watcher = Watcher {
        position: from.clone().unwrap_or(here),
        from: Some(from),
        feed: None,
        records: VecDeque::new(),
        delivered: 0,
        silent_until: Instant::now() + HEARTBEAT,
        event,
        context,
    };
    let items = stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        let item = watcher.next().await;
        let last = !matches!(item, Ok(Item::Event(_) | Item::Heartbeat(_)));
        watcher.silent_until = Instant::now() + HEARTBEAT;
        Some((item, (!last).then_some(watcher)))
    });
    Ok(items.map(move |item| item.map(&message).map_err(Status::from)).boxed())
}

struct Watcher<F> {
    context: Context,
    /// What the client asked for, until the feed is open.
    from: Option<Option<Cursor>>,
    feed: Option<Feed>,
    /// Read, and not dealt with yet.
    records: VecDeque<Arc<Change>>,
    /// Rows of the first record that are dealt with.
    delivered: usize,
    /// Where the client resumes if the stream breaks now.
    position: Cursor,
    silent_until: Instant,
    event: F,
}

impl<E, F: FnMut(&RowEvent<'_>) -> Result<Option<E>, Error>> Watcher<F> {
    async fn next(&mut self) -> Result<Item<E>, Error> {
        match self.step().await {
            Err(error @ (Error::BelowFloor { .. } | Error::HistoryChanged { .. } | Error::RevisionInFuture { .. })) => {
                Ok(Item::Reset(Reset {
                    reason: error.reason().unwrap_or(Reason::Unspecified).into(),
                    message: error.to_string(),
                    cursor: Some(self.context.cursor()),
                }))
            }
            other => other,
        }
    }

    async fn step(&mut self) -> Result<Item<E>, Error> {
        if let Some(from) = self.from.take() {
            self.open(from)?;
            return Ok(self.heartbeat());
        }
        loop {
            if self.context.shutting_down() {
                return Err(Error::ShuttingDown);
            }
            if let Some(event) = self.next_event()? {
                return Ok(Item::Event(event));
            }
            // Many changes may have passed that aren't for this client.
            if self.silent_until <= Instant::now() || !self.read_on().await? {
                return Ok(self.heartbeat());
            }
        }
    }

    fn open(&mut self, from: Option<Cursor>) -> Result<(), Error> {
        let feed = match from {
            None => self.context.feed(None)?,
            Some(Cursor { history, revision, index }) if index == 0 || revision == 0 => {
                self.context.feed(Some(&replica::Cursor { history, revision }))?
            }
            Some(Cursor { history, revision, index }) => {
                // Within a transaction, which is read again.
                let last = self.context.cursor();
                if history == last.history && revision > last.revision {
                    return Err(Error::RevisionInFuture { wanted: revision, last: last.revision });
                }
                self.delivered = index as usize;
                self.context.feed(Some(&replica::Cursor { history, revision: revision - 1 }))?
            }
        };
        if self.delivered == 0 {
            let replica::Cursor { history, revision } = feed.cursor();
            self.position = Cursor { history, revision, index: 0 };
        }
        self.feed = Some(feed);
        Ok(())
    }

    /// The next event of the records at hand.
    fn next_event(&mut self) -> Result<Option<E>, Error> {
        while let Some(change) = self.records.front().cloned() {
            let rows = if change.space == self.context.space().number() { change.rows.as_slice() } else { &[] };
            while let Some(row) = rows.get(self.delivered) {
                self.delivered += 1;
                let more = self.delivered < rows.len();
                self.position.revision = change.revision;
                self.position.index = if more { self.delivered as u32 } else { 0 };
                let occurred = RowEvent { change: &change, row, cursor: &self.position };
                if let Some(event) = (self.event)(&occurred)? {
                    return Ok(Some(event));
                }
            }
            (self.position.revision, self.position.index) = (change.revision, 0);
            self.delivered = 0;
            self.records.pop_front();
        }
        Ok(None)
    }

    /// Waits for more records; false if none came in time for a heartbeat.
    async fn read_on(&mut self) -> Result<bool, Error> {
        let Some(feed) = &mut self.feed else { return Err(Error::ShuttingDown) };
        tokio::select! {
            biased;
            () = self.context.until_shutdown() => Err(Error::ShuttingDown),
            read = feed.next(READ_AHEAD) => {
                self.records.extend(read?);
                Ok(true)
            }
            () = tokio::time::sleep_until(self.silent_until) => Ok(false),
        }
    }

    fn heartbeat(&self) -> Item<E> {
        Item::Heartbeat(Heartbeat { cursor: Some(self.position.clone()), time: Some(time::now()) })
    }
}
