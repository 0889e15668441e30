//! Lines of JSON as batches that fit into one transaction.

use std::{
    collections::HashSet,
    io::{self, BufRead},
    thread,
};

use flotilla_proto::records::v1::{
    Operation,
    operation::{Kind, Put},
};
use prost::Message;
use tokio::sync::mpsc;

use super::{
    import::Import,
    ndjson::{self, BadLine, Lines, Place},
};

/// Where lines come from.
pub(super) type Input = Box<dyn BufRead + Send>;

/// Operations for one transaction, each on another record.
pub(super) struct Batch {
    pub(super) operations: Vec<Operation>,
    /// The place behind its last line.
    pub(super) end: Place,
}

/// Why there are no more batches. Nothing of the batch in work is given out.
pub(super) enum Stop {
    /// The input can't be read.
    Read(io::Error),
    /// A line can't be a record.
    BadLine {
        /// From 1.
        line: u64,
        /// What is wrong with it.
        bad: BadLine,
    },
}

/// Bytes of a batch's encoded operations: below the 4 MiB of a message and of a transaction.
const MAX_BYTES: usize = 3 << 20;
/// Batches that are read ahead while one is being written.
const AHEAD: usize = 2;

/// The batches of an input. The same input, begun at the same place, gives the same batches.
pub(super) struct Batches {
    pub(super) lines: Lines<Input>,
    table: String,
    id_field: Option<String>,
    size: usize,
    /// A record that didn't fit into the batch before, and the place behind it.
    left_over: Option<(Put, Place)>,
}

impl Batches {
    pub(super) fn new(lines: Lines<Input>, import: &Import) -> Self {
        let (table, id_field) = (import.table.clone(), import.id_field.clone());
        Self { lines, table, id_field, size: usize::from(import.batch), left_over: None }
    }

    /// Reads on a thread of its own, because nothing else could be done meanwhile otherwise, not
    /// even be interrupted.
    pub(super) fn in_background(mut self) -> mpsc::Receiver<Result<Batch, Stop>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        thread::spawn(move || {
            while let Some(batch) = self.next().transpose() {
                let last = batch.is_err();
                if sender.blocking_send(batch).is_err() || last {
                    return;
                }
            }
        });
        receiver
    }

    /// The next batch; none at the end of the input. It ends when it is full, or before a record
    /// that would make it too large, or that it has already: of two lines for one record, the
    /// later one counts.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, Stop> {
        let mut batch = Batch { operations: Vec::new(), end: self.lines.place() };
        let mut ids = HashSet::new();
        let mut bytes = 0;
        while batch.operations.len() < self.size {
            let Some((put, end)) = self.next_put()? else {
                // Empty lines at the end belong to the last batch.
                batch.end = self.lines.place();
                break;
            };
            bytes += put.encoded_len();
            if !batch.operations.is_empty() && (bytes > MAX_BYTES || ids.contains(&put.id)) {
                self.left_over = Some((put, end));
                break;
            }
            ids.insert(put.id.clone());
            batch.operations.push(Operation { kind: Some(Kind::Put(put)) });
            batch.end = end;
        }
        Ok((!batch.operations.is_empty()).then_some(batch))
    }

    fn next_put(&mut self) -> Result<Option<(Put, Place)>, Stop> {
        if let Some(left_over) = self.left_over.take() {
            return Ok(Some(left_over));
        }
        while let Some(line) = self.lines.next().map_err(Stop::Read)? {
            let record = line.and_then(|line| ndjson::record(&line, self.id_field.as_deref()));
            let place = self.lines.place();
            if let Some((id, document)) = record.map_err(|bad| Stop::BadLine { line: place.lines, bad })? {
                let put = Put { table: self.table.clone(), id, document: Some(document), ..Put::default() };
                return Ok(Some((put, place)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(text: &'static str, size: usize) -> Batches {
        let lines: Lines<Input> = Lines::new(Box::new(text.as_bytes()));
        Batches { lines, table: "boats".to_owned(), id_field: None, size, left_over: None }
    }

    /// The ids of each batch and the line behind it.
    fn read(mut batches: Batches) -> Vec<(Vec<String>, u64)> {
        let mut read = Vec::new();
        while let Ok(Some(batch)) = batches.next() {
            let ids = batch.operations.into_iter().map(|operation| match operation.kind {
                Some(Kind::Put(put)) => put.id,
                _ => String::new(),
            });
            read.push((ids.collect(), batch.end.lines));
        }
        read
    }

    #[test]
    fn a_batch_ends_when_it_is_full_and_knows_the_place_behind_it() {
        let text = "{\"id\":\"a\"}\n\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n\n";
        assert_eq!(read(batches(text, 2)), [(vec!["a".to_owned(), "b".to_owned()], 3), (vec!["c".to_owned()], 5)]);
    }

    #[test]
    fn two_lines_for_one_record_go_into_two_batches() {
        let text = "{\"id\":\"a\"}\n{\"id\":\"a\",\"n\":2}\n";
        assert_eq!(read(batches(text, 9)), [(vec!["a".to_owned()], 1), (vec!["a".to_owned()], 2)]);
    }

    #[test]
    fn nothing_is_given_out_of_the_batch_with_a_bad_line() {
        let mut batches = batches("{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\noops\n", 2);
        assert_eq!(batches.next().ok().flatten().map(|batch| batch.end.lines), Some(2));
        assert!(matches!(batches.next(), Err(Stop::BadLine { line: 4, .. })));
    }
}
