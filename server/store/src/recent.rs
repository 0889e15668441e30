//! Rows that were written last, and are not in sled yet.
//!
//! Each sled batch rolls sled's buffer and costs a write and a wait for the
//! disk, so rows are collected here and go to sled some hundred at a time. A
//! crash loses nothing by it: whatever sled lacks is replayed from the log.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use crate::draft::Drafted;

/// Rows that are collected before they go to sled. Much larger batches make
/// sled's memory grow.
const MAX_ROWS: usize = 512;
/// Bytes that are collected before they go to sled.
const MAX_BYTES: usize = 1024 * 1024;

/// Encoded rows by encoded key; `None` is a row that is removed.
pub(crate) type Rows = BTreeMap<Bytes, Option<Bytes>>;

#[derive(Default)]
pub(crate) struct Recent(RwLock<State>);

#[derive(Default)]
struct State {
    rows: Rows,
    bytes: usize,
}

impl Recent {
    /// What is known here of a row: nothing, that it is gone, or what it is.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.read().rows.get(key).cloned()
    }

    /// What is known here of a range of keys.
    pub(crate) fn range(&self, range: (Bound<&[u8]>, Bound<&[u8]>)) -> Rows {
        let state = self.read();
        state.rows.range::<[u8], _>(range).map(|(key, row)| (key.clone(), row.clone())).collect()
    }

    /// Takes a draft's rows in. Whether it is time to write them to sled.
    pub(crate) fn insert(&self, drafted: &Drafted) -> bool {
        let mut state = self.write();
        for (key, row) in &drafted.rows {
            // Made and removed again within the draft: sled has never seen it,
            // unless an earlier draft's row is here.
            if row.now.is_none() && row.former.is_none() {
                continue;
            }
            state.bytes += key.len() + row.now.as_ref().map_or(0, Bytes::len);
            state.rows.insert(key.clone(), row.now.clone());
        }
        state.rows.len() >= MAX_ROWS || state.bytes >= MAX_BYTES
    }

    /// All rows, to be written to sled. Writers must be kept out until
    /// [`Recent::clear`]; readers need not be.
    pub(crate) fn all(&self) -> RwLockReadGuard<'_, impl AsRef<Rows> + use<>> {
        self.read()
    }

    /// Forgets all rows: they are in sled.
    pub(crate) fn clear(&self) {
        *self.write() = State::default();
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<Rows> for State {
    fn as_ref(&self) -> &Rows {
        &self.rows
    }
}
