//! The log of a directory that begins behind a snapshot: nothing but a vote and a purge.

use std::{io, path::Path};

use flotilla_proto::storage::v1::{LogRecord, log_record::Kind};
use prost::Message;

use crate::{
    disk::Disk,
    raft::{LogId, Vote, log_id_to_storage, vote_to_storage},
    segment::{self, SEGMENT_HEADER, SegmentHeader},
};

/// Makes a log that says: everything up to here was purged, and this was voted. Durable when it
/// returns. The segment has no room, so the first write goes on in a new one.
pub(crate) fn seed(disk: &dyn Disk, directory: &Path, vote: &Vote, purged: &LogId) -> io::Result<()> {
    disk.create_dir(directory)?;
    let header = SegmentHeader { id: 1, salt: ulid::Ulid::new().0 as u64 };
    let mut frame = Vec::new();
    segment::start_frame(&mut frame);
    for kind in [Kind::Vote(vote_to_storage(vote)), Kind::Purged(log_id_to_storage(purged))] {
        LogRecord { kind: Some(kind) }.encode_length_delimited(&mut frame).map_err(io::Error::other)?;
    }
    segment::finish_frame(&mut frame, header, SEGMENT_HEADER, 1);
    let file = disk.create(&directory.join(segment::file_name(header.id)))?;
    file.write_all_at(&header.encode(), 0)?;
    file.write_all_at(&frame, SEGMENT_HEADER)?;
    file.sync()?;
    disk.sync_dir(directory)
}
