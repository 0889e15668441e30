//! A file of the [`crate::disk`] seam as a stream of bytes, written or read from its beginning.

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use crate::disk::DiskFile;

/// Writes a file from its beginning.
pub(crate) struct Sink {
    pub(crate) file: Arc<dyn DiskFile>,
    offset: u64,
}

impl Sink {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> Self {
        Self { file: file.into(), offset: 0 }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a file from its beginning.
pub(crate) struct Source {
    file: Arc<dyn DiskFile>,
    offset: u64,
    length: u64,
}

impl Source {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let length = file.len()?;
        Ok(Self { file, offset: 0, length })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length - self.offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        self.file.read_exact_at(&mut buffer[..length], self.offset)?;
        self.offset += length as u64;
        Ok(length)
    }
}
