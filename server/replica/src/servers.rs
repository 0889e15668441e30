//! The servers of the cell and how they do, as this one knows it.

use std::{sync::atomic::Ordering, time::Duration};

use flotilla_proto::peer::v1::{self as peer, change_request::Change};
use futures::future::BoxFuture;
use tokio::{sync::watch, time::Instant};

use crate::{ChangeError, Replica, members::FormError, peer::ServerId, raft::server_id_from_storage};

/// How a server is. The numbers are those of `flotilla.cluster.v1.State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Unknown.
    Unknown = 0,
    /// It starts: it is not part of the cell yet, or catches up for the first time.
    Starting = 1,
    /// It serves.
    Ready = 2,
    /// It is about to stop.
    Draining = 3,
    /// It doesn't answer.
    Unreachable = 4,
    /// It answers reads, but its log can't be written.
    LogFailed = 5,
}

/// A server of the cell.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerStatus {
    /// Who it is.
    pub id: ServerId,
    /// Where it is reached.
    pub address: String,
    /// The services it runs.
    pub services: Vec<String>,
    /// It counts for the majority.
    pub voter: bool,
    /// How it is.
    pub state: ServerState,
    /// It leads.
    pub is_leader: bool,
    /// The last term it told of.
    pub term: u64,
    /// The end of its log.
    pub log_end: u64,
    /// The last entry that it has applied.
    pub applied_index: u64,
    /// The last revision that it has applied.
    pub revision: u64,
    /// How long ago it certainly had everything; none: unknown.
    pub lag: Option<Duration>,
    /// The version of its binary.
    pub version: String,
    /// When its process started, in microseconds since 1970 (UTC); 0: unknown.
    pub start_time: u64,
    /// When it was last heard, in microseconds since 1970 (UTC); 0: never.
    pub seen_time: u64,
}

impl Replica {
    /// The servers of the cell by number, this one included, also while it isn't part of it yet.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let inner = self.inner();
        let membership = inner.members.membership();
        let leader = inner.leadership.current().map(|leader| leader.id);
        let voters: Vec<ServerId> = membership.voter_ids().collect();
        let mut nodes: Vec<_> = membership.nodes().map(|(id, server)| (*id, server.address.clone())).collect();
        if !nodes.iter().any(|(id, _)| *id == inner.cell.id) {
            nodes.push((inner.cell.id, inner.cell.address.clone()));
        }
        // While one life of a server replaces another, the one that votes stands for both.
        nodes.retain(|(id, _)| voters.contains(id) || !voters.iter().any(|voter| voter.server == id.server));
        nodes.sort_unstable();
        let describe = |(id, address): (ServerId, String)| {
            let own = id == inner.cell.id;
            let seen = inner.survey.of(id);
            let (described, seen_time) = match own {
                true => (Some(self.describe()), inner.options.clock.now()),
                false => (seen.last.clone(), seen.time),
            };
            let state = match (&described, own) {
                _ if !own && seen.is_unreachable() => ServerState::Unreachable,
                (Some(described), _) => ServerState::from_number(described.state),
                (None, _) => ServerState::Unknown,
            };
            let described = described.unwrap_or_default();
            let peer::DescribeResponse { services, term, last_log_index, applied_index, version, start_time, .. } =
                described.clone();
            ServerStatus {
                id,
                address,
                services,
                voter: voters.contains(&id),
                state,
                is_leader: leader == Some(id),
                term,
                log_end: last_log_index,
                applied_index,
                revision: described.applied_revision,
                // Time passes since it said so.
                lag: described.lag_micros.map(|lag| match leader == Some(id) {
                    true => Duration::ZERO,
                    false => Duration::from_micros(lag) + seen.at.map(|at| at.elapsed()).unwrap_or_default(),
                }),
                version,
                start_time,
                seen_time,
            }
        };
        nodes.into_iter().map(describe).collect()
    }

    /// Told when something of [`Replica::servers`] may be another: after each round of questions.
    pub fn watch_servers(&self) -> watch::Receiver<u64> {
        self.inner().survey.watch()
    }

    /// Returns when another server leads than the one that led when this was called.
    pub fn until_leader_changes<'a>(&'a self) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let leadership = &self.inner().leadership;
            let current = leadership.current();
            let mut known = leadership.watch();
            if known.wait_for(|leader| *leader != current).await.is_err() {
                // Raft has stopped here: there is no such news any more.
                std::future::pending::<()>().await;
            }
        })
    }

    /// How this server is.
    pub(crate) fn state(&self) -> ServerState {
        let inner = self.inner();
        if self.failure().is_some() {
            return ServerState::LogFailed;
        }
        if inner.draining.load(Ordering::Acquire) || inner.upkeep.is_stopped() {
            return ServerState::Draining;
        }
        match self.is_ready() {
            true => ServerState::Ready,
            false => ServerState::Starting,
        }
    }

    /// Takes a server into the cell; it votes once it has caught up, unless it shall be a learner.
    ///
    /// # Errors
    /// See [`ChangeError`]; so for those below.
    pub fn add_server<'a>(
        &'a self,
        server: u64,
        address: &'a str,
        learner: bool,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<ServerId, ChangeError>> {
        Box::pin(async move {
            let add = Change::Add(peer::AddServer { server, address: address.to_owned(), learner });
            let changed = self.inner().members.request(add, deadline).await?;
            Ok(server_id_from_storage(changed.id))
        })
    }

    /// Removes a server from the cell.
    pub fn remove_server<'a>(&'a self, server: u64, deadline: Instant) -> BoxFuture<'a, Result<(), ChangeError>> {
        Box::pin(async move {
            self.inner().members.request(Change::Remove(peer::RemoveServer { server }), deadline).await.map(drop)
        })
    }

    /// Hands leadership to a voter, and returns the term in which it leads.
    pub fn transfer_leadership<'a>(
        &'a self,
        server: u64,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<u64, ChangeError>> {
        Box::pin(async move {
            let transfer = Change::Transfer(peer::Transfer { server });
            Ok(self.inner().members.request(transfer, deadline).await?.term)
        })
    }

    /// Forms the cell without some of its configured voters, and returns history and voters.
    ///
    /// # Errors
    /// See [`FormError`].
    pub fn form<'a>(&'a self, without: &'a [u64]) -> BoxFuture<'a, Result<(String, Vec<u64>), FormError>> {
        Box::pin(async move { self.inner().members.form(without).await })
    }
}

impl ServerState {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Starting,
            2 => Self::Ready,
            3 => Self::Draining,
            4 => Self::Unreachable,
            5 => Self::LogFailed,
            _ => Self::Unknown,
        }
    }
}
