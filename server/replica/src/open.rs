//! From a data directory to derived state that can catch up with the log.
//!
//! The log is the truth and must be whole. Rows and change records are derived:
//! where they are missing, damaged, or don't fit each other, they are set aside
//! (renamed; the one set aside before goes) and made again from the snapshot and the log.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use flotilla_store::{Store, StoreError};
use openraft::LogIdOptionExt;

use crate::{
    Metrics, OpenError, Options,
    cell::Cell,
    changes::Changes,
    identity::{DirectoryLock, Identity},
    log::{self, Log, LogStorage, Writer},
    machine::{Derived, Found, recover_window},
    raft::log_id_from_storage,
    restore,
    snapshot::{SnapshotError, Snapshots},
    stores::Stores,
    window::Window,
};

/// Everything that a data directory yields.
pub(crate) struct Opened {
    pub(crate) cell: Arc<Cell>,
    pub(crate) lock: DirectoryLock,
    pub(crate) log: Arc<Log>,
    pub(crate) log_storage: LogStorage,
    pub(crate) writer: Writer,
    pub(crate) derived: Arc<Derived>,
    pub(crate) snapshots: Arc<Snapshots>,
}

/// Says that the store was flushed and closed, and at which revision. Gone
/// while a server runs: a start that doesn't find it checks every row.
pub(crate) const CLEAN: &str = "clean";

/// Opens a directory, or begins an empty one.
pub(crate) fn open(options: &Options) -> Result<Opened, OpenError> {
    let (disk, data_dir) = (&options.disk, &options.data_dir);
    disk.create_dir(data_dir).map_err(OpenError::io("create", data_dir))?;
    // For the lock and the store, which a simulated disk doesn't have.
    fs::create_dir_all(data_dir).map_err(OpenError::io("create", data_dir))?;
    let known = Identity::read(disk.as_ref(), data_dir, &options.cell, options.server)?;
    let lock = DirectoryLock::take(data_dir)?;
    let identity = match known {
        Some(identity) => identity,
        None if disk.open(&data_dir.join(restore::PARTIAL)).is_ok() => {
            return Err(OpenError::HalfRestored { path: data_dir.clone() });
        }
        None => {
            refuse_strangers(options)?;
            let (name, server, clock) = (&options.cell, options.server, options.clock.as_ref());
            let identity = match options.peers.is_none() {
                true => Identity::of_new_cell(name, server, clock),
                false => Identity::new(name, server, clock),
            };
            identity.write(disk.as_ref(), data_dir)?;
            identity
        }
    };
    let metrics = Metrics::default();
    let recovered = log::recover(disk, &data_dir.join("log"))?;
    if let Some((file, offset)) = &recovered.cut {
        let file = file.display().to_string();
        tracing::warn!(file, offset, "the log's last group was torn and has been cut; it was never acknowledged");
    }
    let log = recovered.log;
    let (log_storage, writer) = LogStorage::new(log.clone(), disk.clone(), metrics.clone(), recovered.tail, options);

    let snapshots = data_dir.join("snapshots");
    let cell = Arc::new(Cell::new(options, identity));
    let snapshots =
        Snapshots::open(disk.clone(), &snapshots, cell.clone()).map_err(OpenError::io("open", &snapshots))?;
    let changes_dir = data_dir.join("changes");
    let changes = Changes::open(disk.clone(), &changes_dir, options.changes_segment_bytes, metrics.clone())
        .map_err(OpenError::io("open", &changes_dir))?;
    let found = Records { last: changes.last, floor: changes.changes.floor(), based: changes.based };
    let changes = changes.changes;
    let snapshot_index = snapshots.applied().and_then(|applied| applied.log_id).map(|log_id| log_id.index);
    // A snapshot of a peer is there before the log is cut behind it.
    let from_peer = snapshots.came_from_peer();
    if !from_peer && (snapshot_index > log.last().index() || (found.last > 0 && log.last().is_none())) {
        return Err(log_is_short(&log, "the snapshots and change records"));
    }

    let stores = Arc::new(Stores::find(data_dir, options.cache_bytes));
    let usable = usable_store(options, &stores, &log, &found, snapshot_index, from_peer)?;
    remove_clean_marker(options)?;
    let mut rebuilt = None;
    let store = match usable {
        Ok(store) => store,
        Err(reason) => {
            let (store, window) = rebuild(options, &stores, &snapshots, &log, &reason)?;
            rebuilt = Some(window);
            store
        }
    };
    let applied = store.applied();
    let window = match rebuilt {
        Some(window) => {
            // From here on the records say the same as the rows, or start over.
            let fits = found.last >= applied.revision && found.floor <= applied.floor.max(1);
            let result = match fits {
                true => changes.truncate_after(applied.revision),
                false => changes.restart_after(applied.revision, window.clone()),
            };
            result.map_err(OpenError::io("rewrite", &changes_dir))?;
            let mut remembered = Window::default();
            window.into_iter().for_each(|entry| remembered.insert(entry));
            remembered
        }
        None => {
            changes.truncate_after(applied.revision).map_err(OpenError::io("cut", &changes_dir))?;
            recover_window(&changes, &applied).map_err(OpenError::io("read", &changes_dir))?
        }
    };
    changes.trim(applied.floor);

    stores.remove_former();

    let entry_format = options.entry_format;
    let derived = Derived::new(Found { store, stores, changes, window, metrics, entry_format });
    let (derived, snapshots) = (Arc::new(derived), Arc::new(snapshots));
    Ok(Opened { cell, lock, log, log_storage, writer, derived, snapshots })
}

