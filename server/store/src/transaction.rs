//! Building and checking transactions.

use bytes::Bytes;
use flotilla_proto::storage::v1::{
    Append, Condition, Delete, DeleteRange, Operation, Put, Request, Transaction, operation::Kind,
};
use prost::Message;

use crate::{Space, limits};

/// Why a transaction can't be accepted, whatever the rows are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTransaction {
    /// More than [`limits::MAX_OPERATIONS`].
    #[error("{count} {what} in one transaction; at most {} are possible", limits::MAX_OPERATIONS)]
    TooMany {
        /// "operations" or "conditions".
        what: &'static str,
        /// How many there were.
        count: usize,
    },
    /// A key over [`limits::MAX_KEY`].
    #[error("a key of {bytes} bytes in table {table:?}; at most {} are possible", limits::MAX_KEY)]
    KeyTooLong {
        /// The table.
        table: String,
        /// The key's size.
        bytes: usize,
    },
    /// An empty table name, or one over [`limits::MAX_TABLE`].
    #[error("a table name of {bytes} bytes; 1 to {} are possible, of which the first is not zero", limits::MAX_TABLE)]
    TableName {
        /// The name's size.
        bytes: usize,
    },
    /// A value over [`limits::MAX_VALUE`].
    #[error("a row of {bytes} bytes in table {table:?}; at most {} are possible", limits::MAX_VALUE)]
    ValueTooLarge {
        /// The table.
        table: String,
        /// The value's size.
        bytes: usize,
    },
    /// An encoded transaction over [`limits::MAX_TRANSACTION`].
    #[error("a transaction of {bytes} bytes; at most {} are possible", limits::MAX_TRANSACTION)]
    TooLarge {
        /// The encoded size.
        bytes: usize,
    },
    /// An answer over [`limits::MAX_ANSWER`].
    #[error("an answer of {bytes} bytes to keep for retries; at most {} are possible", limits::MAX_ANSWER)]
    AnswerTooLarge {
        /// The answer's size.
        bytes: usize,
    },
}

/// Builds a [`Transaction`] in the order of its steps.
#[derive(Debug, Clone)]
#[must_use]
pub struct TransactionBuilder(Transaction);

impl TransactionBuilder {
    /// An empty transaction in a space.
    pub fn new(space: Space) -> Self {
        Self(Transaction { space: space.number(), ..Transaction::default() })
    }

    /// Only if the row does not exist.
    pub fn row_absent(self, table: &str, key: impl Into<Bytes>) -> Self {
        self.condition(table, key, Some(0), false)
    }

    /// Only if the row exists.
    pub fn row_exists(self, table: &str, key: impl Into<Bytes>) -> Self {
        self.condition(table, key, None, true)
    }

    /// Only if the row's last write was that of this revision.
    pub fn row_at(self, table: &str, key: impl Into<Bytes>, revision: u64) -> Self {
        self.condition(table, key, Some(revision), false)
    }

    /// Writes a row.
    pub fn put(self, table: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operation(Kind::Put(Put { table: table.into(), key: key.into(), value: value.into() }))
    }

    /// Removes a row.
    pub fn delete(self, table: &str, key: impl Into<Bytes>) -> Self {
        self.operation(Kind::Delete(Delete { table: table.into(), key: key.into() }))
    }

    /// Removes the rows from `start` up to, not including, `end`; an empty
    /// `end` is the end of the table.
    pub fn delete_range(self, table: &str, start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        let (start, end) = (start.into(), end.into());
        self.operation(Kind::DeleteRange(DeleteRange { table: table.into(), start, end }))
    }

    /// Adds a row at the end of a list.
    pub fn append(self, table: &str, list: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.operation(Kind::Append(Append {
            table: table.into(),
            list: list.into(),
            value: value.into(),
            ..Append::default()
        }))
    }

