//! `cluster transfer`.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::cluster::v1::TransferLeadershipRequest;

use crate::cli::{Failure, intent::Intent, output::Output, talk};

/// Returns when the server leads; requests meanwhile wait a moment. Nothing happens if it leads already.
#[derive(Debug, Args)]
pub(in crate::cli) struct Transfer {
    /// The number of the voter that shall lead
    #[arg(value_parser = super::server_id())]
    id: u64,
    #[command(flatten)]
    intent: Intent,
}

impl Transfer {
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let id = self.id;
        let led = client.call(TransferLeadershipRequest { id, request_id: self.intent.id() }).await?;
        output.told(&led, &format!("server {id} leads, in term {}", led.term))?;
        talk::remark("try: flotilla cluster status");
        Ok(())
    }
}
