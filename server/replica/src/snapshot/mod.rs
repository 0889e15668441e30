//! All rows of one moment in one file, so that the log behind it can go.
//!
//! The same format as a backup: it names no storage engine, and can be read by
//! whoever has `storage.proto`.
//!
//! # Layout
//!
//! * [`writer`], [`reader`]: the format, to and from any stream of bytes.
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
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use flotilla_proto::storage::v1::{Applied, WindowEntry};
use flotilla_store::{PointInTime, RowKey, Store, StoreError};
use openraft::{Snapshot, alias::SnapshotOf};

pub(crate) use file::{Sink, Source};
pub(crate) use reader::{Part, Reader, announced_rows};
pub(crate) use writer::{Writer, Written, write_moment};

use crate::{
    disk::Disk,
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
                let source = io::BufReader::new(Source::new(disk.open(&path)?.into())?);
                let (_, header) = Reader::open(source).map_err(|error| unreadable(&path, &error))?;
                Some((path, header.applied.unwrap_or_default()))
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
        let membership = membership_from_storage(&stored).ok_or_else(|| {
            let what = Unreadable::Damaged { at: 0, what: "its membership makes no sense".into() };
            unreadable(&path, &what)
        })?;
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
        let path = self.directory.join(file_name(&applied));
        let partial = path.with_extension("partial");
        let written = self.write_file(&partial, &mut point, window, stopping);
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
        let unreadable = |error| SnapshotError::Io(unreadable(&path, &error));
        let source = io::BufReader::new(Source::new(self.disk.open(&path)?.into())?);
        let (mut reader, _) = Reader::open(source).map_err(unreadable)?;
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
        store.finish_import(applied)?;
        Ok(window)
    }

    fn write_file(
        &self,
        path: &Path,
        point: &mut PointInTime,
        window: &Window,
        stopping: &AtomicBool,
    ) -> Result<(), SnapshotError> {
        let sink = Sink::new(self.disk.create(path)?);
        let identity = (self.cell.as_str(), self.history.as_str());
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

fn unreadable(path: &Path, error: &Unreadable) -> io::Error {
    let (kind, cause) = match error {
        Unreadable::Io(cause) => (cause.kind(), format!(": {cause}")),
        _ => (io::ErrorKind::InvalidData, String::new()),
    };
    io::Error::new(kind, format!("the snapshot {} can't be read: {error}{cause}", path.display()))
}
