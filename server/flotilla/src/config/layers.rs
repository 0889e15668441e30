//! One value for each key, from the strongest source that gives one.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
};

use toml::{Table, Value, de::DeTable};

use super::{
    Config, ConfigError,
    keys::{self, KEYS, Key, Kind},
};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The values that were given, each over the one before.
#[derive(Default)]
pub struct Layers {
    given: BTreeMap<&'static str, (Value, Origin)>,
}

impl Layers {
    /// Adds what a file says.
    ///
    /// # Errors
    /// If it can't be read, isn't TOML, or has a key that isn't known.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        self.add_text(path, &text)
    }

    fn add_text(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let syntax = |source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) };
        let places = DeTable::parse(text).map_err(syntax)?;
        let values: Table = toml::from_str(text).map_err(syntax)?;
        self.add_table(path, text, "", places.get_ref(), values)
    }

    /// `places` and `values` are the same table, once with positions and once with values.
    fn add_table(
        &mut self,
        file: &Path,
        text: &str,
        above: &str,
        places: &DeTable<'_>,
        values: Table,
    ) -> Result<(), ConfigError> {
        let place_of = |name: &str| places.iter().find(|(key, _)| key.get_ref() == name);
        for (name, value) in values {
            let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            let place = place_of(&name);
            let start = place.map_or(0, |(key, _)| key.span().start);
            let line = 1 + text[..start].matches('\n').count();
            let origin = Origin::File { path: file.to_owned(), line };
            match (keys::find(&path), value) {
                (Some(key), value) => _ = self.given.insert(key.path, (value, origin)),
                (None, Value::Table(inner)) if keys::is_table(&path) => {
                    if let Some(places) = place.and_then(|(_, value)| value.get_ref().as_table()) {
                        self.add_table(file, text, &path, places, inner)?;
                    }
                }
                (None, _) if keys::is_later(&path) => return Err(ConfigError::LaterKey { origin, key: path }),
                (None, _) if keys::is_table(&path) => return Err(ConfigError::NotAValue { origin, key: path }),
                (None, _) => {
                    return Err(ConfigError::UnknownKey { origin, nearest: keys::nearest_path(&path), key: path });
                }
            }
        }
        Ok(())
    }

    /// Adds what the environment says. Other variables that begin with `FLOTILLA_` are left
    /// alone: Kubernetes makes some for a service of that name.
    ///
    /// # Errors
    /// If a value can't be one of its key.
    pub fn add_environment(&mut self) -> Result<(), ConfigError> {
        for key in KEYS {
            let name = key.variable();
            if let Ok(text) = env::var(&name) {
                self.add(key, &text, Origin::Variable(name))?;
            }
        }
        Ok(())
    }

    /// Adds what a flag says.
    ///
    /// # Errors
    /// If there is no such key, or the value can't be one of it.
    pub fn add_flag(&mut self, flag: &str, path: &str, text: &str) -> Result<(), ConfigError> {
        let origin = Origin::Flag(flag.to_owned());
        match keys::find(path) {
            Some(key) => self.add(key, text, origin),
            None if keys::is_later(path) => Err(ConfigError::LaterKey { origin, key: path.to_owned() }),
            None => Err(ConfigError::UnknownKey { origin, key: path.to_owned(), nearest: keys::nearest_path(path) }),
        }
    }

    /// Adds a `--set KEY=VALUE`.
    ///
    /// # Errors
    /// As [`Layers::add_flag`], and if there is no `=`.
    pub fn add_set(&mut self, argument: &str) -> Result<(), ConfigError> {
        let (path, text) =
            argument.split_once('=').ok_or_else(|| ConfigError::BadSet { argument: argument.to_owned() })?;
        self.add_flag("--set", path.trim(), text.trim())
    }

    fn add(&mut self, key: &'static Key, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let bad = |reason: &str| ConfigError::BadValue {
            origin: origin.clone(),
            key: key.path.to_owned(),
            reason: format!("{text:?} is not {reason}"),
        };
        let value = match key.kind {
            Kind::Text => Value::String(text.to_owned()),
            Kind::Number => Value::Integer(text.parse().map_err(|_| bad("a whole number"))?),
            Kind::Fraction => Value::Float(text.parse().map_err(|_| bad("a number"))?),
            Kind::Switch => Value::Boolean(text.parse().map_err(|_| bad("true or false"))?),
            Kind::List => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
            }
            Kind::Map => Value::Table(map(text).ok_or_else(|| bad("a list such as 1=10.0.0.1:7400,2=10.0.0.2:7400"))?),
        };
        self.given.insert(key.path, (value, origin));
        Ok(())
    }

    /// The values that were given, over the defaults.
    ///
    /// # Errors
    /// If a value has another type or form than its key, or id and ordinal are of two servers.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let mut config = self.deserialize()?;
        if let (Some(ordinal), Some((_, origin))) = (config.cluster.ordinal, self.given.get("cluster.ordinal")) {
            let id = ordinal.saturating_add(1);
            if self.given.contains_key("cluster.id") && config.cluster.id != id {
                return Err(ConfigError::OtherOrdinal { origin: origin.clone(), ordinal, id: config.cluster.id });
            }
            config.cluster.id = id;
        }
        Ok(config)
    }

    fn deserialize(&self) -> Result<Config, ConfigError> {
        let mut table = Table::new();
        for (path, (value, _)) in &self.given {
            let (parent, name) = path.rsplit_once('.').map_or((None, *path), |(parent, name)| (Some(parent), name));
            let within = match parent {
                None => &mut table,
                Some(parent) => match table.entry(parent).or_insert_with(|| Value::Table(Table::new())) {
                    Value::Table(inner) => inner,
                    _ => continue,
                },
            };
            within.insert(name.to_owned(), value.clone());
        }
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let path = error.path().to_string();
            // Within a list or a map, the path goes on.
            let key = keys::holding(&path).map_or(path.as_str(), |key| key.path);
            let origin = self.given.get(key).map(|(_, origin)| origin.clone());
            ConfigError::BadValue {
                origin: origin.unwrap_or_else(|| Origin::Flag("--set".to_owned())),
                key: key.to_owned(),
                // The parser appends the key on a line of its own.
                reason: error.into_inner().message().trim().to_owned(),
            }
        })
    }

    /// The effective configuration as TOML, with the origin of what isn't default.
    pub fn render(&self, config: &Config) -> String {
        let whole = Table::try_from(config).unwrap_or_default();
        let mut text = String::new();
        let mut table = "";
        for key in KEYS {
            let (parent, name) = key.path.rsplit_once('.').unwrap_or(("", key.path));
            let within = if parent.is_empty() { Some(&whole) } else { whole.get(parent).and_then(Value::as_table) };
            let Some(value) = within.and_then(|within| within.get(name)) else { continue };
            if parent != table {
                text.push_str(&format!("\n[{parent}]\n"));
                table = parent;
            }
            let line = format!("{name} = {}", value);
            match self.given.get(key.path) {
                Some((_, origin)) => text.push_str(&format!("{line:<40} # {origin}\n")),
                None => text.push_str(&format!("{line}\n")),
            }
        }
        text
    }
}

