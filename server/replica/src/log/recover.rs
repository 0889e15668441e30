//! Reading a log directory back.
//!
//! Bad bytes where the last group should be are a torn tail: they were never
//! acknowledged, and are cut. Bad bytes with a valid group after them are
//! damage: something that was acknowledged may be lost, so nothing is opened.
//! (A group that was damaged later and happens to be the last can't be told
//! from a torn one.)

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{LogRecord, log_record::Kind};
use openraft::{LogIdOptionExt, entry::RaftEntry};
use prost::{Message, bytes::Buf, encoding::decode_varint};

use super::{
    Log, Position, SegmentState, State,
    writer::{Tail, TailSegment},
};
use crate::{
    OpenError,
    disk::{Disk, DiskFile, read_file},
    raft::{entry_from_storage, log_id_from_storage, vote_from_storage},
    segment::{self, HeaderError, SEGMENT_HEADER, SegmentHeader},
};

/// What a directory held.
pub(crate) struct Recovered {
    pub(crate) log: Arc<Log>,
    pub(crate) tail: Tail,
    /// A torn tail that was cut: the file and where.
    pub(crate) cut: Option<(PathBuf, u64)>,
}

/// Reads a log directory; one that doesn't exist is made.
pub(crate) fn recover(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Recovered, OpenError> {
    disk.create_dir(directory).map_err(OpenError::io("create", directory))?;
    let names = disk.list(directory).map_err(OpenError::io("list", directory))?;
    let paths: BTreeMap<u64, PathBuf> =
        names.iter().filter_map(|name| Some((segment::id_of(name)?, directory.join(name)))).collect();
    if let Some(missing) = first_gap(&paths) {
        let path = directory.join(segment::file_name(missing));
        return Err(OpenError::Incomplete { what: format!("{} is missing", path.display()) });
    }
    let last_id = paths.keys().next_back().copied();
    let mut scan = Scan::default();
    let mut tail = None;
    let mut cut = None;
    for (id, path) in &paths {
        let bytes = read_file(disk.as_ref(), path).map_err(OpenError::io("read", path))?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) if header.id == *id => header,
            Err(HeaderError::Newer(found)) => {
                return Err(OpenError::NewerFormat { path: path.clone(), found, known: segment::FORMAT });
            }
            // A segment gets its name only after its header is synced.
            _ => return Err(damaged(path, 0, "the segment's header is not readable")),
        };
        let file: Arc<dyn DiskFile> = disk.open(path).map_err(OpenError::io("open", path))?.into();
        scan.state.segments.insert(*id, SegmentState { file: file.clone(), last_index: None });
        let end = scan.segment(path, &bytes, header)?;
        if segment::looks_torn(&bytes, header, end) {
            if Some(*id) != last_id {
                return Err(damaged(path, end, "the last group of a segment that others follow is not readable"));
            }
            let zeros = vec![0; bytes.len() - end as usize];
            file.write_all_at(&zeros, end).map_err(OpenError::io("cut", path))?;
            cut = Some((path.clone(), end));
        }
        tail = Some(TailSegment { header, file, end, size: bytes.len() as u64 });
    }
    scan.check_complete(directory)?;
    // Who wrote the last group, or named the last segment, may have been killed
    // before it was synced. What is read here is acted on.
    if let Some(TailSegment { file, .. }) = &tail {
        file.sync().map_err(OpenError::io("sync the last segment of", directory))?;
        disk.sync_dir(directory).map_err(OpenError::io("sync", directory))?;
    }
    let tail = Tail { segment: tail, next_group: scan.next_group.unwrap_or(1), next_segment: last_id.unwrap_or(0) + 1 };
    let bytes: u64 = scan.state.positions.iter().map(|position| u64::from(position.length)).sum();
    let log = Log {
        directory: directory.to_path_buf(),
        state: scan.state.into(),
        appended_bytes: bytes.into(),
        last_sync: 0.into(),
        written: tokio::sync::Notify::new(),
    };
    Ok(Recovered { log: Arc::new(log), tail, cut })
}

fn first_gap(paths: &BTreeMap<u64, PathBuf>) -> Option<u64> {
    paths.keys().zip(paths.keys().skip(1)).find(|(id, next)| *id + 1 != **next).map(|(id, _)| id + 1)
}

#[derive(Default)]
struct Scan {
    state: State,
    next_group: Option<u64>,
    /// Where the former segment's groups ended.
    former_end: Option<(PathBuf, u64)>,
}

