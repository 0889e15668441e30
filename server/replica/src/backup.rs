//! A backup of a running server: everything of one moment, in the format of snapshots.
//!
//! It is written to a file in the data directory first, and sent from there. So a client may be as
//! slow as it likes: what it holds up is a file, not rows in memory, and a backup that would not be
//! what the log led to is noticed before its first byte is sent. The file has no name from the
//! moment it is made, so the system removes it with the process, however that ends.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flotilla_store::StoreError;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};

use crate::{
    BackupError, Consistency, Replica,
    disk::{Disk, DiskFile},
    machine::Derived,
    snapshot::{FORMAT, Sink, SnapshotError, Written, announced_rows, write_moment},
};

/// Backups that may be under way at once.
pub(crate) const BACKUPS: usize = 2;
/// Bytes of one chunk.
const CHUNK: u64 = 512 * 1024;
/// How often it is tried anew when rows changed too fast.
const TRIES: u32 = 3;
/// How long it waits for snapshots and checks, which read all rows too.
const SCAN_WAIT: Duration = Duration::from_secs(120);
/// How long it waits to know what is current.
const BARRIER: Duration = Duration::from_secs(30);
/// The free space is looked at each time so many bytes were written.
const LOOK_BYTES: u64 = 1024 * 1024;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupInfo {
    /// The cell's name.
    pub cell: String,
    /// The history's id.
    pub history: String,
    /// The last revision in it.
    pub revision: u64,
    /// The log's time, in microseconds since 1970 (UTC).
    pub time: u64,
    /// The version of the format.
    pub format: u32,
    /// How many rows it has.
    pub rows: u64,
    /// Bytes.
    pub length: u64,
    /// CRC-32C of all of them.
    pub crc32c: u32,
}

/// A place among the backups under way, kept until it is dropped.
pub struct BackupPlace {
    replica: Replica,
    place: OwnedSemaphorePermit,
}

/// A backup that is whole and can be read. Its file is gone when it is dropped.
pub struct Backup {
    info: BackupInfo,
    file: Arc<dyn DiskFile>,
    offset: u64,
    blocking: bool,
    _place: OwnedSemaphorePermit,
}

impl Replica {
    /// Takes a place for a backup, if there is one and the disk has room.
    ///
    /// # Errors
    /// [`BackupError::TooMany`], [`BackupError::DiskFull`] if the last snapshot would not fit, and
    /// [`BackupError::ShuttingDown`].
    pub fn begin_backup(&self) -> Result<BackupPlace, BackupError> {
        let inner = self.inner();
        if inner.upkeep.is_stopped() {
            return Err(BackupError::ShuttingDown);
        }
        let place = inner.backups.clone().try_acquire_owned();
        let place = place.map_err(|_| BackupError::TooMany { at_most: BACKUPS })?;
        let required = reserve(inner.options.min_free_bytes).saturating_add(inner.snapshots.bytes());
        // A disk that doesn't tell is not taken for a full one.
        let free = inner.options.disk.free_bytes(&inner.options.data_dir).unwrap_or(u64::MAX);
        match free < required {
            true => Err(BackupError::DiskFull { free, required }),
            false => Ok(BackupPlace { replica: self.clone(), place }),
        }
    }
}

impl BackupPlace {
    /// Writes the backup, as of a moment after this call. It has everything that was acknowledged
    /// before. Reads all rows; when the future is dropped, that ends soon.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub async fn write(self) -> Result<Backup, BackupError> {
        let inner = self.replica.inner();
        self.replica.read_barrier(Consistency::Linearizable, Instant::now() + BARRIER).await?;
        let scan = tokio::time::timeout(SCAN_WAIT, inner.derived.scans.clone().acquire_owned()).await;
        let Ok(Ok(scan)) = scan else { return Err(BackupError::Busy { waited: SCAN_WAIT }) };
        let cancelled = Cancelled::default();
        let writing = Writing {
            derived: inner.derived.clone(),
            disk: inner.options.disk.clone(),
            directory: inner.options.data_dir.join("snapshots"),
            cell: inner.cell.name.clone(),
            history: inner.cell.history().to_string(),
            reserve: reserve(inner.options.min_free_bytes),
            cancelled: cancelled.0.clone(),
        };
        let blocking = inner.options.log_thread;
        let write = move || {
            let written = writing.write();
            drop(scan);
            written
        };
        let (info, file) = match blocking {
            true => tokio::task::spawn_blocking(write).await.map_err(|_| BackupError::ShuttingDown)??,
            false => write()?,
        };
        tracing::info!(revision = info.revision, rows = info.rows, bytes = info.length, "wrote a backup to be sent");
        Ok(Backup { info, file, offset: 0, blocking, _place: self.place })
    }
}

