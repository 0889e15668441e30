//! The journal that the shim writes; its format stands there.

use std::{fs, ops::Range, path::Path};

/// Bytes of a record's fixed part.
const HEADER: usize = 48;

/// Everything that a process did to its files, in order.
pub(crate) struct Journal {
    pub(super) records: Vec<Record>,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Record {
    pub(super) kind: Kind,
    /// Where in the journal it is, which orders records and syncs.
    pub(super) offset: u64,
    pub(super) file: u64,
    pub(super) at: u64,
    pub(super) size: u64,
    /// Where the journal was when a sync began.
    pub(super) begun: u64,
    pub(super) nanoseconds: u64,
    pub(super) bytes: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Create,
    Write,
    Zeros,
    Truncate,
    Sync,
    SyncDir,
    MakeDir,
    RemoveDir,
    Unlink,
    Rename,
    SyncAll,
    Unknown,
}

impl Journal {
    /// Reads a journal; a record that was cut off by the process's end did not happen.
    pub(crate) fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("the journal");
        let mut records = Vec::new();
        let mut offset = 0;
        while let Some(header) = bytes.get(offset..offset + HEADER) {
            let small = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let large = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
            let start = offset + HEADER;
            let end = start + small(4) as usize;
            if end > bytes.len() {
                break;
            }
            records.push(Record {
                kind: Kind::of(small(0)),
                offset: offset as u64,
                file: large(8),
                at: large(16),
                size: large(24),
                begun: large(32),
                nanoseconds: large(40),
                bytes: start..end,
            });
            offset = end;
        }
        Self { records, bytes }
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// When the last of so many records was written, in nanoseconds since 1970.
    pub(crate) fn time_of(&self, records: usize) -> u64 {
        records.checked_sub(1).map_or(0, |last| self.records[last].nanoseconds)
    }

    /// How many syncs there are.
    pub(crate) fn syncs(&self) -> usize {
        self.records.iter().filter(|record| matches!(record.kind, Kind::Sync | Kind::SyncDir)).count()
    }

    pub(super) fn text(&self, record: &Record) -> &str {
        std::str::from_utf8(&self.bytes[record.bytes.clone()]).expect("a path in UTF-8")
    }
}

impl Kind {
    fn of(number: u32) -> Self {
        use Kind::*;
        let kinds =
            [Open, Create, Write, Zeros, Truncate, Sync, SyncDir, MakeDir, RemoveDir, Unlink, Rename, SyncAll, Unknown];
        *kinds.get(number.wrapping_sub(1) as usize).unwrap_or_else(|| panic!("a record of kind {number}"))
    }
}
