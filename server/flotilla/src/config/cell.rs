//! What a config says of the cell: where its servers are, how many vote, how soon a leader is missed,
//! and what of that can't be right.
//!
//! It knows nothing of a running cell: once one is formed, its own log says who is in it, and these
//! addresses are hints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use http::uri::Authority;

use super::Cluster;

/// Servers that may vote at most: every write waits for more than half of them.
const MAX_VOTERS: u64 = 5;
const MIN_HEARTBEAT: Duration = Duration::from_millis(10);
const MAX_HEARTBEAT: Duration = Duration::from_secs(12);
/// An election waits for at least so many heartbeats, so that a late one deposes no leader.
const MIN_HEARTBEATS: u32 = 5;
const MAX_ELECTION: Duration = Duration::from_mins(1);

/// Why what a config says of the cell is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// Servers count from 1.
    #[error("`cluster.id` is 0, and servers are numbered from 1")]
    ServerZero,
    /// A cell needs a name.
    #[error("`cluster.name` is empty: name the cell, for instance \"flotilla\"")]
    Nameless,
    /// Nobody, or too many, would vote.
    #[error(
        "`cluster.voters` is {voters}: write 1, 3 or 5. The servers with these numbers vote, and more than half of \
         them must be there for anything to be written; those with higher numbers hold the data without a vote"
    )]
    Voters {
        /// What was given.
        voters: u64,
    },
    /// Two answers to one question.
    #[error(
        "`cluster.peers` and `cluster.peers_dns` both say where the servers are: keep `peers` if each has an address \
         of its own, or `peers_dns` if their names follow a pattern"
    )]
    PeersTwice,
    /// More voters than servers.
    #[error(
        "`cluster.voters` is {voters}, and `cluster.peers` has {peers} of them: add the others, as {example}, or \
         lower `voters`"
    )]
    FewPeers {
        /// How many shall vote.
        voters: u64,
        /// How many there are.
        peers: usize,
        /// How to write it.
        example: String,
    },
    /// Voters that nobody can find.
    #[error(
        "`cluster.voters` is {voters}, and nothing says where they are: write under [cluster], on each server the \
         same\n\n    peers = {{ 1 = \"10.0.0.1:7400\", 2 = \"10.0.0.2:7400\", 3 = \"10.0.0.3:7400\" }}\n\n\
         or `peers_dns`, if their names follow a pattern"
    )]
    NoPeers {
        /// How many shall vote.
        voters: u64,
    },
    /// A peer with a number that no server has.
    #[error("`cluster.peers` has a server 0 ({address}), and servers are numbered from 1")]
    PeerZero {
        /// Its address.
        address: String,
    },
    /// Where no server can be.
    #[error("`cluster.{key}`: server {id} would be at {address:?}: write host:port, for instance {example:?}")]
    BadAddress {
        /// Which key says so.
        key: &'static str,
        /// The server.
        id: u64,
        /// What was given.
        address: String,
        /// What would be right.
        example: String,
    },
    /// Two servers in one place.
    #[error("`cluster.peers` has server {first} and server {second} both at {address}: each has an address of its own")]
    SharedAddress {
        /// The lower number.
        first: u64,
        /// The higher number.
        second: u64,
        /// The address.
        address: String,
    },
    /// The server itself isn't among its peers.
    #[error(
        "`cluster.peers` has no server {id}, which is this one (`cluster.id`): add {id} = \"host:port\", where the \
         others reach it, or correct the id; there are {known}"
    )]
    NotAmongPeers {
        /// This server.
        id: u64,
        /// The numbers there are.
        known: String,
    },
    /// A pattern that gives all servers one address.
    #[error(
        "`cluster.peers_dns` is {pattern:?}, one address for all servers: say where the number goes, for instance \
         \"flotilla-{{ordinal}}.flotilla:7400\" ({{ordinal}} counts from 0, {{id}} from 1)"
    )]
    NoPlaceholder {
        /// What was given.
        pattern: String,
    },
    /// A heartbeat that would be all that a server does, or would leave no election in time.
    #[error(
        "`cluster.heartbeat` is {}: between {} and {}", shown(.heartbeat), shown(&MIN_HEARTBEAT), shown(&MAX_HEARTBEAT)
    )]
    Heartbeat {
        /// What was given.
        heartbeat: Duration,
    },
    /// An election that a late heartbeat would start, or that nobody would wait for.
    #[error(
        "`cluster.election` is {}: with a heartbeat of {} it is at least {} ({MIN_HEARTBEATS} heartbeats, so that a \
         late one deposes no leader), and at most {}",
        shown(.election), shown(.heartbeat), shown(&(*.heartbeat * MIN_HEARTBEATS)), shown(&MAX_ELECTION)
    )]
    Election {
        /// What was given.
        election: Duration,
        /// What it stands beside.
        heartbeat: Duration,
    },
    /// Anybody could pass for a server of the cell.
    #[error(
        "server {id} of the cell is at {address}, which isn't this machine, and no secret keeps strangers out of the \
         log: make a file with one (`openssl rand -hex 32`), copy it to every server, and write under [cluster]\n\n    \
         secret_file = \"/etc/flotilla/secret\""
    )]
    NoSecret {
        /// A server that is elsewhere.
        id: u64,
        /// Its address.
        address: String,
    },
}

