//! The files that log and changes are made of: a header, then frames.
//!
//! ```text
//! segment  magic "FLOTSEGM" 8 · format u32 · zero u32 · id u64 · salt u64 · CRC-32C u32 · zero u32
//! frame    magic "FRAM" 4 · length u32 · segment id u64 · offset u64 · number u64 · CRC-32C u32 · zero u32 · payload
//! ```
//!
//! All integers are little-endian; a frame starts at a multiple of 8. A frame's
//! checksum covers the segment's salt, the frame's header and the payload, so a
//! frame is valid only where it was written, in the life of the file that it
//! was written in: what a recycled file still holds, or what a user's value
//! imitates, is not a frame.

use std::io;

use crate::disk::DiskFile;

/// The version of these files.
pub(crate) const FORMAT: u32 = 1;
/// Bytes before the first frame.
pub(crate) const SEGMENT_HEADER: u64 = 40;
/// Bytes before a frame's payload.
pub(crate) const FRAME_HEADER: usize = 40;

const SEGMENT_MAGIC: &[u8; 8] = b"FLOTSEGM";
const FRAME_MAGIC: &[u8; 4] = b"FRAM";

/// What a segment's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Segments of a directory count up from 1.
    pub(crate) id: u64,
    /// Random; another one each time the file is used anew.
    pub(crate) salt: u64,
}

/// Why a segment's header can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Not the header of a segment: never finished, or damaged.
    Invalid,
    /// A segment of a newer version.
    Newer(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(self) -> [u8; SEGMENT_HEADER as usize] {
        let mut bytes = [0; SEGMENT_HEADER as usize];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SEGMENT_HEADER as usize).ok_or(HeaderError::Invalid)?;
        if &bytes[..8] != SEGMENT_MAGIC || u32_at(bytes, 32) != crc32c::crc32c(&bytes[..32]) {
            return Err(HeaderError::Invalid);
        }
        match u32_at(bytes, 8) {
            FORMAT => Ok(Self { id: u64_at(bytes, 16), salt: u64_at(bytes, 24) }),
            newer => Err(HeaderError::Newer(newer)),
        }
    }
}

/// A frame within the bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where the frame starts.
    pub(crate) offset: u64,
    /// The frame's number: frames of a log count up by one over all segments;
    /// frames of changes carry their first revision.
    pub(crate) number: u64,
    /// Bytes of payload.
    pub(crate) length: usize,
}

impl Frame {
    /// Where the payload is.
    pub(crate) fn payload(&self) -> std::ops::Range<usize> {
        let start = self.offset as usize + FRAME_HEADER;
        start..start + self.length
    }

    /// Where the next frame starts.
    pub(crate) fn end(&self) -> u64 {
        self.offset + frame_size(self.length)
    }
}

/// Bytes that a frame with that much payload takes.
pub(crate) fn frame_size(payload: usize) -> u64 {
    (FRAME_HEADER + payload).next_multiple_of(8) as u64
}

/// Makes room for a frame's header at the front of a buffer that the payload is
/// then written behind.
pub(crate) fn start_frame(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(FRAME_HEADER, 0);
}

/// Fills in the header of a frame begun with [`start_frame`], and pads it.
pub(crate) fn finish_frame(buffer: &mut Vec<u8>, segment: SegmentHeader, offset: u64, number: u64) {
    let length = buffer.len() - FRAME_HEADER;
    buffer[..4].copy_from_slice(FRAME_MAGIC);
    buffer[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    buffer[8..16].copy_from_slice(&segment.id.to_le_bytes());
    buffer[16..24].copy_from_slice(&offset.to_le_bytes());
    buffer[24..32].copy_from_slice(&number.to_le_bytes());
    let checksum = frame_checksum(segment.salt, buffer, length);
    buffer[32..36].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(frame_size(length) as usize, 0);
}

/// The frame that starts at an offset of a segment's bytes, if a valid one does.
pub(crate) fn frame_at(bytes: &[u8], segment: SegmentHeader, offset: u64) -> Option<Frame> {
    let frame = bytes.get(usize::try_from(offset).ok()?..)?;
    let length = claimed_frame(frame, segment, offset)?;
    let valid = u32_at(frame, 32) == frame_checksum(segment.salt, frame, length);
    valid.then(|| Frame { offset, number: u64_at(frame, 24), length })
}

/// Whether the bytes at an offset began as a frame of this segment, at least in
/// their header.
pub(crate) fn looks_torn(bytes: &[u8], segment: SegmentHeader, offset: u64) -> bool {
    let Some(frame) = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)) else { return false };
    frame.len() >= FRAME_HEADER
        && &frame[..4] == FRAME_MAGIC
        && u64_at(frame, 8) == segment.id
        && u64_at(frame, 16) == offset
}

/// The first valid frame at or after an offset: what tells damage from a tail.
pub(crate) fn find_frame(bytes: &[u8], segment: SegmentHeader, from: u64) -> Option<Frame> {
    (from.next_multiple_of(8)..bytes.len() as u64).step_by(8).find_map(|offset| frame_at(bytes, segment, offset))
}

