//! All rows of one moment in one file, so that the log behind it can go.
//!
//! The same format as a backup: it names no storage engine, and can be read by
//! whoever has `storage.proto`.
//!
//! # Format
//!
//! `"FLOTSNAP"`, then records: length (u32, little-endian), CRC-32C of the
//! bytes (u32, little-endian), the bytes of a `storage.v1.SnapshotRecord`. One
//! header, rows in key order, window entries oldest first, one trailer. A file
//! gets its name when it is complete and synced, and only if the rows' hashes
//! are those that the log led to.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{
    Applied, SnapshotHeader, SnapshotRecord, SnapshotRow, SnapshotRows, SnapshotTrailer, SnapshotWindow, WindowEntry,
    snapshot_record::Kind,
};
use flotilla_store::{PointInTime, Row, RowKey, Store, StoreError, hash::Hashes};
use openraft::{Snapshot, alias::SnapshotOf};
use prost::Message;

use crate::{
    disk::{Disk, DiskFile},
    raft::{StoredMembership, TypeConfig, log_id_from_storage, membership_from_storage},
    window::Window,
};

const MAGIC: &[u8; 8] = b"FLOTSNAP";
const FORMAT: u32 = 1;
/// Rows that are read from the store at once.
const ROWS: usize = 512;
/// Bytes of rows, about, that go into one record.
const RECORD_BYTES: usize = 256 * 1024;
/// Bytes of a record that is believed: more is damage. One row may take 1 MiB.
const MAX_RECORD: usize = 8 * 1024 * 1024;

/// Why a snapshot was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The rows could not be read, or changed too fast.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows are not what the log led to.
    #[error("the rows are not what the log led to: {0}")]
    Diverged(String),
    /// The disk refused.
    #[error("the snapshot can't be written")]
    Io(#[from] io::Error),
}

/// A published snapshot's file, as openraft passes it around.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotFile(
    #[expect(dead_code, reason = "for the network between peers to read")] pub(crate) PathBuf,
);

/// The snapshots of a directory; at most one is published.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cell: String,
    history: String,
    current: Mutex<Option<(PathBuf, Applied)>>,
}