impl Scan {
    /// Takes in the groups of a segment. Returns where the next would start.
    fn segment(&mut self, path: &Path, bytes: &[u8], header: SegmentHeader) -> Result<u64, OpenError> {
        let mut offset = SEGMENT_HEADER;
        while let Some(frame) = segment::frame_at(bytes, header, offset) {
            if self.next_group.is_some_and(|expected| expected != frame.number) {
                let expected = self.next_group.unwrap_or_default();
                let number = frame.number;
                // What is missing was there before, not here.
                return Err(match self.former_end.take().filter(|_| offset == SEGMENT_HEADER) {
                    Some((former, end)) => {
                        let what =
                            format!("group {expected} should be here, and the next segment goes on with {number}");
                        damaged(&former, end, what)
                    }
                    None => damaged(path, offset, format!("group {number} is here, and group {expected} should be")),
                });
            }
            self.next_group = Some(frame.number + 1);
            self.group(path, bytes, header.id, frame.payload())?;
            offset = frame.end();
        }
        match segment::find_frame(bytes, header, offset + 8) {
            Some(later) => {
                let what = format!("the group here is not readable, and a valid one follows at byte {}", later.offset);
                Err(damaged(path, offset, what))
            }
            None => {
                self.former_end = Some((path.to_path_buf(), offset));
                Ok(offset)
            }
        }
    }

    fn group(&mut self, path: &Path, bytes: &[u8], id: u64, payload: std::ops::Range<usize>) -> Result<(), OpenError> {
        let mut rest = Bytes::copy_from_slice(&bytes[payload.clone()]);
        while rest.has_remaining() {
            let at = || payload.end as u64;
            let length = decode_varint(&mut rest).map_err(|error| damaged(path, at(), error.to_string()))? as usize;
            if length > rest.len() {
                return Err(damaged(path, at(), "a record is longer than its group"));
            }
            let offset = payload.end - rest.len();
            let record = LogRecord::decode(rest.split_to(length))
                .map_err(|error| damaged(path, offset as u64, format!("a record can't be decoded: {error}")))?;
            let position = Position { segment: id, offset: offset as u32, length: length as u32 };
            self.record(record, position).map_err(|what| damaged(path, offset as u64, what))?;
        }
        Ok(())
    }

    fn record(&mut self, record: LogRecord, position: Position) -> Result<(), String> {
        let state = &mut self.state;
        match record.kind {
            Some(Kind::Entry(entry)) => {
                let entry = entry_from_storage(entry).ok_or("an entry makes no sense")?;
                let index = entry.index();
                let expected = state.last.next_index();
                // Older segments may be gone, and with them entries that are
                // purged by a record to come; `check_complete` sees to that.
                if index != expected && !(state.positions.is_empty() && index > expected) {
                    return Err(format!("entry {index} is here, and entry {expected} should be"));
                }
                state.push(entry);
                state.place(index, position);
            }
            Some(Kind::Vote(vote)) => state.vote = Some(vote_from_storage(&vote)),
            Some(Kind::TruncateFrom(index)) => {
                let last = index.checked_sub(1).and_then(|last| self.log_id_of(last));
                self.state.truncate_from(index, last);
            }
            Some(Kind::Purged(log_id)) => {
                let log_id = log_id_from_storage(&log_id);
                if state.purged.as_ref().is_none_or(|purged| *purged < log_id) {
                    state.purge(log_id);
                }
            }
            None => return Err("a record of an unknown kind".into()),
        }
        Ok(())
    }

    fn log_id_of(&self, index: u64) -> Option<crate::raft::LogId> {
        let cached = self.state.cache.iter().rev().find(|entry| entry.index() == index);
        let purged = || self.state.purged.filter(|purged| purged.index == index);
        match cached {
            Some(entry) => Some(entry.log_id),
            None => purged().or_else(|| {
                let position = index.checked_sub(self.state.first_index)? as usize;
                let position = *self.state.positions.get(position)?;
                let segment = self.state.segments.get(&position.segment)?;
                let mut bytes = vec![0; position.length as usize];
                segment.file.read_exact_at(&mut bytes, u64::from(position.offset)).ok()?;
                super::decode_entry(bytes, Path::new(""), position).ok().map(|entry| entry.log_id)
            }),
        }
    }

    fn check_complete(&self, directory: &Path) -> Result<(), OpenError> {
        let expected = self.state.purged.next_index();
        let first = self.state.first_index;
        if !self.state.positions.is_empty() && first != expected {
            let what =
                format!("entries {expected} to {} are missing in {}", first.saturating_sub(1), directory.display());
            return Err(OpenError::Incomplete { what });
        }
        Ok(())
    }
}

fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { file: file.to_path_buf(), offset, what: what.into() }
}
