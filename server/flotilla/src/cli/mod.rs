//! The commands; one command, one file.
//!
//! # Layout
//!
//! * `serve`, `dev`, `check_config`: run a server, or tell what it would run.
//! * `check`, `health`, `users`, `records`, `import`, `threads`: call one.
//! * `cluster`: the servers of a cell.
//! * `top`: watches one.
//! * `backup`, `restore`: a server's data in a file, and a data directory from one.
//! * `pages`: lists, a page at a time.
//! * `people`: a user by id, address or name.
//! * `intent`, `document`: arguments that several commands take.
//! * `ndjson`, `batches`, `checkpoint`: what an import reads, and where it goes on.
//! * `watch`: what `users watch` and `records watch` share.
//! * `output`, `row`, `json`: data on stdout, as a table, JSON or YAML.
//! * `talk`: everything said to a person, on stderr.
//! * `failure`, `advice`: how a command ends badly, its exit code, and what to try.

mod advice;
mod backup;
mod batches;
mod check;
mod check_config;
mod checkpoint;
mod cluster;
mod dev;
mod document;
mod failure;
mod health;
mod import;
mod intent;
mod json;
mod ndjson;
mod output;
mod pages;
mod people;
mod records;
mod restore;
mod row;
mod serve;
mod talk;
mod threads;
mod top;
mod users;
mod watch;

use std::{process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use flotilla_client::{Client, Target};

pub use failure::Failure;

use crate::{config::client::ClientFile, telemetry};
use output::{Format, Output};

/// Many small gRPC services on one durable log.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Begin with `flotilla dev`, and in a second terminal `flotilla users create --help`.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    Serve(serve::ServerFlags),
    /// Run a cell of servers on this machine with all services, to try things out and break them
    Dev(dev::Dev),
    /// Print the configuration that `serve` would run with, and where each value came from
    CheckConfig(serve::ServerFlags),
    /// Recompute the hash of every space on a running server
    Check(check::Check),
    /// Ask a running server whether it is serving
    Health(health::HealthOf),
    /// Watch what a running server does
    Top(top::Top),
    /// Create, read, change, delete and watch users
    #[command(subcommand)]
    Users(users::Users),
    /// Put, read, delete, import and watch JSON documents
    #[command(subcommand)]
    Records(records::Records),
    /// Create threads, post to them, and follow them on this device
    #[command(subcommand)]
    Threads(threads::Threads),
    /// Show the servers of a cell, add and remove them, and say which one leads
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Save the data of a running server in a file
    Backup(backup::Backup),
    /// Make a data directory from a backup
    Restore(restore::Restore),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// What all commands that call a server take.
#[derive(Debug, Args)]
#[command(next_help_heading = "Calling a server")]
struct Global {
    /// A server of the cell to call, or several with commas between them [default: http://127.0.0.1:7400]
    ///
    /// Calls go to any server of the cell: changes to its leader. Only health, top, check and backup ask
    /// the server that is named, and no other.
    #[arg(long, global = true, env = "FLOTILLA_ENDPOINT", value_name = "URL", hide_env_values = true)]
    endpoint: Option<String>,
    /// The user to act as: an id, or for threads also an address or a name
    #[arg(long = "as", global = true, env = "FLOTILLA_AS", value_name = "USER", hide_env_values = true)]
    user: Option<String>,
    /// The device to act as [default for threads watch: the one in ~/.config/flotilla/device]
    #[arg(long, global = true, env = "FLOTILLA_DEVICE", hide_env_values = true)]
    device: Option<String>,
    /// How to print data [default: table on a terminal, json otherwise]
    #[arg(long, global = true, env = "FLOTILLA_OUTPUT", value_enum, hide_env_values = true)]
    output: Option<Format>,
    /// How long a call may take, with its retries [default: 30s]
    #[arg(long, global = true, env = "FLOTILLA_TIMEOUT", value_name = "DURATION", hide_env_values = true)]
    #[arg(value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
}

const ENDPOINT: &str = "http://127.0.0.1:7400";
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a command to its end.
///
/// # Errors
/// See [`Failure`].
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { command, global } = arguments;
    match command {
        Command::Serve(flags) => serving(serve::run(flags)),
        Command::Dev(dev) if dev.is_action() => dev.act(&mut Output::new(global.resolve()?.1)),
        Command::Dev(dev) => serving(dev.run()),
        Command::CheckConfig(flags) => check_config::run(&flags),
        Command::Restore(restore) => restore.run(&mut Output::new(global.resolve()?.1)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "flotilla", &mut script);
            Output::new(Format::Json).raw(&script)
        }
        command => client_runtime()?.block_on(call(command, global)),
    }
}

