//! What the leader does by itself, so that the cell becomes what it shall be: learners that have caught
//! up vote, a new life replaces the former one, learners that are long gone leave, addresses follow
//! their servers, and the log is written in a format that every voter reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use openraft::ChangeMembers;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{ChangeError, Members};
use crate::{peer::ServerId, raft::Server};

/// How often it is looked whether something is to be done.
const INTERVAL: Duration = Duration::from_millis(250);
/// A learner that config counts among them, and that is silent for this long, leaves.
const LEARNER_SILENCE: Duration = Duration::from_secs(5 * 60);
/// The pause between two attempts to give leadership away because the disk is full.
const GIVE_AWAY_PAUSE: Duration = Duration::from_secs(30);

impl Members {
    /// Runs for as long as the server does, and acts while it leads.
    pub(crate) async fn keep(self: Arc<Self>, is_disk_full: impl Fn() -> bool) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changed = self.changed.subscribe();
        let mut leads = self.leadership.watch_leads();
        let mut give_away_at = Instant::now();
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            tokio::select! {
                _ = ticks.tick() => {}
                _ = changed.changed() => {}
            }
            self.choose_format();
            if let Err(error) = self.step().await {
                tracing::debug!(%error, "the cell's members could not be changed now");
            }
            if is_disk_full() && Instant::now() >= give_away_at && !self.leadership.is_sole() {
                give_away_at = Instant::now() + GIVE_AWAY_PAUSE;
                match self.hand_over(None).await {
                    Ok(term) => tracing::warn!(term, "the disk is full: handed leadership to a server with room"),
                    Err(error) => tracing::warn!(%error, "the disk is full, and leadership can't be handed over"),
                }
            }
        }
    }

    /// Does one thing, if there is one to do.
    async fn step(&self) -> Result<(), ChangeError> {
        let membership = self.membership();
        // In the middle of a change only openraft goes on.
        if membership.membership().get_joint_config().len() > 1 {
            return Ok(());
        }
        let Ok(_changing) = self.changing.try_lock() else { return Ok(()) };
        let voters: BTreeSet<ServerId> = membership.voter_ids().collect();
        let nodes: BTreeMap<ServerId, Server> = membership.nodes().map(|(id, server)| (*id, server.clone())).collect();
        for (id, node) in &nodes {
            // One that was never asked yet isn't taken for gone.
            let later_life = nodes.keys().any(|other| {
                other.server == id.server && other.incarnation > id.incarnation && self.is_heard_after(*other, *id)
            });
            if !voters.contains(id) {
                if !node.learner && self.is_reachable(*id) && self.is_caught_up(*id) {
                    return self.promote(*id, voters).await;
                }
                if later_life && !self.is_reachable(*id) {
                    return self.drop_lives(|life| life == *id).await;
                }
                let silence = self.survey.of(*id).silent_since.map(|since| since.elapsed());
                if node.learner && id.server > self.cell.voters && silence.is_some_and(|for_| for_ > LEARNER_SILENCE) {
                    tracing::warn!(server = %id, "a learner has been silent for long, and leaves the cell");
                    return self.drop_lives(|life| life == *id).await;
                }
            }
            let says = self.survey.of(*id).last.map(|described| described.address).unwrap_or_default();
            let says = if *id == self.cell.id { self.cell.address.clone() } else { says };
            if !says.is_empty() && says != node.address {
                tracing::info!(server = %id, from = node.address, to = says, "a server has another address now");
                let node = Server { address: says, ..node.clone() };
                return self.apply(ChangeMembers::SetNodes(BTreeMap::from([(*id, node)])), true).await;
            }
        }
        Ok(())
    }

    /// Whether one life of a server was heard since the other fell silent. The former one may still be taken
    /// for reachable when the later one has been away for a moment.
    fn is_heard_after(&self, one: ServerId, other: ServerId) -> bool {
        let silent_since = self.survey.of(other).silent_since;
        self.is_reachable(one) && (one == self.cell.id || self.survey.of(one).at > silent_since)
    }

    /// A learner that has caught up votes, in place of a former life if there is one.
    async fn promote(&self, id: ServerId, mut voters: BTreeSet<ServerId>) -> Result<(), ChangeError> {
        self.check_majority(&voters)?;
        voters.retain(|voter| voter.server != id.server);
        voters.insert(id);
        self.check_majority(&voters)?;
        tracing::info!(server = %id, voters = voters.len(), "a server has caught up, and votes from now on");
        self.apply(ChangeMembers::ReplaceAllVoters(voters), false).await
    }

    /// The newest format that every voter reads.
    fn choose_format(&self) {
        let others = self.membership().voter_ids().filter(|id| *id != self.cell.id).collect::<Vec<_>>();
        let known = self.format.load(Ordering::Acquire);
        let formats = others.iter().map(|id| match self.survey.of(*id).last {
            Some(described) => described.entry_format.max(1),
            // One that was never heard might be an old one.
            None => known,
        });
        let format = formats.chain([self.own_format]).min().unwrap_or(1);
        if self.format.swap(format, Ordering::AcqRel) != format {
            tracing::info!(format, "log entries are written in this format from now on");
        }
    }
}
