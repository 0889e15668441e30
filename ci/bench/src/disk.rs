//! What the disk itself costs: a bare loop of small writes, each followed by fdatasync.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::interrupt;
use crate::load::Measured;

/// As long as a log record of one small write, header included.
const WRITE_BYTES: usize = 256;
const FILE_BYTES: usize = 8 << 20;

/// Writes 256 bytes after 256 bytes into a file that was filled with zeros, fdatasync after each, for `measured`.
/// This is the least that any durable write on this disk can take. The file is removed.
pub(crate) fn fdatasync_loop(folder: &Path, measured: Duration) -> Result<Measured> {
    let path = folder.join("fdatasync");
    let file = zero_filled(&path).with_context(|| format!("writing {}", path.display()))?;
    let mut latencies = Vec::new();
    let begun = Instant::now();
    for place in (0..FILE_BYTES - WRITE_BYTES).step_by(WRITE_BYTES).cycle() {
        let started = Instant::now();
        file.write_all_at(&[0xA5; WRITE_BYTES], place as u64)?;
        file.sync_data()?;
        latencies.push(started.elapsed());
        if begun.elapsed() >= measured {
            break;
        }
        interrupt::check()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(Measured::new(latencies, seconds))
}

fn zero_filled(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(path)?;
    file.write_all(&vec![0; FILE_BYTES])?;
    file.sync_all()?;
    Ok(file)
}
