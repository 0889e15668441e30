//! Whose data a directory holds, and which process uses it.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    OpenError,
    clock::Clock,
    disk::{Disk, read_file, replace_file},
};

/// The format of a data directory as this version writes it.
pub(crate) const FORMAT: u32 = 1;

/// What `identity.json` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// The cell's name.
    pub(crate) cell: String,
    /// The history's id, made when the cell was created, restored or recovered; empty until then.
    pub(crate) history: String,
    /// The server's id in the cell.
    pub(crate) server: u64,
    /// Tells the lives of that server's directory apart.
    pub(crate) incarnation: u64,
    /// The format of the directory.
    pub(crate) format: u32,
}

impl Identity {
    /// Reads a directory's identity, whosever it is; `None` if it has none yet.
    pub(crate) fn peek(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Self>, OpenError> {
        let path = path(data_dir);
        let bytes = match read_file(disk, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(OpenError::io("read", &path))?,
        };
        let identity = serde_json::from_slice(&bytes).map_err(|error| OpenError::Damaged {
            file: path,
            offset: 0,
            what: format!("not the identity of a data directory: {error}"),
        })?;
        Ok(Some(identity))
    }

    /// Reads a directory's identity and holds it against the configured one;
    /// `None` if it has none yet.
    pub(crate) fn read(disk: &dyn Disk, data_dir: &Path, cell: &str, server: u64) -> Result<Option<Self>, OpenError> {
        let Some(identity) = Self::peek(disk, data_dir)? else { return Ok(None) };
        if identity.format > FORMAT {
            return Err(OpenError::NewerFormat { path: data_dir.into(), found: identity.format, known: FORMAT });
        }
        let (found, configured) = (identity.server.to_string(), server.to_string());
        for (what, found, configured) in
            [("cell", identity.cell.clone(), cell.to_owned()), ("server", found, configured)]
        {
            if found != configured {
                return Err(OpenError::Foreign { path: data_dir.into(), what, found, configured });
            }
        }
        Ok(Some(identity))
    }

    /// A new life of a server, of a cell that is yet to be formed. Two lives never begin in the same
    /// microsecond.
    pub(crate) fn new(cell: &str, server: u64, clock: &dyn Clock) -> Self {
        let incarnation = clock.now().max(1);
        Self { cell: cell.to_owned(), history: String::new(), server, incarnation, format: FORMAT }
    }

    /// The same, with a history of its own.
    pub(crate) fn of_new_cell(cell: &str, server: u64, clock: &dyn Clock) -> Self {
        Self { history: ulid::Ulid::new().to_string(), ..Self::new(cell, server, clock) }
    }

    /// Writes it to its directory.
    pub(crate) fn write(&self, disk: &dyn Disk, data_dir: &Path) -> Result<(), OpenError> {
        let path = path(data_dir);
        let mut text =
            serde_json::to_string_pretty(self).map_err(|error| OpenError::io("encode", &path)(error.into()))?;
        text.push('\n');
        replace_file(disk, &path, text.as_bytes()).map_err(OpenError::io("write", &path))
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("identity.json")
}

/// Keeps other processes from a data directory for as long as it lives. The
/// system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, which is not a matter of the simulated disk.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join("lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(OpenError::io("open", &path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let holder = match (read, holder.trim()) {
                (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
                _ => "another process".to_owned(),
            };
            return Err(OpenError::InUse { path: data_dir.into(), holder });
        }
        let pid = std::process::id().to_string();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(pid.as_bytes()))
            .map_err(OpenError::io("write", &path))?;
        Ok(Self { _file: file })
    }
}
