//! The one task that writes the log.
//!
//! It takes everything that waits in its queue, writes it as one group, syncs
//! once, and only then reports each part as flushed. A sync that failed is
//! never tried again: the kernel may have dropped the pages and forgotten the
//! error, so a second sync that succeeds would prove nothing
//! (<https://wiki.postgresql.org/wiki/Fsync_Errors>). From then on everything
//! is refused.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use flotilla_proto::storage::v1::{LogRecord, log_record::Kind};
use openraft::storage::IOFlushed;
use prost::Message;
use prost::encoding::encode_varint;
use tokio::sync::{mpsc, oneshot};

use super::{Log, Position, SegmentState};
use crate::{
    Metrics, Options,
    disk::{Disk, DiskFile},
    raft::{LogId, TypeConfig, Vote, log_id_to_storage, vote_to_storage},
    segment::{self, FRAME_HEADER, SEGMENT_HEADER, SegmentHeader},
};

/// A group takes in more from the queue until it has this many bytes.
const GROUP_BYTES: usize = 1024 * 1024;
/// Writes that are taken from the queue at once.
const QUEUE_BATCH: usize = 64;

/// What the writer is asked to do.
pub(super) enum Write {
    /// Append encoded records of entries; each with its index and length.
    Entries { records: Vec<(u64, Vec<u8>)>, flushed: IOFlushed<TypeConfig> },
    /// Append any other record.
    Record { record: LogRecord, effect: Effect, flushed: oneshot::Sender<io::Result<()>> },
}

/// What a record that isn't an entry changes.
pub(super) enum Effect {
    /// The vote.
    Vote(Vote),
    /// Entries from an index on are void; the last one is another now.
    Truncate { from: u64, last: Option<LogId> },
    /// Entries up to a position may go.
    Purge(LogId),
}

/// Where the log goes on.
pub(crate) struct Tail {
    pub(super) segment: Option<TailSegment>,
    pub(super) next_group: u64,
    pub(super) next_segment: u64,
}

/// The segment that is written to.
pub(super) struct TailSegment {
    pub(super) header: SegmentHeader,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) end: u64,
    pub(super) size: u64,
}

/// Writes the log. [`Writer::run`] is a task of its own.
pub(crate) struct Writer {
    log: Arc<Log>,
    disk: Arc<dyn Disk>,
    metrics: Metrics,
    tail: Tail,
    queue: mpsc::Receiver<Write>,
    /// Bytes of a segment. Written in full when it is made, because a flush
    /// that need not extend the file takes less than half the time.
    segment_bytes: u64,
    /// Whether spare segments are made by a thread, beside the writing.
    threaded: bool,
    spare: Spare,
    group: Vec<u8>,
}

/// A segment file that is written in full, but not used.
#[derive(Default)]
struct Spare {
    ready: Arc<Mutex<Option<Arc<dyn DiskFile>>>>,
    in_work: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    pub(super) fn new(
        log: Arc<Log>,
        disk: Arc<dyn Disk>,
        metrics: Metrics,
        tail: Tail,
        options: &Options,
        queue: mpsc::Receiver<Write>,
    ) -> Self {
        let (segment_bytes, threaded) = (options.log_segment_bytes, options.log_thread);
        Self { log, disk, metrics, tail, queue, segment_bytes, threaded, spare: Spare::default(), group: Vec::new() }
    }

