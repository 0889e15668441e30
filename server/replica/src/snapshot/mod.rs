//! All rows of one moment in one file, so that the log behind it can go.
//!
//! The same format as a backup: it names no storage engine, and can be read by
//! whoever has `storage.proto`.
//!
//! # Layout
//!
//! * [`writer`], [`reader`]: the format, to and from any stream of bytes.
//! * [`transfer`]: a snapshot on its way between servers.
//! * [`file`]: files of the disk seam as such streams.
//!
//! # Format
//!
//! `"FLOTSNAP"`, then records: length (u32, little-endian), CRC-32C of the
//! bytes (u32, little-endian), the bytes of a `storage.v1.SnapshotRecord`. One
//! header, rows in key order, window entries oldest first, one trailer. A file
//! gets its name when it is complete and synced, and only if the rows' hashes
//! are those that the log led to.

mod file;
mod reader;
mod transfer;
mod writer;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use flotilla_proto::storage::v1::{Applied, WindowEntry};
use flotilla_store::{PointInTime, RowKey, Store, StoreError};
use openraft::{
    Snapshot,
    alias::{SnapshotMetaOf, SnapshotOf},
};

pub(crate) use file::{Sink, Source};
pub(crate) use reader::{Part, Reader, announced_rows};
pub(crate) use transfer::{receive, send_snapshot};
pub(crate) use writer::{Writer, Written, write_moment};

use crate::{
    cell::Cell,
    disk::{Disk, DiskFile},
    error::Unreadable,
    raft::{StoredMembership, TypeConfig, log_id_from_storage, membership_from_storage},
    window::Window,
};

const MAGIC: &[u8; 8] = b"FLOTSNAP";
/// The version of the format.
pub(crate) const FORMAT: u32 = 1;

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

/// A snapshot's file, as openraft passes it around. It stays readable when its name is gone.
#[derive(Clone)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Bytes.
    pub(crate) length: u64,
    /// It came from a peer, and isn't published here.
    pub(crate) installing: Option<Installing>,
}

/// Marks a snapshot that came from a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Installing;

impl fmt::Debug for SnapshotFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} bytes", self.path.display(), self.length)
    }
}

impl SnapshotFile {
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// CRC-32C of the whole file. Reads it.
    pub(crate) fn checksum(&self) -> io::Result<u32> {
        let mut checksum = 0;
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0;
        while offset < self.length {
            let count = usize::try_from(self.length - offset).unwrap_or(usize::MAX).min(buffer.len());
            self.file.read_exact_at(&mut buffer[..count], offset)?;
            checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
            offset += count as u64;
        }
        Ok(checksum)
    }
}

/// The snapshots of a directory; at most one is published.
pub(crate) struct Snapshots {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    cell: Arc<Cell>,
    current: Mutex<Option<(PathBuf, Applied)>>,
}

/// Stands beside a snapshot that came from a peer until the log is cut behind it: only then may a
/// snapshot be ahead of the log.
const FROM_PEER: &str = "from-peer";

