//! What transactions mean, told in the plainest way: maps, and a copy of them
//! to compare with.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::storage::v1::{Condition, operation::Kind};
use flotilla_store::{Row, RowChange, Transaction};

/// A row's table and key.
pub(crate) type Key = (String, Bytes);

/// The rows of one space.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Model {
    pub(crate) rows: BTreeMap<Key, Row>,
    lists: BTreeMap<Key, u64>,
}

/// What a transaction did to a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Effect {
    pub(crate) results: Vec<u64>,
    /// By table and key.
    pub(crate) changes: Vec<RowChange>,
}

impl Model {
    /// Applies a transaction, or says which condition does not hold.
    pub(crate) fn apply(&mut self, transaction: &Transaction, revision: u64, time: u64) -> Result<Effect, usize> {
        if let Some(position) = transaction.conditions.iter().position(|condition| !self.holds(condition)) {
            return Err(position);
        }
        let before = self.rows.clone();
        let operations = transaction.operations.iter().filter_map(|operation| operation.kind.as_ref());
        let results = operations.map(|operation| self.operate(operation, revision, time)).collect();
        Ok(Effect { results, changes: changes(&before, &self.rows) })
    }

    fn holds(&self, condition: &Condition) -> bool {
        let row = self.rows.get(&(condition.table.clone(), condition.key.clone()));
        match (condition.revision, row) {
            (Some(0), row) => row.is_none(),
            (Some(revision), row) => row.is_some_and(|row| row.revision == revision),
            (None, row) => row.is_some() || !condition.exists,
        }
    }

    fn operate(&mut self, operation: &Kind, revision: u64, time: u64) -> u64 {
        match operation {
            Kind::Put(put) => self.put((put.table.clone(), put.key.clone()), &put.value, revision, time),
            Kind::Delete(delete) => u64::from(self.rows.remove(&(delete.table.clone(), delete.key.clone())).is_some()),
            Kind::DeleteRange(range) => {
                let rows = self.rows.len();
                self.rows.retain(|(table, key), _| {
                    let inside = *key >= range.start && (range.end.is_empty() || *key < range.end);
                    *table != range.table || !inside
                });
                (rows - self.rows.len()) as u64
            }
            Kind::Append(append) => {
                let last = self.lists.entry((append.table.clone(), append.list.clone())).or_default();
                *last += 1;
                let sequence = *last;
                let key = [&append.list[..], &sequence.to_be_bytes()].concat();
                self.put((append.table.clone(), key.into()), &append.value, revision, time);
                sequence
            }
        }
    }

    fn put(&mut self, key: Key, value: &Bytes, revision: u64, time: u64) -> u64 {
        let create_time = self.rows.get(&key).map_or(time, |row| row.create_time);
        self.rows.insert(key, Row { revision, create_time, update_time: time, value: value.clone() });
        time - create_time
    }
}

/// Changes in the order in which [`Effect::changes`] has them.
pub(crate) fn sorted(mut changes: Vec<RowChange>) -> Vec<RowChange> {
    changes.sort_by(|one, other| (&one.table, &one.key).cmp(&(&other.table, &other.key)));
    changes
}

fn changes(before: &BTreeMap<Key, Row>, after: &BTreeMap<Key, Row>) -> Vec<RowChange> {
    let mut keys: Vec<&Key> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    let change = |key: &Key| RowChange {
        table: key.0.clone(),
        key: key.1.clone(),
        before: before.get(key).cloned(),
        after: after.get(key).cloned(),
    };
    changed.map(change).collect()
}
