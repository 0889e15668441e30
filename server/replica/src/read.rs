//! Making sure that a read is as current as it must be.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Consistency, ReadError, Replica, propose::LEADER_WAIT};

impl Replica {
    /// Returns when the store is as current as asked for, with its revision.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_barrier(&self, consistency: Consistency, deadline: Instant) -> Result<u64, ReadError> {
        match consistency {
            Consistency::Linearizable => self.until_current(deadline).await?,
            Consistency::Local { max_lag: Some(max_lag) } => self.check_lag(max_lag)?,
            Consistency::Local { max_lag: None } => {}
        }
        Ok(self.inner().derived.store().revision())
    }

    /// How long ago this server certainly had everything that the cell had acknowledged; none if it
    /// has not heard of a leader since it started.
    pub fn lag(&self) -> Option<Duration> {
        let inner = self.inner();
        match inner.leadership.leads() && inner.leadership.current().is_some() {
            true => Some(Duration::ZERO),
            false => inner.cell.lag(*inner.derived.applied_index.borrow()),
        }
    }

    fn check_lag(&self, max_lag: Duration) -> Result<(), ReadError> {
        let lag = self.lag();
        match lag.is_some_and(|lag| lag <= max_lag) {
            true => Ok(()),
            false => Err(ReadError::TooStale { lag, max_lag }),
        }
    }

    async fn until_current(&self, deadline: Instant) -> Result<(), ReadError> {
        let inner = self.inner();
        // A sole voter that leads has applied whatever it has acknowledged,
        // and nobody else can acknowledge anything.
        if inner.leadership.is_sole() {
            return Ok(());
        }
        if let Some(reason) = self.failure() {
            // Reads go on where nobody else can have acknowledged anything.
            return match inner.leadership.led_alone() {
                true => Ok(()),
                false => Err(ReadError::LogFailed { reason }),
            };
        }
        if inner.upkeep.is_stopped() {
            return Err(ReadError::ShuttingDown);
        }
        let give_up = Instant::now() + LEADER_WAIT;
        let index = inner.read_index.wait(deadline, give_up).await?;
        self.until_applied(index, deadline).await
    }

    /// Returns when an entry is applied here.
    pub(crate) async fn until_applied(&self, index: u64, deadline: Instant) -> Result<(), ReadError> {
        let mut applied = self.inner().derived.applied_index.subscribe();
        if *applied.borrow() >= index {
            return Ok(());
        }
        match tokio::time::timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::ShuttingDown),
            Err(_) => Err(ReadError::DeadlineExpired),
        }
    }
}