    /// Adds a row at the end of a list, and writes the sequence that it gets to
    /// another row, as 8 bytes, big-endian: only applying the transaction
    /// tells which it is.
    pub fn append_indexed(
        self,
        table: &str,
        list: impl Into<Bytes>,
        value: impl Into<Bytes>,
        index_table: &str,
        index_key: impl Into<Bytes>,
    ) -> Self {
        self.operation(Kind::Append(Append {
            table: table.into(),
            list: list.into(),
            value: value.into(),
            index_table: index_table.into(),
            index_key: index_key.into(),
        }))
    }

    /// Removes all rows whose keys begin with `prefix`, up to
    /// [`crate::draft::MAX_RANGE_ROWS`] of them.
    pub fn delete_prefix(self, table: &str, prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let end = crate::space::prefix_end(&start).unwrap_or_default();
        self.delete_range(table, start, end)
    }

    /// Makes the transaction count once, however often it is sent.
    pub fn request(mut self, request: Request) -> Self {
        self.0.request = Some(request);
        self
    }

    /// The transaction.
    pub fn build(self) -> Transaction {
        self.0
    }

    fn condition(mut self, table: &str, key: impl Into<Bytes>, revision: Option<u64>, exists: bool) -> Self {
        self.0.conditions.push(Condition { table: table.into(), key: key.into(), revision, exists });
        self
    }

    fn operation(mut self, kind: Kind) -> Self {
        self.0.operations.push(Operation { kind: Some(kind) });
        self
    }
}

/// Refuses what no state of the rows could make acceptable.
///
/// # Errors
/// The first limit that is exceeded.
pub fn check(transaction: &Transaction) -> Result<(), InvalidTransaction> {
    for (what, count) in [("operations", transaction.operations.len()), ("conditions", transaction.conditions.len())] {
        if count > limits::MAX_OPERATIONS {
            return Err(InvalidTransaction::TooMany { what, count });
        }
    }
    for condition in &transaction.conditions {
        check_row(&condition.table, &condition.key, None)?;
    }
    for operation in &transaction.operations {
        match &operation.kind {
            Some(Kind::Put(put)) => check_row(&put.table, &put.key, Some(&put.value))?,
            Some(Kind::Delete(delete)) => check_row(&delete.table, &delete.key, None)?,
            Some(Kind::DeleteRange(range)) => {
                check_row(&range.table, &range.start, None)?;
                check_row(&range.table, &range.end, None)?;
            }
            Some(Kind::Append(append)) => {
                check_row(&append.table, &append.list, Some(&append.value))?;
                // The sequence takes 8 bytes of the key.
                check_key(&append.table, append.list.len() + 8)?;
                if !append.index_table.is_empty() {
                    check_row(&append.index_table, &append.index_key, None)?;
                }
            }
            None => {}
        }
    }
    if let Some(request) = &transaction.request
        && request.answer.len() > limits::MAX_ANSWER
    {
        return Err(InvalidTransaction::AnswerTooLarge { bytes: request.answer.len() });
    }
    let bytes = transaction.encoded_len();
    if bytes > limits::MAX_TRANSACTION {
        return Err(InvalidTransaction::TooLarge { bytes });
    }
    Ok(())
}

fn check_row(table: &str, key: &[u8], value: Option<&Bytes>) -> Result<(), InvalidTransaction> {
    // Names that start with a zero byte are the store's own.
    if table.is_empty() || table.len() > limits::MAX_TABLE || table.starts_with('\0') {
        return Err(InvalidTransaction::TableName { bytes: table.len() });
    }
    check_key(table, key.len())?;
    match value {
        Some(value) if value.len() > limits::MAX_VALUE => {
            Err(InvalidTransaction::ValueTooLarge { table: table.into(), bytes: value.len() })
        }
        _ => Ok(()),
    }
}

fn check_key(table: &str, bytes: usize) -> Result<(), InvalidTransaction> {
    if bytes > limits::MAX_KEY {
        return Err(InvalidTransaction::KeyTooLong { table: table.into(), bytes });
    }
    Ok(())
}
