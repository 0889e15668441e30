//! Spaces and the encoding of row keys.

use bytes::Bytes;

use crate::limits;

/// The tables of one service. No other service can name a row in it.
///
/// The number is part of every key on disk, so it is given once, in the
/// service's crate, and never changed or reused. 0 is the store's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space(u32);

impl Space {
    /// The space with a number from 1 on.
    ///
    /// # Panics
    /// If the number is 0, at compile time where the call is in a constant.
    pub const fn new(number: u32) -> Self {
        assert!(number != 0, "space 0 belongs to the store itself");
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// A row's key as the store keeps it: the space (4 bytes, big-endian), the
/// length of the table's name (1 byte), the table's name, the key.
///
/// The fixed-width space and the length before the name make it impossible
/// that a prefix of one table's rows takes in those of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(Bytes);

impl RowKey {
    /// The key of a row. Expects names and keys that passed
    /// [`crate::transaction::check`].
    pub fn new(space: u32, table: &str, key: &[u8]) -> Self {
        let mut bytes = table_prefix(space, table);
        bytes.extend_from_slice(key);
        Self(bytes.into())
    }

    /// Takes an encoded key apart: space, table, key.
    pub fn split(encoded: &[u8]) -> Option<(u32, &str, &[u8])> {
        let (space, rest) = encoded.split_first_chunk::<4>()?;
        let (&length, rest) = rest.split_first()?;
        let (table, key) = rest.split_at_checked(usize::from(length))?;
        Some((u32::from_be_bytes(*space), std::str::from_utf8(table).ok()?, key))
    }

    /// The number of the space.
    pub fn space(&self) -> u32 {
        self.0.first_chunk::<4>().map_or(0, |space| u32::from_be_bytes(*space))
    }

    /// The encoded key, shared.
    pub fn to_bytes(&self) -> Bytes {
        self.0.clone()
    }

    /// The encoded key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What all keys of a table start with.
pub(crate) fn table_prefix(space: u32, table: &str) -> Vec<u8> {
    debug_assert!(table.len() <= limits::MAX_TABLE);
    let mut bytes = Vec::with_capacity(5 + table.len() + 64);
    bytes.extend_from_slice(&space.to_be_bytes());
    bytes.push(table.len() as u8);
    bytes.extend_from_slice(table.as_bytes());
    bytes
}

/// The first key after all keys that start with `prefix`; `None` if there is
/// no such key.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_apart_into_what_it_was_made_of() {
        let key = RowKey::new(7, "users", b"ada");
        assert_eq!(RowKey::split(key.as_bytes()), Some((7, "users", &b"ada"[..])));
    }

    #[test]
    fn the_prefix_of_table_abc_holds_no_row_of_table_abcd() {
        let prefix = table_prefix(1, "abc");
        assert!(!RowKey::new(1, "abcd", b"").as_bytes().starts_with(&prefix));
        assert!(!RowKey::new(256, "abc", b"").as_bytes().starts_with(&prefix));
    }

    #[test]
    fn the_end_of_a_prefix_carries_over_full_bytes() {
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
    }
}
