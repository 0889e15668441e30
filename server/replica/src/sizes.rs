//! How much a replica holds, for a person who looks into a running server.

use std::time::Duration;

use crate::Replica;

/// A moment's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Requests that are remembered so that a retry counts once.
    pub remembered_requests: u64,
    /// Bytes of change records on disk.
    pub feed_bytes: u64,
    /// Readers that follow the feed.
    pub feed_readers: i64,
    /// Bytes of the published snapshot.
    pub snapshot_bytes: u64,
    /// Bytes of the store on disk, about.
    pub store_bytes: u64,
    /// Rows in all spaces.
    pub rows: u64,
    /// Backups under way.
    pub backups: u64,
    /// How long the last sync of the log took.
    pub last_sync: Duration,
}

impl Replica {
    /// How much this replica holds now. Asks the disk, so not for every request.
    pub fn sizes(&self) -> Sizes {
        let inner = self.inner();
        Sizes {
            remembered_requests: inner.derived.window().entries().len() as u64,
            feed_bytes: inner.derived.changes.bytes(),
            feed_readers: inner.derived.metrics.readers.get(),
            snapshot_bytes: inner.snapshots.bytes(),
            store_bytes: inner.derived.store().size_on_disk(),
            rows: inner.derived.store().hashes().rows(),
            backups: crate::backup::BACKUPS.saturating_sub(inner.backups.available_permits()) as u64,
            last_sync: self.last_sync(),
        }
    }

    /// How long the last sync of the log took.
    pub fn last_sync(&self) -> Duration {
        self.inner().log.last_sync()
    }
}