impl Snapshots {
    /// Opens a directory, or makes it. Leftovers are removed.
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path, cell: Arc<Cell>) -> io::Result<Self> {
        disk.create_dir(directory)?;
        let mut names = disk.list(directory)?;
        names.sort_unstable();
        let published = names.iter().rposition(|name| name.ends_with(".snapshot")).map(|newest| names.remove(newest));
        for name in names.into_iter().filter(|name| name != FROM_PEER) {
            disk.remove(&directory.join(name))?;
        }
        let current = match published {
            Some(name) => {
                // Who gave it its name may have been killed before this.
                disk.sync_dir(directory)?;
                let path = directory.join(name);
                let source = io::BufReader::new(Source::new(disk.open(&path)?.into())?);
                let (_, header) = Reader::open(source).map_err(|error| unreadable(&path, &error))?;
                Some((path, header.applied.unwrap_or_default()))
            }
            None => None,
        };
        Ok(Self { disk, directory: directory.to_path_buf(), cell, current: current.into() })
    }

    /// Whether the published snapshot came from a peer, and the log may not know of it yet.
    pub(crate) fn came_from_peer(&self) -> bool {
        self.disk.open(&self.directory.join(FROM_PEER)).is_ok()
    }

    /// Notes that the log is cut behind the published snapshot.
    pub(crate) fn log_is_cut(&self) -> io::Result<()> {
        match self.disk.remove(&self.directory.join(FROM_PEER)) {
            Ok(()) => self.disk.sync_dir(&self.directory),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Publishes a snapshot that came from a peer and is synced; the former one goes.
    pub(crate) fn publish_from_peer(&self, snapshot: &SnapshotFile, applied: Applied) -> io::Result<()> {
        let marker = self.disk.create(&self.directory.join(FROM_PEER))?;
        marker.sync()?;
        self.disk.sync_dir(&self.directory)?;
        self.publish(&snapshot.path, applied)
    }

    fn publish(&self, partial: &Path, applied: Applied) -> io::Result<()> {
        let path = self.directory.join(file_name(&applied));
        self.disk.rename(partial, &path)?;
        self.disk.sync_dir(&self.directory)?;
        let former = self.lock().replace((path.clone(), applied));
        if let Some((former, _)) = former.filter(|(former, _)| *former != path) {
            self.disk.remove(&former)?;
        }
        Ok(())
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
        let meta = meta(&applied).ok_or_else(|| {
            let what = Unreadable::Damaged { at: 0, what: "its membership makes no sense".into() };
            unreadable(&path, &what)
        })?;
        let file: Arc<dyn DiskFile> = self.disk.open(&path)?.into();
        let length = file.len()?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotFile { path, file, length, installing: None } }))
    }

    /// Writes and publishes a snapshot; the former one goes.
    pub(crate) fn write(
        &self,
        mut point: PointInTime,
        window: &Window,
        stopping: &AtomicBool,
    ) -> Result<Applied, SnapshotError> {
        let applied = point.applied().clone();
        let partial = self.directory.join(file_name(&applied)).with_extension("partial");
        let written = self.write_file(&partial, &mut point, window, stopping);
        drop(point);
        if let Err(error) = written {
            // Nothing depends on it; the next start removes what stays.
            let _ = self.disk.remove(&partial);
            return Err(error);
        }
        self.publish(&partial, applied.clone())?;
        Ok(applied)
    }

    /// Fills an empty store from the published snapshot, and returns the
    /// requests that were remembered then.
    pub(crate) fn load(&self, store: &Store) -> Result<Vec<WindowEntry>, SnapshotError> {
        let Some((path, _)) = self.lock().clone() else { return Ok(Vec::new()) };
        self.load_file(&path, self.disk.open(&path)?.into(), store).map(|(_, window)| window)
    }

    /// The same from a file that need not be published; also says where the state machine stood.
    pub(crate) fn load_file(
        &self,
        path: &Path,
        file: Arc<dyn DiskFile>,
        store: &Store,
    ) -> Result<(Applied, Vec<WindowEntry>), SnapshotError> {
        let unreadable = |error| SnapshotError::Io(unreadable(path, &error));
        let source = io::BufReader::new(Source::new(file)?);
        let (mut reader, header) = Reader::open(source).map_err(unreadable)?;
        let applied = header.applied.unwrap_or_default();
        let (mut rows, mut window) = (0, Vec::new());
        let total = announced_rows(&applied);
        while let Some(part) = reader.next().map_err(unreadable)? {
            let batch = match part {
                Part::Rows(batch) => batch,
                Part::Window(mut entries) => {
                    window.append(&mut entries);
                    continue;
                }
            };
            for chunk in batch.chunks(128) {
                store.import(chunk.iter().map(|row| {
                    let key = RowKey::new(row.space, &row.table, &row.key);
                    (key, row.row.clone().unwrap_or_default())
                }))?;
            }
            let before = rows;
            rows += batch.len() as u64;
            if before / 100_000 != rows / 100_000 {
                tracing::info!(rows, total, "rebuilding the store from the snapshot");
            }
        }
        store.finish_import(applied.clone())?;
        Ok((applied, window))
    }

    fn write_file(
        &self,
        path: &Path,
        point: &mut PointInTime,
        window: &Window,
        stopping: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        let sink = Sink::new(self.disk.create(path)?);
        let history = self.cell.history();
        let identity = (self.cell.name.as_str(), &*history);
        let (sink, _) = write_moment(sink, identity, point, window, || stopping.load(Ordering::Acquire))?;
        Ok(sink.file.sync()?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(PathBuf, Applied)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of the snapshot of one moment.
pub(crate) fn file_name(applied: &Applied) -> String {
    let index = applied.log_id.as_ref().map_or(0, |log_id| log_id.index);
    format!("{index:016x}-{revision:016x}.snapshot", revision = applied.revision)
}

/// What openraft wants to know of a snapshot; none if its membership makes no sense.
pub(crate) fn meta(applied: &Applied) -> Option<SnapshotMetaOf<TypeConfig>> {
    let stored = applied.membership.clone().unwrap_or_default();
    let membership = membership_from_storage(&stored)?;
    let last_membership = StoredMembership::new(stored.log_id.as_ref().map(log_id_from_storage), membership);
    Some(openraft::SnapshotMeta { last_log_id: applied.log_id.as_ref().map(log_id_from_storage), last_membership })
}

fn unreadable(path: &Path, error: &Unreadable) -> io::Error {
    let (kind, cause) = match error {
        Unreadable::Io(cause) => (cause.kind(), format!(": {cause}")),
        _ => (io::ErrorKind::InvalidData, String::new()),
    };
    io::Error::new(kind, format!("the snapshot {} can't be read: {error}{cause}", path.display()))
}
