//! `cluster add`: adds a server, and waits until it is what it shall be.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use clap::Args;
use flotilla_client::{CallError, Client};
use flotilla_proto::cluster::v1::{AddServerRequest, GetServersRequest, Role, Server, State};
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget};
use tokio::time::Instant;

use crate::{
    cli::{Failure, intent::Intent, output::Output, talk},
    config::cell::is_address,
};

/// The server must run already, with an empty data directory and the cell's name and secret. It joins
/// without a vote, is sent the data while writes go on, and votes once it has caught up. Waits for that
/// as long as --timeout says; what isn't done then goes on by itself.
#[derive(Debug, Args)]
pub(in crate::cli) struct Add {
    /// The server's number, as `cluster.id` in its config
    #[arg(value_parser = super::server_id())]
    id: u64,
    /// Where the other servers reach it, host:port
    address: String,
    /// Leave it without a vote for good
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    intent: Intent,
}

/// How often it is looked whether the server has caught up.
const LOOK: Duration = Duration::from_millis(200);
const TELL: Duration = Duration::from_secs(2);

impl Add {
    /// What can be told without a server.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match is_address(&self.address) {
            true => Ok(()),
            false => Err(Failure::Argument {
                argument: self.address.clone(),
                reason: "write host:port, for instance 10.0.0.4:7400".to_owned(),
            }),
        }
    }

    pub(super) async fn run(self, client: &Client, timeout: Duration, output: &mut Output) -> Result<(), Failure> {
        let Self { id, address, learner, intent } = self;
        let started = Instant::now();
        let request = AddServerRequest { id, address, learner, request_id: intent.id() };
        let joined = client.call(request).await?;
        talk::remark(&format!("server {id} has joined, without a vote yet; it is sent the data"));
        let mut waiting = Waiting { id, learner, started, timeout, last: joined, problem: None };
        let server = tokio::time::timeout_at(started + timeout, waiting.until_done(client)).await;
        let server = server.map_err(|_| waiting.not_yet())?;
        output.one(&server)?;
        let is = if learner { "has caught up" } else { "votes" };
        talk::say(&format!("server {id} {is}, after {:.1} s", started.elapsed().as_secs_f64()));
        talk::remark("try: flotilla cluster status; and write the server into `cluster.peers` on each of the others");
        Ok(())
    }
}

/// A server that isn't yet what it shall be.
struct Waiting {
    id: u64,
    learner: bool,
    started: Instant,
    timeout: Duration,
    last: Server,
    /// Why the last look failed, if it did.
    problem: Option<CallError>,
}

impl Waiting {
    async fn until_done(&mut self, client: &Client) -> Server {
        let mut progress = Progress::new();
        loop {
            match client.call(GetServersRequest {}).await {
                Ok(cell) => {
                    self.problem = None;
                    let leader_end = cell.servers.iter().filter(|server| server.is_leader).map(|server| server.log_end);
                    let end = leader_end.max();
                    if let Some(server) = cell.servers.into_iter().find(|server| server.id == self.id) {
                        if is_done(&server, self.learner) {
                            return server;
                        }
                        self.last = server;
                        progress.at(self, end);
                    }
                }
                // It may be that the server asked restarts, or that another leader is elected.
                Err(error) => self.problem = Some(error),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn not_yet(&self) -> Failure {
        let missing = match (&self.problem, self.last.state(), self.learner) {
            (Some(problem), ..) => format!("how far it is can't be learnt ({problem})"),
            (None, State::Unreachable, _) => "it doesn't answer".to_owned(),
            (None, _, true) => "it has not caught up".to_owned(),
            (None, _, false) => "it doesn't vote yet".to_owned(),
        };
        Failure::NotYet {
            begun: format!("server {} has joined, and goes on by itself", self.id),
            missing,
            waited: self.timeout,
            advice: "flotilla cluster status --watch, or the same command with a longer --timeout",
        }
    }
}

fn is_done(server: &Server, learner: bool) -> bool {
    let up_to_date = server.lag.as_ref().is_some_and(|lag| (lag.seconds, lag.nanos) == (0, 0));
    match learner {
        true => server.state() == State::Ready && up_to_date,
        false => server.role() == Role::Voter,
    }
}

/// What a person sees meanwhile: a spinner on a terminal, a line every two seconds elsewhere.
struct Progress {
    spinner: ProgressBar,
    terminal: bool,
    told: Instant,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let spinner = ProgressBar::new_spinner();
        spinner.set_draw_target(if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() });
        Self { spinner, terminal, told: Instant::now() }
    }

    fn at(&mut self, waiting: &Waiting, end: Option<u64>) {
        let end = end.map_or_else(|| "?".to_owned(), |end| HumanCount(end).to_string());
        let text = format!(
            "server {}: entry {} of {end}, {} s of {}",
            waiting.id,
            HumanCount(waiting.last.applied_index),
            waiting.started.elapsed().as_secs(),
            humantime::format_duration(waiting.timeout),
        );
        if self.terminal {
            self.spinner.set_message(text);
            self.spinner.tick();
        } else if self.told.elapsed() >= TELL {
            talk::say(&text);
            self.told = Instant::now();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.spinner.finish_and_clear();
    }
}
