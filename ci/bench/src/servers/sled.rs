//! Bare sled, in a process of its own (`flotilla-bench write-sled`): batches of rows, applied one after the other, with
//! sled set up as Flotilla's store sets it up. The process prints what it measured as JSON.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::load::Measured;
use crate::process::own_cpu_microseconds;
use crate::requests::{ID_SPACE, Ids, batch_ids, id};

/// Of a row's value: the document and what a record holds beside it.
const ROW_BYTES: usize = 136;

/// What the process measured.
#[derive(Serialize, Deserialize)]
pub(crate) struct Written {
    /// Batches per second.
    pub(crate) rate: f64,
    pub(crate) p50_microseconds: Option<f64>,
    pub(crate) p99_microseconds: Option<f64>,
    /// Per batch.
    pub(crate) cpu_microseconds: f64,
}

/// Runs the process to its end, with its data in `folder/sled`.
pub(crate) fn run(folder: &Path, warm_up: Duration, measured: Duration, cache_bytes: u64) -> Result<Written> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("write-sled").arg(folder.join("sled"));
    command.args(["--warm-up", &warm_up.as_secs_f64().to_string()]);
    command.args(["--measured", &measured.as_secs_f64().to_string()]);
    command.args(["--cache-bytes", &cache_bytes.to_string()]);
    let output = command.output().context("starting flotilla-bench write-sled")?;
    if !output.status.success() {
        bail!("bare sled failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The process itself.
pub(crate) fn write(path: &Path, warm_up: Duration, measured: Duration, cache_bytes: u64) -> Result<()> {
    let config = sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None);
    let tree = config.open()?.open_tree("rows")?;
    let mut ids = Ids::random(0);
    let start = Instant::now() + warm_up;
    while Instant::now() < start {
        apply_batch(&tree, &mut ids)?;
    }
    let mut latencies = Vec::new();
    let cpu = own_cpu_microseconds()?;
    let start = Instant::now();
    while start.elapsed() < measured {
        let begun = Instant::now();
        apply_batch(&tree, &mut ids)?;
        latencies.push(begun.elapsed());
    }
    let measured = Measured::new(latencies, start.elapsed().as_secs_f64());
    let written = Written {
        rate: measured.rate(),
        p50_microseconds: measured.microseconds(0.50),
        p99_microseconds: measured.microseconds(0.99),
        cpu_microseconds: (own_cpu_microseconds()? - cpu) / measured.count() as f64,
    };
    serde_json::to_writer(std::io::stdout().lock(), &written)?;
    Ok(std::io::stdout().flush()?)
}

fn apply_batch(tree: &sled::Tree, ids: &mut Ids) -> Result<()> {
    let mut batch = sled::Batch::default();
    for number in batch_ids(ids.number(ID_SPACE)) {
        // As long as a record's key: the space's id, the table's name, the record's id.
        let key = [b"\0\0\0\x02bench\0", &id(number)[..]].concat();
        batch.insert(key, &[b'v'; ROW_BYTES][..]);
    }
    Ok(tree.apply_batch(batch)?)
}
