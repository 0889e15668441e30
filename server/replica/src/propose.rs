//! Transactions into the log, wherever the leader is.

use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::storage::v1::Transaction;
use prost::Message;
use tokio::time::Instant;
use tracing::field::Empty;

use crate::{
    Committed, ProposeError, Replica,
    forward::Forwarding,
    trace::{Trace, Traced},
    traced,
};

/// How long a request waits for a leader before it is told that there is none.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(5);
/// How long an answer waits for this server to have applied what another one's log has taken.
const OWN_WRITE: Duration = Duration::from_secs(1);
/// The pause before a request tries again with a leader that didn't take it.
const PAUSE: Duration = Duration::from_millis(25);

impl Replica {
    /// Commits a transaction: returns when it is fsynced by a majority and applied. Another server's
    /// log takes it if that one leads. When leadership goes on the way, a transaction with a request
    /// is tried again, which counts once; one without fails with [`ProposeError::LeaderLost`].
    ///
    /// # Errors
    /// See [`ProposeError`], which says of each whether anything happened.
    pub async fn propose(&self, transaction: Transaction, deadline: Instant) -> Result<Committed, ProposeError> {
        self.commit(transaction, deadline, None).await
    }

    /// The same for a request that may be traced: with a span `transaction`,
    /// and within it `queue`, `fsync` and `apply`. [`Replica::trace_of`] knows
    /// it by its revision, if the transaction carries a request.
    ///
    /// # Errors
    /// As [`Replica::propose`].
    pub async fn propose_traced(
        &self,
        transaction: Transaction,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        let Some(parent) = trace else { return self.commit(transaction, deadline, None).await };
        let span = traced!(parent, "transaction", revision = Empty, outcome = Empty);
        let traces = &self.inner().derived.traces;
        let key = transaction.request.as_ref().map(|request| request.key.clone());
        let expected = key.and_then(|key| traces.expect(key, span.trace()));
        let committed = self.commit(transaction, deadline, Some(span.trace())).await;
        drop(expected);
        record_outcome(&span, &committed);
        committed
    }

    /// The span `transaction` of a traced request of this server, by the
    /// revision that it made: what follows from the revision belongs there.
    /// Known before readers of the feed get the revision, and until 1,024
    /// others followed.
    pub fn trace_of(&self, revision: u64) -> Option<Trace> {
        self.inner().derived.traces.of(revision)
    }

    async fn commit(
        &self,
        transaction: Transaction,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        flotilla_store::transaction::check(&transaction)?;
        self.check_running()?;
        if deadline <= Instant::now() {
            return Err(ProposeError::DeadlineExpired { submitted: false });
        }
        let encoded = Bytes::from(transaction.encode_to_vec());
        let operations = transaction.operations.len();
        let what = || Forwarding::Transaction(encoded.clone(), operations);
        let committed = self.commit_encoded(what, transaction.request.is_some(), deadline, trace).await?;
        // Where another server led, this one may be a moment behind: who goes on here sees what it did.
        let mut published = self.inner().derived.published.subscribe();
        if published.borrow().revision < committed.revision {
            let seen = published.wait_for(|published| published.closed || published.revision >= committed.revision);
            // It happened all the same.
            let _ = tokio::time::timeout_at(deadline.min(Instant::now() + OWN_WRITE), seen).await;
        }
        Ok(committed)
    }

    /// Has the leader take what is given, whoever it is, again if that can do no harm.
    pub(crate) async fn commit_encoded(
        &self,
        what: impl Fn() -> Forwarding,
        repeatable: bool,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        let leadership = &self.inner().leadership;
        let give_up = Instant::now() + LEADER_WAIT;
        let mut lost = false;
        loop {
            let nobody = if lost { ProposeError::LeaderLost } else { ProposeError::NoLeader };
            let Some(leader) = leadership.wait(deadline.min(give_up)).await else {
                self.check_running()?;
                return Err(match deadline <= Instant::now() {
                    true => ProposeError::DeadlineExpired { submitted: lost },
                    false => nobody,
                });
            };
            let outcome = match (leadership.is_self(&leader), what()) {
                (true, Forwarding::Transaction(encoded, operations)) => {
                    self.submit_as_leader(encoded, operations, deadline, trace).await
                }
                (true, Forwarding::Check(id)) => self.submit_check(id).await,
                (false, what) => {
                    let answered = self.inner().forwarder.submit(leader.clone(), what, deadline)?;
                    match tokio::time::timeout_at(deadline, answered).await {
                        Ok(Ok(outcome)) => outcome,
                        Ok(Err(_)) => Err(ProposeError::LeaderLost),
                        Err(_) => Err(ProposeError::DeadlineExpired { submitted: true }),
                    }
                }
            };
            match outcome {
                Err(ProposeError::NoLeader) => {}
                Err(ProposeError::LeaderLost) if repeatable => lost = true,
                // What was sent first may have happened.
                Err(ProposeError::DeadlineExpired { .. }) if lost => {
                    return Err(ProposeError::DeadlineExpired { submitted: true });
                }
                outcome => return outcome,
            }
            self.check_running()?;
            if Instant::now() >= give_up {
                return Err(if lost { ProposeError::LeaderLost } else { ProposeError::NoLeader });
            }
            leadership.wait_for_change(Some(&leader), (Instant::now() + PAUSE).min(deadline)).await;
        }
    }

    /// Takes an encoded transaction into this server's log, if it leads.
    pub(crate) async fn submit_as_leader(
        &self,
        encoded: Bytes,
        operations: usize,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Committed, ProposeError> {
        self.check_running()?;
        let inner = self.inner();
        let leader = inner.leadership.current().filter(|leader| inner.leadership.is_self(leader));
        let Some(leader) = leader else { return Err(ProposeError::NoLeader) };
        if let Some((free, required)) = inner.upkeep.full_disk() {
            return Err(ProposeError::DiskFull { free, required });
        }
        let answered = inner.batcher.submit(encoded, operations, deadline, trace)?;
        let answered = tokio::time::timeout_at(deadline, answered);
        let answered = match inner.leadership.is_sole() {
            true => answered.await,
            false => tokio::select! {
                biased;
                answered = answered => answered,
                // A leader that no majority hears any more can't tell what becomes of it.
                () = inner.leadership.wait_for_change(Some(&leader), deadline + PAUSE) => {
                    return Err(ProposeError::LeaderLost);
                }
            },
        };
        match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.why_stopped()),
            Err(_) => Err(ProposeError::DeadlineExpired { submitted: true }),
        }
    }

    /// Refuses what can't be done by a server that is stopping, or whose log has failed.
    pub(crate) fn check_running(&self) -> Result<(), ProposeError> {
        if self.inner().upkeep.is_stopped() {
            return Err(ProposeError::ShuttingDown);
        }
        match self.inner().log.failed() {
            Some(reason) => Err(ProposeError::LogFailed { reason }),
            None => Ok(()),
        }
    }
}

fn record_outcome(span: &Traced, committed: &Result<Committed, ProposeError>) {
    let outcome = match committed {
        Ok(Committed { replayed: false, .. }) => "committed",
        Ok(Committed { replayed: true, .. }) => "replayed",
        Err(ProposeError::Conflict { .. }) => "conflict",
        Err(_) => "failed",
    };
    span.record("outcome", outcome);
    if let Ok(committed) = committed {
        span.record("revision", committed.revision);
    }
}
