//! Writing a snapshot's records, to whatever takes bytes.

use std::io::{self, Write};

use bytes::Bytes;
use flotilla_proto::storage::v1::{
    SnapshotHeader, SnapshotRecord, SnapshotRow, SnapshotRows, SnapshotTrailer, SnapshotWindow, WindowEntry,
    snapshot_record::Kind,
};
use flotilla_store::{PointInTime, Row, RowKey, StoreError, hash::Hashes};
use prost::Message;

use super::{FORMAT, MAGIC, SnapshotError};
use crate::window::Window;

/// Rows that are read from the store at once.
const ROWS: usize = 512;
/// Bytes of rows or window entries, about, that go into one record.
const RECORD_BYTES: usize = 256 * 1024;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes.
    pub(crate) length: u64,
    /// CRC-32C of all of them.
    pub(crate) crc32c: u32,
}

/// Writes records one after another, framed and checksummed.
pub(crate) struct Writer<W> {
    sink: W,
    buffer: Vec<u8>,
    written: Written,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(sink: W, header: SnapshotHeader) -> io::Result<Self> {
        let mut writer = Self { sink, buffer: MAGIC.to_vec(), written: Written { length: 0, crc32c: 0 } };
        writer.record(Kind::Header(header))?;
        Ok(writer)
    }

    pub(crate) fn rows(&mut self, rows: Vec<SnapshotRow>) -> io::Result<()> {
        self.record(Kind::Rows(SnapshotRows { rows }))
    }

    /// Writes requests that are remembered, oldest first, in records that a reader takes.
    pub(crate) fn window<'a>(&mut self, entries: impl Iterator<Item = &'a WindowEntry>) -> io::Result<u64> {
        let (mut waiting, mut bytes, mut count) = (Vec::new(), 0, 0);
        for entry in entries {
            bytes += entry.encoded_len();
            count += 1;
            waiting.push(entry.clone());
            if bytes > RECORD_BYTES {
                self.record(Kind::Window(SnapshotWindow { entries: std::mem::take(&mut waiting) }))?;
                bytes = 0;
            }
        }
        if !waiting.is_empty() {
            self.record(Kind::Window(SnapshotWindow { entries: waiting }))?;
        }
        Ok(count)
    }

    /// Writes the last record; what `sink` holds is whole then, and not synced.
    pub(crate) fn finish(mut self, rows: u64, window_entries: u64) -> io::Result<(W, Written)> {
        self.record(Kind::Trailer(SnapshotTrailer { rows, window_entries }))?;
        self.hand_over()?;
        self.sink.flush()?;
        Ok((self.sink, self.written))
    }

    fn record(&mut self, kind: Kind) -> io::Result<()> {
        let bytes = SnapshotRecord { kind: Some(kind) }.encode_to_vec();
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        self.buffer.extend_from_slice(&bytes);
        match self.buffer.len() > RECORD_BYTES {
            true => self.hand_over(),
            false => Ok(()),
        }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.written.length += self.buffer.len() as u64;
        self.written.crc32c = crc32c::crc32c_append(self.written.crc32c, &self.buffer);
        self.buffer.clear();
        Ok(())
    }
}

/// Writes everything of one moment: rows and remembered requests. Fails if the rows are not what the
/// log led to, or as soon as `stopped` says so.
pub(crate) fn write_moment<W: Write>(
    sink: W,
    (cell, history): (&str, &str),
    point: &mut PointInTime,
    window: &Window,
    stopped: impl Fn() -> bool,
) -> Result<(W, Written), SnapshotError> {
    let (cell, history) = (cell.to_owned(), history.to_owned());
    let header = SnapshotHeader { format: FORMAT, cell, history, applied: Some(point.applied().clone()) };
    let mut writer = Writer::new(sink, header)?;
    let mut total = 0;
    loop {
        let encoded = point.next_rows(ROWS)?;
        if encoded.is_empty() {
            break;
        }
        if stopped() {
            return Err(StoreError::Stopping.into());
        }
        total += encoded.len() as u64;
        let mut rows = Vec::with_capacity(encoded.len());
        let mut bytes = 0;
        for (key, row) in encoded {
            bytes += key.len() + row.len();
            rows.push(snapshot_row(&key, row)?);
            if bytes > RECORD_BYTES {
                writer.rows(std::mem::take(&mut rows))?;
                bytes = 0;
            }
        }
        writer.rows(rows)?;
    }
    let expected = Hashes::from_storage(&point.applied().hashes).unwrap_or_default();
    if *point.hashes() != expected {
        return Err(SnapshotError::Diverged(flotilla_store::store::describe_difference(&expected, point.hashes())));
    }
    let entries = writer.window(window.entries().map(AsRef::as_ref))?;
    Ok(writer.finish(total, entries)?)
}

fn snapshot_row(key: &[u8], row: Bytes) -> Result<SnapshotRow, StoreError> {
    let (space, table, key) =
        RowKey::split(key).ok_or_else(|| StoreError::Damaged { what: format!("a key is not a row's: {key:02x?}") })?;
    let decoded = Row::decode(row)
        .map_err(|error| StoreError::Damaged { what: format!("a row of table {table:?} can't be decoded: {error}") })?;
    Ok(SnapshotRow { space, table: table.to_owned(), key: Bytes::copy_from_slice(key), row: Some(decoded) })
}
