//! `flotilla restore`: a data directory from a backup. Calls no server.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use flotilla_replica::{RestoreOptions, Restored, restore};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Failure, output::Output, row, talk};

/// Makes a data directory from a backup, for a new cell of one server. The backup is checked whole
/// before anything is made. Revisions go on far above its own, and cursors of the former cell are
/// refused with HISTORY_CHANGED, so watchers read everything anew.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    #[arg(long = "in", value_name = "FILE")]
    backup: PathBuf,
    /// The directory to make; it may exist if it is empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The new cell's name, as `cluster.name` in its config [default: the backup's]
    #[arg(long, value_name = "NAME")]
    cell: Option<String>,
    /// The server's number in the new cell, as `cluster.id` in its config
    #[arg(long, value_name = "ID", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    server_id: u64,
}

const TELL: Duration = Duration::from_secs(2);

impl Restore {
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        if self.cell.as_deref() == Some("") {
            let reason = "is empty: name the cell, for instance \"flotilla\"".to_owned();
            return Err(Failure::Argument { argument: "--cell".to_owned(), reason });
        }
        let started = Instant::now();
        let options = RestoreOptions {
            cell: self.cell.clone(),
            server: self.server_id,
            ..RestoreOptions::new(&self.backup, &self.data_dir)
        };
        let mut progress = Progress::new();
        let restored = restore(&options, |done, total| progress.at(done, total));
        progress.bar.finish_and_clear();
        let restored = restored.map_err(Box::new)?;
        let time = row::time(Some(&timestamp(restored.backup_time)));
        let document = json!({
            "cell": restored.cell, "history": restored.history, "revision": restored.revision,
            "backup": {
                "cell": restored.former_cell, "history": restored.former_history,
                "revision": restored.backup_revision, "time": time, "bytes": restored.bytes,
            },
            "rows": restored.rows, "requests": restored.requests, "data_dir": self.data_dir.display().to_string(),
        });
        output.document(&document, &[Made { restored: &restored, time: &time, data_dir: &self.data_dir }])?;
        talk::say(&format!(
            "restored {} rows of cell {:?} as of {time}: {} in {:.1} s",
            HumanCount(restored.rows),
            restored.former_cell,
            HumanBytes(restored.bytes),
            started.elapsed().as_secs_f64(),
        ));
        let mut flags = String::new();
        if restored.cell != "flotilla" {
            flags.push_str(&format!(" --set cluster.name={}", restored.cell));
        }
        if self.server_id != 1 {
            flags.push_str(&format!(" --set cluster.id={}", self.server_id));
        }
        talk::remark(&format!("try: flotilla serve --services all --data-dir {}{flags}", self.data_dir.display()));
        Ok(())
    }
}

fn timestamp(micros: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX), nanos: 0 }
}

/// A line of the table.
struct Made<'a> {
    restored: &'a Restored,
    time: &'a str,
    data_dir: &'a Path,
}

impl row::Row for Made<'_> {
    const COLUMNS: &'static [&'static str] = &["CELL", "ROWS", "BACKUP REVISION", "BACKUP TIME", "DATA DIR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.restored.cell.clone(),
            self.restored.rows.to_string(),
            self.restored.backup_revision.to_string(),
            self.time.to_owned(),
            self.data_dir.display().to_string(),
        ]
    }
}

/// What a person sees meanwhile: a bar on a terminal, a line every two seconds elsewhere.
struct Progress {
    bar: ProgressBar,
    terminal: bool,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent} % checked and restored  {elapsed}") {
            bar.set_style(style);
        }
        Self { bar, terminal, told: Instant::now() }
    }

    fn at(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if !self.terminal && self.told.elapsed() >= TELL {
            talk::say(&format!("{} % checked and restored", done * 100 / total.max(1)));
            self.told = Instant::now();
        }
    }
}
