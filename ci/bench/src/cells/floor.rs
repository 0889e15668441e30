//! One durable write at a time, beside the least it could take: one bare fdatasync and one bare unary call, measured
//! right before it.

use anyhow::{Context, Result, anyhow};

use super::{Bench, Width};
use crate::disk::fdatasync_loop;
use crate::interrupt;
use crate::results::{Key, Reading, Unit};
use crate::servers::{Disk, echo, flotilla};

/// The cell's name in the table.
pub(crate) const CELL: &str = "one write at a time, median time";
/// The two together, as the server that Flotilla is compared with.
pub(crate) const SUM: &str = "(fdatasync + unary)";

/// As long as PutRecord's messages with a 128-byte document.
const REQUEST_BYTES: usize = 176;
const ANSWER_BYTES: usize = 192;

/// Bare flush, bare call, Flotilla's PutRecord.
pub(crate) fn round(bench: &mut Bench, round: usize) -> Result<()> {
    let folder = bench.fresh_folder("floor")?;
    rustix::fs::sync();
    let flush = fdatasync_loop(&folder, bench.measured / 2);
    let flush = flush.and_then(|measured| measured.microseconds(0.5).context("nothing was flushed"));
    let call = echo::start(&folder, ANSWER_BYTES).and_then(|server| {
        let reading = bench.load(&server, Width::shared(1), echo::calls(REQUEST_BYTES))?;
        server.process.stop()?;
        Ok(reading)
    });
    let write = flotilla::start(&bench.flotilla, &folder, Disk::OwnSpeed).and_then(|server| {
        let reading = bench.load(&server, Width::shared(1), flotilla::put())?;
        server.process.stop()?;
        Ok(reading)
    });
    interrupt::check()?;

    let median = |reading: &Reading| Reading { value: reading.p50.unwrap_or(f64::NAN), ..reading.clone() };
    let sum = match (&flush, &call) {
        (Ok(flush), Ok(call)) => Ok(Reading::of(flush + median(call).value)),
        _ => Err(anyhow!("one of the two failed")),
    };
    let mut record = |server, reading| {
        bench.record(Key::new(CELL, 1, server), Unit::Microseconds, round, reading);
    };
    record("flotilla", write.map(|write| median(&write)));
    record("fdatasync", flush.map(Reading::of));
    record("unary", call.map(|call| median(&call)));
    record(SUM, sum);
    Ok(())
}
