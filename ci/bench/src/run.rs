//! `flotilla-bench run`: rounds of all cells, then the table.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cells::{Bench, batch, floor, memory, reads, writes};
use crate::machine::Machine;
use crate::results::Results;
use crate::servers::{Disk, flotilla};
use crate::table;

/// What to measure, how often and where.
#[derive(Args)]
pub(crate) struct Options {
    /// One short round of everything with few rows: shows that it works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Only these cells.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Group>,
    /// How often each cell is measured; servers take turns within a round.
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds measured for a cell and server, after a warm-up of a quarter of it.
    #[arg(long)]
    seconds: Option<f64>,
    /// Users to read from; records to hold in memory.
    #[arg(long)]
    rows: Option<u32>,
    /// Flotilla's binary.
    #[arg(long, default_value = "target/release/flotilla")]
    flotilla: PathBuf,
    /// Holds all servers' data while they run, in a folder of its own; all on one disk.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Also write every round, medians and ratios to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Cells that are measured together.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Group {
    /// One durable write a request, beside etcd and Redis, and beside the floor of fdatasync and unary call.
    Writes,
    /// Batches of 100, beside bare sled.
    Batch,
    /// GetUser, beside bare tonic.
    Reads,
    /// Memory, starts, idling.
    Memory,
}

impl Options {
    fn measures(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    fn bench(&self) -> Result<Bench> {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 4.0 });
        if !(0.1..=600.0).contains(&seconds) {
            bail!("--seconds is 0.1 to 600");
        }
        let rows = self.rows.unwrap_or(if self.quick { 20_000 } else { 1_000_000 });
        if !(100..=10_000_000).contains(&rows) {
            bail!("--rows is 100 to 10,000,000");
        }
        let rounds = self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1);
        let measured = Duration::from_secs_f64(seconds);
        let mut bench = Bench {
            flotilla: self.flotilla.clone(),
            folder: std::path::absolute(&self.data)?.join(format!("run-{}", std::process::id())),
            rounds,
            warm_up: measured / 4,
            measured,
            rows,
            idle: Duration::from_secs(if self.quick { 1 } else { 5 }),
            began: Instant::now(),
            planned: Duration::ZERO,
            results: Results::default(),
        };
        bench.planned = self.planned(&bench);
        Ok(bench)
    }

    /// About how long it takes; loads that end when they are done are guessed at 25,000 users and 60,000 rows a second.
    fn planned(&self, bench: &Bench) -> Duration {
        let load = bench.warm_up + bench.measured;
        let rounds = bench.rounds as u32;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let of = |group| match group {
            Group::Writes => rounds * (load * (22 + 3) + seconds(5)),
            Group::Batch => rounds * (load * 2 + seconds(1)),
            Group::Reads => rounds * load * 4 + seconds(bench.rows / 25_000),
            Group::Memory => rounds * seconds(6) + 2 * bench.idle + seconds(bench.rows / 60_000 + bench.rows / 100_000),
        };
        Group::value_variants().iter().filter(|group| self.measures(**group)).map(|group| of(*group)).sum()
    }
}

/// Measures and prints. The folder with the data is removed, also after an error.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut bench = options.bench()?;
    std::fs::create_dir_all(&bench.folder).with_context(|| format!("making {}", bench.folder.display()))?;
    let machine = Machine::here(&bench.folder);
    eprintln!("{}", machine.text());
    let measured = measure(options, &mut bench);
    std::fs::remove_dir_all(&bench.folder)?;
    measured?;
    print(options, &bench, &machine)?;
    if let Some(path) = &options.json {
        write_json(path, &bench, &machine)?;
    }
    if !bench.results.troubles().is_empty() {
        bail!("some of it did not run, see above");
    }
    Ok(())
}

fn measure(options: &Options, bench: &mut Bench) -> Result<()> {
    let loaded = options.measures(Group::Reads).then(|| reads::load(bench));
    for round in 0..bench.rounds {
        if options.measures(Group::Writes) {
            writes::round(bench, round, Disk::OwnSpeed)?;
            writes::round(bench, round, Disk::Slower)?;
            floor::round(bench, round)?;
        }
        if options.measures(Group::Batch) {
            batch::round(bench, round)?;
        }
        if let Some(loaded) = &loaded {
            reads::round(bench, round, loaded)?;
        }
    }
    drop(loaded);
    if options.measures(Group::Memory) {
        memory::run(bench)?;
    }
    Ok(())
}

fn print(options: &Options, bench: &Bench, machine: &Machine) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", machine.text())?;
    writeln!(
        output,
        "{} rounds of {:?} for each cell and server, {} rows; medians over the rounds, ratios within them\n",
        bench.rounds, bench.measured, bench.rows
    )?;
    if options.quick {
        writeln!(output, "Quick: this shows that everything runs; its figures mean nothing.\n")?;
    }
    writeln!(output, "{}", table::markdown(&bench.results))?;
    for trouble in bench.results.troubles() {
        writeln!(output, "Not run: {trouble}")?;
    }
    let cache = flotilla::CACHE_BYTES >> 20;
    writeln!(output, "{NOTES}\nCache: flotilla and sled, {cache} MiB each.")?;
    Ok(())
}

fn write_json(path: &Path, bench: &Bench, machine: &Machine) -> Result<()> {
    let document = json!({
        "machine": machine,
        "rounds": bench.rounds,
        "seconds": bench.measured.as_secs_f64(),
        "rows": bench.rows,
        "lines": table::lines(&bench.results),
    });
    let text = serde_json::to_string_pretty(&document)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

const NOTES: &str = "\
Load: one thread that shares the machine; 1 connection for 1 in flight, else 8; each answer followed by the next request.
redis pipelines over the same connections; redis unpipelined has a connection for each command in flight.
Writes go to random ids of 1,000,000: PutRecord, etcd's Put, Redis's XADD to one stream with appendfsync always.
CPU: user and system time of the server's process for each operation (a batch is one).
Fsyncs, over the whole of a load: Flotilla's own counter; etcd's counters of WAL fsyncs and backend commits; for redis its file writes, each followed by one fdatasync (write calls in /proc/PID/io less INFO's total_writes_processed).
+ 4 ms: strace delays the return of every fsync and fdatasync of the server; strace's CPU time is not counted.
echo: bare tonic, one unary method, messages of the same sizes, no middleware.
sled: apply_batch in a loop, the store's settings, never flushed.";
