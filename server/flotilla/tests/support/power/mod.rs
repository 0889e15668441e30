//! What a disk may hold after a power cut, from the journal that `ci/powercut/shim.c` wrote.
//!
//! A file's bytes are durable once the file was synced after they were written; a name (made, changed or removed) once
//! its directory was synced. Of what wasn't, a cut keeps what a [`Keep`] says: for each sector the state after any of
//! the writes to it, and of each directory's changes any beginning.

mod bench;
mod file;
mod image;
mod journal;

pub(crate) use bench::{Bench, choices, environment};
pub(crate) use image::Image;
pub(crate) use journal::Journal;

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, rngs::StdRng};

use file::{Change, File};
use journal::{Kind, Record};

/// What a server has set aside is for people, who remove it: else every image would be larger than the last.
const ASIDE: &str = "store.aside-";

/// What is kept of what was not synced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    /// Nothing.
    Nothing,
    /// Each sector with this probability as it was last, else as it was at any moment since the last sync.
    Sectors(f64),
}

/// How names become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// By syncing their directory only, which is what POSIX promises.
    ByDirectory,
    /// By syncing any file, too: a sync commits the whole journal of ext4.
    ByAnySync,
}

/// The state of a disk while a journal is replayed.
pub(crate) struct Disk<'a> {
    journal: &'a Journal,
    names: Names,
    files: Vec<File>,
    directories: Vec<Directory>,
    by_inode: HashMap<u64, usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    File(usize),
    Directory(usize),
}

#[derive(Default)]
struct Directory {
    durable: BTreeMap<String, Node>,
    now: BTreeMap<String, Node>,
    /// With their places in the journal.
    pending: Vec<(u64, Vec<NameChange>)>,
}

enum NameChange {
    Set(String, Node),
    Remove(String),
}

impl<'a> Disk<'a> {
    /// The disk as it was when the journal began, everything on it durable.
    pub(crate) fn new(image: &Image, journal: &'a Journal, names: Names) -> Self {
        let directories = vec![Directory::default()];
        let mut disk = Self { journal, names, files: Vec::new(), directories, by_inode: HashMap::new() };
        for path in image.directories() {
            let node = disk.add_directory();
            disk.set(0, path, node);
        }
        for (path, content) in image.files() {
            let node = disk.add_file(File::holding(content.clone()));
            disk.set(0, path, node);
        }
        disk.sync_names(u64::MAX);
        disk
    }

    /// What is there if the power goes after so many records.
    pub(crate) fn cut(mut self, records: usize, keep: Keep, random: &mut StdRng) -> Image {
        let journal = self.journal;
        journal.records[..records].iter().for_each(|record| self.apply(record));
        for directory in &mut self.directories {
            let count = match keep {
                Keep::Nothing => 0,
                Keep::Sectors(whole) if random.random_bool(whole) => directory.pending.len(),
                Keep::Sectors(_) => random.random_range(0..=directory.pending.len()),
            };
            for (_, changes) in directory.pending.drain(..count) {
                changes.into_iter().for_each(|change| change.apply(&mut directory.durable));
            }
        }
        let mut image = Image::default();
        self.collect(0, "", keep, random, &mut image);
        image
    }

    fn collect(&self, directory: usize, above: &str, keep: Keep, random: &mut StdRng, image: &mut Image) {
        for (name, node) in &self.directories[directory].durable {
            if name.starts_with(ASIDE) {
                continue;
            }
            let path = format!("{above}{name}");
            match *node {
                Node::File(file) => image.add_file(path, self.files[file].torn(self.journal, keep, random)),
                Node::Directory(inner) => {
                    image.add_directory(path.clone());
                    self.collect(inner, &format!("{path}/"), keep, random, image);
                }
            }
        }
    }

