//! `flotilla check`: recomputes the hash of every space.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::cluster::v1::CheckRequest;

use super::{Failure, json::to_json, output::Output, row::Checked, talk};

/// Recomputes the hash of every space at one point of the log and compares it with the hash that
/// was kept up write by write. Reads all rows: about a second for a million.
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let checked = client.call(CheckRequest::default()).await?;
        let rows: Vec<Checked<'_>> = checked
            .servers
            .iter()
            .flat_map(|server| server.spaces.iter().map(|space| Checked { server: server.server_id, space }))
            .collect();
        output.document(&to_json(&checked), &rows)?;
        for server in checked.servers.iter().filter(|server| !server.answered) {
            talk::warning(&format!("server {} did not answer: {}", server.server_id, server.message));
        }
        if checked.ok {
            talk::remark(&format!("all spaces are as they should be at revision {}", checked.revision));
            return Ok(());
        }
        let differing: Vec<String> = rows
            .iter()
            .filter(|row| !row.space.ok)
            .map(|row| format!("space {} at server {}", row.space.space, row.server))
            .collect();
        Err(Failure::Differs(match differing.is_empty() {
            true => "not every server could be checked".to_owned(),
            false => format!(
                "the rows differ from what the log led to: {}\n  try: stop that server, remove `store/` from its data \
                 directory, and start it; it rebuilds the store from snapshot and log",
                differing.join(", ")
            ),
        }))
    }
}
