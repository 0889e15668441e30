//! What a server knows of itself and of its cell before it has asked anybody: its name and life, the
//! history, and where config says that the others are.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    OpenError, Options,
    disk::Disk,
    identity::Identity,
    peer::{Introduction, Network, PROTOCOL, PeerError, Refusal},
    raft::{Server, ServerId},
};

/// Where config says that a server of the cell is reached, by its number.
pub type PeerAddresses = Arc<dyn Fn(u64) -> Option<String> + Send + Sync>;

/// What a server says of itself to others, beside its place in the log.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The services it runs, by their short names.
    pub services: Vec<String>,
    /// The version of its binary.
    pub version: String,
}

/// One server's view of itself and its cell.
pub(crate) struct Cell {
    pub(crate) id: ServerId,
    pub(crate) name: String,
    /// How many servers vote, as config wants it.
    pub(crate) voters: u64,
    /// Where this server is reached.
    pub(crate) address: String,
    pub(crate) about: About,
    /// When the process started, in microseconds since 1970 (UTC).
    pub(crate) start_time: u64,
    pub(crate) network: Arc<dyn Network>,
    peers: Option<PeerAddresses>,
    identity: Identity,
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    history: RwLock<Arc<str>>,
    freshness: Mutex<Freshness>,
}

/// Since when this server may have missed something.
#[derive(Debug, Default)]
struct Freshness {
    /// Everything that was committed then is applied here.
    current_at: Option<Instant>,
    /// What a leader had committed at a later moment, which isn't applied here yet.
    pending: Option<(Instant, u64)>,
}

impl Cell {
    pub(crate) fn new(options: &Options, identity: Identity) -> Self {
        Self {
            id: ServerId { server: identity.server, incarnation: identity.incarnation },
            name: identity.cell.clone(),
            voters: options.voters.max(1),
            address: options.address.clone(),
            about: options.about.clone(),
            start_time: options.clock.now(),
            network: options.network.clone(),
            peers: options.peers.clone(),
            history: RwLock::new(identity.history.as_str().into()),
            identity,
            disk: options.disk.clone(),
            data_dir: options.data_dir.clone(),
            freshness: Mutex::default(),
        }
    }

    /// Whether config names no other server.
    pub(crate) fn is_alone(&self) -> bool {
        self.peers.is_none()
    }

    /// Where config says that a server is.
    pub(crate) fn configured_address(&self, server: u64) -> Option<String> {
        self.peers.as_ref().and_then(|peers| peers(server))
    }

    /// Where to look for a server: what the membership says, then what config does.
    pub(crate) fn addresses(&self, server: u64, known: &Server) -> Vec<String> {
        let mut addresses = Vec::new();
        for address in [Some(known.address.clone()), self.configured_address(server)].into_iter().flatten() {
            if !address.is_empty() && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// The history; empty until the cell is formed.
    pub(crate) fn history(&self) -> Arc<str> {
        self.history.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over the history of the cell that this server becomes part of, for good. Only while its
    /// log is empty.
    pub(crate) fn adopt(&self, history: &str) -> Result<(), OpenError> {
        let mut current = self.history.write().unwrap_or_else(PoisonError::into_inner);
        if &**current != history {
            let identity = Identity { history: history.to_owned(), ..self.identity.clone() };
            identity.write(self.disk.as_ref(), &self.data_dir)?;
            *current = history.into();
        }
        Ok(())
    }

    /// How this server introduces itself.
    pub(crate) fn introduction(&self, to: Option<ServerId>) -> Introduction {
        let (cell, history) = (self.name.clone(), self.history().to_string());
        Introduction { cell, history, from: self.id, to, protocol: PROTOCOL }
    }

    /// Whether this server listens to a caller. `empty`: its log is, so it can become part of
    /// whichever history the cell has.
    pub(crate) fn check(&self, caller: &Introduction, needs_history: bool, empty: bool) -> Result<(), PeerError> {
        let refused = |refusal, message| Err(PeerError::Refused { refusal, message });
        if caller.protocol != PROTOCOL {
            let message = format!(
                "server {} speaks protocol {} between servers, and server {} protocol {PROTOCOL}: upgrade the older one",
                caller.from, caller.protocol, self.id
            );
            return refused(Refusal::Protocol, message);
        }
        if caller.cell != self.name {
            let message = format!(
                "server {} is of cell {:?}, and server {} of cell {:?}: compare `cluster.name` and the addresses",
                caller.from, caller.cell, self.id, self.name
            );
            return refused(Refusal::Cell, message);
        }
        if caller.to.is_some_and(|to| to != self.id) {
            let to = caller.to.unwrap_or_default();
            let message = format!("this is server {}, and server {} means server {to}", self.id, caller.from);
            return refused(Refusal::Recipient, message);
        }
        if !needs_history {
            return Ok(());
        }
        let history = self.history();
        match (caller.history.is_empty(), *caller.history == *history) {
            (false, true) => Ok(()),
            (false, false) if empty => self
                .adopt(&caller.history)
                .map_err(|error| PeerError::Refused { refusal: Refusal::NotServing, message: error.to_string() }),
            _ => {
                let message = format!(
                    "server {} is of history {:?} of cell {:?}, and server {} of {history:?}: one of them was restored or \
                     recovered since; empty the data directory of the one that shall follow",
                    caller.from, caller.history, self.name, self.id
                );
                refused(Refusal::History, message)
            }
        }
    }

    /// Notes what a leader had committed when it was just heard.
    pub(crate) fn heard(&self, committed: u64, applied: u64) {
        let now = Instant::now();
        let mut freshness = self.freshness();
        if committed <= applied {
            *freshness = Freshness { current_at: Some(now), pending: None };
        } else if freshness.pending.is_none() {
            freshness.pending = Some((now, committed));
        }
    }

    /// How long ago this server certainly had all that was committed; none: never.
    pub(crate) fn lag(&self, applied: u64) -> Option<Duration> {
        let mut freshness = self.freshness();
        if let Some((at, _)) = freshness.pending.filter(|(_, committed)| *committed <= applied) {
            *freshness = Freshness { current_at: Some(at), pending: None };
        }
        freshness.current_at.map(|at| at.elapsed())
    }

    fn freshness(&self) -> std::sync::MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
