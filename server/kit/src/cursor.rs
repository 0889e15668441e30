//! Where a background task stands in the feed: a row of the service, moved by
//! the transaction that records the task's effect, so that a crash between the
//! two can't happen and an effect happens once.

use std::time::Duration;

use flotilla_proto::feed::v1::Cursor;
use flotilla_replica::Consistency;
use flotilla_store::TransactionBuilder;
use prost::Message;
use tokio::time::Instant;

use crate::{Context, Error};

/// Where tasks keep their cursors. No API lets a user name such a table.
const TABLE: &str = ".cursors";
/// How long a task waits for a leader, and for its transaction.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A task's place, as it was read or left.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskCursor {
    /// Everything up to here is dealt with; none: the task has never run.
    pub cursor: Option<Cursor>,
    /// The revision of the cursor's row; 0: there is none.
    revision: u64,
}

impl Context {
    /// Where a task stands.
    ///
    /// # Errors
    /// If nobody leads the cell for 30 seconds, or the row can't be read.
    pub async fn task_cursor(&self, task: &str) -> Result<TaskCursor, Error> {
        let replica = self.replica();
        replica.read_barrier(Consistency::Linearizable, Instant::now() + TIMEOUT).await?;
        match replica.store().get(self.space(), TABLE, task.as_bytes())? {
            Some(row) => {
                let cursor = Cursor::decode(row.value).map_err(Error::internal)?;
                Ok(TaskCursor { cursor: Some(cursor), revision: row.revision })
            }
            None => Ok(TaskCursor { cursor: None, revision: 0 }),
        }
    }

    /// Commits a task's effect and its new place as one.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the cursor was moved since it was read, by the
    /// task's other run on a server that led before: nothing happened, and the
    /// task starts over from [`Context::task_cursor`]. Otherwise what keeps the
    /// log from taking it.
    pub async fn advance(
        &self,
        task: &str,
        from: &TaskCursor,
        to: Cursor,
        effect: TransactionBuilder,
    ) -> Result<TaskCursor, Error> {
        let key = task.to_owned();
        let transaction = effect.row_at(TABLE, key.clone(), from.revision).put(TABLE, key, to.encode_to_vec());
        let committed = self.replica().propose(transaction.build(), Instant::now() + TIMEOUT).await?;
        Ok(TaskCursor { cursor: Some(to), revision: committed.revision })
    }
}
