//! What a server is told: every key, its default, and where its value came from.
//!
//! Flags override environment (`FLOTILLA_*`), which overrides the file, which overrides the
//! defaults here. `config.toml` beside this crate's manifest explains every key; a test holds it
//! equal to the defaults. Nothing else in the server reads the environment.
//!
//! # Layout
//!
//! * `keys`: the closed list of keys, and the nearest known name for a typo.
//! * `layers`: one value for each key, from the strongest source that gives one.
//! * `units`: sizes and durations as people write them.
//! * `cell`: where the servers of a cell are, and what of that can't be right.
//! * `client`: the small file of the command line; `device`: the name of its device.

pub(crate) mod cell;
pub mod client;
pub mod device;
mod error;
mod keys;
mod layers;
mod units;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use cell::CellError;
pub use error::ConfigError;
pub use keys::nearest;
pub(crate) use keys::variables_of;
pub use layers::{Layers, Origin};
pub use units::Size;

/// Everything that a server is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Short names of the services to run; `all` stands for every one. Required.
    pub services: Vec<String>,
    /// Where the data is kept.
    pub data_dir: PathBuf,
    /// The address of gRPC and gRPC-Web.
    pub listen: SocketAddr,
    /// The address of health and metrics; absent: that of `listen`, 100 ports higher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_listen: Option<SocketAddr>,
    /// Whether anybody who reaches `listen` may do everything.
    pub unauthenticated: bool,
    /// Which cell this server is, and which of its servers.
    pub cluster: Cluster,
    /// Where services run that those of this server ask, if not beside them.
    pub remote_services: RemoteServices,
    /// What is bounded, and how.
    pub limits: Limits,
    /// What is logged, and how.
    pub telemetry: Telemetry,
}

/// Which cell a server is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cluster {
    /// The cell's name; a data directory of another cell is refused.
    pub name: String,
    /// This server's number in the cell, from 1.
    pub id: u64,
    /// The same counted from 0, where a machine is told so; `id` is one more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u64>,
    /// How many servers of the cell vote: 1, 3 or 5. Numbers above it are learners.
    pub voters: u64,
    /// Where each server of the cell is reached, by its number: `host:port`. Empty: alone, unless `peers_dns` is set.
    #[serde(with = "cell::peers")]
    pub peers: BTreeMap<u64, String>,
    /// The same as a pattern, `flotilla-{ordinal}.flotilla:7400`: `{ordinal}` is the number minus one, `{id}` the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers_dns: Option<String>,
    /// A file with the secret that all servers of the cell share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// How often a leader says that it is there.
    #[serde(with = "units::duration")]
    pub heartbeat: Duration,
    /// How long after a leader's last word another is elected, at most about this.
    #[serde(with = "units::duration")]
    pub election: Duration,
}

/// Services of other cells: the addresses of some of the cell's servers, `host:port`, by the service's short name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RemoteServices {
    /// Of `users`.
    pub users: Vec<String>,
    /// Of `records`.
    pub records: Vec<String>,
    /// Of `threads`.
    pub threads: Vec<String>,
}

impl RemoteServices {
    /// The addresses of a service; none: it isn't elsewhere.
    pub fn of(&self, service: &str) -> &[String] {
        match service {
            "users" => &self.users,
            "records" => &self.records,
            "threads" => &self.threads,
            _ => &[],
        }
    }
}