    fn apply(&mut self, record: &Record) {
        let (journal, at) = (self.journal, record.offset);
        let text = || journal.text(record);
        match record.kind {
            Kind::Open => match self.find(text()) {
                Some(Node::File(file)) => _ = self.by_inode.insert(record.file, file),
                other => panic!("{} was opened, and is {other:?}", text()),
            },
            Kind::Create => {
                let node = self.add_file(File::default());
                self.by_inode.insert(record.file, self.files.len() - 1);
                self.set(at, text(), node);
            }
            Kind::Write => self.change(record, Change::Write { at: record.at, bytes: record.bytes.clone() }),
            Kind::Zeros => self.change(record, Change::Zeros { at: record.at, length: record.size }),
            Kind::Truncate => self.change(record, Change::Truncate { length: record.size }),
            Kind::Sync => {
                self.files[self.by_inode[&record.file]].sync(journal, record.begun);
                if self.names == Names::ByAnySync {
                    self.sync_names(record.begun);
                }
            }
            // A directory that was renamed or removed while it was synced isn't found.
            Kind::SyncDir => {
                if let Some(Node::Directory(directory)) = self.find(text()) {
                    self.directories[directory].sync(record.begun);
                }
            }
            Kind::SyncAll => {
                self.files.iter_mut().for_each(|file| file.sync(journal, record.begun));
                self.sync_names(record.begun);
            }
            Kind::MakeDir => {
                let node = self.add_directory();
                self.set(at, text(), node);
            }
            Kind::RemoveDir | Kind::Unlink => {
                let (directory, name) = self.parent(text());
                self.directories[directory].change(at, vec![NameChange::Remove(name)]);
            }
            Kind::Rename => self.rename(at, text()),
            Kind::Unknown => panic!("the server changed its files in a way that the shim doesn't follow: {}", text()),
        }
    }

    /// Within a directory both names change at once.
    fn rename(&mut self, at: u64, paths: &str) {
        let (from, to) = paths.split_once('\0').expect("two paths");
        let node = self.find(from).unwrap_or_else(|| panic!("{from} is renamed, and isn't there"));
        let ((from_dir, from), (to_dir, to)) = (self.parent(from), self.parent(to));
        let (remove, set) = (NameChange::Remove(from), NameChange::Set(to, node));
        if from_dir == to_dir {
            self.directories[from_dir].change(at, vec![remove, set]);
        } else {
            self.directories[to_dir].change(at, vec![set]);
            self.directories[from_dir].change(at, vec![remove]);
        }
    }

    fn change(&mut self, record: &Record, change: Change) {
        self.files[self.by_inode[&record.file]].change(record.offset, change);
    }

    fn sync_names(&mut self, before: u64) {
        self.directories.iter_mut().for_each(|directory| directory.sync(before));
    }

    fn add_file(&mut self, file: File) -> Node {
        self.files.push(file);
        Node::File(self.files.len() - 1)
    }

    fn add_directory(&mut self) -> Node {
        self.directories.push(Directory::default());
        Node::Directory(self.directories.len() - 1)
    }

    fn set(&mut self, at: u64, path: &str, node: Node) {
        let (directory, name) = self.parent(path);
        self.directories[directory].change(at, vec![NameChange::Set(name, node)]);
    }

    fn find(&self, path: &str) -> Option<Node> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(Node::Directory(0), |node, part| match node {
            Node::Directory(directory) => self.directories[directory].now.get(part).copied(),
            Node::File(_) => None,
        })
    }

    fn parent(&self, path: &str) -> (usize, String) {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.find(above) {
            Some(Node::Directory(directory)) => (directory, name.to_owned()),
            other => panic!("{above}, the directory of {name}, is {other:?}"),
        }
    }
}

impl Directory {
    fn change(&mut self, at: u64, changes: Vec<NameChange>) {
        changes.iter().for_each(|change| change.apply(&mut self.now));
        self.pending.push((at, changes));
    }

    fn sync(&mut self, before: u64) {
        let count = self.pending.partition_point(|(at, _)| *at < before);
        for (_, changes) in self.pending.drain(..count) {
            changes.iter().for_each(|change| change.apply(&mut self.durable));
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Set(name, node) => names.insert(name.clone(), *node),
            Self::Remove(name) => names.remove(name),
        };
    }
}
