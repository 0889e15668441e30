//! The log on disk: entries, votes and purges in one queue, one fsync a group.
//!
//! # Layout
//!
//! * [`recover`]: reads a directory back, cuts a torn tail, refuses damage.
//! * [`seed`]: the log of a directory that begins behind a snapshot.
//! * [`writer`]: the one task that writes; it owns the current segment.
//! * [`storage`]: openraft's view: what is appended is readable at once, and
//!   reported as flushed after the fsync that covers it.
//!
//! # Format
//!
//! A directory of segments (see [`crate::segment`]) that count up without a
//! gap. A frame is one group: length-delimited `storage.v1.LogRecord`s. Groups
//! are numbered without a gap over all segments, and a group is written only
//! after the former one is fsynced. The first group of a segment repeats the
//! vote and the purge, so that older segments can go as a whole. Cutting off a
//! conflicting suffix is a record, too; nothing is ever overwritten.

mod recover;
mod seed;
mod storage;
#[cfg(test)]
mod suite;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use flotilla_proto::storage::v1::LogRecord;
use openraft::entry::RaftEntry;
use prost::Message;

pub(crate) use recover::recover;
pub(crate) use seed::seed;
pub(crate) use storage::LogStorage;
pub(crate) use writer::Writer;

use crate::{
    disk::DiskFile,
    raft::{Entry, LogId, Vote, entry_from_storage},
};

/// Bytes of recent entries that are kept in memory: Raft reads each entry back
/// to apply it.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// What is in the log, shared by its writer and its readers.
pub(crate) struct Log {
    directory: PathBuf,
    state: Mutex<State>,
    /// Bytes of entries that were there at the start, and appended since.
    appended_bytes: AtomicU64,
    /// How long the last sync of a group took, in microseconds.
    last_sync: AtomicU64,
    /// Told when entries were synced, or nothing can be written any more.
    written: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first position.
    first_index: u64,
    /// Where each entry is. Entries that aren't written yet are only in the
    /// cache, which therefore may reach further.
    positions: VecDeque<Position>,
    /// The last entries.
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    segments: BTreeMap<u64, SegmentState>,
    failed: Option<String>,
}

/// Where an entry's record is.
#[derive(Debug, Clone, Copy)]
struct Position {
    segment: u64,
    offset: u32,
    length: u32,
}

struct SegmentState {
    file: Arc<dyn DiskFile>,
    /// The highest index of an entry in it.
    last_index: Option<u64>,
}

