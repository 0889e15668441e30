//! `flotilla-bench push`: how fast, at what cost and how fairly events get from a post to every subscriber, beside bare
//! tonic streams, nats-server and JetStream.
//!
//! # Layout
//!
//! * `target` starts each server, subscribes and posts; `client/` counts what comes.
//! * One module for each table: `fan_out`, `paced`, `idle`, `stalled`, `overload`, `encoding`. `sheet` prints them.

mod client;
mod encoding;
mod fan_out;
mod idle;
mod overload;
mod paced;
mod sheet;
mod stalled;
mod target;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::sheet::Sheet;
use crate::interrupt;
use crate::machine::Machine;

/// What to measure, how often and where.
#[derive(Args)]
pub(crate) struct Options {
    /// Everything once, short and small: shows that it works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Only these tables.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often fan-out and paced posts are measured; servers take turns within a round.
    #[arg(long)]
    rounds: Option<usize>,
    /// Subscribers of the fan-out.
    #[arg(long, value_delimiter = ',')]
    subscribers: Vec<usize>,
    /// Subscribers that idle.
    #[arg(long)]
    idle: Option<usize>,
    /// Seconds that subscribers idle, and that some read nothing.
    #[arg(long)]
    idle_seconds: Option<u64>,
    /// Flotilla's binary.
    #[arg(long, default_value = "target/release/flotilla")]
    flotilla: PathBuf,
    /// Holds all servers' data while they run, in a folder of its own; all on one disk.
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
}

/// Tables.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One thread, 1 to 10,000 subscribers, beside bare tonic, nats and JetStream.
    FanOut,
    /// 1,000 subscribers over 100 threads at 5,000 posts a second.
    Paced,
    /// Memory and CPU of subscribers that nothing is sent to, beside bare tonic.
    Idle,
    /// Subscribers that read nothing.
    Stalled,
    /// Posts at three times what the server can do.
    Overload,
    /// The same events as protobuf and as JSON.
    Encoding,
}

/// What all tables share.
struct Push {
    flotilla: PathBuf,
    /// Of this run alone; removed at its end.
    folder: PathBuf,
    rounds: usize,
    subscribers: Vec<usize>,
    idle: usize,
    idle_time: Duration,
    /// Of one measurement.
    time: Duration,
    began: Instant,
}

impl Push {
    /// An empty folder for one server's data.
    fn fresh_folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// A line of progress.
    fn say(&self, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        eprintln!("[{}:{:02}] {text}", seconds / 60, seconds % 60);
    }
}

/// Measures and prints table after table. The folder with the data is removed, also after an error.
pub(crate) fn run(options: &Options) -> Result<()> {
    let quick = |quick: usize, usual: usize| if options.quick { quick } else { usual };
    let push = Push {
        flotilla: options.flotilla.clone(),
        folder: std::path::absolute(&options.data)?.join(format!("push-{}", std::process::id())),
        rounds: options.rounds.unwrap_or(quick(1, 3)).max(1),
        subscribers: match options.subscribers.is_empty() {
            true if options.quick => vec![1, 100],
            true => vec![1, 100, 1_000, 10_000],
            false => options.subscribers.clone(),
        },
        idle: options.idle.unwrap_or(quick(200, 10_000)),
        idle_time: Duration::from_secs(options.idle_seconds.unwrap_or(quick(1, 21) as u64)),
        time: Duration::from_millis(quick(200, 1_000) as u64),
        began: Instant::now(),
    };
    if push.idle > 15_000 || push.subscribers.iter().any(|subscribers| !(1..=30_000).contains(subscribers)) {
        bail!("at most 15,000 idle subscribers, and 1 to 30,000 in a fan-out");
    }
    std::fs::create_dir_all(&push.folder).with_context(|| format!("making {}", push.folder.display()))?;
    let machine = Machine::here(&push.folder);
    let outcome = measure(options, &push, &machine);
    std::fs::remove_dir_all(&push.folder)?;
    outcome
}

fn measure(options: &Options, push: &Push, machine: &Machine) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{}\n", machine.text())?;
    if options.quick {
        writeln!(std::io::stdout().lock(), "Quick: this shows that everything runs; its figures mean nothing.\n")?;
    }
    let mut failed = false;
    for part in Part::value_variants() {
        if !options.only.is_empty() && !options.only.contains(part) {
            continue;
        }
        let sheet: Result<Sheet> = match part {
            Part::FanOut => fan_out::measure(push),
            Part::Paced => paced::measure(push),
            Part::Idle => idle::measure(push),
            Part::Stalled => stalled::measure(push),
            Part::Overload => overload::measure(push),
            Part::Encoding => encoding::measure(push),
        };
        interrupt::check()?;
        let mut output = std::io::stdout().lock();
        match sheet {
            Ok(sheet) => writeln!(output, "{}", sheet.markdown())?,
            Err(error) => {
                failed = true;
                let name = part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
                writeln!(output, "Not run: {name}: {error:#}\n")?;
            }
        }
    }
    if failed {
        bail!("some of it did not run, see above");
    }
    Ok(())
}
