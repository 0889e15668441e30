//! `flotilla dev kill`, `start`, `drain`, `scale` and `status`.

use clap::{Subcommand, value_parser};
use serde_json::json;

use super::{
    cell::ServerState,
    control::{Answer, Request, ask},
    place::Place,
    plan::MAX_SERVERS,
};
use crate::cli::{Failure, output::Output, row::Row, talk};

/// What is done to the servers of the `flotilla dev` that runs.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Kill a server, as a power cut would (SIGKILL)
    Kill {
        /// Its number
        #[arg(value_parser = value_parser!(u64).range(1..))]
        server: u64,
    },
    /// Start a server again
    Start {
        /// Its number
        #[arg(value_parser = value_parser!(u64).range(1..))]
        server: u64,
    },
    /// Ask a server to stop (SIGTERM), and wait until it has
    Drain {
        /// Its number
        #[arg(value_parser = value_parser!(u64).range(1..))]
        server: u64,
    },
    /// Make it so many servers: those that come hold the data without a vote, and the highest numbers go first
    Scale {
        /// How many there shall be
        #[arg(value_parser = value_parser!(u64).range(..=MAX_SERVERS))]
        servers: u64,
    },
    /// Print which servers there are, and which run
    Status,
}

impl Action {
    pub(super) fn run(self, place: &Place, output: &mut Output) -> Result<(), Failure> {
        let (request, next) = match self {
            Self::Kill { server } => (Request::Kill { server }, "flotilla cluster status"),
            Self::Start { server } => (Request::Start { server }, "flotilla cluster status --watch"),
            Self::Drain { server } => (Request::Drain { server }, "flotilla cluster status"),
            Self::Scale { servers } => (Request::Scale { servers }, "flotilla cluster status --watch"),
            Self::Status => (Request::Status {}, "flotilla cluster status, which tells how the cell sees itself"),
        };
        match ask(place, &request)? {
            Answer::Refused(reason) => return Err(Failure::DevRefused(reason)),
            Answer::Done(done) => {
                done.said.iter().for_each(|said| talk::say(said));
                done.warnings.iter().for_each(|warning| talk::warning(warning));
            }
            Answer::Servers(servers) => output.document(&json!({ "servers": servers }), &servers)?,
        }
        talk::remark(&format!("try: {next}"));
        Ok(())
    }
}

impl Row for ServerState {
    const COLUMNS: &'static [&'static str] = &["SERVER", "STATE", "VOTES", "PID", "UP", "ADDRESS", "HEALTH", "DATA"];

    fn cells(&self) -> Vec<String> {
        let votes = if self.votes { "votes" } else { "" };
        vec![
            self.id.to_string(),
            self.state.clone(),
            votes.to_owned(),
            self.pid.map_or_else(String::new, |pid| pid.to_string()),
            self.up.map_or_else(String::new, |up| format!("{up} s")),
            self.address.clone(),
            self.health.clone(),
            self.data_dir.clone(),
        ]
    }
}
