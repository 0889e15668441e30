//! What can be wrong with a configuration. Each text names the key, the place, and the way out.

use std::{io, net::SocketAddr, path::PathBuf};

use super::{CellError, Origin};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the config file {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {source}", path = .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        source: Box<toml::de::Error>,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`{}", hint(.nearest))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The whole key.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// A key that a later version will have.
    #[error("{origin}: `{key}` is not in this version: remove it")]
    LaterKey {
        /// Where it stands.
        origin: Origin,
        /// The whole key.
        key: String,
    },
    /// A value of the wrong type or form.
    #[error("{origin}: `{key}`: {reason}")]
    BadValue {
        /// Where it stands.
        origin: Origin,
        /// The whole key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Several values in one list, or a table where a value belongs.
    #[error("{origin}: `{key}` is a table of keys, not a value")]
    NotAValue {
        /// Where it stands.
        origin: Origin,
        /// The whole key.
        key: String,
    },
    /// A `--set` without `=`.
    #[error("--set {argument}: write it as KEY=VALUE, for instance --set limits.cache=256MiB")]
    BadSet {
        /// What was given.
        argument: String,
    },
    /// No services are named.
    #[error(
        "no services are configured, and this server doesn't guess which ones to run\n\n\
         Write in the config file, for every service:\n\n    services = [\"all\"]\n\n\
         or name some of: {known}. The flag --services and the variable FLOTILLA_SERVICES do the same."
    )]
    NoServices {
        /// The names there are.
        known: String,
    },
    /// No such service.
    #[error("`services` names `{name}`, which this server doesn't have{}; it has {known}", hint(.nearest))]
    UnknownService {
        /// The name given.
        name: String,
        /// The known name that is most like it.
        nearest: Option<String>,
        /// The names there are.
        known: String,
    },
    /// A service without another that it asks.
    #[error(
        "`services` names `{name}`, which asks `{needs}`: name that too, or write services = [\"all\"], or, if it runs in \
         another cell, where: remote_services.{needs} = [\"host:port\"]"
    )]
    MissingService {
        /// The service.
        name: &'static str,
        /// What it needs beside it.
        needs: &'static str,
    },
    /// A service here and elsewhere.
    #[error(
        "`{name}` runs here, as `services` says, and elsewhere, as `remote_services.{name}` says: leave out one of them"
    )]
    ServiceTwice {
        /// The service.
        name: &'static str,
    },
    /// A service elsewhere, at no address.
    #[error("`remote_services.{name}`: {address:?} is no address such as \"10.0.0.1:7400\"")]
    RemoteAddress {
        /// The service.
        name: &'static str,
        /// As given.
        address: String,
    },
    /// Beyond loopback without a word.
    #[error(
        "`listen` is {listen}, which other machines can reach, and this version doesn't authenticate anybody: \
         whoever reaches it may read and write everything\n\n\
         Listen on loopback (127.0.0.1:{port}), or, if your network keeps strangers out, write\n\n    \
         unauthenticated = true", port = .listen.port()
    )]
    OpenToTheNetwork {
        /// The address.
        listen: SocketAddr,
    },
    /// Debug pages beyond loopback without a word.
    #[error(
        "`telemetry.debug` is on and {health}, where its pages would be, can be reached by other machines: whoever does \
         may read how the server is and change what it logs\n\nListen on loopback with `health_listen`, or, if your \
         network keeps strangers out, write under [telemetry]\n\n    debug_exposed = true"
    )]
    DebugOpenToTheNetwork {
        /// The address of the second port.
        health: SocketAddr,
    },
    /// No port is 100 higher.
    #[error("no port is 100 above that of `listen` ({listen}): set `health_listen`")]
    NoHealthPort {
        /// The address.
        listen: SocketAddr,
    },
    /// What it says of the cell can't be.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// Two numbers for one server.
    #[error(
        "{origin}: `cluster.ordinal` is {ordinal}, which is server {}, and `cluster.id` says {id}: remove one of them",
        .ordinal.saturating_add(1)
    )]
    OtherOrdinal {
        /// Where the ordinal stands.
        origin: Origin,
        /// What it says.
        ordinal: u64,
        /// What the id says.
        id: u64,
    },
    /// Not where a collector of traces can be.
    #[error("`telemetry.otlp_endpoint` is {endpoint:?}: {reason}")]
    BadCollector {
        /// What was given.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A fraction that isn't one.
    #[error("`{key}` is {value}: a fraction is between 0 (none) and 1 (all)")]
    BadFraction {
        /// The key.
        key: &'static str,
        /// What was given.
        value: f64,
    },
    /// A bound of 0 lets nothing through.
    #[error("`{key}` is 0, which would refuse everything: set at least 1")]
    ZeroBound {
        /// The key.
        key: &'static str,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}
