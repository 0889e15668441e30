//! How the other servers of the cell do, by asking each of them every second.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_proto::peer::v1 as peer;
use futures::{StreamExt, stream::FuturesUnordered};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    cell::Cell,
    clock::Clock,
    peer::{Answer, Call, PeerError},
    raft::{Raft, Server, ServerId},
};

/// How often every server is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// Silences in a row after which a server counts as unreachable.
const MISSES: u32 = 2;

/// What the last questions brought.
pub(crate) struct Survey {
    cell: Arc<Cell>,
    clock: Arc<dyn Clock>,
    seen: Mutex<BTreeMap<ServerId, Seen>>,
    rounds: watch::Sender<u64>,
}

/// What is known of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Its last answer.
    pub(crate) last: Option<peer::DescribeResponse>,
    /// When that came.
    pub(crate) at: Option<Instant>,
    /// The same, in microseconds since 1970 (UTC).
    pub(crate) time: u64,
    /// Since when it is silent.
    pub(crate) silent_since: Option<Instant>,
    misses: u32,
}

impl Seen {
    /// Whether it doesn't answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.misses >= MISSES
    }
}

impl Survey {
    pub(crate) fn new(cell: Arc<Cell>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { cell, clock, seen: Mutex::default(), rounds: watch::Sender::new(0) })
    }

    /// What is known of a server; nothing if it was never asked.
    pub(crate) fn of(&self, id: ServerId) -> Seen {
        self.seen().get(&id).cloned().unwrap_or_default()
    }

    /// Told after each round.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.rounds.subscribe()
    }

    /// Asks whoever listens at an address.
    pub(crate) async fn ask(
        &self,
        addresses: &[String],
        to: Option<ServerId>,
        timeout: Duration,
    ) -> Result<peer::DescribeResponse, PeerError> {
        let call = Call::Describe(peer::DescribeRequest {});
        match self.cell.network.call(addresses, self.cell.introduction(to), call, timeout).await? {
            Answer::Describe(description) => Ok(*description),
            _ => Err(crate::translate::malformed("another answer than to a question who it is")),
        }
    }

    /// Asks all members, again and again.
    pub(crate) async fn run(self: Arc<Self>, raft: Raft) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let members: BTreeMap<ServerId, Server> = {
                let metrics = raft.server_metrics();
                let metrics = metrics.borrow_watched();
                let members = metrics.membership_config.nodes().map(|(id, server)| (*id, server.clone()));
                members.filter(|(id, _)| *id != self.cell.id).collect()
            };
            self.seen().retain(|id, _| members.contains_key(id));
            let questions = members.iter().map(|(id, server)| async {
                let addresses = self.cell.addresses(id.server, server);
                (*id, self.ask(&addresses, Some(*id), PATIENCE).await)
            });
            let mut questions: FuturesUnordered<_> = questions.collect();
            while let Some((id, answer)) = questions.next().await {
                self.note(id, answer);
            }
            self.rounds.send_modify(|round| *round += 1);
        }
    }

    fn note(&self, id: ServerId, answer: Result<peer::DescribeResponse, PeerError>) {
        let mut seen = self.seen();
        let known = seen.entry(id).or_default();
        match answer {
            Ok(description) => {
                let (at, time) = (Some(Instant::now()), self.clock.now());
                *known = Seen { last: Some(description), at, time, silent_since: None, misses: 0 };
            }
            Err(error) => {
                known.misses = known.misses.saturating_add(1);
                known.silent_since.get_or_insert_with(Instant::now);
                tracing::debug!(server = id.server, %error, "a server of the cell doesn't answer");
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<ServerId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