/// `NAME=VALUE,NAME=VALUE`; none if it isn't, or names something twice.
fn map(text: &str) -> Option<Table> {
    let mut table = Table::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=')?;
        let before = table.insert(name.trim().to_owned(), Value::String(value.trim().to_owned()));
        if before.is_some() {
            return None;
        }
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_text(text: &str) -> Result<Config, ConfigError> {
        let mut layers = Layers::default();
        layers.add_text(Path::new("config.toml"), text)?;
        layers.config()
    }

    #[test]
    fn a_typo_is_told_with_file_line_and_nearest_key() {
        let error = from_text("services = [\"all\"]\n\n[limits]\ncahce = \"1 GiB\"\n").unwrap_err();
        assert_eq!(error.to_string(), "config.toml:4: unknown key `limits.cahce`; did you mean `limits.cache`?");
    }

    #[test]
    fn a_key_of_a_later_version_is_told_as_such() {
        for text in ["[control_plane]\nlisten = \"a\"\n", "[discovery]\nzone = \"a\"\n"] {
            let error = from_text(text).unwrap_err();
            assert!(matches!(error, ConfigError::LaterKey { .. }), "{error}");
        }
    }

    #[test]
    fn a_bad_value_is_told_with_its_line() {
        let error = from_text("\n[limits]\ndrain = \"soon\"\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "config.toml:3: `limits.drain`: \"soon\" is not a duration such as \"10s\" or \"24h\""
        );
        let error = from_text("listen = 7400").unwrap_err();
        assert!(error.to_string().starts_with("config.toml:1: `listen`: "), "{error}");
    }

    #[test]
    fn flags_override_the_file_and_the_result_tells_where_each_came_from() {
        let mut layers = Layers::default();
        layers.add_text(Path::new("c.toml"), "services = [\"users\"]\n[limits]\ncache = \"1 GiB\"\n").unwrap();
        layers.add_flag("--services", "services", "users, records").unwrap();
        layers.add_set("limits.drain=3s").unwrap();
        let config = layers.config().unwrap();
        assert_eq!(config.services, ["users", "records"]);
        assert_eq!(config.limits.drain.as_secs(), 3);
        let text = layers.render(&config);
        assert!(text.contains("services = [\"users\", \"records\"]"), "{text}");
        assert!(text.contains("# flag --services"), "{text}");
        assert!(text.contains("# c.toml:3"), "{text}");
        assert_eq!(from_text(&text).unwrap(), config);
    }

    #[test]
    fn peers_are_a_table_in_the_file_and_a_list_in_a_flag() {
        let inline = from_text("[cluster]\npeers = { 1 = \"a:7400\", 10 = \"b:7400\" }\n").unwrap();
        let table = from_text("[cluster.peers]\n1 = \"a:7400\"\n10 = \"b:7400\"\n").unwrap();
        let mut layers = Layers::default();
        layers.add_set("cluster.peers = 1=a:7400, 10=b:7400").unwrap();
        let flag = layers.config().unwrap();
        assert_eq!((&inline, &table), (&flag, &flag));
        assert_eq!(flag.peer_address(10).as_deref(), Some("b:7400"));
        let text = layers.render(&flag);
        assert!(text.contains("peers = { 1 = \"a:7400\", 10 = \"b:7400\" }"), "{text}");
        assert_eq!(from_text(&text).unwrap(), flag);
    }

    #[test]
    fn peers_that_are_none_are_told_with_their_place() {
        for (text, told) in [
            ("[cluster]\npeers = { one = \"a:7400\" }\n", "config.toml:2: `cluster.peers`: \"one\" is not the number"),
            ("[cluster]\npeers = { 1 = \"a:7400\", 01 = \"b:7400\" }\n", "server 1 is there twice"),
            ("[cluster]\npeers = { 1 = 7400 }\n", "config.toml:2: `cluster.peers`: "),
            ("[cluster]\npeers_dns = 7\n", "config.toml:2: `cluster.peers_dns`: "),
        ] {
            let error = from_text(text).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        for text in ["a:7400", "1=a:7400,1=b:7400"] {
            let error = Layers::default().add_set(&format!("cluster.peers={text}")).unwrap_err().to_string();
            assert!(error.contains("1=10.0.0.1:7400,2="), "{error}");
        }
    }

    #[test]
    fn an_ordinal_gives_the_id_unless_another_was_given() {
        assert_eq!(from_text("[cluster]\nordinal = 2\n").unwrap().cluster.id, 3);
        assert_eq!(from_text("[cluster]\nordinal = 2\nid = 3\n").unwrap().cluster.id, 3);
        let error = from_text("[cluster]\nid = 2\nordinal = 2\n").unwrap_err().to_string();
        assert!(error.starts_with("config.toml:3: `cluster.ordinal` is 2, which is server 3"), "{error}");
    }
}
