//! The cells of the table. Each module owns one: which servers it starts, what it sends them, what it records.

pub(crate) mod batch;
pub(crate) mod floor;
pub(crate) mod memory;
pub(crate) mod reads;
pub(crate) mod writes;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{Plan, Work, measure, shared_connections};
use crate::results::{Key, Reading, Results, Unit};
use crate::servers::Server;

/// What all cells share: how long, how large, and where.
pub(crate) struct Bench {
    /// Flotilla's binary.
    pub(crate) flotilla: PathBuf,
    /// Of this run alone; removed at its end.
    pub(crate) folder: PathBuf,
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) measured: Duration,
    /// Users to read, and records to hold in memory and rebuild.
    pub(crate) rows: u32,
    pub(crate) idle: Duration,
    pub(crate) began: Instant,
    /// How long the run may take altogether, by its own plan.
    pub(crate) planned: Duration,
    pub(crate) results: Results,
}

/// How many requests are in flight, over how many connections.
#[derive(Clone, Copy)]
pub(crate) struct Width {
    pub(crate) in_flight: usize,
    pub(crate) connections: usize,
}

impl Width {
    /// So many over few connections, each of which carries many at once.
    pub(crate) fn shared(in_flight: usize) -> Self {
        Self { in_flight, connections: shared_connections(in_flight) }
    }

    /// So many, each with a connection of its own.
    pub(crate) fn one_each(in_flight: usize) -> Self {
        Self { in_flight, connections: in_flight }
    }
}

impl Bench {
    /// An empty folder for one cell's data.
    pub(crate) fn fresh_folder(&self, cell: &str) -> Result<PathBuf> {
        let folder = self.folder.join(cell);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Loads a server for the measured time. What others left to be written goes to the disk before.
    pub(crate) fn load(&self, server: &Server, width: Width, work: Work) -> Result<Reading> {
        rustix::fs::sync();
        let plan = Plan {
            address: server.address,
            in_flight: width.in_flight,
            connections: width.connections,
            warm_up: self.warm_up,
            measured: self.measured,
        };
        let fsyncs_before = server.fsyncs()?;
        let (measured, cpu_before, cpu_after) = measure(plan, work, || server.process.cpu_microseconds())?;
        let fsyncs_after = server.fsyncs()?;
        let fsyncs = fsyncs_before.zip(fsyncs_after).map(|(before, after)| after.saturating_sub(before));
        Ok(Reading {
            value: measured.rate(),
            p50: measured.microseconds(0.50),
            p99: measured.microseconds(0.99),
            cpu_per_op: Some((cpu_after - cpu_before) / measured.count() as f64),
            ops_per_fsync: fsyncs.filter(|fsyncs| *fsyncs > 0).map(|fsyncs| measured.all as f64 / fsyncs as f64),
        })
    }

    /// Records a reading and says so, with the time that has passed.
    pub(crate) fn record(&mut self, key: Key, unit: Unit, round: usize, measured: Result<Reading>) {
        let in_flight = key.in_flight.map(|number| format!(", {number} in flight")).unwrap_or_default();
        let outcome = match &measured {
            Ok(reading) => crate::table::number(reading.value, unit),
            Err(error) => format!("{error:#}"),
        };
        self.say(&format!("round {}/{}: {}{in_flight}: {}: {outcome}", round + 1, self.rounds, key.cell, key.server));
        self.results.record(key, unit, round, measured);
    }

    /// A line of progress.
    pub(crate) fn say(&self, text: &str) {
        let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
        eprintln!("[{} of about {}] {text}", clock(self.began.elapsed()), clock(self.planned));
    }
}