/// Reads the frame at an offset of a file, if a valid one is there.
pub(crate) fn read_frame(
    file: &dyn DiskFile,
    segment: SegmentHeader,
    offset: u64,
    file_length: u64,
) -> io::Result<Option<(Frame, Vec<u8>)>> {
    if offset + FRAME_HEADER as u64 > file_length {
        return Ok(None);
    }
    let mut bytes = vec![0; FRAME_HEADER];
    file.read_exact_at(&mut bytes, offset)?;
    let length = u32_at(&bytes, 4) as usize;
    if &bytes[..4] != FRAME_MAGIC || offset + frame_size(length) > file_length {
        return Ok(None);
    }
    bytes.resize(FRAME_HEADER + length, 0);
    file.read_exact_at(&mut bytes[FRAME_HEADER..], offset + FRAME_HEADER as u64)?;
    let valid = u64_at(&bytes, 8) == segment.id
        && u64_at(&bytes, 16) == offset
        && u32_at(&bytes, 32) == frame_checksum(segment.salt, &bytes, length);
    if !valid {
        return Ok(None);
    }
    let frame = Frame { offset, number: u64_at(&bytes, 24), length };
    bytes.drain(..FRAME_HEADER);
    Ok(Some((frame, bytes)))
}

/// A segment's file name.
pub(crate) fn file_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

/// The id in a segment's file name.
pub(crate) fn id_of(name: &str) -> Option<u64> {
    let id = name.strip_suffix(".seg")?;
    (id.len() == 16).then(|| u64::from_str_radix(id, 16).ok())?
}

fn claimed_frame(frame: &[u8], segment: SegmentHeader, offset: u64) -> Option<usize> {
    if frame.len() < FRAME_HEADER || &frame[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32_at(frame, 4) as usize;
    let here = u64_at(frame, 8) == segment.id && u64_at(frame, 16) == offset;
    (here && FRAME_HEADER + length <= frame.len()).then_some(length)
}

fn frame_checksum(salt: u64, frame: &[u8], length: usize) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &frame[..32]);
    crc32c::crc32c_append(checksum, &frame[FRAME_HEADER..FRAME_HEADER + length])
}

fn u32_at(bytes: &[u8], position: usize) -> u32 {
    u32::from_le_bytes([bytes[position], bytes[position + 1], bytes[position + 2], bytes[position + 3]])
}

fn u64_at(bytes: &[u8], position: usize) -> u64 {
    bytes[position..position + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: SegmentHeader = SegmentHeader { id: 3, salt: 0x5a17 };

    fn segment_with(payloads: &[&[u8]]) -> Vec<u8> {
        let mut bytes = SEGMENT.encode().to_vec();
        let mut frame = Vec::new();
        for (number, payload) in payloads.iter().enumerate() {
            start_frame(&mut frame);
            frame.extend_from_slice(payload);
            finish_frame(&mut frame, SEGMENT, bytes.len() as u64, number as u64);
            bytes.extend_from_slice(&frame);
        }
        bytes
    }

    #[test]
    fn frames_are_read_back_one_after_another() {
        let bytes = segment_with(&[b"first", b"", b"the third"]);
        let header = SegmentHeader::decode(&bytes).expect("a header");
        let mut offset = SEGMENT_HEADER;
        for (number, payload) in [&b"first"[..], b"", b"the third"].into_iter().enumerate() {
            let frame = frame_at(&bytes, header, offset).expect("a frame");
            assert_eq!((frame.number, &bytes[frame.payload()]), (number as u64, payload));
            offset = frame.end();
        }
        assert_eq!(offset, bytes.len() as u64);
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let bytes = segment_with(&[b"payload!"]);
        for bit in SEGMENT_HEADER * 8..bytes.len() as u64 * 8 {
            let mut damaged = bytes.clone();
            damaged[bit as usize / 8] ^= 1 << (bit % 8);
            // Four bytes of the frame's header are padding.
            let padding = (SEGMENT_HEADER + 36) * 8..(SEGMENT_HEADER + 40) * 8;
            assert_eq!(frame_at(&damaged, SEGMENT, SEGMENT_HEADER).is_none(), !padding.contains(&bit), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_a_former_life_of_the_file_is_not_a_frame() {
        let bytes = segment_with(&[b"old"]);
        let reused = SegmentHeader { id: SEGMENT.id, salt: SEGMENT.salt + 1 };
        assert_eq!(frame_at(&bytes, reused, SEGMENT_HEADER), None);
        assert_eq!(frame_at(&bytes, SegmentHeader { id: 4, ..SEGMENT }, SEGMENT_HEADER), None);
    }

    #[test]
    fn a_valid_frame_behind_damage_is_found() {
        let mut bytes = segment_with(&[b"first", b"second"]);
        bytes[SEGMENT_HEADER as usize + FRAME_HEADER] ^= 1;
        assert_eq!(frame_at(&bytes, SEGMENT, SEGMENT_HEADER), None);
        assert_eq!(find_frame(&bytes, SEGMENT, SEGMENT_HEADER + 8).map(|frame| frame.number), Some(1));
    }
}
