//! Everything on a disk, in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::FileExt,
    path::Path,
};

/// Files and directories by their paths, without what is above them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeSet<String>,
}

impl Image {
    /// The paths of directories, an outer before an inner one.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &str> {
        self.directories.iter().map(String::as_str)
    }

    /// Paths and contents of files.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &Vec<u8>)> {
        self.files.iter().map(|(path, content)| (path.as_str(), content))
    }

    pub(crate) fn add_directory(&mut self, path: String) {
        self.directories.insert(path);
    }

    pub(crate) fn add_file(&mut self, path: String, content: Vec<u8>) {
        self.files.insert(path, content);
    }

    /// Writes it into a new folder; zeros take no room.
    pub(crate) fn write_to(&self, folder: &Path) {
        const BLOCK: usize = 64 * 1024;
        fs::create_dir_all(folder).expect("a folder");
        for directory in &self.directories {
            fs::create_dir(folder.join(directory)).expect("a directory of an image");
        }
        for (path, content) in &self.files {
            let file = fs::File::create(folder.join(path)).expect("a file of an image");
            file.set_len(content.len() as u64).expect("its length");
            for (block, bytes) in content.chunks(BLOCK).enumerate() {
                if bytes.iter().any(|byte| *byte != 0) {
                    file.write_all_at(bytes, (block * BLOCK) as u64).expect("its bytes");
                }
            }
        }
    }
}
