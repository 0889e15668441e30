//! What transactions do to rows: evaluated one after another on top of a
//! store, written to it together.
//!
//! Everything here is a function of the rows and the transactions alone, so
//! that each server of a cell comes to the same result.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;
use flotilla_proto::storage::v1::{
    Append, Condition, Delete, DeleteRange, Put, Row, RowChange, Transaction, operation::Kind,
};
use prost::Message;

use crate::{
    RowKey, Store, StoreError,
    hash::Hashes,
    space::{prefix_end, table_prefix},
};

/// Rows that one `DeleteRange` removes at most; the rest stay, and the result
/// says how many went, so that a large range is removed in bounded steps.
pub const MAX_RANGE_ROWS: usize = 10_000;

/// The table that keeps each list's last sequence. It is no service's, and its
/// rows are not in the feed.
pub(crate) const LISTS_TABLE: &str = "\0lists";

/// What became of one transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It happened.
    Committed {
        /// Every row that is different now, in the order of first change.
        rows: Vec<RowChange>,
        /// One number for each operation, as in `Change.results`.
        results: Vec<u64>,
    },
    /// A condition did not hold; nothing happened.
    Conflict {
        /// Which condition, counted from 0.
        condition: usize,
    },
}

/// Transactions evaluated, but not yet written.
pub struct Draft<'a> {
    store: &'a Store,
    rows: HashMap<Bytes, DraftedRow>,
    hashes: Hashes,
}

/// A row that the draft writes: encoded, as it is in the store and as it will be.
pub(crate) struct DraftedRow {
    pub(crate) former: Option<Bytes>,
    pub(crate) now: Option<Bytes>,
}

/// A finished draft: what [`Store::write`] takes.
pub struct Drafted {
    pub(crate) rows: HashMap<Bytes, DraftedRow>,
    pub(crate) hashes: Hashes,
}

impl<'a> Draft<'a> {
    /// A draft on top of what the store holds now. The store must not be
    /// written to until this draft is.
    pub fn new(store: &'a Store) -> Self {
        Self { store, rows: HashMap::new(), hashes: store.hashes() }
    }

    /// Rows that the draft writes so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the draft writes nothing so far.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Evaluates one transaction as the given revision. Expects one that
    /// passed [`crate::transaction::check`].
    ///
    /// # Errors
    /// If the store can't be read. The draft must not be used any more then.
    pub fn apply(&mut self, transaction: &Transaction, revision: u64, time: u64) -> Result<Outcome, StoreError> {
        for (position, condition) in transaction.conditions.iter().enumerate() {
            if !self.holds(transaction.space, condition)? {
                return Ok(Outcome::Conflict { condition: position });
            }
        }
        let mut step =
            Step { space: transaction.space, revision, time, changes: Changes::expecting(transaction), draft: self };
        let mut results = Vec::with_capacity(transaction.operations.len());
        for operation in &transaction.operations {
            results.push(match &operation.kind {
                Some(Kind::Put(put)) => step.put(put)?,
                Some(Kind::Delete(delete)) => step.delete(delete)?,
                Some(Kind::DeleteRange(range)) => step.delete_range(range)?,
                Some(Kind::Append(append)) => step.append(append)?,
                None => 0,
            });
        }
        let mut rows = step.changes.rows;
        // A row that was made and removed again by one transaction never was.
        rows.retain(|change| change.before.is_some() || change.after.is_some());
        Ok(Outcome::Committed { rows, results })
    }

    /// Ends the draft.
    pub fn finish(self) -> Drafted {
        Drafted { rows: self.rows, hashes: self.hashes }
    }

    fn holds(&self, space: u32, condition: &Condition) -> Result<bool, StoreError> {
        let row = self.row(&RowKey::new(space, &condition.table, &condition.key))?;
        Ok(match (condition.revision, row) {
            (Some(0), row) => row.is_none(),
            (Some(revision), row) => row.is_some_and(|row| row.revision == revision),
            (None, row) => row.is_some() || !condition.exists,
        })
    }

    fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        let encoded = match self.rows.get(key.as_bytes()) {
            Some(drafted) => drafted.now.clone(),
            None => self.store.encoded(key.as_bytes())?,
        };
        encoded.map(|encoded| decode_row(key.as_bytes(), encoded)).transpose()
    }

    /// Makes a row into what `make` says, given what it is. Returns the row as
    /// it was and as it is.
    fn replace(
        &mut self,
        key: &RowKey,
        make: impl FnOnce(Option<&Row>) -> Option<Row>,
    ) -> Result<(Option<Row>, Option<Row>), StoreError> {
        let Self { store, rows, hashes } = self;
        let drafted = match rows.entry(key.to_bytes()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let former = store.encoded(key.as_bytes())?;
                entry.insert(DraftedRow { now: former.clone(), former })
            }
        };
        let before = drafted.now.take();
        let before_row = before.clone().map(|before| decode_row(key.as_bytes(), before)).transpose()?;
        let after = make(before_row.as_ref());
        if let Some(before) = &before {
            hashes.remove(key.space(), key.as_bytes(), before);
        }
        if let Some(after) = &after {
            let after = Bytes::from(after.encode_to_vec());
            hashes.add(key.space(), key.as_bytes(), &after);
            drafted.now = Some(after);
        }
        Ok((before_row, after))
    }
}

