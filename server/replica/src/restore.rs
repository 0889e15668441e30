//! From a backup to a data directory that a server opens.
//!
//! The whole backup is checked before anything is made. What comes of it is a new cell of one voter:
//! a new history, so that cursors of the former one are refused by name, with the rows and the
//! remembered requests of the backup. Revisions begin anew far above those of the backup, because
//! the former cell may have given out more after it, and an etag must never fit another version.
//!
//! `restore.partial` stands in the directory from the beginning on, and `identity.json` comes last.
//! A server refuses a directory that has the one without the other; another restore begins it anew.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use flotilla_proto::storage::v1::{self as storage, Applied, SnapshotHeader};

use crate::{
    OpenError, RestoreError,
    clock::{Clock, SystemClock},
    disk::{Disk, SystemDisk},
    error::Unreadable,
    identity::{DirectoryLock, Identity},
    log,
    raft::{
        LeaderId, LogId, ServerId, Vote, log_id_from_storage, log_id_to_storage, server_id_from_storage,
        server_id_to_storage,
    },
    snapshot::{FORMAT, Part, Reader, Sink, Writer, file_name},
};

/// Says that a restore has begun here. Gone when it is done.
pub(crate) const PARTIAL: &str = "restore.partial";
/// What a restore makes, apart from what a server refuses to find.
const MADE: [&str; 2] = ["snapshots", "log"];
/// What may be in a directory that counts as empty: our lock, and what a file system brings.
const NOTHING: [&str; 2] = ["lock", "lost+found"];

