//! Who is in the cell, and how that changes: one change at a time, learners first, and never so that
//! no majority could be formed.
//!
//! # Layout
//!
//! * [`leader`]: what the leader does when it is asked for a change.
//! * [`keeper`]: what the leader does by itself: learners that have caught up vote, replaced lives go.
//! * [`request`]: asking the leader, from any server.
//! * [`formation`]: how a server that never was in a cell comes into one.

mod formation;
mod keeper;
mod leader;
mod request;

pub use formation::FormError;

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use openraft::{StoredMembership as Stored, async_runtime::watch::WatchReceiver};
use tokio::sync::watch;

use crate::{
    cell::Cell,
    leadership::Leadership,
    log::Log,
    peer::ServerId,
    raft::{LeaderId, Raft, Server},
    survey::Survey,
};

/// How long a server that asks is given by those that it asks.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why the members were not changed. Unless it says otherwise, nothing happened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// Nobody leads the cell.
    #[error("the cell has no leader")]
    NoLeader,
    /// The number is taken by a server that is alive.
    #[error("{message}")]
    Exists {
        /// Which number.
        server: u64,
        /// For a person.
        message: String,
    },
    /// The cell has no such server.
    #[error("the cell has no server {server}")]
    NotFound {
        /// Which number.
        server: u64,
    },
    /// The cell could be left without a majority.
    #[error("{message}")]
    MajorityAtRisk {
        /// How many would vote.
        voters: u64,
        /// How many of those can be reached.
        reachable: u64,
        /// For a person.
        message: String,
    },
    /// Only a voter that has caught up can lead.
    #[error("{message}")]
    NotVoter {
        /// Which number.
        server: u64,
        /// For a person.
        message: String,
    },
    /// Another change is under way.
    #[error("another change of the cell's members is under way")]
    Busy,
    /// The server to add can't be.
    #[error("{message}")]
    Unsuitable {
        /// For a person.
        message: String,
    },
    /// A server of this number was never in the cell.
    #[error("{message}")]
    MustBeAdded {
        /// For a person.
        message: String,
    },
    /// It wasn't done in time, and may still be.
    #[error("the change of the cell's members wasn't done in time, and may still be")]
    Expired,
    /// This server is stopping, or its log has failed.
    #[error("{message}")]
    Stopped {
        /// For a person.
        message: String,
    },
}

/// Changes the cell's members, and keeps them.
pub(crate) struct Members {
    pub(crate) cell: Arc<Cell>,
    raft: Raft,
    log: Arc<Log>,
    leadership: Arc<Leadership>,
    pub(crate) survey: Arc<Survey>,
    /// The format of entries that every voter reads.
    format: Arc<AtomicU32>,
    /// The newest format that this server writes.
    own_format: u32,
    /// Held over a change.
    changing: tokio::sync::Mutex<()>,
    /// Wakes the keeper.
    changed: watch::Sender<u64>,
}

type StoredMembership = Stored<LeaderId, ServerId, Server>;

impl Members {
    pub(crate) fn new(
        cell: Arc<Cell>,
        raft: Raft,
        log: Arc<Log>,
        leadership: Arc<Leadership>,
        survey: Arc<Survey>,
        (format, own_format): (Arc<AtomicU32>, u32),
    ) -> Arc<Self> {
        let (changing, changed) = (tokio::sync::Mutex::new(()), watch::Sender::new(0));
        Arc::new(Self { cell, raft, log, leadership, survey, format, own_format, changing, changed })
    }

    /// The members as this server knows them.
    pub(crate) fn membership(&self) -> Arc<StoredMembership> {
        self.raft.server_metrics().borrow_watched().membership_config.clone()
    }

    /// Whether this server's log holds anything, or did.
    pub(crate) fn is_formed(&self) -> bool {
        self.log.last().is_some()
    }

    /// The life of a server that is a member, with what the membership says of it.
    fn member(&self, server: u64) -> Option<(ServerId, Server)> {
        let membership = self.membership();
        // While one life replaces another, the later one is meant.
        let found = membership.nodes().filter(|(id, _)| id.server == server).last();
        found.map(|(id, server)| (*id, server.clone()))
    }

    fn is_voter(&self, id: ServerId) -> bool {
        self.membership().voter_ids().any(|voter| voter == id)
    }

    /// Whether a server answered lately.
    fn is_reachable(&self, id: ServerId) -> bool {
        if id == self.cell.id {
            return true;
        }
        let seen = self.survey.of(id);
        seen.last.is_some() && !seen.is_unreachable()
    }

    /// Refuses voters of which too few can be reached to form a majority.
    fn check_majority(&self, voters: &BTreeSet<ServerId>) -> Result<(), ChangeError> {
        let reachable = voters.iter().filter(|id| self.is_reachable(**id)).count();
        if reachable > voters.len() / 2 {
            return Ok(());
        }
        let (total, needed) = (voters.len(), voters.len() / 2 + 1);
        Err(ChangeError::MajorityAtRisk {
            voters: total as u64,
            reachable: reachable as u64,
            message: format!(
                "of the {total} servers that would vote, {reachable} can be reached, and {needed} must be: start or repair \
                 servers first"
            ),
        })
    }
}
