//! What a server holds in memory, how soon it answers after a start, and what it does when nothing is asked: empty, and
//! with a million records.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use crate::interrupt;
use crate::results::{Key, Reading, Unit};
use crate::servers::flotilla::{Flotilla, load_records};
use crate::servers::{Disk, Server};

pub(crate) const RESIDENT_EMPTY: &str = "resident, empty";
pub(crate) const RESIDENT_WRITTEN: &str = "resident, rows just written";
pub(crate) const RESIDENT_PEAK: &str = "resident, most while writing the rows";
pub(crate) const RESIDENT_RESTARTED: &str = "resident, rows, after a restart";
pub(crate) const START_EMPTY: &str = "start to first OK, empty";
pub(crate) const START_STOPPED: &str = "start to first OK, rows, after a clean stop";
pub(crate) const START_KILLED: &str = "start to first OK, rows, after kill -9";
pub(crate) const START_REBUILT: &str = "start to first OK, rows, store/ deleted";
pub(crate) const IDLE_EMPTY: &str = "CPU when idle, empty";
pub(crate) const IDLE_ROWS: &str = "CPU when idle, rows";
pub(crate) const LOADING: &str = "writing the rows, batches of 100";

const START_LIMIT: Duration = Duration::from_secs(30);
const REBUILD_LIMIT: Duration = Duration::from_secs(600);
const LOAD_LIMIT: Duration = Duration::from_secs(600);
/// Until what a start or a write left behind is settled.
const SETTLE: Duration = Duration::from_secs(1);

/// All of it, starts as often as there are rounds.
pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let folder = bench.fresh_folder("memory")?;
    let flotilla = Flotilla { binary: bench.flotilla.clone(), folder, disk: Disk::OwnSpeed };
    let outcome = empty(bench, &flotilla).and_then(|()| with_rows(bench, &flotilla));
    interrupt::check()?;
    if let Err(error) = outcome {
        bench.record(Key::new("memory and starts", None, "flotilla"), Unit::Mebibytes, 0, Err(error));
    }
    Ok(())
}

fn empty(bench: &mut Bench, flotilla: &Flotilla) -> Result<()> {
    for round in 0..bench.rounds {
        if flotilla.data().exists() {
            std::fs::remove_dir_all(flotilla.data())?;
        }
        let server = started(bench, flotilla, START_EMPTY, round, START_LIMIT)?;
        resident(bench, &server, RESIDENT_EMPTY, round)?;
        if round == 0 {
            idle(bench, &server, IDLE_EMPTY)?;
        }
        server.process.stop()?;
    }
    Ok(())
}

fn with_rows(bench: &mut Bench, flotilla: &Flotilla) -> Result<()> {
    let (server, _) = flotilla.start(START_LIMIT)?;
    bench.say(&format!("writing {} records, at the longest for {LOAD_LIMIT:?}", bench.rows));
    let loaded = load_records(server.address, bench.rows, LOAD_LIMIT)?;
    let rate = loaded.rate() * f64::from(crate::requests::BATCH_ROWS);
    record(bench, LOADING, Unit::RowsPerSecond, 0, rate);
    resident(bench, &server, RESIDENT_WRITTEN, 0)?;
    let peak = server.process.memory()?.peak;
    record(bench, RESIDENT_PEAK, Unit::Mebibytes, 0, peak);
    server.process.stop()?;

    for round in 0..bench.rounds {
        let server = started(bench, flotilla, START_STOPPED, round, REBUILD_LIMIT)?;
        resident(bench, &server, RESIDENT_RESTARTED, round)?;
        if round == 0 {
            idle(bench, &server, IDLE_ROWS)?;
        }
        server.process.kill()?;
        let server = started(bench, flotilla, START_KILLED, round, REBUILD_LIMIT)?;
        server.process.stop()?;
    }
    let store = flotilla.data().join("store");
    std::fs::remove_dir_all(&store).with_context(|| format!("removing {}", store.display()))?;
    started(bench, flotilla, START_REBUILT, 0, REBUILD_LIMIT)?.process.stop()?;
    Ok(())
}

fn started(bench: &mut Bench, flotilla: &Flotilla, what: &str, round: usize, limit: Duration) -> Result<Server> {
    let (server, answered) = flotilla.start(limit).context(what.to_owned())?;
    record(bench, what, Unit::Milliseconds, round, answered.as_secs_f64() * 1000.0);
    Ok(server)
}

fn resident(bench: &mut Bench, server: &Server, what: &str, round: usize) -> Result<()> {
    interrupt::sleep(SETTLE)?;
    let memory = server.process.memory()?;
    record(bench, what, Unit::Mebibytes, round, memory.resident);
    Ok(())
}

fn idle(bench: &mut Bench, server: &Server, what: &str) -> Result<()> {
    let before = server.process.cpu_microseconds()?;
    interrupt::sleep(bench.idle)?;
    let used = server.process.cpu_microseconds()? - before;
    record(bench, what, Unit::PercentOfOneCore, 0, used / bench.idle.as_micros() as f64 * 100.0);
    Ok(())
}

fn record(bench: &mut Bench, what: &str, unit: Unit, round: usize, value: f64) {
    bench.record(Key::new(what, None, "flotilla"), unit, round, Ok(Reading::of(value)));
}
