//! openraft's types, filled in, and their translation to what is stored.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use flotilla_proto::storage::v1 as storage;
use openraft::{OptionalSend, RaftTypeConfig, impls::leader_id_adv, raft::responder::Responder};

pub(crate) use crate::peer::ServerId;
use crate::{batcher::Outcomes, machine::Machine};

/// What the log is made of. Spelled out, because `declare_raft_types!` can't
/// take a responder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Command;
    type R = Outcomes;
    type NodeId = ServerId;
    type Node = Server;
    type Term = u64;
    type LeaderId = leader_id_adv::LeaderId<u64, ServerId>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Command, ServerId, Server>;
    type Entry = openraft::Entry<Self::LeaderId, Self::Payload>;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;
pub(crate) type LeaderId = <TypeConfig as RaftTypeConfig>::LeaderId;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Vote = <TypeConfig as RaftTypeConfig>::Vote;
pub(crate) type Entry = <TypeConfig as RaftTypeConfig>::Entry;
pub(crate) type Payload = openraft::EntryPayload<Command, ServerId, Server>;
pub(crate) type Membership = openraft::Membership<ServerId, Server>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, ServerId, Server>;

/// An encoded `storage::Command`: encoded once by who proposes it, and shared
/// from then on by log, cache and state machine.
#[derive(Clone, PartialEq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What peers need to know of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: String,
    /// A learner for good.
    pub(crate) learner: bool,
}

/// Follows one write, wherever its result is wanted. openraft calls it from the
/// tasks that commit and apply the entry, which saves a hop.
pub(crate) struct Reply<T>(pub(crate) Box<dyn Waiter<T>>);

/// Waits for one write.
pub(crate) trait Waiter<T>: Send {
    /// The entry is durable, on a majority.
    fn committed(&mut self);
    /// The entry is applied, or refused.
    fn complete(self: Box<Self>, result: T);
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_commit(&mut self, _: LogId) {
        self.0.committed();
    }

    fn on_complete(self, result: T) {
        self.0.complete(result);
    }
}

pub(crate) fn server_id_to_storage(id: ServerId) -> storage::ServerId {
    storage::ServerId { server: id.server, incarnation: id.incarnation }
}

pub(crate) fn server_id_from_storage(id: Option<storage::ServerId>) -> ServerId {
    let id = id.unwrap_or_default();
    ServerId { server: id.server, incarnation: id.incarnation }
}

pub(crate) fn log_id_to_storage(id: &LogId) -> storage::LogId {
    storage::LogId {
        term: id.leader_id.term,
        leader: Some(server_id_to_storage(id.leader_id.node_id)),
        index: id.index,
    }
}

pub(crate) fn log_id_from_storage(id: &storage::LogId) -> LogId {
    let leader_id = LeaderId { term: id.term, node_id: server_id_from_storage(id.leader) };
    LogId { leader_id, index: id.index }
}

pub(crate) fn vote_to_storage(vote: &Vote) -> storage::Vote {
    storage::Vote {
        term: vote.leader_id.term,
        candidate: Some(server_id_to_storage(vote.leader_id.node_id)),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_storage(vote: &storage::Vote) -> Vote {
    let leader_id = LeaderId { term: vote.term, node_id: server_id_from_storage(vote.candidate) };
    Vote { leader_id, committed: vote.committed }
}

pub(crate) fn membership_to_storage(log_id: Option<&LogId>, membership: &Membership) -> storage::Membership {
    let voters = membership
        .get_joint_config()
        .iter()
        .map(|ids| storage::VoterSet { ids: ids.iter().copied().map(server_id_to_storage).collect() });
    let servers = membership.nodes().map(|(id, server)| {
        let Server { address, learner } = server.clone();
        storage::Server { id: Some(server_id_to_storage(*id)), address, learner }
    });
    storage::Membership { log_id: log_id.map(log_id_to_storage), voters: voters.collect(), servers: servers.collect() }
}

/// `None` if it names voters that it doesn't describe.
pub(crate) fn membership_from_storage(stored: &storage::Membership) -> Option<Membership> {
    let voters = stored.voters.iter().map(|set| set.ids.iter().map(|id| server_id_from_storage(Some(*id))).collect());
    let servers: BTreeMap<ServerId, Server> = stored
        .servers
        .iter()
        .map(|server| {
            let described = Server { address: server.address.clone(), learner: server.learner };
            (server_id_from_storage(server.id), described)
        })
        .collect();
    Membership::new(voters.collect(), servers).ok()
}

pub(crate) fn entry_to_storage(entry: &Entry) -> storage::LogEntry {
    use storage::log_entry::Payload as Stored;
    let payload = match &entry.payload {
        Payload::Blank => None,
        Payload::Normal(command) => Some(Stored::Command(command.0.clone())),
        Payload::Membership(membership) => Some(Stored::Membership(membership_to_storage(None, membership))),
    };
    storage::LogEntry { log_id: Some(log_id_to_storage(&entry.log_id)), payload }
}

/// `None` if a part is missing or makes no sense.
pub(crate) fn entry_from_storage(stored: storage::LogEntry) -> Option<Entry> {
    use storage::log_entry::Payload as Stored;
    let payload = match stored.payload {
        None => Payload::Blank,
        Some(Stored::Command(command)) => Payload::Normal(Command(command)),
        Some(Stored::Membership(membership)) => Payload::Membership(membership_from_storage(&membership)?),
    };
    Some(Entry { log_id: log_id_from_storage(&stored.log_id?), payload })
}
