//! Which servers there are, where each listens, and the config that each is started with.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
};

use rand::Rng;
use toml::{Table, Value};

use super::place::{Place, failed};
use crate::{
    cli::{Failure, checkpoint},
    config::{Layers, variables_of},
    services,
};

/// Servers on one machine at most: each has two ports within a hundred, and takes memory.
pub(super) const MAX_SERVERS: u64 = 15;
const SERVERS: u64 = 3;
const PORT: u16 = 7400;
const HEALTH: u16 = 100;
/// Where free ports are looked for: below those that systems give to connections.
const FREE_PORTS: std::ops::Range<u16> = 12_000..30_000;

/// What is decided here, and so is not taken from the environment.
const DECIDED: [&str; 5] = ["services", "data_dir", "listen", "health_listen", "cluster"];

/// What all servers of the cell have in common.
pub(super) struct Plan {
    pub(super) place: Place,
    /// How many there are at first.
    pub(super) servers: u64,
    /// How many of them vote.
    pub(super) voters: u64,
    /// The address of the first.
    first: SocketAddr,
    log: Option<String>,
    /// What is run, before `serve` and its flags.
    program: Vec<OsString>,
}

impl Plan {
    pub(super) fn new(
        place: Place,
        servers: Option<u64>,
        listen: Option<&str>,
        log: Option<String>,
    ) -> Result<Self, Failure> {
        let servers = servers.unwrap_or(SERVERS);
        let program = env::current_exe().map_err(Failure::Runtime)?.into();
        let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
        let mut first = listen.map_or(Ok(default), parse_address)?;
        if first.port() == 0 {
            first.set_port(free_ports(first.ip(), servers)?);
        }
        let voters = voters(servers, former_voters(&place))?;
        Ok(Self { place, servers, voters, first, log, program: vec![program] })
    }

    #[cfg(test)]
    pub(super) fn of_stubs(place: Place, servers: u64, first: SocketAddr, script: &str) -> Self {
        let program = ["sh", "-c", script, "stub"].map(OsString::from).to_vec();
        let voters = voters(servers, None).unwrap();
        Self { place, servers, voters, first, log: None, program }
    }

    /// Where a server is reached.
    pub(super) fn address(&self, id: u64) -> SocketAddr {
        let port = self.first.port().saturating_add((id - 1) as u16);
        SocketAddr::new(self.first.ip(), port)
    }

    /// Where its health and metrics are.
    pub(super) fn health(&self, id: u64) -> SocketAddr {
        let address = self.address(id);
        SocketAddr::new(address.ip(), address.port().saturating_add(HEALTH))
    }

