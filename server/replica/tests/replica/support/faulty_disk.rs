//! The system's disk, with the faults that a disk has.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flotilla_replica::disk::{Disk, DiskFile, SystemDisk};

/// Clones have the same faults.
#[derive(Clone)]
pub(crate) struct FaultyDisk(Arc<Faults>);

pub(crate) struct Faults {
    /// The next sync of a file fails, and that one only.
    pub(crate) fail_next_sync: AtomicBool,
    /// Syncs of files that were tried.
    pub(crate) syncs: AtomicU64,
    pub(crate) read_only: AtomicBool,
    pub(crate) free_bytes: AtomicU64,
}

struct FaultyFile(Box<dyn DiskFile>, Arc<Faults>);

impl FaultyDisk {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Faults {
            fail_next_sync: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            read_only: AtomicBool::new(false),
            free_bytes: AtomicU64::new(u64::MAX),
        }))
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.0
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile(file, self.0.clone()))
    }
}

impl Faults {
    fn writable(&self) -> io::Result<()> {
        match self.read_only.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(()),
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.create_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        SystemDisk.list(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        SystemDisk.open(path).map(|file| self.file(file))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.writable()?;
        SystemDisk.create(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.writable()?;
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.writable()?;
        SystemDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        SystemDisk.sync_dir(path)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Ordering::Relaxed))
    }
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.1.writable()?;
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.1.syncs.fetch_add(1, Ordering::Relaxed);
        match self.1.fail_next_sync.swap(false, Ordering::Relaxed) {
            // EIO, on every system.
            true => Err(io::Error::from_raw_os_error(5)),
            false => self.0.sync(),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.1.writable()?;
        self.0.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}
