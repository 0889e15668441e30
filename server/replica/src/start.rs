//! From a replica that runs to one that can be read and written.

use std::{sync::atomic::Ordering, time::Duration};

use futures::future::BoxFuture;
use openraft::{RaftMetrics, metrics::WaitError};
use tokio::time::Instant;

use crate::{OpenError, ReadError, Replica, raft::TypeConfig};

/// How often a server that waits says for what.
const TELL: Duration = Duration::from_secs(10);
/// How long one attempt to learn what the cell has may take.
const ATTEMPT: Duration = Duration::from_secs(2);

impl Replica {
    /// Returns when this server is part of a formed cell, and has applied everything that the cell had
    /// acknowledged by then. Waits for its peers for as long as they take, and says so every ten
    /// seconds; its own log must be applied within [`Options::catch_up_timeout`](crate::Options).
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn until_ready<'a>(&'a self) -> BoxFuture<'a, Result<(), OpenError>> {
        Box::pin(async move {
            let inner = self.inner();
            if inner.cell.is_alone() && inner.log.last().is_none() {
                self.form_alone().await?;
            } else if inner.log.last().is_none() {
                inner.members.form_or_join().await?;
            } else {
                inner.members.refuse_twin().await?;
            }
            if inner.raft.voter_ids().eq([inner.cell.id]) {
                // It need not wait for a leader that can't come.
                let elected = inner.raft.trigger().elect(false).await;
                elected.map_err(|error| OpenError::Raft { reason: error.to_string() })?;
            }
            self.apply_own_log().await?;
            self.catch_up_with_cell().await?;
            inner.derived.caught_up.store(true, Ordering::Release);
            inner.ready.store(true, Ordering::Release);
            Ok(())
        })
    }

    /// Whether [`Replica::until_ready`] has returned.
    pub fn is_ready(&self) -> bool {
        self.inner().ready.load(Ordering::Acquire)
    }

    async fn form_alone(&self) -> Result<(), OpenError> {
        let inner = self.inner();
        let server = crate::raft::Server { address: inner.cell.address.clone(), learner: false };
        let servers = std::collections::BTreeMap::from([(inner.cell.id, server)]);
        inner.raft.initialize(servers).await.map_err(|error| OpenError::Raft { reason: error.to_string() })
    }

    /// Waits until what this server's log is known to have committed is applied. (The rest is not
    /// known to be committed before somebody leads.)
    async fn apply_own_log(&self) -> Result<(), OpenError> {
        let waited = self.inner().options.catch_up_timeout;
        let caught_up = |metrics: &RaftMetrics<TypeConfig>| {
            metrics.running_state.is_err() || metrics.last_applied >= metrics.local_committed
        };
        let waiting = self.inner().raft.wait(Some(waited));
        match waiting.metrics(caught_up, "the store has caught up with the log").await {
            Ok(metrics) => metrics.running_state.map_err(|fatal| OpenError::Raft { reason: fatal.to_string() }),
            Err(WaitError::Timeout(..)) => Err(OpenError::NotCaughtUp { waited }),
            Err(error) => Err(OpenError::Raft { reason: error.to_string() }),
        }
    }

    /// Waits until somebody leads, and everything that is committed then is applied here.
    async fn catch_up_with_cell(&self) -> Result<(), OpenError> {
        let inner = self.inner();
        let (mut told, mut since) = (Instant::now(), Instant::now());
        let mut applied = *inner.derived.applied_index.borrow();
        loop {
            // A leader that cannot serve reads yet, or a lost message, is asked again.
            match inner.read_index.wait(Instant::now() + ATTEMPT, Instant::now() + ATTEMPT).await {
                Ok(index) => loop {
                    match self.until_applied(index, Instant::now() + ATTEMPT).await {
                        Ok(()) => return Ok(()),
                        Err(ReadError::ShuttingDown) => return Err(OpenError::Raft { reason: "it stopped".into() }),
                        Err(_) => {}
                    }
                    let now = *inner.derived.applied_index.borrow();
                    if now != applied {
                        (applied, since) = (now, Instant::now());
                    }
                    self.check_progress(since)?;
                    if told.elapsed() >= TELL {
                        told = Instant::now();
                        tracing::info!(applied = now, wanted = index, "catching up with the cell");
                        // Who was removed gets nothing any more.
                        self.look_for_removal().await?;
                    }
                },
                Err(_) => self.check_progress(Instant::now())?,
            }
            self.look_for_removal().await?;
            if told.elapsed() >= TELL {
                told = Instant::now();
                tracing::info!("waiting for a leader: a majority of the cell's voters must run and reach each other");
            }
        }
    }

    fn check_progress(&self, since: Instant) -> Result<(), OpenError> {
        if let Some(reason) = self.failure() {
            return Err(OpenError::Raft { reason });
        }
        if self.inner().upkeep.is_stopped() {
            return Err(OpenError::Raft { reason: "the server was stopped while it started".to_owned() });
        }
        let waited = self.inner().options.catch_up_timeout;
        match since.elapsed() > waited {
            true => Err(OpenError::NotCaughtUp { waited }),
            false => Ok(()),
        }
    }

    /// A learner that the cell let go of asks to be taken in again; a voter that was removed ends.
    async fn look_for_removal(&self) -> Result<(), OpenError> {
        let inner = self.inner();
        if !inner.members.was_removed().await {
            return Ok(());
        }
        let (cell, server) = (inner.cell.name.clone(), inner.cell.id.server);
        if server <= inner.cell.voters {
            return Err(OpenError::Removed { cell, server, path: inner.options.data_dir.clone() });
        }
        if let Err(error) = inner.members.rejoin().await {
            tracing::info!(%error, "waiting to be taken into the cell again");
        }
        Ok(())
    }
}
