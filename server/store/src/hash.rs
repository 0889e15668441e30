//! The hash that two servers compare to know that they hold the same rows.

use std::collections::BTreeMap;

use flotilla_proto::storage::v1 as storage;
use xxhash_rust::xxh3::Xxh3;

/// One space's hash and how many rows it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpaceHash {
    /// The sum, modulo 2^128, of the rows' hashes: independent of their order.
    pub sum: u128,
    /// How many rows.
    pub rows: u64,
}

/// The hashes of all spaces. A space without rows has no entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hashes(BTreeMap<u32, SpaceHash>);

impl Hashes {
    /// Takes a row in.
    pub fn add(&mut self, space: u32, key: &[u8], row: &[u8]) {
        let hash = self.0.entry(space).or_default();
        hash.sum = hash.sum.wrapping_add(row_hash(key, row));
        hash.rows += 1;
    }

    /// Takes a row out that was taken in before.
    pub fn remove(&mut self, space: u32, key: &[u8], row: &[u8]) {
        let hash = self.0.entry(space).or_default();
        hash.sum = hash.sum.wrapping_sub(row_hash(key, row));
        hash.rows = hash.rows.wrapping_sub(1);
        if hash.rows == 0 && hash.sum == 0 {
            self.0.remove(&space);
        }
    }

    /// The hash of one space.
    pub fn of(&self, space: u32) -> SpaceHash {
        self.0.get(&space).copied().unwrap_or_default()
    }

    /// Every space that has rows, ascending.
    pub fn spaces(&self) -> impl Iterator<Item = (u32, SpaceHash)> + '_ {
        self.0.iter().map(|(space, hash)| (*space, *hash))
    }

    /// Rows in all spaces.
    pub fn rows(&self) -> u64 {
        self.0.values().map(|hash| hash.rows).sum()
    }

    /// As it is stored.
    pub fn to_storage(&self) -> Vec<storage::SpaceHash> {
        self.spaces()
            .map(|(space, hash)| storage::SpaceHash {
                space,
                hash: hash.sum.to_be_bytes().to_vec().into(),
                rows: hash.rows,
            })
            .collect()
    }

    /// As it was stored; `None` if a hash isn't 16 bytes long.
    pub fn from_storage(stored: &[storage::SpaceHash]) -> Option<Self> {
        stored
            .iter()
            .map(|entry| {
                let sum = u128::from_be_bytes(entry.hash.as_ref().try_into().ok()?);
                Some((entry.space, SpaceHash { sum, rows: entry.rows }))
            })
            .collect::<Option<_>>()
            .map(Self)
    }
}

/// XXH3-128 over the key's length, the encoded key and the encoded row.
fn row_hash(key: &[u8], row: &[u8]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&(key.len() as u32).to_be_bytes());
    hasher.update(key);
    hasher.update(row);
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_rows_does_not_matter_and_a_removed_row_leaves_no_trace() {
        let (mut one, mut other) = (Hashes::default(), Hashes::default());
        one.add(1, b"a", b"1");
        one.add(1, b"b", b"2");
        other.add(1, b"b", b"2");
        other.add(1, b"c", b"3");
        other.add(1, b"a", b"1");
        assert_ne!(one, other);
        other.remove(1, b"c", b"3");
        assert_eq!(one, other);
    }

    #[test]
    fn a_byte_moved_from_key_to_row_changes_the_hash() {
        assert_ne!(row_hash(b"ab", b"c"), row_hash(b"a", b"bc"));
    }
}