/// What is restored, and where to.
pub struct RestoreOptions {
    /// The backup.
    pub backup: PathBuf,
    /// The directory to make; it may exist if it is empty.
    pub data_dir: PathBuf,
    /// The new cell's name; none: the backup's.
    pub cell: Option<String>,
    /// The server's id in the new cell, from 1 on.
    pub server: u64,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl RestoreOptions {
    /// Restores a backup into a directory, as server 1 of a cell of the same name.
    pub fn new(backup: impl Into<PathBuf>, data_dir: impl Into<PathBuf>) -> Self {
        let (backup, data_dir) = (backup.into(), data_dir.into());
        Self { backup, data_dir, cell: None, server: 1, disk: Arc::new(SystemDisk), clock: Arc::new(SystemClock) }
    }
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The new cell's name.
    pub cell: String,
    /// The new history.
    pub history: String,
    /// The cell's name in the backup.
    pub former_cell: String,
    /// The history that the backup is of.
    pub former_history: String,
    /// The last revision of the backup.
    pub backup_revision: u64,
    /// The log's time at that revision, in microseconds since 1970 (UTC).
    pub backup_time: u64,
    /// The revision that the new history begins after.
    pub revision: u64,
    /// How many rows there are.
    pub rows: u64,
    /// How many requests are remembered, so that their retries count once.
    pub requests: u64,
    /// The backup's length in bytes.
    pub bytes: u64,
}

/// Makes a data directory from a backup. `progress` is told bytes done and bytes to do: the backup
/// is read twice. Blocks for as long as the disk takes.
///
/// # Errors
/// See [`RestoreError`]. Unless it is an I/O error, nothing was made.
pub fn restore(options: &RestoreOptions, mut progress: impl FnMut(u64, u64)) -> Result<Restored, RestoreError> {
    let (file, data_dir) = (&options.backup, &options.data_dir);
    let unreadable = |source| RestoreError::Backup { file: file.clone(), source };
    let length = fs::metadata(file).map_err(|error| unreadable(Unreadable::Io(error)))?.len();
    refuse_content(data_dir)?;
    let mut done = 0;
    let mut told = |count: u64| {
        done += count;
        progress(done, 2 * length);
    };
    let header = verify(file, &mut told).map_err(unreadable)?;
    let free = options.disk.free_bytes(existing(data_dir)).unwrap_or(u64::MAX);
    if free < length {
        return Err(RestoreError::DiskFull { path: data_dir.clone(), free, required: length });
    }

    let new = Beginning::of(options, &header);
    options.disk.create_dir(data_dir).map_err(OpenError::io("create", data_dir))?;
    let _lock = DirectoryLock::take(data_dir)?;
    // Another restore may have been quicker.
    refuse_content(data_dir)?;
    begin(options)?;
    let (rows, requests) = copy(options, &new, &mut told)?;
    let log = data_dir.join("log");
    log::seed(options.disk.as_ref(), &log, &new.vote, &new.log_id).map_err(OpenError::io("write", &log))?;
    let changes = data_dir.join("changes");
    options.disk.create_dir(&changes).map_err(OpenError::io("create", &changes))?;
    new.identity.write(options.disk.as_ref(), data_dir)?;
    forget_begin(options)?;

    let former = header.applied.unwrap_or_default();
    Ok(Restored {
        cell: new.identity.cell,
        history: new.identity.history,
        former_cell: header.cell,
        former_history: header.history,
        backup_revision: former.revision,
        backup_time: former.time,
        revision: new.applied.revision,
        rows,
        requests,
        bytes: length,
    })
}

/// Where the new cell begins.
struct Beginning {
    identity: Identity,
    applied: Applied,
    log_id: LogId,
    vote: Vote,
}

impl Beginning {
    fn of(options: &RestoreOptions, header: &SnapshotHeader) -> Self {
        let cell = options.cell.as_ref().unwrap_or(&header.cell);
        let identity = Identity::of_new_cell(cell, options.server, options.clock.as_ref());
        let former = header.applied.clone().unwrap_or_default();
        let id = ServerId { server: identity.server, incarnation: identity.incarnation };
        let position = former.log_id.as_ref().map(log_id_from_storage);
        let term = position.map_or(1, |position| position.leader_id.term.max(1));
        let leader_id = LeaderId { term, node_id: id };
        let log_id = LogId { leader_id, index: position.map_or(1, |position| position.index.max(1)) };
        // Where it was reached in the former cell, if it was there; it says so itself when it starts.
        let servers = former.membership.map(|membership| membership.servers).unwrap_or_default();
        let same = servers.into_iter().find(|server| server_id_from_storage(server.id).server == options.server);
        let address = same.map(|server| server.address).unwrap_or_default();
        let stored_id = server_id_to_storage(id);
        let membership = storage::Membership {
            log_id: Some(log_id_to_storage(&log_id)),
            voters: vec![storage::VoterSet { ids: vec![stored_id] }],
            servers: vec![storage::Server { id: Some(stored_id), address, learner: false }],
        };
        let applied = Applied {
            log_id: Some(log_id_to_storage(&log_id)),
            // A microsecond is shorter than a transaction takes, so the former history, and another
            // restore of the same backup, have stayed below this.
            revision: options.clock.now().max(former.revision + 1),
            membership: Some(membership),
            ..former
        };
        Self { identity, applied, log_id, vote: Vote { leader_id, committed: true } }
    }
}

/// A directory that holds anything but an interrupted restore is left alone.
pub(crate) fn refuse_content(data_dir: &Path) -> Result<(), RestoreError> {
    let names = match fs::read_dir(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listed => listed.map_err(OpenError::io("list", data_dir))?,
    };
    let names = names
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(OpenError::io("list", data_dir))?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(PARTIAL) && !has("identity.json") {
        return Ok(());
    }
    match names.iter().find(|name| !NOTHING.contains(&name.as_str())) {
        Some(found) => Err(RestoreError::NotEmpty { path: data_dir.into(), found: found.clone() }),
        None => Ok(()),
    }
}

/// The directory itself, or the first one above it that exists.
fn existing(data_dir: &Path) -> &Path {
    let found = data_dir.ancestors().find(|path| path.is_dir());
    found.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Reads a whole backup, and says what it is of.
fn verify(backup: &Path, told: &mut dyn FnMut(u64)) -> Result<SnapshotHeader, Unreadable> {
    let (mut reader, header) = Reader::open(source(backup, told)?)?;
    while reader.next()?.is_some() {}
    Ok(header)
}

/// Marks the directory, and removes what an interrupted restore has left.
fn begin(options: &RestoreOptions) -> Result<(), OpenError> {
    let (disk, data_dir) = (&options.disk, &options.data_dir);
    let marker = data_dir.join(PARTIAL);
    let file = disk.create(&marker).map_err(OpenError::io("create", &marker))?;
    let text = b"A restore has begun here and is not done. Run it again: it begins anew.\n";
    file.write_all_at(text, 0).and_then(|()| file.sync()).map_err(OpenError::io("write", &marker))?;
    disk.sync_dir(data_dir).map_err(OpenError::io("sync", data_dir))?;
    for name in MADE {
        let path = data_dir.join(name);
        disk.create_dir(&path).map_err(OpenError::io("create", &path))?;
        for left in disk.list(&path).map_err(OpenError::io("list", &path))? {
            let left = path.join(left);
            disk.remove(&left).map_err(OpenError::io("remove", &left))?;
        }
    }
    Ok(())
}

fn forget_begin(options: &RestoreOptions) -> Result<(), OpenError> {
    let marker = options.data_dir.join(PARTIAL);
    options.disk.remove(&marker).map_err(OpenError::io("remove", &marker))?;
    options.disk.sync_dir(&options.data_dir).map_err(OpenError::io("sync", &options.data_dir))
}

/// Writes the snapshot of the new cell, and counts rows and requests.
fn copy(options: &RestoreOptions, new: &Beginning, told: &mut dyn FnMut(u64)) -> Result<(u64, u64), RestoreError> {
    let unreadable = |source| RestoreError::Backup { file: options.backup.clone(), source };
    let directory = options.data_dir.join("snapshots");
    let path = directory.join(file_name(&new.applied));
    let partial = path.with_extension("partial");
    let (mut reader, _) = source(&options.backup, told).and_then(Reader::open).map_err(unreadable)?;
    let sink = Sink::new(options.disk.create(&partial).map_err(OpenError::io("create", &partial))?);
    let header = SnapshotHeader {
        format: FORMAT,
        cell: new.identity.cell.clone(),
        history: new.identity.history.clone(),
        applied: Some(new.applied.clone()),
    };
    let (mut rows, mut requests) = (0, 0);
    let write = |error| RestoreError::Open(OpenError::io("write", &partial)(error));
    let mut writer = Writer::new(sink, header).map_err(write)?;
    while let Some(part) = reader.next().map_err(unreadable)? {
        match part {
            Part::Rows(batch) => {
                rows += batch.len() as u64;
                writer.rows(batch).map_err(write)?;
            }
            Part::Window(entries) => requests += writer.window(entries.iter()).map_err(write)?,
        }
    }
    let (sink, _) = writer.finish(rows, requests).map_err(write)?;
    sink.file.sync().map_err(write)?;
    options.disk.rename(&partial, &path).map_err(OpenError::io("name", &path))?;
    options.disk.sync_dir(&directory).map_err(OpenError::io("sync", &directory))?;
    Ok((rows, requests))
}

/// The backup as a stream that tells how far it is read.
fn source<'a>(backup: &Path, told: &'a mut dyn FnMut(u64)) -> Result<impl io::Read + use<'a>, Unreadable> {
    let file = File::open(backup).map_err(Unreadable::Io)?;
    Ok(io::BufReader::with_capacity(1024 * 1024, Told { file, told }))
}

struct Told<'a> {
    file: File,
    told: &'a mut dyn FnMut(u64),
}

impl io::Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        (self.told)(count as u64);
        Ok(count)
    }
}
