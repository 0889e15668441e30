//! How a server that never was in a cell comes into one.
//!
//! A cell is formed when every configured voter says that it never was in one, by the voter with the
//! lowest number; or by a person's word, without those that don't answer. Whoever finds a formed cell
//! asks to be taken in. A server that has data goes on from it, unless its twin is alive.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_proto::peer::v1::{DescribeResponse, Join, change_request::Change};
use futures::future::join_all;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use super::{ChangeError, Members, PATIENCE};
use crate::{
    OpenError,
    peer::ServerId,
    raft::{Server, log_id_from_storage, server_id_from_storage, server_id_to_storage},
};

/// The pause between two looks around.
const PAUSE: Duration = Duration::from_millis(200);
/// How often waiting is told of.
const TELL: Duration = Duration::from_secs(10);
/// How long a server that was asked to take this one in is given.
const JOIN: Duration = Duration::from_secs(10);

/// Why a cell was not formed.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// This server, or another one, has data.
    #[error("{message}")]
    AlreadyFormed {
        /// Which server.
        server: u64,
        /// For a person.
        message: String,
    },
    /// Too few answer.
    #[error("{message}")]
    MajorityAtRisk {
        /// How many shall vote.
        voters: u64,
        /// How many answer.
        reachable: u64,
        /// For a person.
        message: String,
    },
    /// It could not be begun.
    #[error("the cell can't be formed: {reason}")]
    Failed {
        /// Why.
        reason: String,
    },
}

/// What a look around found.
struct Around {
    /// What each configured voter said, by number; those that are silent are left out.
    answers: BTreeMap<u64, DescribeResponse>,
    /// Those that are silent, and why.
    silent: BTreeMap<u64, String>,
}