async fn call(command: Command, global: Global) -> Result<(), Failure> {
    let (target, format) = global.resolve()?;
    let mut output = Output::new(format);
    // Bad arguments are told before a server is looked for.
    match command {
        Command::Check(check) => check.run(&Client::connect(&target.only_given()).await?, &mut output).await,
        Command::Cluster(cluster) => Box::pin(cluster.run(&target.only_given(), &mut output)).await,
        Command::Backup(backup) => Box::pin(backup.run(&target, &mut output)).await,
        Command::Health(health) => health.run(&target, &mut output).await,
        Command::Top(top) => Box::pin(top.run(&target, &mut output)).await,
        Command::Users(users) => Box::pin(users.run(&target, &mut output)).await,
        Command::Records(records) => Box::pin(records.run(&target, &mut output)).await,
        Command::Threads(threads) => Box::pin(threads.run(&target, &mut output)).await,
        Command::Serve(_) | Command::Dev(_) | Command::CheckConfig(_) => Ok(()),
        Command::Restore(_) | Command::Completions { .. } => Ok(()),
    }
}

impl Global {
    /// Flags and variables over the client's file over defaults.
    fn resolve(self) -> Result<(Target, Format), Failure> {
        let file = ClientFile::load()?;
        let format = match (self.output, file.output) {
            (Some(format), _) => format,
            (None, Some(name)) => Format::parse(&name)?,
            (None, None) => Format::fitting(),
        };
        let timeout = match (self.timeout, file.timeout) {
            (Some(timeout), _) => timeout,
            (None, Some(text)) => {
                humantime::parse_duration(&text).map_err(|_| Failure::FileValue { key: "timeout", value: text })?
            }
            (None, None) => TIMEOUT,
        };
        let endpoint = self.endpoint.or(file.endpoint).unwrap_or_else(|| ENDPOINT.to_owned());
        let (user, device) = (self.user.or(file.user), self.device.or(file.device));
        let target = Target { user, device, ..Target::new(endpoint).timeout(timeout) };
        Ok((target, format))
    }
}

/// Prints what clap has to say: help on stdout, a usage error on stderr.
pub fn usage(error: &clap::Error) -> ExitCode {
    // If nobody listens, there is nobody to tell.
    let _ = error.print();
    match error.use_stderr() {
        true => ExitCode::from(failure::USAGE),
        false => ExitCode::SUCCESS,
    }
}

/// Runs a server, and doesn't wait long for what it leaves behind on other threads: a stop while the
/// store is rebuilt, say.
fn serving<T>(server: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::Runtime)?;
    let served = runtime.block_on(async {
        let served = server.await;
        telemetry::traces::stop().await;
        served
    });
    runtime.shutdown_timeout(LEFT_BEHIND);
    served
}

/// How long threads that a stopped server left behind are waited for.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_what_clap_can_parse() {
        Arguments::command().debug_assert();
    }

    /// An argument that is called like one of `Global` would hide that.
    #[test]
    fn every_command_takes_what_all_commands_take() {
        fn hold(command: &clap::Command) {
            for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
                for flag in ["endpoint", "as", "device", "output", "timeout"] {
                    let takes = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
                    assert!(takes, "{} has no --{flag}", command.get_name());
                }
                hold(command);
            }
        }
        let mut command = Arguments::command();
        command.build();
        hold(&command);
    }
}
