//! How far an import has come, in a small file beside its input.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Everything up to here is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// The table imported into.
    pub(super) table: String,
    /// The field that ids were taken from.
    pub(super) id_field: Option<String>,
    /// Lines of the input.
    pub(super) lines: u64,
    /// XXH3 of those lines, to notice an input that was changed.
    pub(super) hash: u64,
    /// Records written.
    pub(super) records: u64,
}

impl Checkpoint {
    /// Where the checkpoint of an input is: `boats.ndjson.flotilla-import`.
    pub(super) fn beside(input: &Path) -> PathBuf {
        let mut name = input.as_os_str().to_owned();
        name.push(".flotilla-import");
        PathBuf::from(name)
    }

    /// The checkpoint, if an import was interrupted.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(serde_json::from_str(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps it in place of the former one.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &format!("{}\n", serde_json::to_string(self)?))
    }
}

/// Writes a file so that a reader finds the former content or the new one, never a part.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
