//! `flotilla dev`: a cell of servers on this machine, to try things out and to break them.
//!
//! Each server is a process of its own, `flotilla serve` with a config that this writes; this starts
//! them, passes on what they log, and stops them. It never looks into their data.
//!
//! # Layout
//!
//! * `place`: the directory where everything is; `plan`: which servers there are, and their configs.
//! * `cell`: the servers that run, and what can be done to them; `child`: one of them.
//! * `control`: the socket by which `flotilla dev kill|start|drain|scale|status` reach the `flotilla dev`
//!   that runs; `action`: these.
//! * `welcome`: where everything is, and what to try.

mod action;
mod cell;
mod child;
mod control;
mod place;
mod plan;
mod welcome;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, output::Output, talk};
use crate::serve::ServeError;
use action::Action;
use cell::Cell;
use control::Control;
use place::Place;
use plan::{MAX_SERVERS, Plan};

/// What `dev` lets a person choose.
#[derive(Debug, Args)]
#[command(after_help = "While it runs, in a second terminal: flotilla dev status; flotilla dev kill 1")]
pub(super) struct Dev {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    flags: Flags,
    /// Where data, configs and the socket for kill, start, drain, scale and status are
    #[arg(long, global = true, value_name = "DIR", default_value = ".dev")]
    dir: PathBuf,
}

/// What only who starts it says.
#[derive(Debug, Args)]
struct Flags {
    /// How many servers; 1, 3 or 5 of them vote [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=MAX_SERVERS))]
    servers: Option<u64>,
    /// Begin with no data
    #[arg(long)]
    fresh: bool,
    /// The address of the first server's gRPC and gRPC-Web; each other has the next port, and health and
    /// metrics are 100 ports higher. Port 0: any that are free [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// What to log: a level, or directives
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

impl Dev {
    /// Whether it acts on one that runs already.
    pub(super) fn is_action(&self) -> bool {
        self.action.is_some()
    }

    /// Acts on the one that runs.
    pub(super) fn act(self, output: &mut Output) -> Result<(), Failure> {
        let Flags { servers, fresh, listen, log } = &self.flags;
        if servers.is_some() || *fresh || listen.is_some() || log.is_some() {
            let reason = "--servers, --fresh, --listen and --log are for `flotilla dev` itself, when it starts";
            return Err(Failure::Argument { argument: "flotilla dev".to_owned(), reason: reason.to_owned() });
        }
        match self.action {
            Some(action) => action.run(&Place::new(self.dir), output),
            None => Ok(()),
        }
    }

    /// Runs the servers until a signal.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
        let place = Place::new(self.dir);
        place.make()?;
        let control = Control::bind(&place)?;
        if self.flags.fresh {
            place.empty()?;
        }
        place.adopt()?;
        place.secret()?;
        let plan = Plan::new(place, self.flags.servers, self.flags.listen.as_deref(), self.flags.log)?;
        let ids: Vec<u64> = (1..=plan.servers).collect();
        for &id in &ids {
            plan.check_ports(id)?;
        }
        plan.write(&ids)?;
        welcome::print(&plan);
        let data = plan.place.data();
        let cell = Cell::new(plan);
        let started = ids.iter().try_for_each(|&id| cell.launch(id));
        let ended = match started {
            Err(failure) => Err(failure),
            Ok(()) => tokio::select! {
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
                () = cell.all_ended() => Err(Failure::DevEnded),
                failed = control.serve(&cell) => Err(failed),
            },
        };
        drop(control);
        tokio::select! {
            () = cell.stop() => {}
            () = async { tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} } } => {
                cell.kill_all().await;
            }
        }
        if ended.is_ok() {
            talk::say(&format!("stopped; the data is kept in {}", data.display()));
        }
        ended
    }
}

#[cfg(test)]
mod tests;