impl Members {
    /// Returns when this server is part of a formed cell.
    pub(crate) async fn form_or_join(&self) -> Result<(), OpenError> {
        let mut told = None::<Instant>;
        let mut tell = |text: &str, server: Option<u64>| {
            if told.is_none_or(|told| told.elapsed() >= TELL) {
                told = Some(Instant::now());
                tracing::info!(server, "{text}");
            }
        };
        loop {
            if self.is_member() {
                return Ok(());
            }
            let around = self.look_around().await;
            let formed = around.answers.iter().filter(|(_, answer)| answer.formed);
            match formed.map(|(server, answer)| (*server, answer.clone())).next() {
                Some((server, answer)) => match self.ask_to_join(&around, server, &answer).await {
                    Ok(()) => self.wait_to_be_member().await,
                    Err(ChangeError::Exists { message, .. }) => {
                        tracing::error!(message, "this number is taken");
                        let (cell, server) = (self.cell.name.clone(), self.cell.id.server);
                        let address = self.cell.configured_address(server).unwrap_or_default();
                        return Err(OpenError::Alive { cell, server, address });
                    }
                    Err(error) => tell(&format!("waiting to be taken into the cell: {error}"), Some(server)),
                },
                None if self.cell.id.server <= self.cell.voters && around.silent.is_empty() => {
                    let others: BTreeSet<u64> = around.answers.keys().copied().collect();
                    let lowest = others.iter().all(|other| self.cell.id.server < *other);
                    match around.disagreement(self.cell.voters) {
                        Some(text) => tell(&format!("waiting for all servers to be configured alike: {text}"), None),
                        None if lowest => self.initialize(&around.answers).await?,
                        None => tell("waiting for the cell to be formed", others.first().copied()),
                    }
                }
                None => match around.silent.iter().next() {
                    Some((server, why)) => {
                        let text = format!(
                            "waiting for server {server} so that the cell can be formed ({why}); without it: `flotilla \
                             cluster form --without {server}`"
                        );
                        tell(&text, Some(*server));
                    }
                    None => tell("waiting for the cell to be formed", None),
                },
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Forms a cell without some of its configured voters.
    pub(crate) async fn form(&self, without: &[u64]) -> Result<(String, Vec<u64>), FormError> {
        let own = self.cell.id.server;
        let formed = |server, history: &str| {
            let message =
                format!("server {server} is part of history {history:?} already: add and remove servers instead");
            Err(FormError::AlreadyFormed { server, message })
        };
        if self.is_formed() {
            return formed(own, &self.cell.history());
        }
        let around = self.look_around().await;
        if let Some((server, answer)) = around.answers.iter().find(|(_, answer)| answer.formed) {
            return formed(*server, &answer.history);
        }
        let voters = self.cell.voters;
        let taken: BTreeMap<u64, DescribeResponse> =
            around.answers.into_iter().filter(|(server, _)| !without.contains(server)).collect();
        let reachable = taken.len() as u64 + 1;
        let missing = around.silent.keys().find(|server| !without.contains(server));
        if let Some(server) = missing {
            let message = format!("server {server} doesn't answer, and wasn't named: add it to --without, or start it");
            return Err(FormError::MajorityAtRisk { voters, reachable, message });
        }
        if without.contains(&own) || own > voters || reachable <= voters / 2 {
            let message = format!(
                "of {voters} configured voters {reachable} would form the cell, and that is no majority of them: ask a server \
                 that shall vote, and start more"
            );
            return Err(FormError::MajorityAtRisk { voters, reachable, message });
        }
        self.initialize(&taken).await.map_err(|error| FormError::Failed { reason: error.to_string() })?;
        let ids = taken.into_keys().chain([own]).collect::<BTreeSet<_>>().into_iter().collect();
        Ok((self.cell.history().to_string(), ids))
    }

    /// Refuses to run beside a twin: a server of the same number and life that is alive.
    pub(crate) async fn refuse_twin(&self) -> Result<(), OpenError> {
        let own = self.cell.id;
        let known = self.member(own.server).map(|(_, node)| node).unwrap_or_default();
        let addresses = self.cell.addresses(own.server, &known);
        if addresses.is_empty() || self.cell.is_alone() {
            return Ok(());
        }
        match self.survey.ask(&addresses, Some(own), PATIENCE).await {
            Ok(answer) if answer.start_time != self.cell.start_time => Err(OpenError::Alive {
                cell: self.cell.name.clone(),
                server: own.server,
                address: addresses.join(" or "),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a member of the cell says that this server was removed.
    pub(crate) async fn was_removed(&self) -> bool {
        let own = self.membership();
        let known_at = *own.log_id();
        let others: Vec<(ServerId, Server)> =
            own.nodes().filter(|(id, _)| **id != self.cell.id).map(|(id, server)| (*id, server.clone())).collect();
        let questions = others.iter().map(|(id, server)| async {
            let addresses = self.cell.addresses(id.server, server);
            self.survey.ask(&addresses, Some(*id), PATIENCE).await
        });
        join_all(questions).await.into_iter().flatten().any(|answer| {
            let Some(membership) = answer.membership else { return false };
            let later = membership.log_id.as_ref().map(log_id_from_storage) > known_at;
            let listed = membership.servers.iter().any(|server| server_id_from_storage(server.id) == self.cell.id);
            later && !listed && answer.history == *self.cell.history()
        })
    }

    /// Asks a formed cell that this server, which it knows or counts in, is taken in.
    pub(crate) async fn rejoin(&self) -> Result<(), ChangeError> {
        let around = self.look_around().await;
        let formed = around.answers.iter().find(|(_, answer)| answer.formed);
        let (server, answer) = formed.map(|(server, answer)| (*server, answer.clone())).ok_or(ChangeError::NoLeader)?;
        self.ask_to_join(&around, server, &answer).await
    }

    fn is_member(&self) -> bool {
        self.membership().nodes().any(|(id, _)| *id == self.cell.id)
    }

    async fn wait_to_be_member(&self) {
        let mut metrics = self.raft.server_metrics();
        let until = Instant::now() + JOIN;
        while !self.is_member() {
            match tokio::time::timeout_at(until, metrics.changed()).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// Asks every configured voter but this one who it is.
    async fn look_around(&self) -> Around {
        let others = (1..=self.cell.voters).filter(|server| *server != self.cell.id.server);
        let questions = others.map(|server| async move {
            let address = self.cell.configured_address(server).unwrap_or_default();
            (server, self.survey.ask(&[address], None, PATIENCE).await)
        });
        let mut around = Around { answers: BTreeMap::new(), silent: BTreeMap::new() };
        for (server, answer) in join_all(questions).await {
            match answer {
                Ok(answer) if answer.cell != self.cell.name => {
                    around.silent.insert(server, format!("a server of cell {:?} is there", answer.cell));
                }
                Ok(answer) if server_id_from_storage(answer.id).server != server => {
                    let found = server_id_from_storage(answer.id).server;
                    around.silent.insert(server, format!("server {found} is there"));
                }
                Ok(answer) => _ = around.answers.insert(server, answer),
                Err(error) => _ = around.silent.insert(server, error.to_string()),
            }
        }
        around
    }

    async fn ask_to_join(&self, around: &Around, server: u64, formed: &DescribeResponse) -> Result<(), ChangeError> {
        let own = self.cell.id;
        let address = self.cell.address.clone();
        let join = || Change::Join(Join { id: Some(server_id_to_storage(own)), address: address.clone() });
        // The history comes first: without it nobody listens.
        if !self.is_formed() {
            let adopted = self.cell.adopt(&formed.history);
            adopted.map_err(|error| ChangeError::Stopped { message: error.to_string() })?;
        }
        let deadline = Instant::now() + JOIN;
        let leader = formed.leader.map(|leader| server_id_from_storage(Some(leader)));
        let at = |id: ServerId| {
            let servers = formed.membership.iter().flat_map(|membership| &membership.servers);
            let known = servers.into_iter().find(|server| server_id_from_storage(server.id) == id);
            let address = known.map(|server| server.address.clone()).unwrap_or_default();
            self.cell.addresses(id.server, &Server { address, learner: false })
        };
        if let Some(leader) = leader {
            return self.ask(&at(leader), Some(leader), join(), deadline).await.map(drop);
        }
        // Nobody leads there, or it isn't known: whoever answers may know more by now.
        let id = around.answers.get(&server).map(|answer| server_id_from_storage(answer.id));
        let id = id.ok_or(ChangeError::NoLeader)?;
        self.ask(&at(id), Some(id), join(), deadline).await.map(drop)
    }

    async fn initialize(&self, others: &BTreeMap<u64, DescribeResponse>) -> Result<(), OpenError> {
        let refused = |reason: String| OpenError::Raft { reason };
        if self.cell.history().is_empty() {
            self.cell.adopt(&ulid::Ulid::new().to_string())?;
        }
        let node =
            |server: u64| Server { address: self.cell.configured_address(server).unwrap_or_default(), learner: false };
        let own = self.cell.id;
        let servers = others.iter().map(|(server, answer)| (server_id_from_storage(answer.id), node(*server)));
        let servers: BTreeMap<ServerId, Server> = servers.chain([(own, node(own.server))]).collect();
        tracing::info!(voters = servers.len(), history = %self.cell.history(), "forming the cell");
        self.raft.initialize(servers).await.map_err(|error| refused(error.to_string()))
    }
}

impl Around {
    /// Servers that are configured for another number of voters.
    fn disagreement(&self, voters: u64) -> Option<String> {
        let other = self.answers.iter().find(|(_, answer)| answer.voters != voters)?;
        Some(format!("server {} is configured for {} voters, and this one for {voters}", other.0, other.1.voters))
    }
}
