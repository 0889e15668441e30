//! A disk in memory that forgets, when the power is cut, what was not synced.
//!
//! For each file it keeps what was synced apart from what was only written,
//! and for each directory the names that were synced apart from those that
//! were only made, so that every state that POSIX allows after a power cut can
//! be had from a seed.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use flotilla_replica::disk::{Disk, DiskFile};
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// How often it is seen whether a stalled sync may go on.
const STALL_LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// A simulated disk, as one process sees it. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    files: BTreeMap<u64, FileState>,
    directories: BTreeMap<PathBuf, Directory>,
    next_file: u64,
    /// Operations that change something, so far.
    operations: u64,
    /// The operation at which the power goes.
    cut_at: Option<u64>,
    /// Whether the operation at which the power goes still gets done.
    cut_is_late: bool,
    gone: bool,
    /// Whether every operation is told.
    traced: bool,
    /// Until when each sync of the log takes.
    stalled_until: Option<tokio::time::Instant>,
    /// How long each sync of the log takes at least.
    latency: std::time::Duration,
}

#[derive(Clone, Default)]
struct FileState {
    synced: Vec<u8>,
    now: Vec<u8>,
    unsynced: Vec<FileChange>,
}

#[derive(Clone)]
enum FileChange {
    Write { offset: u64, bytes: Vec<u8> },
    Length(u64),
}

#[derive(Clone, Default)]
struct Directory {
    synced: BTreeMap<String, u64>,
    now: BTreeMap<String, u64>,
    unsynced: Vec<NameChange>,
    /// Whether the directory's own name was synced.
    durable: bool,
}

#[derive(Clone)]
enum NameChange {
    Is(String, u64),
    Renamed(String, String),
    Removed(String),
}

struct SimFile {
    disk: SimDisk,
    file: u64,
}

impl SimDisk {
    /// An empty disk with one directory.
    pub(crate) fn new(root: &Path) -> Self {
        let root = (root.to_path_buf(), Directory { durable: true, ..Directory::default() });
        Self::from(State { directories: [root].into(), ..State::default() })
    }

    /// Cuts the power at an operation from now on: it and all later ones fail.
    pub(crate) fn cut_after(&self, operations: u64, cut_is_late: bool) {
        let mut state = self.state();
        state.cut_at = Some(state.operations + operations);
        state.cut_is_late = cut_is_late;
    }

    /// Cuts the power now.
    pub(crate) fn cut(&self) {
        self.state().gone = true;
    }

    /// Lets each sync of the log take so long.
    pub(crate) fn take_time(&self, latency: std::time::Duration) {
        self.state().latency = latency;
    }

    /// Lets no sync of the log end before a moment.
    pub(crate) fn stall_until(&self, moment: tokio::time::Instant) {
        self.state().stalled_until = Some(moment);
    }

    /// The same disk with its directories elsewhere.
    pub(crate) fn moved(self, from: &Path, to: &Path) -> Self {
        let mut state = self.state().clone();
        let directories = std::mem::take(&mut state.directories).into_iter();
        let moved = |path: PathBuf| path.strip_prefix(from).map_or(path.clone(), |rest| to.join(rest));
        state.directories = directories.map(|(path, directory)| (moved(path), directory)).collect();
        Self::from(state)
    }

    /// Tells every operation from now on, also after cuts.
    pub(crate) fn trace(&self) {
        self.state().traced = true;
    }

    /// Tells something among the operations.
    pub(crate) fn note(&self, what: &str) {
        if self.state().traced {
            eprintln!("---- {what}");
        }
    }

