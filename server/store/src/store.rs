//! The rows on disk. The only module that knows sled.
//!
//! Rows go to sled some hundred at a time (see [`crate::recent`]); until then
//! they are read from memory. One sled tree holds everything, because sled's batches are atomic per tree:
//! the rows of all spaces, and one entry of the store's own (space 0) that says
//! which part of the log they stand for. Nothing here is fsynced on its own:
//! what a crash takes is replayed from the log.

use std::{
    fs::{self, File},
    io,
    ops::Bound,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use flotilla_proto::storage::v1::{Applied, Row};
use prost::Message;

use crate::{
    PointInTime, RowKey, Space,
    draft::{Drafted, decode_row},
    hash::Hashes,
    merge::Merged,
    point_in_time::{self, Former},
    recent::{Recent, Rows},
    space::{prefix_end, table_prefix},
};

/// The key of the [`Applied`] record, in the store's own space.
const APPLIED_KEY: &[u8] = b"\0\0\0\0applied";

/// Why the store can't do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// sled failed.
    #[error("the store at {path} failed to {operation}", path = path.display())]
    Engine {
        /// The store's directory.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// sled's reason.
        #[source]
        source: sled::Error,
    },
    /// The directory is still open, in this process or another one.
    #[error("the store at {path} is open already", path = path.display())]
    Locked {
        /// The store's directory.
        path: PathBuf,
    },
    /// What the store holds can't be what was written to it.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// What was found.
        what: String,
    },
    /// All rows are being read already.
    #[error("the rows are being checked already; try again when that is done")]
    Busy,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
    /// More was written while a point in time was read than is kept for it.
    #[error("more than {bytes} bytes were overwritten while the rows were read")]
    ChangedTooMuch {
        /// The bound.
        bytes: usize,
    },
}

/// The rows of all spaces.
pub struct Store {
    path: PathBuf,
    database: sled::Db,
    tree: sled::Tree,
    state: RwLock<State>,
    /// As in `state`; apart, because every read asks for it.
    revision: AtomicU64,
    /// Rows that are not in sled yet.
    recent: Recent,
    /// Whether anything was written since rows last went to sled.
    unsettled: AtomicBool,
    /// Held over each write, and while a point in time is taken.
    writing: Mutex<Vec<Arc<Former>>>,
}

#[derive(Clone)]
struct State {
    applied: Applied,
    hashes: Hashes,
}