impl Cluster {
    /// Where the config says that a server is reached; none if it doesn't.
    pub(super) fn address_of(&self, id: u64) -> Option<String> {
        match (&self.peers_dns, id.checked_sub(1)) {
            (_, None) => None,
            (Some(pattern), Some(ordinal)) => {
                Some(pattern.replace("{ordinal}", &ordinal.to_string()).replace("{id}", &id.to_string()))
            }
            (None, Some(_)) => self.peers.get(&id).cloned(),
        }
    }

    pub(super) fn check(&self) -> Result<(), CellError> {
        if self.id == 0 {
            return Err(CellError::ServerZero);
        }
        if self.name.is_empty() {
            return Err(CellError::Nameless);
        }
        if self.voters == 0 || self.voters > MAX_VOTERS {
            return Err(CellError::Voters { voters: self.voters });
        }
        self.check_times()?;
        match (&self.peers_dns, self.peers.is_empty()) {
            (Some(_), false) => return Err(CellError::PeersTwice),
            (Some(pattern), true) => self.check_pattern(pattern)?,
            (None, false) => self.check_peers()?,
            (None, true) if self.voters > 1 => return Err(CellError::NoPeers { voters: self.voters }),
            (None, true) => {}
        }
        self.check_secret()
    }

    fn check_times(&self) -> Result<(), CellError> {
        let Self { heartbeat, election, .. } = *self;
        if !(MIN_HEARTBEAT..=MAX_HEARTBEAT).contains(&heartbeat) {
            return Err(CellError::Heartbeat { heartbeat });
        }
        match (heartbeat * MIN_HEARTBEATS..=MAX_ELECTION).contains(&election) {
            true => Ok(()),
            false => Err(CellError::Election { election, heartbeat }),
        }
    }

    fn check_pattern(&self, pattern: &str) -> Result<(), CellError> {
        if !pattern.contains("{ordinal}") && !pattern.contains("{id}") {
            return Err(CellError::NoPlaceholder { pattern: pattern.to_owned() });
        }
        let address = self.address_of(self.id).unwrap_or_default();
        check_address("peers_dns", self.id, &address)
    }

    fn check_peers(&self) -> Result<(), CellError> {
        let mut places: BTreeMap<String, u64> = BTreeMap::new();
        for (&id, address) in &self.peers {
            if id == 0 {
                return Err(CellError::PeerZero { address: address.clone() });
            }
            check_address("peers", id, address)?;
            if let Some(first) = places.insert(address.to_lowercase(), id) {
                return Err(CellError::SharedAddress { first, second: id, address: address.clone() });
            }
        }
        if !self.peers.contains_key(&self.id) {
            let known: Vec<String> = self.peers.keys().map(u64::to_string).collect();
            return Err(CellError::NotAmongPeers { id: self.id, known: known.join(", ") });
        }
        let peers = self.peers.len();
        if self.voters > peers as u64 {
            let missing = (1..).find(|id| !self.peers.contains_key(id)).unwrap_or(1);
            let example = format!("{missing} = \"10.0.0.{missing}:7400\"");
            return Err(CellError::FewPeers { voters: self.voters, peers, example });
        }
        Ok(())
    }

    fn check_secret(&self) -> Result<(), CellError> {
        if self.secret_file.is_some() {
            return Ok(());
        }
        let ids: BTreeSet<u64> = match self.peers_dns {
            Some(_) => (1..=self.voters).chain([self.id]).collect(),
            None => self.peers.keys().copied().collect(),
        };
        let elsewhere = ids.into_iter().find_map(|id| {
            let address = self.address_of(id)?;
            (!is_loopback(&address)).then_some((id, address))
        });
        match elsewhere {
            Some((id, address)) => Err(CellError::NoSecret { id, address }),
            None => Ok(()),
        }
    }

