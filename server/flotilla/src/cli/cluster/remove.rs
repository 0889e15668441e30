//! `cluster remove`.

use clap::Args;
use flotilla_client::Client;
use flotilla_proto::cluster::v1::RemoveServerRequest;

use crate::cli::{Failure, intent::Intent, talk};

/// A leader hands over first. Refused if the rest would have no majority that answers. The server's
/// data directory stays as it is, and doesn't join again: to bring the machine back, start it with an
/// empty one and add it.
#[derive(Debug, Args)]
pub(in crate::cli) struct Remove {
    /// The server's number
    #[arg(value_parser = super::server_id())]
    id: u64,
    #[command(flatten)]
    intent: Intent,
}

impl Remove {
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        let id = self.id;
        client.call(RemoveServerRequest { id, request_id: self.intent.id() }).await?;
        talk::say(&format!("server {id} is no longer in the cell; its data directory was left as it is"));
        talk::remark("try: flotilla cluster status; and stop that server if it runs");
        Ok(())
    }
}
