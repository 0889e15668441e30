//! From what one server has left to a cell of its own: the deliberate repair when a majority of a
//! cell's voters is lost for good.
//!
//! Everything in the directory's log is applied, also entries that may never have been acknowledged,
//! because nobody can tell any more; what the lost servers had beyond it is gone. What comes of it is
//! made as from a backup (see [`crate::restore`]): a new history, so that no cursor, etag or returning
//! server of the former cell is taken for one of this.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use openraft::LogIdOptionExt;
use tokio::sync::oneshot;

use crate::{
    OpenError, Options, RecoverError, RestoreOptions,
    identity::Identity,
    machine::Machine,
    open,
    raft::server_id_from_storage,
    restore,
    snapshot::{SnapshotError, write_moment},
};

/// Entries that are read from the log at once.
const ENTRIES: u64 = 256;

/// What is recovered, and where to.
#[derive(Debug, Clone)]
pub struct RecoverOptions {
    /// The directory of a server of the lost cell, which must be stopped. Its rows may be rebuilt;
    /// its log stays as it is.
    pub from: PathBuf,
    /// The directory to make; it may exist if it is empty.
    pub data_dir: PathBuf,
    /// The server's number in the new cell; none: the one it had.
    pub server: Option<u64>,
}

/// What was recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The cell's name, which stays.
    pub cell: String,
    /// The server's number.
    pub server: u64,
    /// The new history.
    pub history: String,
    /// The history of the lost cell.
    pub former_history: String,
    /// Who voted in the lost cell, as far as this server knew.
    pub former_voters: Vec<u64>,
    /// The last revision that was recovered, of the former history.
    pub former_revision: u64,
    /// The log's time at that revision, in microseconds since 1970 (UTC).
    pub time: u64,
    /// The index of the last log entry.
    pub log_index: u64,
    /// Entries at the end of the log of which this server didn't know that they were committed: they
    /// are kept, and may hold writes that nobody was told of.
    pub uncertain: u64,
    /// How many rows there are.
    pub rows: u64,
    /// The revision that the new history begins after.
    pub revision: u64,
}

/// Makes a cell of one voter from a server's directory. Blocks for as long as the disk takes.
///
/// # Errors
/// See [`RecoverError`]. The directory that is made counts only when this has returned.
pub fn recover(options: &RecoverOptions) -> Result<Recovered, RecoverError> {
    let former = Options::new(options.from.clone());
    let identity = Identity::peek(former.disk.as_ref(), &options.from)?;
    let Some(identity) = identity else { return Err(RecoverError::NoData { path: options.from.clone() }) };
    restore::refuse_content(&options.data_dir)?;
    let former = Options { cell: identity.cell.clone(), server: identity.server, ..former };
    let opened = open::open(&former)?;
    if opened.log.last().is_none() {
        return Err(RecoverError::NoData { path: options.from.clone() });
    }
    let at_open = opened.derived.store().applied();
    let known = at_open.log_id.map_or(0, |log_id| log_id.index);
    let next = at_open.log_id.map_or(0, |log_id| log_id.index + 1);
    let end = opened.log.last().next_index();
    let (running, _gone) = oneshot::channel();
    let machine = Machine::new(opened.derived.clone(), opened.snapshots.clone(), opened.log.clone(), false, running);
    let failed = |source: io::Error| RecoverError::Log { path: options.from.clone(), source };
    let mut from = next;
    while from < end {
        let to = end.min(from + ENTRIES);
        for entry in opened.log.read(from, to, usize::MAX).map_err(failed)? {
            machine.apply_entry(&entry.log_id, &entry.payload).map_err(failed)?;
        }
        from = to;
    }

    let backup = Backup::beside(&options.data_dir);
    let file = File::create(&backup.path).map_err(OpenError::io("create", &backup.path))?;
    let (mut point, window) = opened.derived.point_in_time().map_err(SnapshotError::Store)?;
    let applied = point.applied().clone();
    let stopping = AtomicBool::new(false);
    let stopped = || stopping.load(std::sync::atomic::Ordering::Relaxed);
    let identity_of = (identity.cell.as_str(), identity.history.as_str());
    let written = write_moment(io::BufWriter::new(file), identity_of, &mut point, &window, stopped)?;
    let file = written.0.into_inner().map_err(|error| OpenError::io("write", &backup.path)(error.into_error()))?;
    file.sync_all().map_err(OpenError::io("sync", &backup.path))?;
    drop(point);

    let server = options.server.unwrap_or(identity.server);
    let restoring = RestoreOptions {
        cell: Some(identity.cell.clone()),
        server,
        ..RestoreOptions::new(&backup.path, &options.data_dir)
    };
    let restored = restore::restore(&restoring, |_, _| {})?;
    let voters = applied.membership.iter().flat_map(|membership| &membership.voters).flat_map(|set| &set.ids);
    let mut former_voters: Vec<u64> = voters.map(|id| server_id_from_storage(Some(*id)).server).collect();
    former_voters.sort_unstable();
    former_voters.dedup();
    Ok(Recovered {
        cell: identity.cell,
        server,
        history: restored.history,
        former_history: identity.history,
        former_voters,
        former_revision: applied.revision,
        time: applied.time,
        log_index: end - 1,
        uncertain: (end - 1).saturating_sub(known),
        rows: restored.rows,
        revision: restored.revision,
    })
}

/// The file between the two directories. Gone when this is dropped.
struct Backup {
    path: PathBuf,
}

impl Backup {
    fn beside(data_dir: &Path) -> Self {
        let mut name = data_dir.file_name().unwrap_or_default().to_os_string();
        name.push(".recovering");
        Self { path: data_dir.with_file_name(name) }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // Whoever recovers again writes it anew.
        let _ = fs::remove_file(&self.path);
    }
}
