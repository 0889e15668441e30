//! The secret that the servers of a cell share, from a file. It never prints itself.

use std::{fmt, fs::File, hint::black_box, io, io::Read, path::Path, path::PathBuf, sync::Arc};

/// Bytes that a secret has at least.
pub const MIN_LENGTH: usize = 16;
/// Bytes that a secret has at most: it travels in the headers of every call.
pub const MAX_LENGTH: usize = 1024;

/// What shows that a caller is of the cell.
#[derive(Clone)]
pub struct Secret(Arc<str>);

/// A secret can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("the secret file {path} can't be read", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Everybody on the machine could use it.
    #[error("the secret file {path} is open to everybody on this machine (mode {mode:o}): chmod 600 {path}", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Nothing is in it.
    #[error("the secret file {path} is empty: openssl rand -hex 32 > {path}", path = .0.display())]
    Empty(PathBuf),
    /// It could be guessed.
    #[error("the secret in {path} has {length} bytes, and {MIN_LENGTH} are the least: openssl rand -hex 32 > {path}", path = .path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Bytes of the secret.
        length: usize,
    },
    /// It would not fit into headers.
    #[error("the secret in {path} has more than {MAX_LENGTH} bytes: openssl rand -hex 32 > {path}", path = .0.display())]
    Long(PathBuf),
    /// It has characters that can't travel in a header.
    #[error("the secret in {path} has more than visible ASCII characters: openssl rand -hex 32 > {path}", path = .0.display())]
    Characters(PathBuf),
}

impl Secret {
    /// Reads a secret file; space around the secret doesn't count.
    ///
    /// # Errors
    ///
    /// The file can't be read or is open to everybody, or the secret in it is unsuitable.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        let failed = |error| SecretError::Read(path.to_owned(), error);
        let file = File::open(path).map_err(failed)?;
        refuse_exposed(path, &file)?;
        let mut bytes = Vec::new();
        // One byte more, and space around it, so that a long one is seen to be long.
        file.take(4 * MAX_LENGTH as u64).read_to_end(&mut bytes).map_err(failed)?;
        let secret = bytes.trim_ascii();
        match secret.len() {
            0 => return Err(SecretError::Empty(path.to_owned())),
            length if length < MIN_LENGTH => return Err(SecretError::Short { path: path.to_owned(), length }),
            length if length > MAX_LENGTH => return Err(SecretError::Long(path.to_owned())),
            _ => {}
        }
        match std::str::from_utf8(secret) {
            Ok(text) if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(text.into())),
            _ => Err(SecretError::Characters(path.to_owned())),
        }
    }

    /// Whether somebody shows this secret. Takes as long wherever the first difference is, so that it
    /// can't be guessed byte by byte; only its length can be told from the time.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let difference =
            own.iter().zip(shown).fold(0_u8, |difference, (own, shown)| black_box(difference | (own ^ shown)));
        own.len() == shown.len() && difference == 0
    }

    /// As it travels.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, file: &File) -> Result<(), SecretError> {
    use std::os::unix::fs::PermissionsExt;

    let metadata = file.metadata().map_err(|error| SecretError::Read(path.to_owned(), error))?;
    let mode = metadata.permissions().mode() & 0o777;
    match mode & 0o007 {
        0 => Ok(()),
        _ => Err(SecretError::Exposed { path: path.to_owned(), mode }),
    }
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path, _: &File) -> Result<(), SecretError> {
    Ok(())
}
