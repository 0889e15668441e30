//! Which entry a read must see, asked for many reads at once.
//!
//! One question is under way at a time. Reads that come meanwhile wait for the next one, and share
//! its answer: a read may use only an answer whose question was asked after the read began.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use flotilla_proto::peer::v1 as peer;
use openraft::ReadPolicy;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Metrics, ReadError,
    cell::Cell,
    leadership::Leadership,
    peer::{Answer, Call},
    raft::Raft,
};

/// How long one question may take. A read asks again within its deadline.
const ROUND: Duration = Duration::from_secs(2);
/// The pause after a question that nobody could answer.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks the leader, or makes sure that this server still is it.
pub(crate) struct ReadIndex {
    raft: Raft,
    cell: Arc<Cell>,
    leadership: Arc<Leadership>,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asking: bool,
    waiting: Vec<oneshot::Sender<Option<u64>>>,
}

impl ReadIndex {
    pub(crate) fn new(raft: Raft, cell: Arc<Cell>, leadership: Arc<Leadership>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { raft, cell, leadership, metrics, state: Mutex::default() })
    }

    /// The index of the last entry that a read which begins now must see.
    pub(crate) async fn wait(self: &Arc<Self>, deadline: Instant, give_up: Instant) -> Result<u64, ReadError> {
        loop {
            let (answer, answered) = oneshot::channel();
            let begin = {
                let mut state = self.state();
                state.waiting.push(answer);
                !std::mem::replace(&mut state.asking, true)
            };
            if begin {
                tokio::spawn(self.clone().ask());
            }
            match tokio::time::timeout_at(deadline, answered).await {
                Err(_) => return Err(ReadError::DeadlineExpired),
                Ok(Ok(Some(index))) => return Ok(index),
                // Nobody leads, or not any more.
                Ok(_) if Instant::now() >= give_up => return Err(ReadError::NoLeader),
                Ok(_) => {
                    let pause = (Instant::now() + PAUSE).min(deadline);
                    tokio::time::sleep_until(pause).await;
                    self.leadership.wait(deadline.min(give_up)).await.ok_or(ReadError::NoLeader)?;
                }
            }
        }
    }

    /// What a peer's read must see, if this server leads.
    pub(crate) async fn as_leader(&self) -> Option<u64> {
        let known = self.raft.get_read_log_id(ReadPolicy::ReadIndex);
        let known = tokio::time::timeout(ROUND, known).await.ok()?.ok()?;
        Some(known.0.index())
    }

    async fn ask(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut state = self.state();
                if state.waiting.is_empty() {
                    state.asking = false;
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            self.metrics.read_rounds.inc();
            let index = self.question().await;
            for answer in waiting {
                // Who asked may have gone.
                let _ = answer.send(index);
            }
        }
    }

    async fn question(&self) -> Option<u64> {
        let leader = self.leadership.current()?;
        if self.leadership.is_self(&leader) {
            return self.as_leader().await;
        }
        let addresses = self.cell.addresses(leader.id.server, &leader.server);
        let introduction = self.cell.introduction(Some(leader.id));
        let call = Call::ReadIndex(peer::ReadIndexRequest {});
        let answer = self.cell.network.call(&addresses, introduction, call, ROUND);
        // A leader that is gone may take long to be noticed by its connection.
        let until = Instant::now() + ROUND;
        tokio::select! {
            answer = answer => match answer {
                Ok(Answer::ReadIndex(response)) => response.read_log_id.map(|log_id| log_id.index),
                _ => None,
            },
            () = self.leadership.wait_for_change(Some(&leader), until) => None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
