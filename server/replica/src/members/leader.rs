//! What the leader does when it is asked for a change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use flotilla_proto::peer::v1::DescribeResponse;
use openraft::{
    ChangeMembers, LogIdOptionExt,
    async_runtime::watch::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::time::Instant;

use super::{ChangeError, Members, PATIENCE};
use crate::{
    ServerState,
    peer::ServerId,
    raft::{Server, server_id_from_storage},
};

/// Entries that a server may lack and still counts as caught up: those under way.
const CAUGHT_UP: u64 = 256;
/// How long a server that shall lead may take to.
const TRANSFER: Duration = Duration::from_secs(2);
/// How long a change of the members may take to be committed.
const COMMIT: Duration = Duration::from_secs(10);

impl Members {
    /// Takes in a server that a person names.
    pub(super) async fn add(&self, server: u64, address: &str, learner: bool) -> Result<ServerId, ChangeError> {
        let _changing = self.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        let described = self.describe(address).await?;
        let id = server_id_from_storage(described.id);
        if id.server != server {
            let message = format!("the server at {address} is number {}, not {server}", id.server);
            return Err(ChangeError::Unsuitable { message });
        }
        match self.member(server) {
            Some((known, _)) if known == id => {
                // A retry, or a learner that shall vote now.
                let node = Server { address: address.to_owned(), learner };
                self.apply(ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true).await?;
                return Ok(id);
            }
            Some((known, at)) => {
                if let Ok(answer) = self.survey.ask(&self.cell.addresses(server, &at), Some(known), PATIENCE).await {
                    let message = format!("server {server} is in the cell and alive at {}", answer.address);
                    return Err(ChangeError::Exists { server, message });
                }
            }
            None => {}
        }
        if described.formed {
            let message = format!(
                "the server at {address} has data of its own, of history {}: start it with an empty data directory",
                described.history
            );
            return Err(ChangeError::Unsuitable { message });
        }
        self.check_majority(&self.membership().voter_ids().collect())?;
        if !learner {
            let mut voters: BTreeSet<ServerId> = self.membership().voter_ids().collect();
            voters.retain(|voter| voter.server != server);
            let reachable = voters.iter().filter(|id| self.is_reachable(**id)).count() + 1;
            let total = voters.len() + 1;
            if reachable <= total / 2 {
                let message = format!(
                    "with server {server}, {total} servers would vote, of which {reachable} can be reached: start or repair \
                     servers first"
                );
                return Err(ChangeError::MajorityAtRisk { voters: total as u64, reachable: reachable as u64, message });
            }
        }
        self.join_as(id, Server { address: address.to_owned(), learner }).await?;
        Ok(id)
    }

    /// Takes in a server that asks for it: a new life of a member, or one that config counts in.
    pub(super) async fn join(&self, id: ServerId, address: &str) -> Result<(), ChangeError> {
        let _changing = self.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        let address = address.to_owned();
        let server = id.server;
        match self.member(server) {
            Some((known, node)) if known == id => {
                if node.address != address && !address.is_empty() {
                    let node = Server { address, ..node };
                    self.apply(ChangeMembers::SetNodes(BTreeMap::from([(id, node)])), true).await?;
                }
                Ok(())
            }
            Some((former, node)) => {
                if self.survey.ask(&self.cell.addresses(server, &node), Some(former), PATIENCE).await.is_ok() {
                    let message = format!("server {server} is alive at {}, with its data", node.address);
                    return Err(ChangeError::Exists { server, message });
                }
                self.join_as(id, Server { address, ..node }).await
            }
            None if server > self.cell.voters && !self.cell.is_alone() => {
                self.join_as(id, Server { address, learner: true }).await
            }
            None if !self.cell.is_alone() && self.cell.configured_address(server).is_some() => {
                self.join_as(id, Server { address, learner: false }).await
            }
            None => {
                let message = format!(
                    "server {server} is not among the servers that the leader's config names: run `flotilla cluster add \
                     {server} {address}`"
                );
                Err(ChangeError::MustBeAdded { message })
            }
        }
    }

    async fn join_as(&self, id: ServerId, node: Server) -> Result<(), ChangeError> {
        tracing::info!(server = %id, address = node.address, "taking in a server, as a learner at first");
        self.apply(ChangeMembers::AddNodes(BTreeMap::from([(id, node)])), true).await
    }

    /// Removes a server that a person names. `None`: this server is it, and leads; it has handed over.
    pub(super) async fn remove(&self, server: u64) -> Result<Option<()>, ChangeError> {
        let changing = self.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        let Some((id, _)) = self.member(server) else { return Err(ChangeError::NotFound { server }) };
        if self.is_voter(id) {
            let mut voters: BTreeSet<ServerId> = self.membership().voter_ids().collect();
            voters.retain(|voter| voter.server != server);
            if voters.is_empty() {
                let message =
                    format!("server {server} is the cell's last voter: add another first, or back up and stop it");
                return Err(ChangeError::MajorityAtRisk { voters: 0, reachable: 0, message });
            }
            self.check_majority(&self.membership().voter_ids().collect())?;
            self.check_majority(&voters)?;
            if id == self.cell.id {
                drop(changing);
                self.hand_over(None).await?;
                return Ok(None);
            }
        }
        tracing::info!(server = %id, "removing a server from the cell");
        self.drop_lives(|life| life.server == server).await.map(Some)
    }

    /// Lets go of a learner that stops.
    pub(super) async fn leave(&self, id: ServerId) -> Result<(), ChangeError> {
        let _changing = self.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        match self.is_voter(id) || self.member(id.server).is_none_or(|(known, _)| known != id) {
            true => Ok(()),
            false => self.drop_lives(|life| life == id).await,
        }
    }

    /// Removes lives from the cell, voters and learners alike.
    pub(super) async fn drop_lives(&self, which: impl Fn(ServerId) -> bool) -> Result<(), ChangeError> {
        let membership = self.membership();
        let voters: BTreeSet<ServerId> = membership.voter_ids().filter(|id| which(*id)).collect();
        let nodes: BTreeSet<ServerId> = membership.nodes().map(|(id, _)| *id).filter(|id| which(*id)).collect();
        if !voters.is_empty() {
            self.apply(ChangeMembers::RemoveVoters(voters), true).await?;
        }
        self.apply(ChangeMembers::RemoveNodes(nodes), true).await
    }

    /// Hands leadership to a voter, or to whichever is furthest. Returns the term in which it leads.
    pub(crate) async fn hand_over(&self, to: Option<u64>) -> Result<u64, ChangeError> {
        let from = self.leadership.current().ok_or(ChangeError::NoLeader)?;
        if !self.leadership.is_self(&from) {
            return Err(ChangeError::NoLeader);
        }
        let candidate = match to {
            Some(server) if server == self.cell.id.server => return Ok(from.term),
            Some(server) => {
                let (id, _) = self.member(server).ok_or(ChangeError::NotFound { server })?;
                let refused = |why: &str| {
                    let message = format!("server {server} {why}, and only a voter that has caught up can lead");
                    Err(ChangeError::NotVoter { server, message })
                };
                match (self.is_voter(id), self.is_reachable(id), self.is_caught_up(id)) {
                    (false, _, _) => return refused("doesn't vote"),
                    (_, false, _) => return refused("can't be reached"),
                    (_, _, false) => return refused("has not caught up"),
                    _ => id,
                }
            }
            None => {
                let voters = self.membership().voter_ids().collect::<BTreeSet<_>>();
                let others = voters.into_iter().filter(|id| *id != self.cell.id && self.can_lead(*id));
                let furthest = others.max_by_key(|id| (self.replicated(*id), std::cmp::Reverse(id.server)));
                let found = furthest.filter(|id| self.is_caught_up(*id));
                found.ok_or_else(|| ChangeError::NotVoter {
                    server: 0,
                    message: "no other voter that has caught up can be reached".to_owned(),
                })?
            }
        };
        let stopped = |error: &dyn std::fmt::Display| ChangeError::Stopped { message: error.to_string() };
        tracing::info!(to = %candidate, "handing leadership over");
        self.raft.trigger().transfer_leader(candidate).await.map_err(|error| stopped(&error))?;
        let until = Instant::now() + TRANSFER;
        let mut leader = self.leadership.watch();
        let waiting = leader.wait_for(|leader| leader.as_ref().is_some_and(|leader| leader.id == candidate));
        match tokio::time::timeout_at(until, waiting).await {
            Ok(Ok(leader)) => Ok(leader.as_ref().map_or(0, |leader| leader.term)),
            _ => Err(ChangeError::Expired),
        }
    }

    /// Whether a server serves, as far as is known.
    fn can_lead(&self, id: ServerId) -> bool {
        let described = self.survey.of(id).last;
        let serves =
            described.is_some_and(|described| described.state == ServerState::Ready as u32 && !described.disk_full);
        serves && self.is_reachable(id)
    }

    /// How far a server's log is known to be this one's.
    fn replicated(&self, id: ServerId) -> u64 {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let replicated = metrics.replication.as_ref().and_then(|progress| progress.get(&id).cloned());
        replicated.map_or(0, |log_id| log_id.next_index())
    }

    /// Whether a server lacks no more than what is under way.
    pub(super) fn is_caught_up(&self, id: ServerId) -> bool {
        let end = self.log.last().next_index();
        let replicated = self.replicated(id);
        replicated > 0 && replicated + CAUGHT_UP >= end
    }

    pub(super) async fn apply(&self, change: ChangeMembers<ServerId, Server>, retain: bool) -> Result<(), ChangeError> {
        let changed = tokio::time::timeout(COMMIT, self.raft.change_membership(change, retain)).await;
        if matches!(changed, Ok(Ok(_))) {
            // After a failure the keeper waits for its next look: it would try again at once, without end.
            self.changed.send_modify(|count| *count += 1);
        }
        match changed {
            Err(_) => Err(ChangeError::Expired),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ChangeError::Stopped { message: fatal.to_string() }),
            Ok(Err(RaftError::APIError(error))) => Err(match error {
                ClientWriteError::ForwardToLeader(_) => ChangeError::NoLeader,
                ClientWriteError::LogEntryDiscarded(_) => ChangeError::Expired,
                ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => ChangeError::Busy,
                error => ChangeError::Unsuitable { message: error.to_string() },
            }),
        }
    }

    /// Asks who is at an address, and refuses one of another cell.
    async fn describe(&self, address: &str) -> Result<DescribeResponse, ChangeError> {
        let unsuitable = |message| ChangeError::Unsuitable { message };
        let described = self.survey.ask(&[address.to_owned()], None, PATIENCE * 2).await;
        let described = described.map_err(|error| {
            unsuitable(format!("no server of this cell answers at {address}, asked from the leader: {error}"))
        })?;
        match described.cell == self.cell.name {
            true => Ok(described),
            false => Err(unsuitable(format!(
                "the server at {address} is of cell {:?}, and this is {:?}",
                described.cell, self.cell.name
            ))),
        }
    }
}
