//! The directory where `flotilla dev` keeps everything.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rand::RngCore;

use crate::cli::{Failure, talk};

/// `data/1`, `data/2`, … and beside them `server-1.toml`, …, `secret` and `socket`.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
}

/// What says that a directory has a server's data.
const IDENTITY: &str = "identity.json";

impl Place {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The data of all servers.
    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The data of one server.
    pub(super) fn data_of(&self, id: u64) -> PathBuf {
        self.data().join(id.to_string())
    }

    /// The config of one server.
    pub(super) fn config_of(&self, id: u64) -> PathBuf {
        self.dir.join(format!("server-{id}.toml"))
    }

    /// The socket by which who runs here is reached.
    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("socket")
    }

    /// Whether a server has data.
    pub(super) fn has_data(&self, id: u64) -> bool {
        self.data_of(id).join(IDENTITY).exists()
    }

    /// Makes the directory.
    pub(super) fn make(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.dir).map_err(failed("make", &self.dir))
    }

    /// The file with the secret of the cell, made if it isn't there.
    pub(super) fn secret(&self) -> Result<PathBuf, Failure> {
        let path = self.dir.join("secret");
        match fs::File::options().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(mut file) => {
                let mut secret = [0; 32];
                rand::rng().fill_bytes(&mut secret);
                let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(file, "{text}").map_err(failed("write", &path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &path)(error)),
        }
        Ok(path)
    }

    /// Takes over the data of a version that ran one server in `data` itself: it becomes server 1's.
    pub(super) fn adopt(&self) -> Result<(), Failure> {
        let (data, first, aside) = (self.data(), self.data_of(1), self.dir.join("data-of-server-1"));
        if data.join(IDENTITY).exists() {
            let lock = lock(&data)?;
            fs::rename(&data, &aside).map_err(failed("move", &data))?;
            drop(lock);
        }
        fs::create_dir_all(&data).map_err(failed("make", &data))?;
        // Also after a run that was ended in between.
        if aside.exists() && !first.exists() {
            fs::rename(&aside, &first).map_err(failed("move", &aside))?;
            talk::remark(&format!("the data in {} is server 1's now, in {}", data.display(), first.display()));
        }
        Ok(())
    }

    /// Removes the data of all servers, if it is Flotilla's and nobody uses it.
    pub(super) fn empty(&self) -> Result<(), Failure> {
        let data = self.data();
        if data.join(IDENTITY).exists() {
            return empty(&data);
        }
        let entries = match fs::read_dir(&data) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed("list", &data))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed("list", &data))?;
            if entry.file_name().to_str().is_some_and(|name| name.parse::<u64>().is_ok()) {
                empty(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Empties a data directory that is Flotilla's and that nobody uses.
fn empty(data_dir: &Path) -> Result<(), Failure> {
    let entries = fs::read_dir(data_dir).map_err(failed("list", data_dir))?;
    let paths: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(failed("list", data_dir))?;
    if paths.is_empty() {
        return Ok(());
    }
    if !data_dir.join(IDENTITY).exists() {
        return Err(Failure::NotOurs { path: data_dir.to_owned() });
    }
    // Held until everything but the lock is gone.
    let _lock = lock(data_dir)?;
    for path in paths.iter().filter(|path| !path.ends_with(LOCK)) {
        let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(failed("remove", path))?;
    }
    talk::remark(&format!("emptied {}", data_dir.display()));
    Ok(())
}

const LOCK: &str = "lock";

/// The server's own lock on its data.
fn lock(data_dir: &Path) -> Result<fs::File, Failure> {
    let path = data_dir.join(LOCK);
    let open = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let lock = open.map_err(failed("open", &path))?;
    if lock.try_lock().is_ok() {
        return Ok(lock);
    }
    let holder = io::read_to_string(&lock).unwrap_or_default();
    let holder = if holder.trim().is_empty() { "a process".to_owned() } else { format!("process {}", holder.trim()) };
    Err(Failure::FreshInUse { path: data_dir.to_owned(), holder })
}

pub(super) fn failed(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |source| Failure::File { operation, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn fresh_leaves_a_directory_alone_that_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        let file = place.data_of(1).join("thesis.txt");
        fs::create_dir_all(place.data_of(1)).unwrap();
        fs::write(&file, "years of work").unwrap();
        assert!(matches!(place.empty(), Err(Failure::NotOurs { .. })));
        assert!(file.exists());
    }

    #[test]
    fn fresh_leaves_a_directory_alone_that_a_server_uses() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(IDENTITY), "{}").unwrap();
        fs::write(dir.path().join("lock"), "4711").unwrap();
        let held = fs::File::open(dir.path().join("lock")).unwrap();
        held.lock().unwrap();
        let error = empty(dir.path()).unwrap_err();
        assert!(error.to_string().contains("process 4711"), "{error}");
        drop(held);
        empty(dir.path()).unwrap();
        assert!(!dir.path().join(IDENTITY).exists());
    }

    #[test]
    fn the_data_of_one_server_becomes_that_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        fs::create_dir_all(place.data().join("log")).unwrap();
        fs::write(place.data().join(IDENTITY), "{}").unwrap();
        for _ in 0..2 {
            place.adopt().unwrap();
            assert!(place.has_data(1) && place.data_of(1).join("log").exists());
            assert!(!place.data().join(IDENTITY).exists());
        }
    }

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        let path = place.secret().unwrap();
        let secret = fs::read_to_string(&path).unwrap();
        assert_eq!(secret.trim().len(), 64);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        place.secret().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), secret);
    }
}
