//! Who leads, as far as this server can know, for everybody who must wait for it or follow it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{Instant as _, ServerState, async_runtime::watch::WatchReceiver};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::raft::{Raft, Server, ServerId};

/// How often a leader looks whether a majority still hears it.
const LOOK: Duration = Duration::from_millis(100);

/// Who leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) id: ServerId,
    pub(crate) server: Server,
    pub(crate) term: u64,
}

/// What a server knows of its cell's leader.
pub(crate) struct Leadership {
    id: ServerId,
    leader: watch::Receiver<Option<Arc<Leader>>>,
    leads: watch::Receiver<bool>,
    flags: Arc<Flags>,
}

#[derive(Default)]
struct Flags {
    /// This server leads, and is the only voter.
    sole: AtomicBool,
    /// This server led last, and is the only voter: whatever happened to it since, nobody else has
    /// acknowledged anything.
    led_alone: AtomicBool,
}

impl Leadership {
    /// Begins to follow, and returns the task that does.
    pub(crate) fn follow(
        raft: &Raft,
        id: ServerId,
        election: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (leader_known, leader) = watch::channel(None);
        let (leads_known, leads) = watch::channel(false);
        let flags = Arc::new(Flags::default());
        let follower = Follower {
            raft: raft.clone(),
            id,
            patience: election * 2,
            leader_known,
            leads_known,
            flags: flags.clone(),
        };
        (Self { id, leader, leads, flags }, follower.run())
    }

    /// Whether this server leads and nobody else may vote.
    pub(crate) fn is_sole(&self) -> bool {
        self.flags.sole.load(Ordering::Acquire)
    }

    /// Whether this server led last, and nobody else may vote.
    pub(crate) fn led_alone(&self) -> bool {
        self.flags.led_alone.load(Ordering::Acquire)
    }

    /// Whether this server leads.
    pub(crate) fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Whether this server leads, following changes.
    pub(crate) fn watch_leads(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Who leads, following changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<Leader>>> {
        self.leader.clone()
    }

    /// Who leads now.
    pub(crate) fn current(&self) -> Option<Arc<Leader>> {
        self.leader.borrow().clone()
    }

    /// Returns when somebody leads; none if nobody does by the deadline.
    pub(crate) async fn wait(&self, deadline: Instant) -> Option<Arc<Leader>> {
        if let Some(leader) = self.current() {
            return Some(leader);
        }
        let mut known = self.leader.clone();
        let waiting = known.wait_for(Option::is_some);
        tokio::time::timeout_at(deadline, waiting).await.ok()?.ok()?.clone()
    }

    /// Returns when who leads is another than this, at the latest at a moment.
    pub(crate) async fn wait_for_change(&self, from: Option<&Leader>, until: Instant) {
        let mut known = self.leader.clone();
        let waiting = known.wait_for(|leader| leader.as_deref() != from);
        // Whether it changed is seen by who asks next.
        let _ = tokio::time::timeout_at(until, waiting).await;
    }

    /// Whether a leader is this server.
    pub(crate) fn is_self(&self, leader: &Leader) -> bool {
        leader.id == self.id
    }
}

struct Follower {
    raft: Raft,
    id: ServerId,
    /// A leader that no majority has heard for this long doesn't count as one.
    patience: Duration,
    leader_known: watch::Sender<Option<Arc<Leader>>>,
    leads_known: watch::Sender<bool>,
    flags: Arc<Flags>,
}

impl Follower {
    async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leads_since = Instant::now();
        loop {
            let (leads, alone, leader) = {
                let metrics = metrics.borrow_and_update();
                let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.id);
                let membership = metrics.membership_config.membership();
                let alone = metrics.membership_config.voter_ids().eq([self.id]);
                let leader = metrics.current_leader.map(|id| {
                    let server = membership.get_node(&id).cloned().unwrap_or_default();
                    Arc::new(Leader { id, server, term: metrics.vote.leader_id.term })
                });
                // A vote that isn't granted yet makes no leader.
                (leads, alone, leader.filter(|leader| leads || leader.id != self.id))
            };
            if leads && !*self.leads_known.borrow() {
                leads_since = Instant::now();
            }
            let heard = || {
                let acknowledged = self.raft.data_metrics().borrow_watched().last_quorum_acked;
                let ago = acknowledged.map_or(Duration::MAX, |at| at.elapsed());
                ago.min(leads_since.elapsed()) <= self.patience
            };
            let leader = leader.filter(|_| !leads || alone || heard());
            self.flags.sole.store(leads && alone, Ordering::Release);
            self.flags
                .led_alone
                .store(alone && (leads || self.flags.led_alone.load(Ordering::Acquire)), Ordering::Release);
            self.leads_known.send_if_modified(|known| std::mem::replace(known, leads) != leads);
            self.leader_known.send_if_modified(|known| {
                let changed = *known != leader;
                if changed {
                    tell(known.as_deref(), leader.as_deref(), self.id);
                    *known = leader;
                }
                changed
            });
            let changed = tokio::select! {
                changed = metrics.changed() => changed,
                _ = ticks.tick(), if leads && !alone => Ok(()),
            };
            if changed.is_err() {
                // Raft has stopped: this server leads nothing any more, and hears of nobody who does.
                self.flags.sole.store(false, Ordering::Release);
                self.leads_known.send_replace(false);
                self.leader_known.send_replace(None);
                return;
            }
        }
    }
}

fn tell(former: Option<&Leader>, leader: Option<&Leader>, own: ServerId) {
    match (former, leader) {
        (_, Some(leader)) if leader.id == own => tracing::info!(term = leader.term, "this server leads the cell"),
        (_, Some(leader)) => tracing::info!(leader = leader.id.server, term = leader.term, "following a leader"),
        (Some(former), None) if former.id == own => tracing::warn!("no majority hears this server any more"),
        (Some(former), None) => tracing::warn!(former = former.id.server, "the leader is gone; electing another"),
        (None, None) => {}
    }
}