/// A directory without an identity must not hold anything of a server's.
fn refuse_strangers(options: &Options) -> Result<(), OpenError> {
    for name in ["log", "changes", "snapshots", "store", "store-1"] {
        let path = options.data_dir.join(name);
        let holds_something = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some())
            || options.disk.list(&path).is_ok_and(|names| !names.is_empty());
        if holds_something {
            let what = format!("identity.json is missing, but {} is not empty", path.display());
            return Err(OpenError::Incomplete { what });
        }
    }
    Ok(())
}

fn remove_clean_marker(options: &Options) -> Result<(), OpenError> {
    let path = options.data_dir.join(CLEAN);
    match options.disk.remove(&path) {
        Ok(()) => options.disk.sync_dir(&options.data_dir).map_err(OpenError::io("sync", &options.data_dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::io("remove", path)(error)),
    }
}

/// What the change records cover.
struct Records {
    last: u64,
    floor: u64,
    based: bool,
}

/// The store as it is, or why it can't be used.
fn usable_store(
    options: &Options,
    stores: &Stores,
    log: &Log,
    records: &Records,
    snapshot: Option<u64>,
    from_peer: bool,
) -> Result<Result<Arc<Store>, String>, OpenError> {
    if snapshot.is_some() && !stores.path().exists() {
        return Ok(Err("it is not there".into()));
    }
    let store = match stores.open() {
        Ok(store) => store,
        Err(error @ StoreError::Locked { .. }) => return Err(error.into()),
        Err(error) => return Ok(Err(with_causes(error))),
    };
    let applied = store.applied();
    let applied_to = applied.log_id.as_ref().map(log_id_from_storage);
    // What is applied was fsynced to the log before.
    if applied_to.index() > log.last().index() && !(from_peer && applied_to.index() == snapshot) {
        return Err(log_is_short(log, "the store"));
    }
    if applied_to.next_index() < log.purged().next_index() {
        return Ok(Err("the log entries that it has not seen are gone".into()));
    }
    if applied_to.index() < snapshot {
        return Ok(Err("it is older than the snapshot".into()));
    }
    if records.last < applied.revision {
        let (revision, last) = (applied.revision, records.last);
        return Ok(Err(format!("it is ahead of the change records: revision {revision} of {last}")));
    }
    let records_reach_back = match records.based {
        true => records.floor <= applied.revision + 1,
        false => records.floor <= applied.floor.max(1),
    };
    if !records_reach_back {
        return Ok(Err(format!("change records before revision {} are missing", records.floor)));
    }
    if options.disk.open(&options.data_dir.join(CLEAN)).is_err() {
        let rows = store.hashes().rows();
        if rows > 0 {
            tracing::info!(rows, "the server did not stop cleanly; checking every row");
        }
        if let Err(error) = store.verify() {
            return Ok(Err(with_causes(error)));
        }
    }
    Ok(Ok(store))
}

fn log_is_short(log: &Log, ahead: &str) -> OpenError {
    let last = log.last().map_or("is empty".to_owned(), |last| format!("ends at entry {}", last.index));
    let what = format!("it {last}, and {ahead} are ahead of it; put the log's files back, or start from a backup");
    OpenError::Incomplete { what }
}

/// Sets the store aside and makes a new one from the published snapshot.
fn rebuild(
    options: &Options,
    stores: &Stores,
    snapshots: &Snapshots,
    log: &Log,
    reason: &str,
) -> Result<(Arc<Store>, Vec<flotilla_proto::storage::v1::WindowEntry>), OpenError> {
    let path = stores.path();
    let from = snapshots.applied();
    let snapshot_index = from.as_ref().and_then(|applied| applied.log_id).map(|log_id| log_id.index);
    let log_starts = log.purged().next_index();
    if snapshot_index.map_or(0, |index| index + 1) < log_starts {
        let what = format!(
            "the store can't be used ({reason}), entries before {log_starts} were purged, and no snapshot covers them"
        );
        return Err(OpenError::Incomplete { what });
    }
    let from = from.unwrap_or_default();
    if let Some(aside) = set_aside(&path)? {
        let aside = aside.display().to_string();
        tracing::warn!(reason, aside, "the store is set aside, and made again from the snapshot and the log");
    }
    let started = std::time::Instant::now();
    let store = Store::open(&path, options.cache_bytes)?;
    let window = snapshots.load(&store).map_err(|error| match error {
        SnapshotError::Store(error) => OpenError::Store(error),
        SnapshotError::Io(error) => OpenError::io("rebuild", &path)(error),
        SnapshotError::Diverged(what) => OpenError::Damaged { file: path.clone(), offset: 0, what },
    })?;
    store.flush()?;
    let rows = store.hashes().rows();
    tracing::info!(rows, revision = from.revision, elapsed = ?started.elapsed(), "the store is at the snapshot");
    Ok((store, window))
}

/// What a store that can't be used is renamed to, before a ULID.
const ASIDE: &str = "store.aside-";

/// Renames the store. One that was set aside earlier goes: it could be made
/// again then, and a disk must not fill with one for every power cut.
fn set_aside(path: &Path) -> Result<Option<PathBuf>, OpenError> {
    if !path.exists() {
        return Ok(None);
    }
    let data_dir = path.parent().unwrap_or(path);
    let entries = fs::read_dir(data_dir).map_err(OpenError::io("list", data_dir))?;
    for earlier in entries.filter_map(Result::ok) {
        if earlier.file_name().to_string_lossy().starts_with(ASIDE) {
            fs::remove_dir_all(earlier.path()).map_err(OpenError::io("remove", earlier.path()))?;
        }
    }
    let aside = path.with_file_name(format!("{ASIDE}{}", ulid::Ulid::new()));
    fs::rename(path, &aside).map_err(OpenError::io("set aside", path))?;
    Ok(Some(aside))
}

fn with_causes(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
