//! Rows to read: those of one space, at least as current as was asked for.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use flotilla_store::{Row, Space, Store, space::prefix_end};
use prost::Message;

use crate::{Error, Page, fields::FieldViolation};

/// Bytes of items after which a page ends: two such and an item fit into a
/// message of 4 MiB.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// The rows of a service's space. Rows that are written while it is in use may
/// be seen; none is older than [`View::revision`].
#[derive(Clone)]
pub struct View {
    store: Arc<Store>,
    space: Space,
    revision: u64,
}

/// Some items of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Items<T> {
    /// The items, in the order of their keys.
    pub items: Vec<T>,
    /// Where the next page begins; empty if there is none.
    pub next_page_token: String,
}

impl View {
    pub(crate) fn new(store: Arc<Store>, space: Space, revision: u64) -> Self {
        Self { store, space, revision }
    }

    /// The last transaction that is certainly seen.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// A row, if it exists.
    ///
    /// # Errors
    /// If the store fails.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Row>, Error> {
        Ok(self.store.get(self.space, table, key)?)
    }

    /// The rows of a table within a range of keys, ascending.
    pub fn scan(
        &self,
        table: &str,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Row), Error>> + use<> {
        let rows = self.store.scan(self.space, table, range);
        rows.map(|row| row.map_err(Error::from))
    }

    /// The rows of a table whose keys begin with `prefix`, ascending.
    pub fn scan_prefix(
        &self,
        table: &str,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Bytes, Row), Error>> + use<> {
        let end = prefix_end(prefix);
        self.scan(table, (Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded)))
    }

    /// The names of the space's tables that have rows, after a name, in the
    /// order of their length and then of their bytes.
    ///
    /// # Errors
    /// If the store fails.
    pub fn tables(&self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        Ok(self.store.tables(self.space, after, limit)?)
    }

    /// A page of the rows whose keys begin with `prefix`, each made into an
    /// item, or left out, by `make`. The page ends early when its items become
    /// too large for one message.
    ///
    /// # Errors
    /// If the store fails, if `make` does, or if the page's token leads out of
    /// the prefix.
    pub fn page<T: Message>(
        &self,
        table: &str,
        prefix: &[u8],
        page: &Page,
        mut make: impl FnMut(&[u8], Row) -> Result<Option<T>, Error>,
    ) -> Result<Items<T>, Error> {
        let start = match page.after() {
            Some(after) if after.starts_with(prefix) => Bound::Excluded(&after[..]),
            Some(_) => return Err(FieldViolation::new("page_token", "is no page token of this list").into()),
            None => Bound::Included(prefix),
        };
        let end = prefix_end(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);

        let mut items = Vec::new();
        let mut bytes = 0;
        let mut last = Bytes::new();
        for row in self.scan(table, (start, end)) {
            let (key, row) = row?;
            if items.len() == page.size() || bytes >= MAX_PAGE_BYTES {
                return Ok(Items { items, next_page_token: page.next_token(&last) });
            }
            if let Some(item) = make(&key, row)? {
                bytes += item.encoded_len();
                items.push(item);
            }
            last = key;
        }
        Ok(Items { items, next_page_token: String::new() })
    }
}