/// One transaction on its way through a draft.
struct Step<'d, 's> {
    draft: &'d mut Draft<'s>,
    space: u32,
    revision: u64,
    time: u64,
    changes: Changes,
}

impl Step<'_, '_> {
    fn put(&mut self, put: &Put) -> Result<u64, StoreError> {
        let created = self.write(&put.table, put.key.clone(), Some(put.value.clone()))?;
        Ok(self.time - created.unwrap_or(self.time).min(self.time))
    }

    fn delete(&mut self, delete: &Delete) -> Result<u64, StoreError> {
        let created = self.write(&delete.table, delete.key.clone(), None)?;
        Ok(u64::from(created.is_some()))
    }

    fn delete_range(&mut self, range: &DeleteRange) -> Result<u64, StoreError> {
        let prefix = table_prefix(self.space, &range.table);
        let start = [&prefix[..], &range.start].concat();
        let end = match range.end.is_empty() {
            true => prefix_end(&prefix).unwrap_or_default(),
            false => [&prefix[..], &range.end].concat(),
        };
        if start >= end {
            return Ok(0);
        }
        let mut keys: Vec<Bytes> = Vec::new();
        for key in self.draft.store.encoded_keys(&start, &end)? {
            let key = key?;
            // What the draft already removed must not be counted again.
            if self.draft.rows.get(&key).is_none_or(|drafted| drafted.now.is_some()) {
                keys.push(key);
            }
            if keys.len() == MAX_RANGE_ROWS {
                break;
            }
        }
        let drafted = self.draft.rows.iter().filter(|(key, row)| {
            row.former.is_none() && row.now.is_some() && key[..] >= start[..] && key[..] < end[..]
        });
        keys.extend(drafted.map(|(key, _)| key.clone()));
        keys.sort_unstable();
        keys.truncate(MAX_RANGE_ROWS);
        for key in &keys {
            self.write(&range.table, key.slice(prefix.len()..), None)?;
        }
        Ok(keys.len() as u64)
    }

    fn append(&mut self, append: &Append) -> Result<u64, StoreError> {
        // The length keeps ("a", "bc") and ("ab", "c") apart.
        let head = [&[append.table.len() as u8], append.table.as_bytes(), &append.list].concat();
        let head = RowKey::new(self.space, LISTS_TABLE, &head);
        let last = match self.draft.row(&head)? {
            Some(row) => u64::from_be_bytes(row.value.as_ref().try_into().map_err(|_| StoreError::Damaged {
                what: format!("the head of list {:?} in table {:?} is not 8 bytes long", append.list, append.table),
            })?),
            None => 0,
        };
        let sequence = last + 1;
        let (revision, time) = (self.revision, self.time);
        self.draft.replace(&head, |row| {
            Some(Row {
                revision,
                create_time: row.map_or(time, |row| row.create_time),
                update_time: time,
                value: sequence.to_be_bytes().to_vec().into(),
            })
        })?;
        let key = [&append.list[..], &sequence.to_be_bytes()].concat();
        self.write(&append.table, key.into(), Some(append.value.clone()))?;
        if !append.index_table.is_empty() {
            let value = Bytes::copy_from_slice(&sequence.to_be_bytes());
            self.write(&append.index_table, append.index_key.clone(), Some(value))?;
        }
        Ok(sequence)
    }

    /// Writes or removes a row and notes the change. Returns when the row that
    /// was there had been created.
    fn write(&mut self, table: &str, key: Bytes, value: Option<Bytes>) -> Result<Option<u64>, StoreError> {
        let (revision, time) = (self.revision, self.time);
        let (before, after) = self.draft.replace(&RowKey::new(self.space, table, &key), |row| {
            let create_time = row.map_or(time, |row| row.create_time);
            value.map(|value| Row { revision, create_time, update_time: time, value })
        })?;
        let create_time = before.as_ref().map(|row| row.create_time);
        self.changes.note(RowChange { table: table.into(), key, before, after });
        Ok(create_time)
    }
}

/// The rows that one transaction changed, each once.
struct Changes {
    rows: Vec<RowChange>,
    /// Where a row is in `rows`. Small transactions do without.
    positions: Option<HashMap<(String, Bytes), usize>>,
}

impl Changes {
    fn expecting(transaction: &Transaction) -> Self {
        let operations = &transaction.operations;
        let ranges = operations.iter().any(|operation| matches!(operation.kind, Some(Kind::DeleteRange(_))));
        Self {
            rows: Vec::with_capacity(operations.len()),
            positions: (ranges || operations.len() > 8).then(HashMap::new),
        }
    }

    fn note(&mut self, change: RowChange) {
        let next = self.rows.len();
        let position = match &mut self.positions {
            Some(positions) => *positions.entry((change.table.clone(), change.key.clone())).or_insert(next),
            None => {
                let same = |other: &RowChange| other.key == change.key && other.table == change.table;
                self.rows.iter().position(same).unwrap_or(next)
            }
        };
        match self.rows.get_mut(position) {
            Some(row) => row.after = change.after,
            None => self.rows.push(change),
        }
    }
}

pub(crate) fn decode_row(key: &[u8], encoded: Bytes) -> Result<Row, StoreError> {
    Row::decode(encoded)
        .map_err(|error| StoreError::Damaged { what: format!("the row of key {key:02x?} can't be decoded: {error}") })
}
