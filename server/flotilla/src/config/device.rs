//! The name of the device that the command line is, where none is given: made on first use and
//! kept in `~/.config/flotilla/device`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::client::ClientFile;

/// Where the name is kept. Whoever shares the home shares the device.
#[derive(Debug)]
pub struct DeviceFile {
    path: PathBuf,
}

impl DeviceFile {
    /// Beside the client's config file; none if the environment names no home.
    pub fn find() -> Option<Self> {
        Some(Self { path: ClientFile::path()?.with_file_name("device") })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the name, and makes it if there is none. Two processes that do so at once get the same.
    ///
    /// # Errors
    /// If the file can't be read or made.
    pub fn name(&self) -> io::Result<String> {
        match fs::read_to_string(&self.path) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let name = format!("cli-{}", ulid::Ulid::new());
        // A link appears with its content or not at all, and only if nobody was first.
        let draft = self.path.with_file_name(format!("device.{name}"));
        fs::write(&draft, format!("{name}\n"))?;
        let linked = fs::hard_link(&draft, &self.path);
        fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(fs::read_to_string(&self.path)?.trim().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_made_once_and_kept() {
        let home = tempfile::TempDir::new().unwrap();
        let file = DeviceFile { path: home.path().join("flotilla").join("device") };
        let names: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| file.name().unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(names[0].starts_with("cli-"), "{names:?}");
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
        assert_eq!(fs::read_dir(home.path().join("flotilla")).unwrap().count(), 1, "no drafts are left");
    }
}
