//! Change records on disk: what the feed, and everything that follows it, reads.
//!
//! Derived from the log like the rows, and written just before them, so they
//! are not synced on their own: what a crash takes is written again when the
//! log is replayed. They are synced before the log behind them is purged, and
//! their files are removed then, too: with each snapshot.
//!
//! # Format
//!
//! A directory of segments (see [`crate::segment`]) of about 4 MiB. A frame is
//! one `storage.v1.ChangesFrame`, numbered by the revision of its first
//! record; a frame that carries a request window is numbered by the revision
//! that comes after it.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use flotilla_proto::storage::v1::{Change, ChangesFrame, WindowEntry};
use prost::Message;

use crate::{
    Metrics,
    disk::{Disk, DiskFile},
    segment::{self, SEGMENT_HEADER, SegmentHeader},
};

/// Bytes of recent records that are kept in memory for readers that follow
/// closely.
const RECENT_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of frames after which a reading from disk returns what it has.
const READ_BYTES: usize = 1024 * 1024;

/// Where a reader stands on disk: only a shortcut, valid or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    segment: u64,
    offset: u64,
}

/// The change records of a directory.
pub struct Changes {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// A segment takes no further frames past this many bytes.
    segment_bytes: u64,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    segments: VecDeque<Segment>,
    next_segment: u64,
    /// The revision of the next record.
    next: u64,
    /// The first revision that readers may have.
    floor: u64,
    recent: VecDeque<Arc<Change>>,
    recent_bytes: usize,
    buffer: Vec<u8>,
}

struct Segment {
    header: SegmentHeader,
    file: Arc<dyn DiskFile>,
    /// The revision of its first record.
    first: u64,
    /// The time of its last record.
    last_time: u64,
    /// Where the next frame goes.
    end: u64,
}

/// What a directory held when it was opened.
pub(crate) struct Opened {
    pub(crate) changes: Changes,
    /// The last revision that is there without a gap; 0 if none is.
    pub(crate) last: u64,
    /// Whether the first records follow a request window that stands for the
    /// earlier ones.
    pub(crate) based: bool,
}

