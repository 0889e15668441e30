//! openraft's view of the log.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, atomic::Ordering},
};

use flotilla_proto::storage::v1::{LogRecord, log_record::Kind};
use openraft::{
    LogState, OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, RaftLogStorage},
};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{
    Log,
    writer::{Effect, Tail, Write, Writer},
};
use crate::{
    Metrics, Options,
    disk::Disk,
    raft::{Entry, LogId, TypeConfig, Vote, entry_to_storage, log_id_to_storage, vote_to_storage},
};

/// Writes that may wait for the writer. Raft never has more than a few under
/// way; past the limit it waits.
const QUEUE: usize = 1024;
/// Bytes of entries that one read from disk returns at most, where Raft lets
/// us choose.
const READ_BYTES: usize = 4 * 1024 * 1024;

/// The log, as openraft writes and reads it.
#[derive(Clone)]
pub(crate) struct LogStorage {
    log: Arc<Log>,
    writer: mpsc::Sender<Write>,
}

impl LogStorage {
    /// The log, and the writer that must be run for it.
    pub(crate) fn new(
        log: Arc<Log>,
        disk: Arc<dyn Disk>,
        metrics: Metrics,
        tail: Tail,
        options: &Options,
    ) -> (Self, Writer) {
        let (writer, queue) = mpsc::channel(QUEUE);
        let task = Writer::new(log.clone(), disk, metrics, tail, options, queue);
        (Self { log, writer }, task)
    }

    async fn record(&self, kind: Kind, effect: Effect) -> io::Result<()> {
        let (flushed, done) = oneshot::channel();
        let record = LogRecord { kind: Some(kind) };
        self.writer.send(Write::Record { record, effect, flushed }).await.map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())?
    }
}

impl RaftLogReader<TypeConfig> for LogStorage {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.log.read(from, to, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.log.read(start, end, READ_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.state().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStorage {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.log.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.record(Kind::Vote(vote_to_storage(vote)), Effect::Vote(*vote)).await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut records = Vec::new();
        {
            let mut state = self.log.state();
            if let Some(reason) = &state.failed {
                return Err(io::Error::other(reason.clone()));
            }
            for entry in entries {
                let kind = Some(Kind::Entry(entry_to_storage(&entry)));
                records.push((entry.index(), LogRecord { kind }.encode_to_vec()));
                state.push(entry);
            }
        }
        let bytes: usize = records.iter().map(|(_, record)| record.len()).sum();
        self.log.appended_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.writer.send(Write::Entries { records, flushed: callback }).await.map_err(|_| stopped())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let from = last_log_id.as_ref().map_or(0, |last| last.index + 1);
        self.record(Kind::TruncateFrom(from), Effect::Truncate { from, last: last_log_id }).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.record(Kind::Purged(log_id_to_storage(&log_id)), Effect::Purge(log_id)).await
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log's writer has stopped")
}