/// The bounds that a person may move. Those of the format (row, key, transaction, message) are
/// fixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests in work at once, over all connections; more are refused with OVERLOADED.
    pub concurrent_requests: usize,
    /// Requests that one caller may have in work while the server is busy.
    pub requests_per_caller: usize,
    /// Streams open at once, over all connections; more are refused with OVERLOADED.
    pub streams: usize,
    /// Streams that one caller may have open while the server is busy.
    pub streams_per_caller: usize,
    /// Connections open at once; more are closed.
    pub connections: usize,
    /// Calls and streams that one connection may have open.
    pub streams_per_connection: u32,
    /// Bytes of a request's metadata, as HTTP/2 counts them.
    pub header_size: Size,
    /// Bytes of all messages that are being received or worked on.
    pub messages_in_work: Size,
    /// Transactions that may wait for the log; more are refused with OVERLOADED.
    pub waiting_transactions: usize,
    /// Memory for rows read from the store.
    pub cache: Size,
    /// Free disk below which writes are refused with DISK_FULL.
    pub min_free_disk: Size,
    /// How many bytes of changes watchers can resume over.
    pub feed_retention_size: Size,
    /// How long watchers can resume.
    #[serde(with = "units::duration")]
    pub feed_retention: Duration,
    /// Log after which a snapshot is taken and the log before it removed.
    pub snapshot_log: Size,
    /// How long a start may take to bring the store up to the log.
    #[serde(with = "units::duration")]
    pub catch_up: Duration,
    /// How long a stopping server reports not ready before it stops accepting.
    #[serde(with = "units::duration")]
    pub drain_delay: Duration,
    /// How long a stopping server waits for requests in work.
    #[serde(with = "units::duration")]
    pub drain: Duration,
}

/// What is logged, and what is traced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// A level, or directives such as `info,flotilla_replica=debug`.
    pub log: String,
    /// How a line looks.
    pub log_format: LogFormat,
    /// A call that takes longer is logged; zero: none is.
    #[serde(with = "units::duration")]
    pub slow_request: Duration,
    /// Whether the second port has `/debug`.
    pub debug: bool,
    /// Whether it has it although other machines reach that port.
    pub debug_exposed: bool,
    /// The collector that traces are sent to, `http://host:port`; absent: nothing is traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// The fraction of requests that are traced, of those whose callers don't say.
    pub trace_sample: f64,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Where health and metrics are served.
    ///
    /// # Errors
    /// If `listen` is so high that no port is 100 above it.
    pub fn health_address(&self) -> Result<SocketAddr, ConfigError> {
        if let Some(address) = self.health_listen {
            return Ok(address);
        }
        // Port 0 means any free one, for health too.
        let port = match self.listen.port() {
            0 => Some(0),
            port => port.checked_add(100),
        };
        let port = port.ok_or(ConfigError::NoHealthPort { listen: self.listen })?;
        Ok(SocketAddr::new(self.listen.ip(), port))
    }

    /// The names of the services to run, `all` expanded, in the order of `known`.
    ///
    /// # Errors
    /// If none is named, or one isn't known.
    pub fn services<'a>(&self, known: &[&'a str]) -> Result<Vec<&'a str>, ConfigError> {
        let known_or_all: Vec<&str> = known.iter().copied().chain([ALL_SERVICES]).collect();
        for name in &self.services {
            if !known_or_all.contains(&name.as_str()) {
                return Err(ConfigError::UnknownService {
                    name: name.clone(),
                    nearest: nearest(name, &known_or_all).map(str::to_owned),
                    known: known_or_all.join(", "),
                });
            }
        }
        let wanted = |name: &str| self.services.iter().any(|s| s == name || s == ALL_SERVICES);
        let services: Vec<&str> = known.iter().copied().filter(|name| wanted(name)).collect();
        match services.is_empty() {
            true => Err(ConfigError::NoServices { known: known.join(", ") }),
            false => Ok(services),
        }
    }

    /// Where a server of the cell is reached, `host:port`, as far as the config says it.
    pub fn peer_address(&self, id: u64) -> Option<String> {
        self.cluster.address_of(id)
    }

    /// What is allowed, and that a person should know nevertheless: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.cluster.warnings()
    }

    /// Checks what serde can't: that services are named and known, that nobody is let in whom nobody
    /// meant to let in, and that the cell can be one.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, known_services: &[&str]) -> Result<(), ConfigError> {
        self.services(known_services)?;
        if !self.listen.ip().to_canonical().is_loopback() && !self.unauthenticated {
            return Err(ConfigError::OpenToTheNetwork { listen: self.listen });
        }
        let health = self.health_address()?;
        if self.telemetry.debug && !self.telemetry.debug_exposed && !health.ip().to_canonical().is_loopback() {
            return Err(ConfigError::DebugOpenToTheNetwork { health });
        }
        self.cluster.check()?;
        if let Some(endpoint) = &self.telemetry.otlp_endpoint {
            check_collector(endpoint)?;
        }
        if !(0.0..=1.0).contains(&self.telemetry.trace_sample) {
            return Err(ConfigError::BadFraction { key: "telemetry.trace_sample", value: self.telemetry.trace_sample });
        }
        let bounds = [
            ("limits.concurrent_requests", self.limits.concurrent_requests),
            ("limits.requests_per_caller", self.limits.requests_per_caller),
            ("limits.streams", self.limits.streams),
            ("limits.streams_per_caller", self.limits.streams_per_caller),
            ("limits.connections", self.limits.connections),
            ("limits.messages_in_work", usize::try_from(self.limits.messages_in_work.bytes()).unwrap_or(usize::MAX)),
            ("limits.header_size", usize::try_from(self.limits.header_size.bytes()).unwrap_or(usize::MAX)),
            ("limits.streams_per_connection", self.limits.streams_per_connection as usize),
            ("limits.waiting_transactions", self.limits.waiting_transactions),
        ];
        match bounds.into_iter().find(|(_, bound)| *bound == 0) {
            Some((key, _)) => Err(ConfigError::ZeroBound { key }),
            None => Ok(()),
        }
    }
}

