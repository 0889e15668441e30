//! BatchWrite of 100 records, beside bare sled applying batches of 100 such rows.

use anyhow::Result;

use super::{Bench, Width};
use crate::interrupt;
use crate::requests::BATCH_ROWS;
use crate::results::{Key, Reading, Unit};
use crate::servers::{Disk, flotilla, sled};

/// The cell's name in the table.
pub(crate) const CELL: &str = "batches of 100 rows";

/// Enough that the log never waits for the client.
const IN_FLIGHT: usize = 16;

/// Flotilla and sled, taking turns at being first.
pub(crate) fn round(bench: &mut Bench, round: usize) -> Result<()> {
    for turn in 0..2 {
        let folder = bench.fresh_folder("batch")?;
        let (server, measured) = if (round + turn).is_multiple_of(2) {
            let server = flotilla::start(&bench.flotilla, &folder, Disk::OwnSpeed);
            let measured = server.and_then(|server| {
                let reading = bench.load(&server, Width::shared(IN_FLIGHT), flotilla::batch())?;
                server.process.stop()?;
                Ok(Reading { value: reading.value * f64::from(BATCH_ROWS), ..reading })
            });
            ("flotilla", measured)
        } else {
            rustix::fs::sync();
            let written = sled::run(&folder, bench.warm_up, bench.measured, flotilla::CACHE_BYTES);
            ("sled", written.map(reading))
        };
        bench.record(Key::new(CELL, None, server), Unit::RowsPerSecond, round, measured);
        interrupt::check()?;
    }
    Ok(())
}

fn reading(written: sled::Written) -> Reading {
    Reading {
        value: written.rate * f64::from(BATCH_ROWS),
        p50: written.p50_microseconds,
        p99: written.p99_microseconds,
        cpu_per_op: Some(written.cpu_microseconds),
        ops_per_fsync: None,
    }
}