impl Backup {
    /// What it is of.
    pub fn info(&self) -> &BackupInfo {
        &self.info
    }

    /// The next bytes, at most 512 KiB; none at the end.
    ///
    /// # Errors
    /// If the file can't be read.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, BackupError> {
        let length = CHUNK.min(self.info.length - self.offset);
        if length == 0 {
            return Ok(None);
        }
        let (file, offset) = (self.file.clone(), self.offset);
        let read = move || {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        };
        let read = match self.blocking {
            true => tokio::task::spawn_blocking(read).await.map_err(|_| BackupError::ShuttingDown)?,
            false => read(),
        };
        self.offset += length;
        Ok(Some(read.map_err(BackupError::Io)?))
    }
}

/// Tells the thread that writes when nobody waits for it any more.
#[derive(Default)]
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Writing {
    derived: Arc<Derived>,
    disk: Arc<dyn Disk>,
    /// What is left here by a crash is removed at the next start.
    directory: PathBuf,
    cell: String,
    history: String,
    reserve: u64,
    cancelled: Arc<AtomicBool>,
}

impl Writing {
    fn write(&self) -> Result<(BackupInfo, Arc<dyn DiskFile>), BackupError> {
        for _ in 0..TRIES {
            match self.try_write() {
                Ok(written) => return Ok(written),
                Err(SnapshotError::Store(StoreError::ChangedTooMuch { bytes })) => {
                    tracing::info!(bytes, "the rows changed too fast for a backup; trying again");
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(BackupError::ChangedTooFast { tries: TRIES })
    }

    fn try_write(&self) -> Result<(BackupInfo, Arc<dyn DiskFile>), SnapshotError> {
        let stopped = || self.cancelled.load(Ordering::Acquire) || self.derived.stopping.load(Ordering::Acquire);
        if stopped() {
            return Err(StoreError::Stopping.into());
        }
        let path = self.directory.join(format!("backup-{}.partial", ulid::Ulid::new()));
        let file = self.disk.create(&path)?;
        self.disk.remove(&path)?;
        let (mut point, window) = self.derived.point_in_time()?;
        let applied = point.applied().clone();
        let sink = Careful { sink: Sink::new(file), room: self, written: 0, looked_at: None };
        let identity = (self.cell.as_str(), self.history.as_str());
        let (sink, Written { length, crc32c }) = write_moment(sink, identity, &mut point, &window, stopped)?;
        let info = BackupInfo {
            cell: self.cell.clone(),
            history: self.history.clone(),
            revision: applied.revision,
            time: applied.time,
            format: FORMAT,
            rows: announced_rows(&applied),
            length,
            crc32c,
        };
        Ok((info, sink.sink.file))
    }

    fn free(&self) -> u64 {
        self.disk.free_bytes(&self.directory).unwrap_or(u64::MAX)
    }

    fn failed(&self, error: SnapshotError) -> BackupError {
        match error {
            SnapshotError::Store(StoreError::Stopping) => BackupError::ShuttingDown,
            SnapshotError::Store(error) => BackupError::Store(error),
            SnapshotError::Diverged(what) => {
                self.derived.diverged.store(true, Ordering::Release);
                tracing::error!(what, "a backup could not be made: the rows are not what the log led to");
                BackupError::Diverged { what }
            }
            SnapshotError::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
                BackupError::DiskFull { free: self.free(), required: self.reserve }
            }
            SnapshotError::Io(error) => BackupError::Io(error),
        }
    }
}

/// Stops before the disk is so full that writers would be refused for it.
struct Careful<'a> {
    sink: Sink,
    room: &'a Writing,
    written: u64,
    looked_at: Option<u64>,
}

impl Write for Careful<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.looked_at.is_none_or(|looked_at| self.written - looked_at >= LOOK_BYTES) {
            self.looked_at = Some(self.written);
            if self.room.free() < self.room.reserve {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let count = self.sink.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// What a backup leaves free: more than writers need, so that it is the backup that gives way.
fn reserve(min_free_bytes: u64) -> u64 {
    min_free_bytes.saturating_add(min_free_bytes / 4)
}