fn check_collector(endpoint: &str) -> Result<(), ConfigError> {
    let refused = |reason| Err(ConfigError::BadCollector { endpoint: endpoint.to_owned(), reason });
    match endpoint.split_once("://") {
        Some(("http", rest)) if !rest.is_empty() && endpoint.parse::<http::Uri>().is_ok() => Ok(()),
        Some(("https", _)) => refused("this version speaks no TLS to a collector: run one on this machine"),
        _ => refused("it must look like http://127.0.0.1:4317"),
    }
}

const ALL_SERVICES: &str = "all";

impl Default for Config {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            data_dir: PathBuf::from("/var/lib/flotilla"),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400),
            health_listen: None,
            unauthenticated: false,
            cluster: Cluster::default(),
            remote_services: RemoteServices::default(),
            limits: Limits::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "flotilla".to_owned(),
            id: 1,
            ordinal: None,
            voters: 1,
            peers: BTreeMap::new(),
            peers_dns: None,
            secret_file: None,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_millis(800),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_requests: 2048,
            requests_per_caller: 2048,
            streams: 32_768,
            streams_per_caller: 32_768,
            connections: 16_384,
            streams_per_connection: 2048,
            header_size: Size::kibibytes(16),
            messages_in_work: Size::mebibytes(64),
            waiting_transactions: 4096,
            cache: Size::mebibytes(32),
            min_free_disk: Size::mebibytes(256),
            feed_retention_size: Size::mebibytes(64),
            feed_retention: Duration::from_hours(24),
            snapshot_log: Size::mebibytes(64),
            catch_up: Duration::from_mins(10),
            drain_delay: Duration::ZERO,
            drain: Duration::from_secs(10),
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            log_format: LogFormat::Auto,
            slow_request: Duration::from_secs(1),
            debug: false,
            debug_exposed: false,
            otlp_endpoint: None,
            trace_sample: 0.01,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(services: &[&str]) -> Config {
        Config { services: services.iter().map(|&s| s.to_owned()).collect(), ..Config::default() }
    }

    #[test]
    fn a_server_without_services_is_told_what_to_write() {
        let error = Config::default().check(&["users", "records"]).unwrap_err();
        assert!(error.to_string().contains(r#"services = ["all"]"#), "{error}");
    }

    #[test]
    fn a_misspelt_service_is_answered_with_the_nearest_one() {
        let error = named(&["user"]).check(&["users", "records"]).unwrap_err();
        assert!(error.to_string().contains("did you mean `users`"), "{error}");
    }

    #[test]
    fn all_stands_for_every_service() {
        let services = named(&["all"]).services(&["users", "records"]).unwrap();
        assert_eq!(services, ["users", "records"]);
    }

    #[test]
    fn listening_beyond_loopback_needs_a_word() {
        let mut config = named(&["all"]);
        for (listen, refused) in
            [("0.0.0.0:7400", true), ("[::]:7400", true), ("127.0.0.9:7400", false), ("[::1]:7400", false)]
        {
            config.listen = listen.parse().unwrap();
            assert_eq!(config.check(&["users"]).is_err(), refused, "{listen}");
        }
        config.listen = "0.0.0.0:7400".parse().unwrap();
        config.unauthenticated = true;
        config.check(&["users"]).unwrap();
    }

    #[test]
    fn debug_pages_beyond_loopback_need_a_word() {
        let mut config = named(&["all"]);
        config.health_listen = Some("0.0.0.0:7500".parse().unwrap());
        config.check(&["users"]).unwrap();
        config.telemetry.debug = true;
        let error = config.check(&["users"]).unwrap_err();
        assert!(error.to_string().contains("debug_exposed = true"), "{error}");
        config.telemetry.debug_exposed = true;
        config.check(&["users"]).unwrap();
        config.limits.streams = 0;
        assert!(matches!(config.check(&["users"]), Err(ConfigError::ZeroBound { key: "limits.streams" })));
    }

    #[test]
    fn a_collector_that_cant_be_reached_so_is_told_with_the_way_out() {
        let mut config = named(&["all"]);
        let checked = |config: &Config| config.check(&["users"]).map_err(|error| error.to_string());
        config.telemetry.otlp_endpoint = Some("http://127.0.0.1:4317".to_owned());
        assert_eq!(checked(&config), Ok(()));
        for (endpoint, hint) in [("https://c:4317", "no TLS"), ("c:4317", "http://127.0.0.1:4317"), ("http://", "like")]
        {
            config.telemetry.otlp_endpoint = Some(endpoint.to_owned());
            let refused = checked(&config).unwrap_err();
            assert!(refused.contains(endpoint) && refused.contains(hint), "{refused}");
        }
    }

    #[test]
    fn a_fraction_is_between_0_and_1() {
        let mut config = named(&["all"]);
        for (fraction, refused) in [(0.0, false), (1.0, false), (1.5, true), (-0.1, true), (f64::NAN, true)] {
            config.telemetry.trace_sample = fraction;
            assert_eq!(config.check(&["users"]).is_err(), refused, "{fraction}");
        }
    }

    #[test]
    fn health_is_a_hundred_ports_higher() {
        assert_eq!(Config::default().health_address().unwrap().port(), 7500);
        let listen = "127.0.0.1:65500".parse().unwrap();
        assert!(Config { listen, ..Config::default() }.health_address().is_err());
    }

    const MANUAL: &str = include_str!("../../config.toml");

    #[test]
    fn the_annotated_file_is_equal_to_the_defaults() {
        let written: Config = toml::from_str(MANUAL).unwrap();
        assert_eq!(written, Config::default());
    }

    #[test]
    fn the_annotated_file_has_every_key_once_and_no_other() {
        let mut table = String::new();
        let mut found = Vec::new();
        for line in MANUAL.lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = format!("{}.", name.trim_end_matches(']'));
            }
            let key = line.trim_start_matches("# ").split_once(" = ").map(|(key, _)| key);
            if let Some(key) = key.filter(|key| !key.contains(' ')) {
                found.push(format!("{table}{key}"));
            }
        }
        let known: Vec<&str> = keys::KEYS.iter().map(|key| key.path).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn the_commented_keys_of_the_annotated_file_can_be_written_so() {
        let uncommented: String = MANUAL
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest)
                    if ["services = ", "health_listen = ", "peers = ", "secret_file = ", "otlp_endpoint = "]
                        .iter()
                        .any(|key| rest.starts_with(key)) =>
                {
                    rest
                }
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let config: Config = toml::from_str(&uncommented).unwrap();
        config.check(&["users", "records"]).unwrap();
        assert_eq!(config.health_listen, Some(Config::default().health_address().unwrap()));
        assert_eq!(config.peer_address(3).as_deref(), Some("10.0.0.3:7400"));
    }
}
