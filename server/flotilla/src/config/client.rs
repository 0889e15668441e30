//! The small file of the command line: `~/.config/flotilla/config.toml`. It never configures a
//! server.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::de::DeTable;

use super::{ConfigError, Origin, nearest};

/// What the file may say. Flags and variables override it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ClientFile {
    /// The server to call.
    pub endpoint: Option<String>,
    /// The user to act as.
    #[serde(rename = "as")]
    pub user: Option<String>,
    /// The device to act as.
    pub device: Option<String>,
    /// `table`, `json` or `yaml`.
    pub output: Option<String>,
    /// How long a command may take: "30s".
    pub timeout: Option<String>,
}

const KEYS: &[&str] = &["endpoint", "as", "device", "output", "timeout"];

impl ClientFile {
    /// Reads the file; without one, everything is absent.
    ///
    /// # Errors
    /// If it can't be read or has a key that isn't known.
    pub fn load() -> Result<Self, ConfigError> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path, source }),
        }
    }

    /// Where the file is looked for, if the environment names a home.
    pub fn path() -> Option<PathBuf> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let base = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
        Some(base.join("flotilla").join("config.toml"))
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let syntax = |source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) };
        let table = DeTable::parse(text).map_err(syntax)?;
        for key in table.get_ref().keys() {
            let name = key.get_ref().as_ref();
            if !KEYS.contains(&name) {
                let line = 1 + text[..key.span().start].matches('\n').count();
                return Err(ConfigError::UnknownKey {
                    origin: Origin::File { path: path.to_owned(), line },
                    key: name.to_owned(),
                    nearest: nearest(name, KEYS).map(str::to_owned),
                });
            }
        }
        toml::from_str(text).map_err(syntax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_names_a_server_and_a_user() {
        let file = ClientFile::parse(Path::new("c"), "endpoint = \"http://pi:7400\"\nas = \"ada\"\n").unwrap();
        assert_eq!(file.endpoint.as_deref(), Some("http://pi:7400"));
        assert_eq!(file.user.as_deref(), Some("ada"));
    }

    #[test]
    fn a_typo_is_told_with_its_line() {
        let error = ClientFile::parse(Path::new("c"), "\nendpiont = \"x\"\n").unwrap_err();
        assert_eq!(error.to_string(), "c:2: unknown key `endpiont`; did you mean `endpoint`?");
    }
}