    /// Whether nobody has its ports.
    pub(super) fn check_ports(&self, id: u64) -> Result<(), Failure> {
        for address in [self.address(id), self.health(id)] {
            match TcpListener::bind(address) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(Failure::PortTaken { address }),
                Err(source) => {
                    let reason = format!("can't listen on {address}: {source}");
                    return Err(Failure::Argument { argument: "--listen".to_owned(), reason });
                }
            }
        }
        Ok(())
    }

    /// Writes the config of each of these servers, which know each other.
    pub(super) fn write(&self, ids: &[u64]) -> Result<(), Failure> {
        let peers: BTreeMap<u64, SocketAddr> = ids.iter().map(|&id| (id, self.address(id))).collect();
        for &id in ids {
            let path = self.place.config_of(id);
            let text =
                format!("# Written by `flotilla dev` each time: changes are lost.\n{}", self.config(id, &peers)?);
            checkpoint::replace(&path, &text).map_err(failed("write", &path))?;
            let mut layers = Layers::default();
            layers.add_file(&path)?;
            layers.config()?.check(&services::names())?;
        }
        Ok(())
    }

    fn config(&self, id: u64, peers: &BTreeMap<u64, SocketAddr>) -> Result<Table, Failure> {
        let text = |text: &dyn ToString| Value::String(text.to_string());
        let number = |number: u64| Value::Integer(number as i64);
        let peers = peers.iter().map(|(id, address)| (id.to_string(), text(address)));
        let cluster = [
            ("id", number(id)),
            ("voters", number(self.voters)),
            ("peers", Value::Table(peers.collect())),
            ("secret_file", text(&self.place.secret()?.display())),
        ];
        // Lines of a log with a number before them are for people.
        let telemetry = [("log_format", text(&"pretty"))];
        let table = |entries: &[(&str, Value)]| -> Value {
            Value::Table(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
        };
        let whole = [
            ("services", Value::Array(vec![text(&"all")])),
            ("data_dir", text(&self.place.data_of(id).display())),
            ("listen", text(&self.address(id))),
            ("health_listen", text(&self.health(id))),
            ("cluster", table(&cluster)),
            ("telemetry", table(&telemetry)),
        ];
        Ok(whole.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// What runs a server, and stops when its stdin ends.
    pub(super) fn command(&self, id: u64) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args(["serve", "--exit-with-parent", "--config"]);
        command.arg(self.place.config_of(id));
        if let Some(log) = &self.log {
            command.args(["--log", log]);
        }
        for variable in variables_of(&DECIDED) {
            command.env_remove(variable);
        }
        command
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, Failure> {
    let address: Option<SocketAddr> = text.parse().ok();
    let reason = match address {
        None => format!("{text:?} is not an address such as 127.0.0.1:7410"),
        Some(address) if !address.ip().is_loopback() => {
            format!("{text} can be reached from other machines, and `flotilla dev` is for this one: 127.0.0.1:7410")
        }
        Some(address) if address.port() > u16::MAX - HEALTH - MAX_SERVERS as u16 => {
            format!("{text}: the ports of all servers and their health, 100 higher, end at 65535")
        }
        Some(address) => return Ok(address),
    };
    Err(Failure::Argument { argument: "--listen".to_owned(), reason })
}

/// The first of as many ports in a row that nobody has, nor those 100 higher.
fn free_ports(ip: IpAddr, count: u64) -> Result<u16, Failure> {
    let free = |port: u16| TcpListener::bind((ip, port)).is_ok();
    let row = |first: &u16| (*first..*first + count as u16).all(|port| free(port) && free(port + HEALTH));
    let tries = std::iter::repeat_with(|| rand::rng().random_range(FREE_PORTS)).take(100);
    tries.into_iter().find(row).ok_or_else(|| Failure::Argument {
        argument: "--listen".to_owned(),
        reason: format!("no {count} ports in a row are free on {ip}: name the first"),
    })
}

/// How many voted when the data was last used here, if there is any.
fn former_voters(place: &Place) -> Option<u64> {
    if !place.has_data(1) {
        return None;
    }
    let config: Table = toml::from_str(&fs::read_to_string(place.config_of(1)).ok()?).ok()?;
    let voters = config.get("cluster")?.get("voters")?.as_integer()?;
    u64::try_from(voters).ok()
}

/// As many as make sense of so many servers: 1, 3 or 5. A cell of several keeps what it has.
fn voters(servers: u64, former: Option<u64>) -> Result<u64, Failure> {
    match former {
        Some(former) if former > 1 && servers < former => Err(Failure::Argument {
            argument: "--servers".to_owned(),
            reason: format!(
                "the data that is here is of a cell in which {former} servers vote, and {servers} would leave it \
                 without a majority when one more fails, or at once: start {former} or more, or begin anew with \
                 --fresh (FRESH=1 make dev)"
            ),
        }),
        Some(former) if former > 1 => Ok(former),
        _ => Ok(match servers {
            ..=2 => 1,
            3..=4 => 3,
            5.. => 5,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_three_or_five_vote_and_a_cell_keeps_its_voters() {
        let of = |servers, former| voters(servers, former).ok();
        assert_eq!([1, 2, 3, 4, 5, 9].map(|servers| of(servers, None)), [1, 1, 3, 3, 5, 5].map(Some));
        assert_eq!((of(3, Some(1)), of(5, Some(3)), of(1, Some(3))), (Some(3), Some(3), None));
        let refused = voters(1, Some(3)).unwrap_err().to_string();
        assert!(refused.contains("3 servers vote") && refused.contains("--fresh"), "{refused}");
    }

    #[test]
    fn each_server_is_told_of_all_and_can_be_started_so() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned());
        let plan = Plan::new(place.clone(), Some(3), Some("127.0.0.1:7410"), None).unwrap();
        plan.write(&[1, 2, 3, 4]).unwrap();
        let mut layers = Layers::default();
        layers.add_file(&place.config_of(4)).unwrap();
        let config = layers.config().unwrap();
        assert_eq!((config.cluster.id, config.cluster.voters, config.cluster.peers.len()), (4, 3, 4));
        assert_eq!(config.listen.to_string(), "127.0.0.1:7413");
        assert_eq!(config.peer_address(1).as_deref(), Some("127.0.0.1:7410"));
        assert_eq!(config.health_listen, Some("127.0.0.1:7513".parse().unwrap()));
        assert_eq!(former_voters(&place), None, "a config without data says nothing");
        fs::create_dir_all(place.data_of(1)).unwrap();
        fs::write(place.data_of(1).join("identity.json"), "{}").unwrap();
        assert_eq!(former_voters(&place), Some(3));
    }

    #[test]
    fn only_this_machine_and_ports_that_exist_are_listened_on() {
        for text in ["0.0.0.0:7400", "localhost", "127.0.0.1:65500"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
        assert!(parse_address("[::1]:7400").is_ok());
    }
}