    /// Writes until the queue is closed.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        // Who made the last segment may not have come to its first group.
        if self.tail.segment.as_ref().is_some_and(|segment| segment.end == SEGMENT_HEADER)
            && let Err(error) = self.repeat_vote_and_purge()
        {
            self.fail(&error);
        }
        while self.queue.recv_many(&mut waiting, QUEUE_BATCH).await > 0 {
            self.disk.before_sync().await;
            let mut group = Vec::new();
            let mut bytes = 0;
            for write in waiting.drain(..) {
                if !group.is_empty() && bytes + write.size() > GROUP_BYTES {
                    self.write_group(std::mem::take(&mut group));
                    bytes = 0;
                }
                bytes += write.size();
                group.push(write);
            }
            self.write_group(group);
        }
        // Nothing may touch the directory after this.
        if let Some(thread) = self.spare.thread.take() {
            let _ = thread.join();
        }
    }

    fn write_group(&mut self, group: Vec<Write>) {
        let result = match self.log.failed() {
            Some(reason) => Err(io::Error::other(reason)),
            None => self.try_write_group(&group),
        };
        if let Err(error) = &result {
            self.fail(error);
        }
        for write in group {
            // Each gets an error of its own.
            let result = result.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string())).copied();
            match write {
                Write::Entries { flushed, .. } => flushed.io_completed(result),
                Write::Record { effect, flushed, .. } => {
                    if result.is_ok() {
                        self.take_effect(effect);
                    }
                    // Who asked may have gone; the record stays.
                    let _ = flushed.send(result);
                }
            }
        }
        self.prepare_spare();
    }

    fn fail(&self, error: &io::Error) {
        let mut state = self.log.state();
        if state.failed.is_none() {
            let directory = self.log.directory.display().to_string();
            tracing::error!(directory, %error, "the log can't be written; nothing is acknowledged from now on");
            state.failed = Some(format!("writing to {directory}: {error}"));
            self.log.written.notify_waiters();
        }
    }

    /// What a record means for readers, once it is on disk: what is promised
    /// from memory must not be forgotten by a power cut.
    fn take_effect(&self, effect: Effect) {
        match effect {
            Effect::Vote(vote) => self.log.state().vote = Some(vote),
            Effect::Truncate { from, last } => self.log.state().truncate_from(from, last),
            Effect::Purge(upto) => {
                self.log.state().purge(upto);
                self.release_segments(&upto);
            }
        }
    }

    fn try_write_group(&mut self, group: &[Write]) -> io::Result<()> {
        let size: usize = group.iter().map(Write::size).sum();
        self.make_room(FRAME_HEADER + size + 8)?;
        let Some(segment) = &mut self.tail.segment else { return Err(io::Error::other("no segment")) };
        segment::start_frame(&mut self.group);
        let mut positions = Vec::new();
        for write in group {
            match write {
                Write::Entries { records, .. } => {
                    for (index, record) in records {
                        encode_varint(record.len() as u64, &mut self.group);
                        let offset = segment.end as u32 + self.group.len() as u32;
                        let length = record.len() as u32;
                        positions.push((*index, Position { segment: segment.header.id, offset, length }));
                        self.group.extend_from_slice(record);
                    }
                }
                Write::Record { record, .. } => {
                    record.encode_length_delimited(&mut self.group).map_err(io::Error::other)?;
                }
            }
        }
        segment::finish_frame(&mut self.group, segment.header, segment.end, self.tail.next_group);
        segment.file.write_all_at(&self.group, segment.end)?;
        let started = Instant::now();
        segment.file.sync()?;
        self.metrics.fsyncs.inc();
        let took = started.elapsed();
        self.metrics.fsync_seconds.observe(took.as_secs_f64());
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.log.last_sync.store(micros, Ordering::Relaxed);
        self.metrics.log_bytes.inc_by(self.group.len() as u64);
        segment.end += self.group.len() as u64;
        self.tail.next_group += 1;
        if self.group.capacity() > 2 * GROUP_BYTES {
            self.group = Vec::new();
        }
        let mut state = self.log.state();
        for (index, position) in positions {
            state.place(index, position);
        }
        drop(state);
        self.log.written.notify_waiters();
        Ok(())
    }

    /// Goes on to a new segment if the current one has no room.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if self.tail.segment.as_ref().is_some_and(|segment| segment.end + bytes as u64 <= segment.size) {
            return Ok(());
        }
        let size = self.segment_bytes.max((bytes as u64 + SEGMENT_HEADER + 4096).next_multiple_of(4096));
        // A spare that is still being made has the same name.
        if let Some(thread) = self.spare.thread.take() {
            let _ = thread.join();
        }
        let ready = self.spare.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        let file = match ready {
            Some(file) if file.len()? >= size => file,
            _ => make_spare(self.disk.as_ref(), &self.log.path(SPARE), size)?,
        };
        let id = self.tail.next_segment;
        let header = SegmentHeader { id, salt: salt() };
        file.write_all_at(&header.encode(), 0)?;
        file.sync()?;
        self.disk.rename(&self.log.path(SPARE), &self.log.path(&segment::file_name(id)))?;
        self.disk.sync_dir(&self.log.directory)?;
        self.log.state().segments.insert(id, SegmentState { file: file.clone(), last_index: None });
        let size = file.len()?;
        self.tail.segment = Some(TailSegment { header, file, end: SEGMENT_HEADER, size });
        self.tail.next_segment += 1;
        self.repeat_vote_and_purge()
    }

    /// The first group of a segment says what older segments said last.
    fn repeat_vote_and_purge(&mut self) -> io::Result<()> {
        let (vote, purged) = {
            let state = self.log.state();
            (state.vote, state.purged)
        };
        let vote = vote.map(|vote| Kind::Vote(vote_to_storage(&vote)));
        let purged = purged.map(|purged| Kind::Purged(log_id_to_storage(&purged)));
        let Some(segment) = &mut self.tail.segment else { return Ok(()) };
        let mut frame = Vec::new();
        segment::start_frame(&mut frame);
        for kind in vote.into_iter().chain(purged) {
            LogRecord { kind: Some(kind) }.encode_length_delimited(&mut frame).map_err(io::Error::other)?;
        }
        segment::finish_frame(&mut frame, segment.header, segment.end, self.tail.next_group);
        segment.file.write_all_at(&frame, segment.end)?;
        segment.file.sync()?;
        segment.end += frame.len() as u64;
        self.tail.next_group += 1;
        Ok(())
    }

    /// Lets go of segments whose entries are all purged. One is kept as a
    /// spare: a file that is written in full already flushes faster.
    fn release_segments(&self, purged: &LogId) {
        let current = self.tail.segment.as_ref().map(|segment| segment.header.id);
        loop {
            let mut state = self.log.state();
            let Some((&id, segment)) = state.segments.iter().next() else { return };
            if Some(id) == current || segment.last_index.is_some_and(|index| index > purged.index) {
                return;
            }
            let file = segment.file.clone();
            state.segments.remove(&id);
            drop(state);
            let path = self.log.path(&segment::file_name(id));
            if let Err(error) = self.release(&path, file) {
                let path = path.display().to_string();
                tracing::warn!(path, %error, "a purged log segment could not be released");
                return;
            }
        }
    }

    fn release(&self, path: &Path, file: Arc<dyn DiskFile>) -> io::Result<()> {
        let mut spare = self.spare.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_none() && !self.spare.in_work.load(Ordering::Acquire) && file.len()? == self.segment_bytes {
            self.disk.rename(path, &self.log.path(SPARE))?;
            self.disk.sync_dir(&self.log.directory)?;
            *spare = Some(file);
            return Ok(());
        }
        self.disk.remove(path)?;
        self.disk.sync_dir(&self.log.directory)
    }

    /// Makes the next segment's file before it is needed.
    fn prepare_spare(&mut self) {
        let half_full = self.tail.segment.as_ref().is_some_and(|segment| segment.end > segment.size / 2);
        let ready = self.spare.ready.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !half_full || ready || !self.threaded || self.spare.in_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let (disk, path) = (self.disk.clone(), self.log.path(SPARE));
        let (ready, in_work) = (self.spare.ready.clone(), self.spare.in_work.clone());
        let segment_bytes = self.segment_bytes;
        let prepare = move || {
            // Without a spare the writer makes its next segment itself, and
            // reports what the disk says then.
            if let Ok(file) = make_spare(disk.as_ref(), &path, segment_bytes) {
                *ready.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
            }
            in_work.store(false, Ordering::Release);
        };
        self.spare.thread = std::thread::Builder::new().name("log-spare".into()).spawn(prepare).ok();
        if self.spare.thread.is_none() {
            self.spare.in_work.store(false, Ordering::Release);
        }
    }
}

/// The file name of a segment that isn't used yet.
const SPARE: &str = "spare";

fn make_spare(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<Arc<dyn DiskFile>> {
    // Never the bytes of a file that may still have another name after a crash.
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(path)?;
    let zeros = vec![0; 256 * 1024];
    let mut offset = 0;
    while offset < size {
        let length = zeros.len().min((size - offset) as usize);
        file.write_all_at(&zeros[..length], offset)?;
        offset += length as u64;
    }
    file.sync()?;
    Ok(file.into())
}

fn salt() -> u64 {
    // ULIDs end in 80 random bits.
    ulid::Ulid::new().0 as u64
}

impl Write {
    fn size(&self) -> usize {
        match self {
            Self::Entries { records, .. } => records.iter().map(|(_, record)| record.len() + 5).sum(),
            Self::Record { record, .. } => record.encoded_len() + 5,
        }
    }
}
