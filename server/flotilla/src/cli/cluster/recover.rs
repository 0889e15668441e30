//! `cluster recover`: a cell of one from what a lost cell has left. Calls no server.

use std::path::PathBuf;

use clap::Args;
use flotilla_replica::{RecoverOptions, Recovered, recover};
use serde_json::json;

use crate::cli::{Failure, output::Output, row, talk};

/// Makes a new cell of one server from the data directory of a server whose cell has lost the majority
/// of its voters for good. Only if their disks are gone: if they can be started again, do that.
///
/// What may be lost: writes that the lost servers had acknowledged and this one had not got yet; take
/// the server whose `log_index` is the highest. What may appear: writes at the end of its log that
/// nobody was ever told of. Cursors and page tokens of the lost cell are refused with HISTORY_CHANGED.
#[derive(Debug, Args)]
pub(in crate::cli) struct Recover {
    /// The data directory of a stopped server of the lost cell
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The directory to make; it may exist if it is empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// The server's number in the new cell [default: the one it had]
    #[arg(long, value_name = "ID", value_parser = super::server_id())]
    server_id: Option<u64>,
}

impl Recover {
    pub(in crate::cli) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let options =
            RecoverOptions { from: self.from.clone(), data_dir: self.data_dir.clone(), server: self.server_id };
        let recovered = recover(&options).map_err(Box::new)?;
        let document = json!({
            "cell": recovered.cell, "server": recovered.server, "history": recovered.history,
            "revision": recovered.revision, "rows": recovered.rows,
            "data_dir": self.data_dir.display().to_string(),
            "lost": {
                "history": recovered.former_history, "voters": recovered.former_voters,
                "revision": recovered.former_revision, "log_index": recovered.log_index,
                "uncertain_entries": recovered.uncertain,
            },
        });
        output.document(&document, &[Made { recovered: &recovered }])?;
        talk::say(&format!(
            "recovered {} rows up to log index {}; the last {} entries may hold writes that nobody was told of, and what \
             other servers had beyond is gone",
            recovered.rows, recovered.log_index, recovered.uncertain
        ));
        talk::remark(&format!(
            "try: start it with data_dir = {:?}, then the others with empty directories, and `flotilla cluster status`",
            self.data_dir.display().to_string()
        ));
        Ok(())
    }
}

/// A line of the table.
struct Made<'a> {
    recovered: &'a Recovered,
}

impl row::Row for Made<'_> {
    const COLUMNS: &'static [&'static str] = &["CELL", "SERVER", "ROWS", "LOG INDEX", "UNCERTAIN", "FORMER VOTERS"];

    fn cells(&self) -> Vec<String> {
        let voters: Vec<String> = self.recovered.former_voters.iter().map(u64::to_string).collect();
        vec![
            self.recovered.cell.clone(),
            self.recovered.server.to_string(),
            self.recovered.rows.to_string(),
            self.recovered.log_index.to_string(),
            self.recovered.uncertain.to_string(),
            voters.join(","),
        ]
    }
}
