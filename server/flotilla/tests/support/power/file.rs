//! One file: what is durable of it, and what was written since.

use std::{collections::HashMap, ops::Range};

use rand::{Rng, rngs::StdRng};

use super::{Keep, journal::Journal};

/// The unit that a disk writes whole.
const SECTOR: u64 = 512;

#[derive(Default)]
pub(super) struct File {
    durable: Vec<u8>,
    /// With their places in the journal.
    pending: Vec<(u64, Change)>,
}

/// A change of a file's bytes; those of a write are in the journal.
pub(super) enum Change {
    Write { at: u64, bytes: Range<usize> },
    Zeros { at: u64, length: u64 },
    Truncate { length: u64 },
}

impl File {
    /// A file whose bytes are durable.
    pub(super) fn holding(durable: Vec<u8>) -> Self {
        Self { durable, pending: Vec::new() }
    }

    pub(super) fn change(&mut self, at: u64, change: Change) {
        self.pending.push((at, change));
    }

    /// Makes durable what was changed before a place in the journal.
    pub(super) fn sync(&mut self, journal: &Journal, before: u64) {
        let count = self.pending.partition_point(|(at, _)| *at < before);
        for (_, change) in self.pending.drain(..count) {
            change.apply(journal, &mut self.durable, |_| true);
        }
    }

    /// The bytes after a cut.
    pub(super) fn torn(&self, journal: &Journal, keep: Keep, random: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let Keep::Sectors(whole) = keep else { return bytes };
        // How many of the changes a sector, and the file's length, still got.
        let count = self.pending.len();
        let reached = |random: &mut StdRng| match random.random_bool(whole) {
            true => count,
            false => random.random_range(0..=count),
        };
        let mut sectors = HashMap::new();
        let for_length = reached(random);
        let mut length = bytes.len() as u64;
        for (position, (_, change)) in self.pending.iter().enumerate() {
            if position < for_length {
                length = change.length_after(length);
            }
            let reaches = |sector| position < *sectors.entry(sector).or_insert_with(|| reached(random));
            change.apply(journal, &mut bytes, reaches);
        }
        bytes.resize(length as usize, 0);
        bytes
    }
}

impl Change {
    fn length_after(&self, length: u64) -> u64 {
        match self {
            Self::Write { at, bytes } => length.max(at + bytes.len() as u64),
            Self::Zeros { at, length: zeros } => length.max(at + zeros),
            Self::Truncate { length } => *length,
        }
    }

    /// Changes those sectors that `reaches` says.
    fn apply(&self, journal: &Journal, bytes: &mut Vec<u8>, mut reaches: impl FnMut(u64) -> bool) {
        let (at, end, source) = match self {
            Self::Write { at, bytes: range } => (*at, at + range.len() as u64, Some(&journal.bytes[range.clone()])),
            Self::Zeros { at, length } => (*at, at + length, None),
            Self::Truncate { length } => (*length, bytes.len() as u64, None),
        };
        let mut all = true;
        let mut from = at;
        while from < end {
            let to = end.min((from / SECTOR + 1) * SECTOR);
            if reaches(from / SECTOR) {
                bytes.resize(bytes.len().max(to as usize), 0);
                let target = &mut bytes[from as usize..to as usize];
                match source {
                    Some(source) => target.copy_from_slice(&source[(from - at) as usize..(to - at) as usize]),
                    None => target.fill(0),
                }
            } else {
                all = false;
            }
            from = to;
        }
        if all && matches!(self, Self::Truncate { .. }) {
            bytes.resize(at as usize, 0);
        }
    }
}
