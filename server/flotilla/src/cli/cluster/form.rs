//! `cluster form`.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::cluster::v1::FormCellRequest;

use crate::cli::{Failure, intent::Intent, output::Output, talk};

/// A new cell forms by itself once all configured voters are there, because one that isn't could hold
/// its data. If you know that none does, this forms it without some of them; they come in as empty
/// servers when they are there. Ask one of the servers that wait.
#[derive(Debug, Args)]
pub(in crate::cli) struct Form {
    /// The numbers of the voters that are not there, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = super::server_id())]
    without: Vec<u64>,
    #[command(flatten)]
    intent: Intent,
}

impl Form {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let request = FormCellRequest { without: self.without, request_id: self.intent.id() };
        let formed = client.call(request).await?;
        let voters: Vec<String> = formed.voters.iter().map(u64::to_string).collect();
        output.told(&formed, &format!("formed: the voters are {}; history {}", voters.join(", "), formed.history))?;
        talk::remark("try: flotilla cluster status");
        Ok(())
    }
}