impl Snapshots {
    /// Opens a directory, or makes it. Leftovers are removed.
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path, cell: &str, history: &str) -> io::Result<Self> {
        disk.create_dir(directory)?;
        let mut names = disk.list(directory)?;
        names.sort_unstable();
        let published = names.iter().rposition(|name| name.ends_with(".snapshot")).map(|newest| names.remove(newest));
        for name in names {
            disk.remove(&directory.join(name))?;
        }
        let current = match published {
            Some(name) => {
                // Who gave it its name may have been killed before this.
                disk.sync_dir(directory)?;
                let path = directory.join(name);
                let applied = Reader::open(disk.as_ref(), &path)?.header()?.applied.unwrap_or_default();
                Some((path, applied))
            }
            None => None,
        };
        let (directory, cell, history) = (directory.to_path_buf(), cell.to_owned(), history.to_owned());
        Ok(Self { disk, directory, cell, history, current: current.into() })
    }

    /// Where the state machine stood at the published snapshot.
    pub(crate) fn applied(&self) -> Option<Applied> {
        self.lock().as_ref().map(|(_, applied)| applied.clone())
    }

    /// The published snapshot's size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let path = self.lock().as_ref().map(|(path, _)| path.clone());
        path.and_then(|path| self.disk.open(&path).and_then(|file| file.len()).ok()).unwrap_or(0)
    }

    /// The published snapshot, as openraft wants it.
    pub(crate) fn current(&self) -> io::Result<Option<SnapshotOf<TypeConfig, SnapshotFile>>> {
        let Some((path, applied)) = self.lock().clone() else { return Ok(None) };
        let stored = applied.membership.unwrap_or_default();
        let membership =
            membership_from_storage(&stored).ok_or_else(|| damaged(&path, "its membership makes no sense"))?;
        let last_membership = StoredMembership::new(stored.log_id.as_ref().map(log_id_from_storage), membership);
        let last_log_id = applied.log_id.as_ref().map(log_id_from_storage);
        let meta = openraft::SnapshotMeta { last_log_id, last_membership };
        Ok(Some(Snapshot { meta, snapshot: SnapshotFile(path) }))
    }

    /// Writes and publishes a snapshot; the former one goes.
    pub(crate) fn write(
        &self,
        mut point: PointInTime,
        window: &Window,
        stopping: &AtomicBool,
    ) -> Result<Applied, SnapshotError> {
        let applied = point.applied().clone();
        let index = applied.log_id.as_ref().map_or(0, |log_id| log_id.index);
        let name = format!("{index:016x}-{revision:016x}", revision = applied.revision);
        let partial = self.directory.join(format!("{name}.partial"));
        let path = self.directory.join(format!("{name}.snapshot"));
        let written = self.write_records(&partial, &mut point, window, stopping);
        drop(point);
        if let Err(error) = written {
            // Nothing depends on it; the next start removes what stays.
            let _ = self.disk.remove(&partial);
            return Err(error);
        }
        self.disk.rename(&partial, &path)?;
        self.disk.sync_dir(&self.directory)?;
        let former = self.lock().replace((path.clone(), applied.clone()));
        if let Some((former, _)) = former.filter(|(former, _)| *former != path) {
            self.disk.remove(&former)?;
        }
        Ok(applied)
    }

    /// Fills an empty store from the published snapshot, and returns the
    /// requests that were remembered then.
    pub(crate) fn load(&self, store: &Store) -> Result<Vec<WindowEntry>, SnapshotError> {
        let Some((path, applied)) = self.lock().clone() else { return Ok(Vec::new()) };
        let mut reader = Reader::open(self.disk.as_ref(), &path)?;
        reader.header()?;
        let (mut rows, mut window) = (0, Vec::new());
        let total = flotilla_store::hash::Hashes::from_storage(&applied.hashes).unwrap_or_default().rows();
        loop {
            match reader.next()? {
                Kind::Rows(batch) => {
                    for chunk in batch.rows.chunks(128) {
                        store.import(chunk.iter().map(|row| {
                            let key = RowKey::new(row.space, &row.table, &row.key);
                            (key, row.row.clone().unwrap_or_default())
                        }))?;
                    }
                    let before = rows;
                    rows += batch.rows.len() as u64;
                    if before / 100_000 != rows / 100_000 {
                        tracing::info!(rows, total, "rebuilding the store from the snapshot");
                    }
                }
                Kind::Window(mut entries) => window.append(&mut entries.entries),
                Kind::Trailer(trailer) if (trailer.rows, trailer.window_entries) == (rows, window.len() as u64) => {
                    break;
                }
                Kind::Trailer(_) => return Err(damaged(&path, "it does not hold as many records as it says").into()),
                Kind::Header(_) => return Err(damaged(&path, "it has a second header").into()),
            }
        }
        store.finish_import(applied)?;
        Ok(window)
    }

    fn write_records(
        &self,
        path: &Path,
        point: &mut PointInTime,
        window: &Window,
        stopping: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        let mut output = Output { file: self.disk.create(path)?, buffer: MAGIC.to_vec(), offset: 0 };
        output.record(Kind::Header(SnapshotHeader {
            format: FORMAT,
            cell: self.cell.clone(),
            history: self.history.clone(),
            applied: Some(point.applied().clone()),
        }))?;
        let mut total = 0;
        loop {
            let encoded = point.next_rows(ROWS)?;
            if encoded.is_empty() {
                break;
            }
            if stopping.load(Ordering::Acquire) {
                return Err(StoreError::Stopping.into());
            }
            total += encoded.len() as u64;
            let mut rows = Vec::with_capacity(encoded.len());
            let mut bytes = 0;
            for (key, row) in encoded {
                bytes += key.len() + row.len();
                rows.push(snapshot_row(&key, row)?);
                if bytes > RECORD_BYTES {
                    output.record(Kind::Rows(SnapshotRows { rows: std::mem::take(&mut rows) }))?;
                    bytes = 0;
                }
            }
            output.record(Kind::Rows(SnapshotRows { rows }))?;
        }
        let expected = Hashes::from_storage(&point.applied().hashes).unwrap_or_default();
        if *point.hashes() != expected {
            return Err(SnapshotError::Diverged(flotilla_store::store::describe_difference(&expected, point.hashes())));
        }
        let entries: Vec<_> = window.entries().map(|entry| WindowEntry::clone(entry)).collect();
        for entries in entries.chunks(1024) {
            output.record(Kind::Window(SnapshotWindow { entries: entries.to_vec() }))?;
        }
        output.record(Kind::Trailer(SnapshotTrailer { rows: total, window_entries: entries.len() as u64 }))?;
        output.finish()?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(PathBuf, Applied)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn snapshot_row(key: &[u8], row: Bytes) -> Result<SnapshotRow, StoreError> {
    let (space, table, key) =
        RowKey::split(key).ok_or_else(|| StoreError::Damaged { what: format!("a key is not a row's: {key:02x?}") })?;
    let decoded = Row::decode(row)
        .map_err(|error| StoreError::Damaged { what: format!("a row of table {table:?} can't be decoded: {error}") })?;
    Ok(SnapshotRow { space, table: table.to_owned(), key: Bytes::copy_from_slice(key), row: Some(decoded) })
}

struct Output {
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    offset: u64,
}

impl Output {
    fn record(&mut self, kind: Kind) -> io::Result<()> {
        let bytes = SnapshotRecord { kind: Some(kind) }.encode_to_vec();
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        self.buffer.extend_from_slice(&bytes);
        match self.buffer.len() > RECORD_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync()
    }
}

struct Reader {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
}

impl Reader {
    fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path)?;
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0)?;
        match &magic == MAGIC {
            true => Ok(Self { file, path: path.to_path_buf(), offset: MAGIC.len() as u64 }),
            false => Err(damaged(path, "it is not a snapshot")),
        }
    }

    fn header(&mut self) -> io::Result<SnapshotHeader> {
        match self.next()? {
            Kind::Header(header) if header.format <= FORMAT => Ok(header),
            Kind::Header(header) => {
                let what = format!("it has format {}, and this version reads up to {FORMAT}", header.format);
                Err(damaged(&self.path, &what))
            }
            _ => Err(damaged(&self.path, "it does not start with a header")),
        }
    }

    fn next(&mut self) -> io::Result<Kind> {
        let mut head = [0; 8];
        self.file.read_exact_at(&mut head, self.offset).map_err(|error| damaged(&self.path, &error.to_string()))?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_RECORD {
            return Err(damaged(&self.path, &format!("the record at byte {} is too long", self.offset)));
        }
        let mut bytes = vec![0; length];
        let start = self.offset + head.len() as u64;
        self.file.read_exact_at(&mut bytes, start).map_err(|error| damaged(&self.path, &error.to_string()))?;
        if crc32c::crc32c(&bytes) != checksum {
            return Err(damaged(&self.path, &format!("the checksum of the record at byte {} is wrong", self.offset)));
        }
        self.offset = start + length as u64;
        let record =
            SnapshotRecord::decode(Bytes::from(bytes)).map_err(|error| damaged(&self.path, &error.to_string()))?;
        record.kind.ok_or_else(|| damaged(&self.path, "a record of an unknown kind"))
    }
}

fn damaged(path: &Path, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {} can't be read: {what}", path.display()))
}
