//! `flotilla cluster …`: the servers of a cell.
//!
//! * `status`: who they are and how; `watch`: the same as it changes.
//! * `add`, `remove`, `transfer`: change them; each change is one at a time, and never leaves the cell
//!   without a majority.
//! * `form`: begins a cell of which not all voters are there.
//! * `recover`: makes a cell of one from what a lost one has left.

mod add;
mod form;
mod recover;
mod remove;
mod status;
mod transfer;
mod watch;

use clap::{Subcommand, builder::RangedU64ValueParser};
use flotilla_client::{Client, Target};

use super::{Failure, output::Output};

/// Every server of a cell answers for all of it: any of them may be the --endpoint.
#[derive(Debug, Subcommand)]
pub(super) enum Cluster {
    /// Print the cell's servers: who leads, who votes, and how far each has come
    Status(status::Status),
    /// Add a server, and wait until it votes
    Add(add::Add),
    /// Remove a server, dead or alive
    Remove(remove::Remove),
    /// Hand leadership to another voter
    Transfer(transfer::Transfer),
    /// Form a new cell although not all of its voters are there
    Form(form::Form),
    /// Make a cell of one from the data of a server whose cell is lost
    Recover(recover::Recover),
}

impl Cluster {
    pub(super) async fn run(self, target: &Target, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Status(status) => status.run(&Client::connect(target).await?, output).await,
            Self::Add(add) => {
                // Bad arguments are told before a server is looked for.
                add.check()?;
                add.run(&Client::connect(target).await?, target.timeout, output).await
            }
            Self::Remove(remove) => remove.run(&Client::connect(target).await?).await,
            Self::Transfer(transfer) => transfer.run(&Client::connect(target).await?, output).await,
            Self::Form(form) => form.run(&Client::connect(target).await?, output).await,
            Self::Recover(recover) => recover.run(output),
        }
    }
}

/// The number of a server, from 1.
fn server_id() -> RangedU64ValueParser {
    clap::value_parser!(u64).range(1..)
}