impl Store {
    /// Opens the store in a directory, or makes an empty one.
    ///
    /// `cache_bytes` bounds sled's page cache.
    ///
    /// # Errors
    /// If the directory holds something that sled can't open. The caller sets
    /// it aside and rebuilds.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Arc<Self>, StoreError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            // The log is what is durable. sled is flushed before the log
            // behind it may go, and when the server stops.
            .flush_every_ms(None);
        let (database, tree, stored) = unpanicked(path, || {
            let database = config.open().map_err(|source| engine(path, "open", source))?;
            let tree = database.open_tree("rows").map_err(|source| engine(path, "open its tree", source))?;
            let stored = tree.get(APPLIED_KEY).map_err(|source| engine(path, "read what is applied", source))?;
            Ok((database, tree, stored))
        })?;
        let applied = match stored {
            Some(bytes) => Applied::decode(bytes.as_ref())
                .map_err(|error| StoreError::Damaged { what: format!("what is applied can't be decoded: {error}") })?,
            None => Applied::default(),
        };
        let hashes = Hashes::from_storage(&applied.hashes)
            .ok_or_else(|| StoreError::Damaged { what: "a space's hash is not 16 bytes long".into() })?;
        Ok(Arc::new(Self {
            path: path.to_path_buf(),
            database,
            tree,
            revision: AtomicU64::new(applied.revision),
            state: RwLock::new(State { applied, hashes }),
            recent: Recent::default(),
            unsettled: AtomicBool::new(false),
            writing: Mutex::new(Vec::new()),
        }))
    }

    /// The last revision written. A row read after this call is at least as new.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Where the state machine stands.
    pub fn applied(&self) -> Applied {
        self.state().applied.clone()
    }

    /// The hashes of all spaces.
    pub fn hashes(&self) -> Hashes {
        self.state().hashes.clone()
    }

    /// A row, if it exists.
    ///
    /// # Errors
    /// If sled can't read it.
    pub fn get(&self, space: Space, table: &str, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let key = RowKey::new(space.number(), table, key);
        self.encoded(key.as_bytes())?.map(|row| decode_row(key.as_bytes(), row)).transpose()
    }

    /// The rows of a table within a range of keys, ascending. Rows that are
    /// written during the scan may or may not be seen.
    pub fn scan(
        &self,
        space: Space,
        table: &str,
        (start, end): (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Row), StoreError>> + use<> {
        let prefix = table_prefix(space.number(), table);
        let full = |key: &[u8]| [&prefix[..], key].concat();
        let start = match start {
            Bound::Included(key) => Bound::Included(full(key)),
            Bound::Excluded(key) => Bound::Excluded(full(key)),
            Bound::Unbounded => Bound::Included(prefix.clone()),
        };
        let end = match end {
            Bound::Included(key) => Bound::Included(full(key)),
            Bound::Excluded(key) => Bound::Excluded(full(key)),
            Bound::Unbounded => prefix_end(&prefix).map_or(Bound::Unbounded, Bound::Excluded),
        };
        // sled and BTreeMap panic on a range whose start is behind its end.
        let empty = match (&start, &end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
                start >= end
            }
            _ => false,
        };
        // Recent rows first: what goes to sled in between is then in both.
        let recent = match empty {
            true => Rows::new(),
            false => self.recent.range((start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice))),
        };
        let settled = (!empty).then(|| self.tree.range((start, end))).into_iter().flatten();
        let path = self.path.clone();
        let settled = settled.map(move |row| {
            let (key, row) = row.map_err(|source| engine(&path, "scan rows", source))?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&row)))
        });
        let skip = prefix.len();
        Merged::new(settled, recent).map(move |row| {
            let (key, row) = row?;
            let row = decode_row(&key, row)?;
            Ok((key.slice(skip..), row))
        })
    }

    /// The names of a space's tables that have rows, ascending, after a name.
    ///
    /// # Errors
    /// If sled can't be read.
    pub fn tables(&self, space: Space, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        self.settle()?;
        let mut tables = Vec::new();
        let mut start = space.number().to_be_bytes().to_vec();
        if let Some(after) = after {
            start = prefix_end(&table_prefix(space.number(), after)).unwrap_or_default();
        }
        let end = prefix_end(&space.number().to_be_bytes()).map_or(Bound::Unbounded, Bound::Excluded);
        // Keys sort by the length of the table's name first, which is an order
        // as good as any for paging.
        while tables.len() < limit {
            let range = (Bound::Included(start.clone()), end.clone());
            let Some(item) = self.tree.range(range).next() else { break };
            let (key, _) = item.map_err(|source| engine(&self.path, "list tables", source))?;
            let Some((_, table, _)) = RowKey::split(&key) else { break };
            if !table.starts_with('\0') {
                tables.push(table.to_owned());
            }
            match prefix_end(&table_prefix(space.number(), table)) {
                Some(next) => start = next,
                None => break,
            }
        }
        Ok(tables)
    }

    /// Writes a draft, and where the state machine stands after it, as one.
    /// `applied.hashes` is filled in here.
    ///
    /// # Errors
    /// If sled can't write. The store must not be used any more then.
    pub fn write(&self, drafted: Drafted, mut applied: Applied) -> Result<(), StoreError> {
        applied.hashes = drafted.hashes.to_storage();
        let points = self.points();
        for former in points.iter() {
            former.keep(&drafted);
        }
        let due = self.recent.insert(&drafted);
        self.unsettled.store(true, Ordering::Release);
        let revision = applied.revision;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State { applied, hashes: drafted.hashes };
        self.revision.store(revision, Ordering::Release);
        match due {
            true => self.settle_while(&points),
            false => Ok(()),
        }
    }

    /// Writes what is recent to sled, with what it stands for, as one batch.
    fn settle(&self) -> Result<(), StoreError> {
        let points = self.points();
        self.settle_while(&points)
    }

    fn settle_while(&self, _writing: &MutexGuard<'_, Vec<Arc<Former>>>) -> Result<(), StoreError> {
        let applied = self.applied();
        if !self.unsettled.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        {
            let recent = self.recent.all();
            for (key, row) in AsRef::<Rows>::as_ref(&*recent) {
                match row {
                    Some(row) => batch.insert(key.as_ref(), row.as_ref()),
                    None => batch.remove(key.as_ref()),
                }
            }
        }
        batch.insert(APPLIED_KEY, applied.encode_to_vec());
        self.tree.apply_batch(batch).map_err(|source| engine(&self.path, "write rows", source))?;
        self.recent.clear();
        Ok(())
    }

    /// Takes rows in as they were read from a snapshot, in any number of calls.
    /// The store is not complete until [`Store::finish_import`].
    ///
    /// # Errors
    /// If sled can't write.
    pub fn import(&self, rows: impl IntoIterator<Item = (RowKey, Row)>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (key, row) in rows {
            batch.insert(key.as_bytes(), row.encode_to_vec());
        }
        self.tree.apply_batch(batch).map_err(|source| engine(&self.path, "import rows", source))
    }

    /// Ends an import: from here on the store stands for `applied`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the rows don't have the hashes that
    /// `applied` says; otherwise if sled fails.
    pub fn finish_import(&self, applied: Applied) -> Result<(), StoreError> {
        let hashes = Hashes::from_storage(&applied.hashes)
            .ok_or_else(|| StoreError::Damaged { what: "a space's hash is not 16 bytes long".into() })?;
        let found = self.recompute()?;
        if found != hashes {
            return Err(StoreError::Damaged { what: describe_difference(&hashes, &found) });
        }
        self.tree
            .insert(APPLIED_KEY, applied.encode_to_vec())
            .map_err(|source| engine(&self.path, "end an import", source))?;
        self.revision.store(applied.revision, Ordering::Release);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State { applied, hashes };
        Ok(())
    }

    /// Compares every row with the hashes. No writer may be active.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with the first space that differs.
    pub fn verify(&self) -> Result<(), StoreError> {
        self.settle()?;
        let found = unpanicked(&self.path, || self.recompute())?;
        let expected = self.hashes();
        match found == expected {
            true => Ok(()),
            false => Err(StoreError::Damaged { what: describe_difference(&expected, &found) }),
        }
    }

    /// All rows as of now, however long the reading takes.
    ///
    /// # Errors
    /// If sled can't write.
    pub fn point_in_time(self: &Arc<Self>) -> Result<PointInTime, StoreError> {
        let former = Arc::new(Former::default());
        let mut points = self.points();
        // The reading then needs only sled: what changes from now on leaves
        // its former value.
        self.settle_while(&points)?;
        points.push(former.clone());
        Ok(PointInTime::new(self.clone(), self.applied(), former))
    }

    /// Makes what was written durable. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.settle()?;
        self.database.flush().map_err(|source| engine(&self.path, "flush", source))?;
        // sled writes its pages out, but with sync_file_range(2), which makes
        // neither sizes nor names nor the disk's own cache durable.
        sync_tree(&self.path).map_err(|error| engine(&self.path, "sync its files", error.into()))
    }

    /// Bytes on disk.
    pub fn size_on_disk(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0)
    }

    pub(crate) fn encoded(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        if let Some(recent) = self.recent.get(key) {
            return Ok(recent);
        }
        let row = self.tree.get(key).map_err(|source| engine(&self.path, "read a row", source))?;
        Ok(row.map(|row| Bytes::copy_from_slice(&row)))
    }

    pub(crate) fn encoded_keys(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Result<impl Iterator<Item = Result<Bytes, StoreError>>, StoreError> {
        self.settle()?;
        Ok(self.tree.range(start..end).keys().map(|key| {
            let key = key.map_err(|source| engine(&self.path, "scan keys", source))?;
            Ok(Bytes::copy_from_slice(&key))
        }))
    }

    pub(crate) fn encoded_rows_after(
        &self,
        key: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> {
        self.tree.range(point_in_time::after(key)).map(|row| {
            let (key, row) = row.map_err(|source| engine(&self.path, "scan rows", source))?;
            Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&row)))
        })
    }

    pub(crate) fn forget_point_in_time(&self, former: &Arc<Former>) {
        self.points().retain(|other| !Arc::ptr_eq(other, former));
    }

    fn recompute(&self) -> Result<Hashes, StoreError> {
        let mut hashes = Hashes::default();
        for row in self.tree.range(point_in_time::after(None)) {
            let (key, row) = row.map_err(|source| engine(&self.path, "scan rows", source))?;
            let Some((space, _, _)) = RowKey::split(&key) else {
                return Err(StoreError::Damaged { what: format!("a key is not a row's: {key:02x?}") });
            };
            hashes.add(space, &key, &row);
        }
        Ok(hashes)
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn points(&self) -> MutexGuard<'_, Vec<Arc<Former>>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Syncs every file and directory below a directory, and itself.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path())?,
            false => match File::open(entry.path()) {
                // sled removes blobs and snapshots of its own as it goes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_all()?,
            },
        }
    }
    File::open(path)?.sync_all()
}

