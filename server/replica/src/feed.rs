//! Reading change records in order, from any point that is still there.
//!
//! A reader is an offset. It never has a queue, so one that stalls costs
//! nothing and delays nobody; one that follows closely is served from memory,
//! one that is behind from the changes files.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use flotilla_proto::storage::v1::Change;
use tokio::sync::watch;

use crate::{
    FeedError,
    changes::{Changes, Place},
};

/// A point in the feed: everything up to and including `revision` is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The history that the revision counts in.
    pub history: String,
    /// The last revision that the holder has seen.
    pub revision: u64,
}

/// What readers may see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    /// The last revision applied.
    pub(crate) revision: u64,
    /// No more will come: this server is stopping.
    pub(crate) closed: bool,
}

/// Where every reader is, for the page of metrics.
#[derive(Default)]
pub(crate) struct Readers {
    state: Mutex<ReadersState>,
}

#[derive(Default)]
struct ReadersState {
    last_id: u64,
    /// The revision that comes next for each, by a number of its own.
    next: HashMap<u64, Arc<AtomicU64>>,
}

impl Readers {
    fn add(&self, next: u64) -> (u64, Arc<AtomicU64>) {
        let position = Arc::new(AtomicU64::new(next));
        let mut state = self.state();
        state.last_id += 1;
        let id = state.last_id;
        state.next.insert(id, position.clone());
        (id, position)
    }

    /// Revisions up to this one that the slowest reader has not read.
    pub(crate) fn behind(&self, last: u64) -> u64 {
        let slowest = self.state().next.values().map(|next| next.load(Ordering::Relaxed)).min();
        slowest.map_or(0, |next| (last + 1).saturating_sub(next))
    }

    fn state(&self) -> MutexGuard<'_, ReadersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of the feed.
pub struct Feed {
    changes: Arc<Changes>,
    history: Arc<str>,
    published: watch::Receiver<Published>,
    /// The revision that comes next.
    next: u64,
    readers: Arc<Readers>,
    /// Where it is told, and under which number.
    told: (u64, Arc<AtomicU64>),
    /// Where the next record is on disk, as far as known.
    place: Option<Place>,
}

impl Feed {
    pub(crate) fn open(
        changes: Arc<Changes>,
        history: Arc<str>,
        published: watch::Receiver<Published>,
        readers: Arc<Readers>,
        from: Option<&Cursor>,
    ) -> Result<Self, FeedError> {
        let last = published.borrow().revision;
        let next = match from {
            None => last + 1,
            Some(cursor) if cursor.history != *history => {
                return Err(FeedError::HistoryChanged { theirs: cursor.history.clone(), ours: history.to_string() });
            }
            Some(cursor) if cursor.revision > last => {
                return Err(FeedError::InFuture { wanted: cursor.revision, last });
            }
            Some(cursor) => cursor.revision + 1,
        };
        changes.metrics().readers.inc();
        let told = readers.add(next);
        let feed = Self { changes, history, published, next, readers, told, place: None };
        feed.check_floor()?;
        Ok(feed)
    }

    /// Where the reader is: everything before its next record.
    pub fn cursor(&self) -> Cursor {
        Cursor { history: self.history.to_string(), revision: self.next - 1 }
    }

    /// The next records, at least one, in order and without a gap; waits until
    /// there is one. `limit` bounds their number. Safe to cancel: what was not
    /// returned will be.
    ///
    /// # Errors
    /// [`FeedError::BelowFloor`] if the reader fell so far behind that the next
    /// record is gone; [`FeedError::ShuttingDown`]; or if a file can't be read.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Arc<Change>>, FeedError> {
        let next = self.next;
        let published = self.published.wait_for(|published| published.closed || published.revision >= next).await;
        let Published { revision: last, closed } = *published.map_err(|_| FeedError::ShuttingDown)?;
        if closed {
            return Err(FeedError::ShuttingDown);
        }
        self.check_floor()?;
        // Records behind the last published one are written, but not applied.
        let limit = limit.clamp(1, usize::try_from(last - next + 1).unwrap_or(usize::MAX));
        let records = match self.changes.recent(self.next, limit) {
            Some(records) => records,
            None => {
                let (changes, place) = (self.changes.clone(), self.place);
                let read = tokio::task::spawn_blocking(move || changes.read(next, limit, place)).await;
                let read = read.map_err(|_| FeedError::ShuttingDown)?;
                // A trim may have come between the check and the reading.
                self.check_floor()?;
                let (records, place) = read.map_err(FeedError::Io)?;
                self.place = Some(place);
                records
            }
        };
        self.next += records.len() as u64;
        self.told.1.store(self.next, Ordering::Relaxed);
        Ok(records)
    }

    fn check_floor(&self) -> Result<(), FeedError> {
        let floor = self.changes.floor();
        match self.next < floor {
            true => Err(FeedError::BelowFloor { wanted: self.next, floor }),
            false => Ok(()),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.changes.metrics().readers.dec();
        self.readers.state().next.remove(&self.told.0);
    }
}