impl Changes {
    /// Opens a directory, or makes it. Bad bytes end what is taken: what came
    /// after them is removed, and is written again from the log.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        segment_bytes: u64,
        metrics: Metrics,
    ) -> io::Result<Opened> {
        disk.create_dir(directory)?;
        let mut ids: Vec<u64> = disk.list(directory)?.iter().filter_map(|name| segment::id_of(name)).collect();
        ids.sort_unstable();
        let mut state = State { next_segment: ids.last().unwrap_or(&0) + 1, next: 1, floor: 1, ..State::default() };
        let (mut broken, mut based) = (false, false);
        for id in ids {
            let path = directory.join(segment::file_name(id));
            let file: Arc<dyn DiskFile> = disk.open(&path)?.into();
            let first = state.segments.is_empty();
            let scanned = match broken {
                true => None,
                false => scan(file.as_ref(), id)?.filter(|scanned| first || scanned.first == state.next),
            };
            match scanned {
                Some(scanned) => {
                    if first {
                        state.floor = scanned.first;
                        based = scanned.based;
                    }
                    state.next = scanned.next;
                    broken = scanned.bad_bytes;
                    let Scanned { header, first, last_time, end, .. } = scanned;
                    state.segments.push_back(Segment { header, file, first, last_time, end });
                }
                None => {
                    broken = true;
                    disk.remove(&path)?;
                }
            }
        }
        let last = state.next - 1;
        let changes = Self { disk, directory: directory.to_path_buf(), segment_bytes, metrics, state: state.into() };
        Ok(Opened { changes, last, based })
    }

    /// The first revision that can be read.
    pub fn floor(&self) -> u64 {
        self.state().floor
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state().segments.iter().map(|segment| segment.end).sum()
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The window that was written when earlier records were given up, and all
    /// records, oldest first, from a revision on.
    pub(crate) fn read_all(&self, from: u64, mut each: impl FnMut(Vec<WindowEntry>, Vec<Change>)) -> io::Result<()> {
        let segments: Vec<_> = {
            let state = self.state();
            let later = state.segments.iter().skip(1).map(|segment| segment.first).chain([u64::MAX]);
            let segments = state.segments.iter().zip(later).enumerate();
            // The first segment may have a window at its start.
            let wanted = segments.filter(|(position, (_, later))| *position == 0 || *later > from);
            wanted.map(|(_, (segment, _))| (segment.file.clone(), segment.header, segment.end)).collect()
        };
        for (file, header, end) in segments {
            let mut offset = SEGMENT_HEADER;
            while let Some((frame, payload)) = segment::read_frame(file.as_ref(), header, offset, end)? {
                let frame_content = decode(payload)?;
                each(frame_content.window, frame_content.changes);
                offset = frame.end();
            }
        }
        Ok(())
    }

    /// Drops the records after a revision: they will be written again.
    pub(crate) fn truncate_after(&self, revision: u64) -> io::Result<()> {
        let mut state = self.state();
        if state.next <= revision + 1 {
            return Ok(());
        }
        while let Some(segment) = state.segments.pop_back() {
            if segment.first > revision + 1 || (segment.first == revision + 1 && state.segments.back().is_some()) {
                self.disk.remove(&self.directory.join(segment::file_name(segment.header.id)))?;
                continue;
            }
            let (end, cut) = frame_reaching(&segment, revision)?;
            segment.file.set_len(end)?;
            state.segments.push_back(Segment { end, ..segment });
            state.next = revision + 1;
            if let Some(changes) = cut {
                // The frame holds records on both sides of the cut.
                let first = changes.first().map_or(revision + 1, |change| change.revision);
                self.write(&mut state, &ChangesFrame { changes, window: Vec::new() }, first)?;
            }
            break;
        }
        state.next = revision + 1;
        state.recent.clear();
        state.recent_bytes = 0;
        Ok(())
    }

    /// Gives up all records; the next one will be that after `revision`, and
    /// the window stands for what is lost.
    pub(crate) fn restart_after(&self, revision: u64, window: Vec<WindowEntry>) -> io::Result<()> {
        let mut state = self.state();
        while let Some(segment) = state.segments.pop_back() {
            self.disk.remove(&self.directory.join(segment::file_name(segment.header.id)))?;
        }
        state.recent.clear();
        state.recent_bytes = 0;
        state.next = revision + 1;
        state.floor = revision + 1;
        // At least one frame, which says where the records start. All in one
        // segment, which gets its name when it is whole: part of a window
        // would make a retry count twice.
        let partial = self.directory.join("base.partial");
        let id = self.add_segment(&mut state, &partial, revision + 1)?;
        let mut chunks: Vec<_> = window.chunks(4096).map(<[_]>::to_vec).collect();
        chunks.resize_with(chunks.len().max(1), Vec::new);
        for window in chunks {
            self.write_to_last(&mut state, &ChangesFrame { changes: Vec::new(), window }, revision + 1)?;
        }
        if let Some(segment) = state.segments.back() {
            segment.file.sync()?;
        }
        self.disk.rename(&partial, &self.directory.join(segment::file_name(id)))?;
        self.disk.sync_dir(&self.directory)
    }

    /// Writes records, dense after the last. Readers don't see them before
    /// [`Changes::publish`].
    pub(crate) fn append(&self, changes: Vec<Change>) -> io::Result<()> {
        let Some(first) = changes.first() else { return Ok(()) };
        let (first, last_time) = (first.revision, changes.last().map_or(0, |change| change.time));
        let mut state = self.state();
        if first != state.next {
            let text = format!("revision {first} follows {} in the change records", state.next.saturating_sub(1));
            return Err(io::Error::other(text));
        }
        let frame = ChangesFrame { changes, window: Vec::new() };
        self.write(&mut state, &frame, first)?;
        if let Some(segment) = state.segments.back_mut() {
            segment.last_time = last_time;
        }
        for change in frame.changes {
            state.recent_bytes += change_bytes(&change);
            state.next = change.revision + 1;
            state.recent.push_back(Arc::new(change));
        }
        while state.recent_bytes > RECENT_BYTES {
            let Some(change) = state.recent.pop_front() else { break };
            state.recent_bytes -= change_bytes(&change);
        }
        Ok(())
    }

    /// Makes the records durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let files: Vec<_> = self.state().segments.iter().map(|segment| segment.file.clone()).collect();
        for file in files {
            file.sync()?;
        }
        self.disk.sync_dir(&self.directory)
    }

    /// Hides the records below a revision from readers.
    pub(crate) fn trim(&self, floor: u64) {
        let mut state = self.state();
        state.floor = state.floor.max(floor.min(state.next));
    }

    /// Removes the files whose records are all below a floor. It must be the
    /// floor of a store that is flushed: one that comes back older after a
    /// crash replays the log, and needs the requests that these records tell.
    pub(crate) fn remove_below(&self, floor: u64) -> io::Result<()> {
        let mut state = self.state();
        while state.segments.get(1).is_some_and(|second| second.first <= floor) {
            let Some(segment) = state.segments.pop_front() else { break };
            self.disk.remove(&self.directory.join(segment::file_name(segment.header.id)))?;
        }
        Ok(())
    }

    /// The floor to trim to, if more is kept than is wanted: by size, and by
    /// the time of the records. Records from `keep_from` on are kept until
    /// there are four times as many bytes as wanted.
    pub(crate) fn wanted_floor(&self, max_bytes: u64, oldest: u64, keep_from: u64) -> Option<u64> {
        let state = self.state();
        let hidden = state.segments.iter().skip(1).take_while(|segment| segment.first <= state.floor).count();
        let segments = || state.segments.iter().skip(hidden);
        let mut bytes: u64 = segments().map(|segment| segment.end).sum();
        let mut floor = state.floor;
        for (segment, next) in segments().zip(segments().skip(1)) {
            let too_much = bytes > max_bytes || segment.last_time < oldest;
            let needed = next.first > keep_from && bytes <= max_bytes.saturating_mul(4);
            if !too_much || needed {
                break;
            }
            bytes -= segment.end;
            floor = floor.max(next.first);
        }
        (floor > state.floor).then_some(floor)
    }

    /// Records from memory; `None` if the first wanted is no longer there.
    pub(crate) fn recent(&self, from: u64, limit: usize) -> Option<Vec<Arc<Change>>> {
        let state = self.state();
        let first = state.recent.front()?.revision;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(state.recent.iter().skip(skip).take(limit).cloned().collect())
    }

    /// Records from disk, at least one, and where the reader stands then.
    pub(crate) fn read(&self, from: u64, limit: usize, place: Option<Place>) -> io::Result<(Vec<Arc<Change>>, Place)> {
        let (file, header, end) = {
            let state = self.state();
            let segment = state.segments.iter().rev().find(|segment| segment.first <= from);
            let segment = segment.ok_or_else(|| io::Error::other(format!("revision {from} is not on disk")))?;
            (segment.file.clone(), segment.header, segment.end)
        };
        let known = place.filter(|place| place.segment == header.id && place.offset < end);
        let mut place = known.unwrap_or(Place { segment: header.id, offset: SEGMENT_HEADER });
        let mut records: Vec<Arc<Change>> = Vec::new();
        let mut bytes = 0;
        while let Some((frame, payload)) = segment::read_frame(file.as_ref(), header, place.offset, end)? {
            let changes = decode(payload)?.changes;
            records.extend(changes.into_iter().filter(|change| change.revision >= from).map(Arc::new));
            bytes += frame.length;
            if records.len() > limit || (bytes > READ_BYTES && !records.is_empty()) {
                // The next call starts with this frame again, if it has more.
                break;
            }
            place.offset = frame.end();
        }
        records.truncate(limit);
        match records.first() {
            Some(first) if first.revision == from => Ok((records, place)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("revision {from} is not where it should be"))),
        }
    }

    fn write(&self, state: &mut State, frame: &ChangesFrame, number: u64) -> io::Result<()> {
        if state.segments.back().is_none_or(|segment| segment.end > self.segment_bytes) {
            let path = self.directory.join(segment::file_name(state.next_segment));
            self.add_segment(state, &path, number)?;
        }
        self.write_to_last(state, frame, number)
    }

    fn write_to_last(&self, state: &mut State, frame: &ChangesFrame, number: u64) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut state.buffer);
        let Some(segment) = state.segments.back_mut() else { return Err(io::Error::other("no segment")) };
        segment::start_frame(&mut buffer);
        frame.encode(&mut buffer).map_err(io::Error::other)?;
        segment::finish_frame(&mut buffer, segment.header, segment.end, number);
        segment.file.write_all_at(&buffer, segment.end)?;
        segment.end += buffer.len() as u64;
        if buffer.capacity() < 1024 * 1024 {
            state.buffer = buffer;
        }
        Ok(())
    }

    fn add_segment(&self, state: &mut State, path: &Path, first: u64) -> io::Result<u64> {
        let header = SegmentHeader { id: state.next_segment, salt: ulid::Ulid::new().0 as u64 };
        let file: Arc<dyn DiskFile> = self.disk.create(path)?.into();
        file.write_all_at(&header.encode(), 0)?;
        state.next_segment += 1;
        state.segments.push_back(Segment { header, file, first, last_time: 0, end: SEGMENT_HEADER });
        Ok(header.id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Scanned {
    header: SegmentHeader,
    first: u64,
    next: u64,
    last_time: u64,
    end: u64,
    bad_bytes: bool,
    /// Whether the first frame is a request window.
    based: bool,
}

/// Reads a segment through; `None` if it holds no frame.
fn scan(file: &dyn DiskFile, id: u64) -> io::Result<Option<Scanned>> {
    let length = file.len()?;
    let mut header = vec![0; SEGMENT_HEADER.min(length) as usize];
    file.read_exact_at(&mut header, 0)?;
    let Ok(header) = SegmentHeader::decode(&header) else { return Ok(None) };
    if header.id != id {
        return Ok(None);
    }
    let (mut offset, mut first, mut next, mut last_time) = (SEGMENT_HEADER, None, 0, 0);
    let mut based = false;
    while let Some((frame, payload)) = segment::read_frame(file, header, offset, length)? {
        let Ok(content) = decode(payload) else { break };
        if first.is_some() && frame.number != next {
            break;
        }
        if first.is_none() {
            first = Some(frame.number);
            based = content.changes.is_empty();
        }
        next = frame.number + content.changes.len() as u64;
        last_time = content.changes.last().map_or(last_time, |change| change.time);
        offset = frame.end();
    }
    let bad_bytes = offset < length;
    Ok(first.map(|first| Scanned { header, first, next, last_time, end: offset, bad_bytes, based }))
}

/// Where to cut a segment so that a revision is its last, and what must be
/// written again of the frame that the cut goes through.
fn frame_reaching(segment: &Segment, revision: u64) -> io::Result<(u64, Option<Vec<Change>>)> {
    let mut offset = SEGMENT_HEADER;
    while let Some((frame, payload)) = segment::read_frame(segment.file.as_ref(), segment.header, offset, segment.end)?
    {
        let content = decode(payload)?;
        let last = frame.number + content.changes.len() as u64 - 1;
        if !content.changes.is_empty() && last > revision {
            let kept: Vec<_> = content.changes.into_iter().filter(|change| change.revision <= revision).collect();
            return Ok((offset, (!kept.is_empty()).then_some(kept)));
        }
        offset = frame.end();
    }
    Ok((offset, None))
}

fn decode(payload: Vec<u8>) -> io::Result<ChangesFrame> {
    ChangesFrame::decode(bytes::Bytes::from(payload)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn change_bytes(change: &Change) -> usize {
    let row = |row: &Option<flotilla_proto::storage::v1::Row>| row.as_ref().map_or(0, |row| row.value.len() + 48);
    128 + change
        .rows
        .iter()
        .map(|change| change.key.len() + row(&change.before) + row(&change.after) + 64)
        .sum::<usize>()
}