/// sled meets some damaged files with a panic, which is an error like others.
fn unpanicked<T>(path: &Path, action: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(action))
        .unwrap_or_else(|_| Err(StoreError::Damaged { what: format!("sled panicked on {}", path.display()) }))
}

/// Says which spaces differ, for an error that a person reads.
pub fn describe_difference(expected: &Hashes, found: &Hashes) -> String {
    let mut spaces: Vec<u32> = expected.spaces().chain(found.spaces()).map(|(space, _)| space).collect();
    spaces.sort_unstable();
    spaces.dedup();
    let differing = spaces.into_iter().filter(|space| expected.of(*space) != found.of(*space)).map(|space| {
        let (expected, found) = (expected.of(space), found.of(space));
        format!(
            "space {space} should have {} rows with hash {:032x} and has {} with {:032x}",
            expected.rows, expected.sum, found.rows, found.sum
        )
    });
    differing.collect::<Vec<_>>().join("; ")
}

fn engine(path: &Path, operation: &'static str, source: sled::Error) -> StoreError {
    if let sled::Error::Io(error) = &source
        && error.to_string().contains("could not acquire lock")
    {
        return StoreError::Locked { path: path.to_path_buf() };
    }
    StoreError::Engine { path: path.to_path_buf(), operation, source }
}