    /// What a person should know of a cell that is allowed to be so.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let voters = self.voters;
        if voters.is_multiple_of(2) {
            warnings.push(format!(
                "`cluster.voters` is {voters}: an even count survives no more failures than {} would, because more \
                 than half must be there, and is one more machine that can fail: 1, 3 or 5 are better",
                voters - 1
            ));
        }
        let missing: Vec<String> =
            (1..=voters).filter(|id| !self.peers.contains_key(id)).map(|id| id.to_string()).collect();
        if !self.peers.is_empty() && !missing.is_empty() {
            warnings.push(format!(
                "`cluster.voters` is {voters}, which are the servers 1 to {voters}, and `cluster.peers` has no {}: a \
                 cell that is formed goes on, a new one waits for them",
                missing.join(", ")
            ));
        }
        warnings
    }
}

/// Whether this names a host and a port.
pub(crate) fn is_address(text: &str) -> bool {
    let authority: Result<Authority, _> = text.parse();
    authority.is_ok_and(|authority| {
        let named = !authority.host().is_empty() && !text.contains('@');
        named && authority.port_u16().is_some_and(|port| port > 0)
    })
}

fn check_address(key: &'static str, id: u64, address: &str) -> Result<(), CellError> {
    match is_address(address) {
        true => Ok(()),
        false => {
            let bare = address.split_once("://").map_or(address, |(_, rest)| rest).trim().trim_end_matches(['/', ':']);
            let example = match format!("{bare}:7400") {
                with_port if is_address(bare) || !is_address(&with_port) => {
                    if is_address(bare) {
                        bare.to_owned()
                    } else {
                        format!("10.0.0.{id}:7400")
                    }
                }
                with_port => with_port,
            };
            Err(CellError::BadAddress { key, id, address: address.to_owned(), example })
        }
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip: Result<IpAddr, _> = host.trim_start_matches('[').trim_end_matches(']').parse();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn shown(duration: &Duration) -> humantime::FormattedDuration {
    humantime::format_duration(*duration)
}

/// Peers as TOML has them, whose keys are texts.
pub(super) mod peers {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(
        peers: &BTreeMap<u64, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let named: BTreeMap<String, &String> = peers.iter().map(|(id, address)| (id.to_string(), address)).collect();
        named.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<u64, String>, D::Error> {
        let mut peers = BTreeMap::new();
        for (name, address) in BTreeMap::<String, String>::deserialize(deserializer)? {
            let id = name.parse().map_err(|_| D::Error::custom(format!("{name:?} is not the number of a server")))?;
            if peers.insert(id, address).is_some() {
                return Err(D::Error::custom(format!("server {id} is there twice")));
            }
        }
        Ok(peers)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn at(addresses: &[(u64, &str)]) -> BTreeMap<u64, String> {
        addresses.iter().map(|&(id, address)| (id, address.to_owned())).collect()
    }

    fn three() -> Cluster {
        let peers = at(&[(1, "127.0.0.1:7400"), (2, "127.0.0.1:7401"), (3, "[::1]:7402")]);
        Cluster { voters: 3, peers, ..Cluster::default() }
    }

    fn refused(cluster: &Cluster) -> String {
        cluster.check().unwrap_err().to_string()
    }

    #[test]
    fn alone_or_three_on_one_machine_need_nothing_more() {
        assert_eq!((Cluster::default().check(), three().check()), (Ok(()), Ok(())));
        // A cell of one that will grow.
        assert_eq!(Cluster { voters: 1, ..three() }.check(), Ok(()));
    }

    #[test]
    fn peers_must_have_this_server_each_server_once_and_every_voter() {
        let text = refused(&Cluster { id: 4, ..three() });
        assert!(text.contains("add 4 = \"host:port\"") && text.contains("1, 2, 3"), "{text}");
        let text = refused(&Cluster { peers: at(&[(1, "a:7400"), (2, "A:7400")]), ..three() });
        assert!(text.contains("server 1 and server 2 both at A:7400"), "{text}");
        let text = refused(&Cluster { peers: at(&[(0, "a:7400")]), ..three() });
        assert!(text.contains("server 0") && text.contains("numbered from 1"), "{text}");
        let text = refused(&Cluster { voters: 5, ..three() });
        assert!(text.contains("has 3 of them") && text.contains("4 = \"10.0.0.4:7400\""), "{text}");
        let text = refused(&Cluster { peers: BTreeMap::new(), ..three() });
        assert!(text.contains("peers = { 1 = "), "{text}");
    }

    #[test]
    fn an_address_is_a_host_and_a_port_and_the_refusal_says_how_to_write_it() {
        for (address, example) in [
            ("pi", "\"pi:7400\""),
            ("http://pi:7400", "\"pi:7400\""),
            ("pi:0", "\"10.0.0.1:7400\""),
            ("pi:port", "\"10.0.0.1:7400\""),
            (":7400", "\"10.0.0.1:7400\""),
            ("a b:7400", "\"10.0.0.1:7400\""),
            ("me@pi:7400", "\"10.0.0.1:7400\""),
        ] {
            let text = refused(&Cluster { peers: at(&[(1, address)]), voters: 1, ..Cluster::default() });
            assert!(text.contains(&format!("{address:?}")) && text.ends_with(example), "{text}");
        }
        for address in ["pi:7400", "10.0.0.1:7400", "[fd00::1]:7400", "flotilla-0.flotilla.default.svc:7400"] {
            assert!(is_address(address), "{address}");
        }
    }

    #[test]
    fn a_pattern_says_where_the_number_goes() {
        let secret_file = Some(PathBuf::from("secret"));
        let by = |pattern: &str| Cluster {
            voters: 3,
            peers_dns: Some(pattern.to_owned()),
            secret_file: secret_file.clone(),
            ..Cluster::default()
        };
        let cluster = by("flotilla-{ordinal}.flotilla:7400");
        assert_eq!(cluster.check(), Ok(()));
        assert_eq!(cluster.address_of(3).as_deref(), Some("flotilla-2.flotilla:7400"));
        assert_eq!(by("10.0.0.{id}:7400").address_of(3).as_deref(), Some("10.0.0.3:7400"));
        assert_eq!(cluster.address_of(0), None);
        assert!(refused(&by("flotilla:7400")).contains("{ordinal}"));
        assert!(refused(&by("flotilla-{ordinal}")).contains("\"flotilla-0:7400\""));
        assert_eq!(Cluster { peers: three().peers, ..cluster }.check(), Err(CellError::PeersTwice));
    }

    #[test]
    fn peers_on_other_machines_need_a_secret() {
        let mut cluster = Cluster { peers: at(&[(1, "127.0.0.1:7400"), (2, "pi:7400")]), ..Cluster::default() };
        let text = refused(&cluster);
        assert!(text.contains("server 2") && text.contains("secret_file = "), "{text}");
        cluster.secret_file = Some(PathBuf::from("secret"));
        assert_eq!(cluster.check(), Ok(()));
        let cluster = Cluster { peers: at(&[(1, "localhost:7400"), (2, "127.0.0.9:7400")]), ..Cluster::default() };
        assert_eq!(cluster.check(), Ok(()));
        let cluster = Cluster { peers_dns: Some("pi{id}:7400".to_owned()), ..Cluster::default() };
        assert!(matches!(cluster.check(), Err(CellError::NoSecret { id: 1, .. })));
    }

    #[test]
    fn one_three_or_five_vote_and_an_even_count_is_told_why_not() {
        let peers: BTreeMap<u64, String> = (1..=7).map(|id| (id, format!("127.0.0.1:740{id}"))).collect();
        let of = |voters| Cluster { voters, peers: peers.clone(), ..Cluster::default() };
        for (voters, allowed, warned) in
            [(0, false, false), (1, true, false), (2, true, true), (4, true, true), (5, true, false), (7, false, false)]
        {
            assert_eq!(of(voters).check().is_ok(), allowed, "{voters}");
            assert_eq!(allowed && !of(voters).warnings().is_empty(), warned, "{voters}");
        }
        let warnings = of(4).warnings();
        assert!(warnings[0].contains("no more failures than 3"), "{warnings:?}");
    }

    #[test]
    fn peers_without_a_first_voter_are_for_a_cell_that_is_formed() {
        let peers = at(&[(2, "127.0.0.1:1"), (3, "127.0.0.1:2"), (4, "127.0.0.1:3")]);
        let cluster = Cluster { id: 2, voters: 3, peers, ..Cluster::default() };
        assert_eq!(cluster.check(), Ok(()));
        let warnings = cluster.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("has no 1"), "{warnings:?}");
    }

    #[test]
    fn an_election_waits_for_some_heartbeats_and_not_for_ever() {
        let of = |heartbeat, election| Cluster {
            heartbeat: Duration::from_millis(heartbeat),
            election: Duration::from_millis(election),
            ..Cluster::default()
        };
        assert!(of(10, 50).check().is_ok() && of(1000, 60_000).check().is_ok());
        assert_eq!(refused(&of(5, 800)), "`cluster.heartbeat` is 5ms: between 10ms and 12s");
        let text = refused(&of(200, 800));
        assert!(text.contains("is 800ms") && text.contains("heartbeat of 200ms") && text.contains("at least 1s"));
        assert!(refused(&of(100, 61_000)).contains("at most 1m"));
        assert!(of(3_600_000, 800).check().is_err());
    }
}
