//! Reading every row as of one moment, while writes go on.
//!
//! A write that changes a row which the reading has not passed yet leaves the
//! row's former value here first. What is kept that way is bounded: past the
//! bound the reading fails, and its caller tries again at a quieter moment.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use flotilla_proto::storage::v1::Applied;

use crate::{Store, StoreError, draft::Drafted, hash::Hashes};

/// Bytes of former values that a reading keeps at most.
pub const MAX_FORMER_BYTES: usize = 64 * 1024 * 1024;

/// Every row of a store as of one moment.
pub struct PointInTime {
    store: Arc<Store>,
    applied: Applied,
    former: Arc<Former>,
    hashes: Hashes,
    done: bool,
}

/// What writers leave for one reading.
#[derive(Default)]
pub(crate) struct Former(Mutex<FormerRows>);

#[derive(Default)]
struct FormerRows {
    /// Encoded rows as they were; `None`: there was no such row.
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
    overflowed: bool,
    /// Keys up to this one have been read; nothing is kept for them any more.
    passed: Option<Bytes>,
}

impl Former {
    /// Called by the store before it writes.
    pub(crate) fn keep(&self, drafted: &Drafted) {
        let mut former = self.lock();
        for (key, row) in &drafted.rows {
            if former.overflowed {
                return;
            }
            if former.passed.as_ref().is_some_and(|passed| key <= passed) || former.rows.contains_key(key) {
                continue;
            }
            former.bytes += kept_bytes(key, row.former.as_ref());
            former.rows.insert(key.clone(), row.former.clone());
            if former.bytes > MAX_FORMER_BYTES {
                former.overflowed = true;
                former.rows.clear();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, FormerRows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PointInTime {
    pub(crate) fn new(store: Arc<Store>, applied: Applied, former: Arc<Former>) -> Self {
        Self { store, applied, former, hashes: Hashes::default(), done: false }
    }

    /// Where the state machine stood at that moment, the hashes of the time
    /// included.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The next rows in key order, encoded key and encoded row; empty at the end.
    ///
    /// # Errors
    /// [`StoreError::ChangedTooMuch`] if more was written during the reading
    /// than is kept; otherwise if the store can't be read.
    pub fn next_rows(&mut self, limit: usize) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        while !self.done {
            let rows = self.next_chunk(limit)?;
            // All rows of a chunk may have been made after the moment.
            if !rows.is_empty() {
                return Ok(rows.into_iter().collect());
            }
        }
        Ok(Vec::new())
    }

    fn next_chunk(&mut self, limit: usize) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
        let passed = self.former.lock().passed.clone();
        let mut rows = BTreeMap::new();
        for row in self.store.encoded_rows_after(passed.as_deref()) {
            let (key, row) = row?;
            rows.insert(key, row);
            if rows.len() == limit {
                break;
            }
        }
        // The chunk covers the keys up to its last row, or all that are left.
        let last = (rows.len() == limit).then(|| rows.keys().next_back().cloned()).flatten();

        let mut former = self.former.lock();
        if former.overflowed {
            return Err(StoreError::ChangedTooMuch { bytes: MAX_FORMER_BYTES });
        }
        let later = match &last {
            Some(last) => former.rows.split_off(&next_key(last)),
            None => BTreeMap::new(),
        };
        for (key, row) in std::mem::replace(&mut former.rows, later) {
            former.bytes -= kept_bytes(&key, row.as_ref());
            match row {
                Some(row) => rows.insert(key, row),
                None => rows.remove(&key),
            };
        }
        match last {
            Some(last) => former.passed = Some(last),
            None => {
                self.done = true;
                // Nothing sorts behind this: writers keep nothing any more.
                former.passed = Some(Bytes::from_static(&[u8::MAX; 8]));
            }
        }
        drop(former);

        for (key, row) in &rows {
            if let Some((space, _, _)) = crate::RowKey::split(key) {
                self.hashes.add(space, key, row);
            }
        }
        Ok(rows)
    }

    /// The hashes of the rows read so far.
    pub fn hashes(&self) -> &Hashes {
        &self.hashes
    }
}

impl Drop for PointInTime {
    fn drop(&mut self) {
        self.store.forget_point_in_time(&self.former);
    }
}

/// What a kept row takes: its bytes, and about as much as the map needs for it.
fn kept_bytes(key: &Bytes, row: Option<&Bytes>) -> usize {
    128 + key.len() + row.map_or(0, Bytes::len)
}

fn next_key(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}

/// The range of keys after one key, or of all keys of spaces.
pub(crate) fn after(key: Option<&[u8]>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let start = match key {
        Some(key) => Bound::Excluded(key.to_vec()),
        // Space 0 is the store's own.
        None => Bound::Included(1_u32.to_be_bytes().to_vec()),
    };
    (start, Bound::Unbounded)
}