    /// Whether the power is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// The disk as the next process finds it when only the former process
    /// died: everything that was written is there, and still not synced.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.state().clone();
        Self::from(State { operations: 0, cut_at: None, gone: false, stalled_until: None, ..state })
    }

    /// The disk as the next process finds it after a power cut: of what was
    /// not synced, chance has kept some, and torn some.
    pub(crate) fn after_power_cut(&self, random: &mut StdRng) -> Self {
        let former = self.state().clone();
        let mut state =
            State { next_file: former.next_file, traced: former.traced, latency: former.latency, ..State::default() };
        for (path, directory) in former.directories {
            let above_is_there = path.parent().is_none_or(|above| state.directories.contains_key(above));
            let is_root = state.directories.is_empty();
            if is_root || (above_is_there && (directory.durable || random.random())) {
                let kept = random.random_range(0..=directory.unsynced.len());
                let mut names = directory.synced;
                directory.unsynced[..kept].iter().for_each(|change| change.apply(&mut names));
                let directory = Directory { now: names.clone(), synced: names, durable: true, unsynced: Vec::new() };
                state.directories.insert(path, directory);
            }
        }
        for (id, file) in former.files {
            if state.directories.values().any(|directory| directory.now.values().any(|named| *named == id)) {
                let bytes = file.after_power_cut(random);
                state.files.insert(id, FileState { now: bytes.clone(), synced: bytes, unsynced: Vec::new() });
            }
        }
        Self::from(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads something.
    fn look<T>(&self, look: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        let state = self.state();
        match state.gone {
            true => Err(power_is_gone()),
            false => look(&state),
        }
    }

    /// Changes something: one operation.
    fn operate<T>(&self, what: impl Debug, operation: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state();
        if state.traced {
            eprintln!("{:4} {what:?}", state.operations + 1);
        }
        if state.gone {
            return Err(power_is_gone());
        }
        state.operations += 1;
        if state.cut_at.is_some_and(|cut_at| state.operations >= cut_at) {
            state.gone = true;
            if state.cut_is_late {
                // It happened, but nobody was told.
                let _ = operation(&mut state);
            }
            return Err(power_is_gone());
        }
        operation(&mut state)
    }
}

impl From<State> for SimDisk {
    fn from(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }
}

impl State {
    fn directory(&mut self, path: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(path).ok_or_else(not_found)
    }

    fn change_name(&mut self, directory: &Path, change: NameChange) -> io::Result<()> {
        let directory = self.directory(directory)?;
        change.apply(&mut directory.now);
        directory.unsynced.push(change);
        Ok(())
    }

    fn id_of(&self, path: &Path) -> io::Result<u64> {
        let (directory, name) = split(path);
        let found = self.directories.get(directory).and_then(|directory| directory.now.get(&name));
        found.copied().ok_or_else(not_found)
    }

    fn file(&mut self, id: u64) -> &mut FileState {
        self.files.entry(id).or_default()
    }
}

impl FileState {
    fn change(&mut self, change: FileChange) {
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }

    fn after_power_cut(self, random: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.synced;
        let (keep, tear) = *[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.3)].choose(random).unwrap_or(&(0.0, 0.0));
        let last = self.unsynced.len().saturating_sub(1);
        for (position, change) in self.unsynced.into_iter().enumerate() {
            let torn = random.random_bool(tear) && (position == last || random.random());
            match change {
                _ if !random.random_bool(keep) => {}
                FileChange::Write { offset, bytes: written } if torn => {
                    let sectors =
                        random.random_bool(0.5).then(|| random.random_range(0..=written.len() as u64 / SECTOR));
                    for (number, (offset, sector)) in sectors_of(offset, &written).enumerate() {
                        // Either the first ones are there, or any.
                        let kept = sectors.map_or_else(|| random.random(), |sectors| (number as u64) < sectors);
                        if kept {
                            FileChange::Write { offset, bytes: sector.to_vec() }.apply(&mut bytes);
                        }
                    }
                }
                change => change.apply(&mut bytes),
            }
        }
        bytes
    }
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length as usize, 0),
            Self::Write { offset, bytes } => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(bytes);
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Is(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Removed(name) => drop(names.remove(name)),
            Self::Renamed(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let root = self.look(|state| Ok(state.directories.keys().next().cloned()))?;
        let Some(above) = path.parent().filter(|_| root.as_deref() != Some(path)) else { return Ok(()) };
        if !self.look(|state| Ok(state.directories.contains_key(path)))? {
            self.create_dir(above)?;
            self.operate(("make directory", path), |state| {
                state.directories.insert(path.to_path_buf(), Directory::default());
                Ok(())
            })?;
        }
        self.sync_dir(above)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.look(|state| {
            let directory = state.directories.get(path).ok_or_else(not_found)?;
            Ok(directory.now.keys().cloned().collect())
        })
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.look(|state| state.id_of(path))?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.operate(("create", path), |state| {
            if let Ok(file) = state.id_of(path) {
                state.file(file).change(FileChange::Length(0));
                return Ok(file);
            }
            let file = state.next_file;
            state.next_file += 1;
            state.files.insert(file, FileState::default());
            let (directory, name) = split(path);
            state.change_name(directory, NameChange::Is(name, file))?;
            Ok(file)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(("rename", from, to), |state| {
            state.id_of(from)?;
            let ((directory, from), (other, to)) = (split(from), split(to));
            assert_eq!(directory, other, "a rename from one directory to another");
            state.change_name(directory, NameChange::Renamed(from, to))
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(("remove", path), |state| {
            state.id_of(path)?;
            let (directory, name) = split(path);
            state.change_name(directory, NameChange::Removed(name))
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.operate(("sync directory", path), |state| {
            let directory = state.directory(path)?;
            directory.unsynced.clear();
            directory.synced = directory.now.clone();
            for (below, directory) in &mut state.directories {
                directory.durable |= below.parent() == Some(path);
            }
            Ok(())
        })
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn before_sync(&self) -> futures::future::BoxFuture<'static, ()> {
        let disk = self.clone();
        Box::pin(async move {
            let latency = disk.state().latency;
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            // It may be prolonged, or ended by a crash.
            while let Some(moment) = { disk.state().stalled_until }
                && moment > tokio::time::Instant::now()
                && !disk.is_gone()
            {
                tokio::time::sleep_until(moment.min(tokio::time::Instant::now() + STALL_LOOK)).await;
            }
        })
    }
}

impl DiskFile for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.look(|state| {
            let start = offset as usize;
            let content = state.files.get(&self.file).and_then(|file| file.now.get(start..start + buffer.len()));
            buffer.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(("write", self.file, offset, bytes.len()), FileChange::Write { offset, bytes: bytes.to_vec() })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.operate(("sync", self.file), |state| {
            let file = state.file(self.file);
            for change in file.unsynced.drain(..) {
                change.apply(&mut file.synced);
            }
            Ok(())
        })
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(("set length", self.file, bytes), FileChange::Length(bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| Ok(state.files.get(&self.file).map_or(0, |file| file.now.len() as u64)))
    }
}

impl SimFile {
    fn change(&self, what: impl Debug, change: FileChange) -> io::Result<()> {
        self.disk.operate(what, |state| {
            state.file(self.file).change(change);
            Ok(())
        })
    }
}

fn sectors_of(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let first = (SECTOR - offset % SECTOR).min(bytes.len() as u64);
    let (head, rest) = bytes.split_at(first as usize);
    let rest = rest.chunks(SECTOR as usize).enumerate();
    std::iter::once((offset, head))
        .chain(rest.map(move |(number, sector)| (offset + first + number as u64 * SECTOR, sector)))
}

fn split(path: &Path) -> (&Path, String) {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (path.parent().unwrap_or(Path::new("")), name)
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn power_is_gone() -> io::Error {
    io::Error::other("the power is gone")
}