impl Log {
    /// The last entry's position.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.state().last
    }

    /// Entries up to this one are gone.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.state().purged
    }

    /// The first of the last entries that have about so many bytes together; none if there are fewer.
    pub(crate) fn first_of_last(&self, bytes: u64) -> Option<u64> {
        let state = self.state();
        let mut sum = 0;
        let lengths = state.positions.iter().map(|position| u64::from(position.length)).enumerate().rev();
        for (position, length) in lengths {
            sum += length;
            if sum > bytes {
                return Some(state.first_index + position as u64);
            }
        }
        None
    }

    /// Returns when an entry is synced here. Raft also has applied what only others have on disk yet; a
    /// crash then must not find rows that are ahead of the log.
    pub(crate) async fn until_written(&self, index: u64) -> io::Result<()> {
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            written.as_mut().enable();
            {
                let state = self.state();
                // What was never appended can't be written either: openraft's own tests apply such entries.
                let appended = state.last.as_ref().is_some_and(|last| last.index >= index);
                if !appended || index < state.first_index + state.positions.len() as u64 {
                    return Ok(());
                }
                if let Some(reason) = &state.failed {
                    return Err(io::Error::other(reason.clone()));
                }
            }
            written.await;
        }
    }

    /// Why nothing can be written any more, if so.
    pub(crate) fn failed(&self) -> Option<String> {
        self.state().failed.clone()
    }

    /// Bytes of entries that were there at the start, and appended since.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }

    /// How long the last sync of a group took.
    pub(crate) fn last_sync(&self) -> Duration {
        Duration::from_micros(self.last_sync.load(Ordering::Relaxed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// Entries of a range of indexes; those that don't exist are left out.
    pub(crate) fn read(&self, from: u64, to: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut on_disk = Vec::new();
        {
            let state = self.state();
            let cached_from = state.cache.front().map_or(u64::MAX, Entry::index);
            let positioned_to = state.first_index + state.positions.len() as u64;
            for index in from.max(state.first_index)..to.min(cached_from).min(positioned_to) {
                let position = state.positions[(index - state.first_index) as usize];
                let Some(segment) = state.segments.get(&position.segment) else {
                    return Err(io::Error::other(format!("log segment {} is gone", position.segment)));
                };
                on_disk.push((segment.file.clone(), position));
            }
            let start = from.max(cached_from);
            if start < to && cached_from != u64::MAX {
                let skip = (start - cached_from) as usize;
                entries.extend(state.cache.iter().skip(skip).take((to - start) as usize).cloned());
            }
        }
        if on_disk.is_empty() {
            let mut bytes = 0;
            let fits = entries.iter().take_while(|entry| {
                bytes += entry_bytes(entry);
                bytes <= max_bytes
            });
            let count = fits.count().max(1);
            entries.truncate(count);
            return Ok(entries);
        }
        let mut read = Vec::with_capacity(on_disk.len() + entries.len());
        let mut bytes_read = 0_usize;
        for (file, position) in on_disk {
            bytes_read = bytes_read.saturating_add(position.length as usize);
            if bytes_read > max_bytes && !read.is_empty() {
                return Ok(read);
            }
            let mut bytes = vec![0; position.length as usize];
            file.read_exact_at(&mut bytes, u64::from(position.offset))?;
            read.push(decode_entry(bytes, &self.directory, position)?);
        }
        for entry in entries {
            bytes_read += entry_bytes(&entry);
            if bytes_read > max_bytes {
                break;
            }
            read.push(entry);
        }
        Ok(read)
    }
}

impl State {
    /// Takes an entry in that is not on disk yet.
    fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.cache_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Notes where the next entry was written, and lets go of cached entries
    /// that can be read from disk from now on.
    fn place(&mut self, index: u64, position: Position) {
        if self.positions.is_empty() {
            self.first_index = index;
        }
        // An entry that was cut off while it waited is written, but is void.
        if index == self.first_index + self.positions.len() as u64
            && self.last.as_ref().is_some_and(|last| index <= last.index)
        {
            self.positions.push_back(position);
        }
        if let Some(segment) = self.segments.get_mut(&position.segment) {
            segment.last_index = segment.last_index.max(Some(index));
        }
        let placed_to = self.first_index + self.positions.len() as u64;
        while self.cache_bytes > CACHE_BYTES && self.cache.front().is_some_and(|entry| entry.index() < placed_to) {
            self.forget_first_cached();
        }
    }

    fn forget_first_cached(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&entry);
        }
    }

    /// Entries from an index on are void.
    fn truncate_from(&mut self, index: u64, last: Option<LogId>) {
        if self.last.as_ref().is_none_or(|last| last.index < index) {
            return;
        }
        self.positions.truncate(index.saturating_sub(self.first_index) as usize);
        while self.cache.back().is_some_and(|entry| entry.index() >= index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= entry_bytes(&entry);
            }
        }
        self.last = last;
    }

    /// Entries up to a position may go.
    fn purge(&mut self, upto: LogId) {
        while !self.positions.is_empty() && self.first_index <= upto.index {
            self.positions.pop_front();
            self.first_index += 1;
        }
        while self.cache.front().is_some_and(|entry| entry.index() <= upto.index) {
            self.forget_first_cached();
        }
        if self.positions.is_empty() {
            self.first_index = upto.index + 1;
        }
        if self.last.as_ref().is_none_or(|last| last.index < upto.index) {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.0.len() + 64,
        _ => 64,
    }
}

fn decode_entry(bytes: Vec<u8>, directory: &Path, position: Position) -> io::Result<Entry> {
    use flotilla_proto::storage::v1::log_record::Kind;
    let record = LogRecord::decode(bytes::Bytes::from(bytes)).ok().and_then(|record| record.kind);
    let entry = match record {
        Some(Kind::Entry(entry)) => entry_from_storage(entry),
        _ => None,
    };
    entry.ok_or_else(|| {
        let file = directory.join(crate::segment::file_name(position.segment));
        let text = format!("{} holds no entry at byte {}", file.display(), position.offset);
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}
