//! Rows of sled and recent rows, as one ordered sequence.

use bytes::Bytes;

use crate::{StoreError, recent::Rows};

type Item = Result<(Bytes, Bytes), StoreError>;

/// Walks settled rows and recent ones together, from either end. Where both
/// have a key, the recent row holds; a recent removal hides the settled row.
pub(crate) struct Merged<I: DoubleEndedIterator<Item = Item>> {
    settled: I,
    first: Option<Item>,
    last: Option<Item>,
    recent: Rows,
}

impl<I: DoubleEndedIterator<Item = Item>> Merged<I> {
    pub(crate) fn new(settled: I, recent: Rows) -> Self {
        Self { settled, first: None, last: None, recent }
    }

    /// The settled row that comes next from the front. What was taken from the
    /// back but not used may be all that is left.
    fn front(&mut self) -> Option<Item> {
        self.first.take().or_else(|| self.settled.next()).or_else(|| self.last.take())
    }

    fn back(&mut self) -> Option<Item> {
        self.last.take().or_else(|| self.settled.next_back()).or_else(|| self.first.take())
    }
}

impl<I: DoubleEndedIterator<Item = Item>> Iterator for Merged<I> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        loop {
            let settled = match self.front() {
                Some(Err(error)) => return Some(Err(error)),
                settled => settled.and_then(Result::ok),
            };
            let recent_first = match (&settled, self.recent.first_key_value()) {
                (Some((key, _)), Some((recent, _))) => recent <= key,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if !recent_first {
                return settled.map(Ok);
            }
            let Some((key, row)) = self.recent.pop_first() else { continue };
            // The recent row stands in place of a settled one of the same key.
            self.first = settled.filter(|(settled, _)| *settled != key).map(Ok);
            if let Some(row) = row {
                return Some(Ok((key, row)));
            }
        }
    }
}

impl<I: DoubleEndedIterator<Item = Item>> DoubleEndedIterator for Merged<I> {
    fn next_back(&mut self) -> Option<Item> {
        loop {
            let settled = match self.back() {
                Some(Err(error)) => return Some(Err(error)),
                settled => settled.and_then(Result::ok),
            };
            let recent_last = match (&settled, self.recent.last_key_value()) {
                (Some((key, _)), Some((recent, _))) => recent >= key,
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if !recent_last {
                return settled.map(Ok);
            }
            let Some((key, row)) = self.recent.pop_last() else { continue };
            self.last = settled.filter(|(settled, _)| *settled != key).map(Ok);
            if let Some(row) = row {
                return Some(Ok((key, row)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(settled: &[&str], recent: &[(&str, bool)]) -> Merged<std::vec::IntoIter<Item>> {
        let row = |key: &&str| Ok((Bytes::copy_from_slice(key.as_bytes()), Bytes::from_static(b"settled")));
        let recent = recent
            .iter()
            .map(|(key, there)| (Bytes::copy_from_slice(key.as_bytes()), there.then(|| Bytes::from_static(b"recent"))));
        Merged::new(settled.iter().map(row).collect::<Vec<_>>().into_iter(), recent.collect())
    }

    fn text(items: impl Iterator<Item = Item>) -> String {
        let one = |item: Item| item.map(|(key, row)| format!("{}{}", String::from_utf8_lossy(&key), row[0] as char));
        items.map(|item| one(item).expect("a row")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn recent_rows_stand_in_place_of_settled_ones_and_removals_hide_them() {
        let recent = [("a", true), ("c", true), ("d", false), ("f", true)];
        assert_eq!(text(merged(&["b", "c", "d", "e"], &recent)), "ar bs cr es fr");
    }

    #[test]
    fn backwards_it_is_the_same_sequence_reversed() {
        let recent = [("a", true), ("c", true), ("d", false), ("f", true)];
        assert_eq!(text(merged(&["b", "c", "d", "e"], &recent).rev()), "fr es cr bs ar");
    }

    #[test]
    fn both_ends_meet_without_losing_or_doubling_a_row() {
        let mut rows = merged(&["a", "c", "e"], &[("b", true), ("d", true)]);
        let mut seen = Vec::new();
        while let Some(item) = rows.next() {
            seen.push(text([item].into_iter()));
            seen.extend(rows.next_back().map(|item| text([item].into_iter())));
        }
        assert_eq!(seen, ["as", "es", "br", "dr", "cs"]);
    }
}
