//! Reading a snapshot or backup, from whatever gives bytes, and holding it to everything that it
//! says of itself: checksums, order, counts, hashes.

use std::io::{self, Read};

use bytes::Bytes;
use flotilla_proto::storage::v1::{
    Applied, SnapshotHeader, SnapshotRecord, SnapshotRow, SnapshotTrailer, WindowEntry, snapshot_record::Kind,
};
use flotilla_store::{RowKey, hash::Hashes, limits};
use prost::Message;

use super::{FORMAT, MAGIC};
use crate::error::Unreadable;

/// Bytes of a record that is believed: more is damage. One row may take 1 MiB.
const MAX_RECORD: usize = 8 * 1024 * 1024;

/// The next part of a snapshot.
pub(crate) enum Part {
    /// Rows, in key order.
    Rows(Vec<SnapshotRow>),
    /// Requests that were remembered, oldest first.
    Window(Vec<WindowEntry>),
}

/// Reads one snapshot from its beginning to its end.
pub(crate) struct Reader<R> {
    source: R,
    offset: u64,
    expected: Hashes,
    revision: u64,
    found: Hashes,
    rows: u64,
    window_entries: u64,
    last_key: Option<Bytes>,
    last_request: u64,
}

impl<R: Read> Reader<R> {
    /// Reads to the end of the header.
    pub(crate) fn open(source: R) -> Result<(Self, SnapshotHeader), Unreadable> {
        let mut reader = Self {
            source,
            offset: 0,
            expected: Hashes::default(),
            revision: 0,
            found: Hashes::default(),
            rows: 0,
            window_entries: 0,
            last_key: None,
            last_request: 0,
        };
        let mut magic = [0; MAGIC.len()];
        match reader.source.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => reader.offset = MAGIC.len() as u64,
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(Unreadable::Io(error)),
            _ => return Err(Unreadable::NotASnapshot),
        }
        let at = reader.offset;
        let header = match reader.record()? {
            Kind::Header(header) if header.format > FORMAT => {
                return Err(Unreadable::NewerFormat { found: header.format, known: FORMAT });
            }
            Kind::Header(header) => header,
            _ => return Err(damaged(at, "it does not start with a header")),
        };
        let applied = header.applied.clone().unwrap_or_default();
        reader.expected =
            Hashes::from_storage(&applied.hashes).ok_or_else(|| damaged(at, "a space's hash is not 16 bytes long"))?;
        reader.revision = applied.revision;
        Ok((reader, header))
    }

    /// The next part; none when the end was read and everything is as the header says.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, Unreadable> {
        let at = self.offset;
        match self.record()? {
            Kind::Rows(rows) if self.window_entries == 0 => {
                rows.rows.iter().try_for_each(|row| self.take_row(at, row))?;
                Ok(Some(Part::Rows(rows.rows)))
            }
            Kind::Window(window) => {
                window.entries.iter().try_for_each(|entry| self.take_entry(at, entry))?;
                Ok(Some(Part::Window(window.entries)))
            }
            Kind::Trailer(trailer) => self.end(at, trailer).map(|()| None),
            Kind::Rows(_) => Err(damaged(at, "rows come after the remembered requests")),
            Kind::Header(_) => Err(damaged(at, "it has a second header")),
        }
    }

    fn take_row(&mut self, at: u64, row: &SnapshotRow) -> Result<(), Unreadable> {
        if row.space == 0 || row.table.len() > limits::MAX_TABLE {
            return Err(damaged(at, "a row has a key that no row can have"));
        }
        let key = RowKey::new(row.space, &row.table, &row.key).to_bytes();
        if self.last_key.as_ref().is_some_and(|last| *last >= key) {
            return Err(damaged(at, "its rows are not in the order of their keys"));
        }
        let Some(content) = &row.row else { return Err(damaged(at, "a row is empty")) };
        self.found.add(row.space, &key, &content.encode_to_vec());
        self.rows += 1;
        self.last_key = Some(key);
        Ok(())
    }

    fn take_entry(&mut self, at: u64, entry: &WindowEntry) -> Result<(), Unreadable> {
        if entry.revision <= self.last_request || entry.revision > self.revision {
            return Err(damaged(at, "its remembered requests are not in the order of their revisions"));
        }
        self.window_entries += 1;
        self.last_request = entry.revision;
        Ok(())
    }

    fn end(&mut self, at: u64, trailer: SnapshotTrailer) -> Result<(), Unreadable> {
        if (trailer.rows, trailer.window_entries) != (self.rows, self.window_entries) {
            return Err(damaged(at, "it does not hold as many records as it says"));
        }
        if self.found != self.expected {
            return Err(damaged(at, flotilla_store::store::describe_difference(&self.expected, &self.found)));
        }
        match self.source.read(&mut [0; 1]).map_err(Unreadable::Io)? {
            0 => Ok(()),
            _ => Err(damaged(self.offset, "it goes on after its end")),
        }
    }

    fn record(&mut self) -> Result<Kind, Unreadable> {
        let at = self.offset;
        let mut head = [0; 8];
        self.fill(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if length > MAX_RECORD {
            return Err(damaged(at, "the record is too long"));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        if crc32c::crc32c(&bytes) != checksum {
            return Err(damaged(at, "the checksum of the record is wrong"));
        }
        let record = SnapshotRecord::decode(Bytes::from(bytes)).map_err(|error| damaged(at, error.to_string()))?;
        record.kind.ok_or_else(|| damaged(at, "a record of an unknown kind"))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Unreadable> {
        match self.source.read_exact(buffer) {
            Ok(()) => {
                self.offset += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Unreadable::Cut { after: self.offset }),
            Err(error) => Err(Unreadable::Io(error)),
        }
    }
}

/// How many rows a header announces.
pub(crate) fn announced_rows(applied: &Applied) -> u64 {
    Hashes::from_storage(&applied.hashes).unwrap_or_default().rows()
}

fn damaged(at: u64, what: impl Into<String>) -> Unreadable {
    Unreadable::Damaged { at, what: what.into() }
}
