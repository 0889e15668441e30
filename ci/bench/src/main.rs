//! Measures a Flotilla server beside etcd, Redis Streams, bare sled and bare tonic, on this machine and one disk.
//!
//! # Layout
//!
//! * `run` goes through the rounds and prints; `cells/` hold one group of the table's rows each, `aims` what they should
//!   be; `results`, `statistics` and `table` make the table of what was measured.
//! * `push/` has its own tables, of subscribers and what reaches them.
//! * `servers/` start each server, and know its requests and how it counts fsyncs; `process` is what they share.
//! * `load/` is the client: closed loops over h2 or RESP; `requests` encodes what it sends.
//!
//! It starts every server itself, on loopback, and ends only what it started. It changes no settings of the machine.

mod aims;
mod cells;
mod disk;
mod interrupt;
mod load;
mod machine;
mod process;
mod push;
mod requests;
mod results;
mod run;
mod servers;
mod single;
mod statistics;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

// Flotilla's allocator, so that the client and the bare peers have what it has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures a Flotilla server beside etcd, Redis Streams, bare sled and bare tonic.
#[derive(Parser)]
#[command(name = "flotilla-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure all cells in interleaved rounds, and print one table.
    Run(run::Options),
    /// Measure push: fan-out, memory, stalled subscribers, overload; print a table of each.
    Push(push::Options),
    /// Put one load on a server that runs already.
    Load(single::Options),
    /// A peer: bare tonic with one unary method.
    #[command(hide = true)]
    ServeEcho {
        address: SocketAddr,
        #[arg(long, default_value_t = 160)]
        answer_bytes: usize,
    },
    /// A peer: bare tonic streams of what is posted.
    #[command(hide = true)]
    ServeStreams { address: SocketAddr },
    /// A peer: bare sled, applying batches.
    #[command(hide = true)]
    WriteSled {
        path: PathBuf,
        #[arg(long, value_parser = seconds, default_value = "1")]
        warm_up: Duration,
        #[arg(long, value_parser = seconds, default_value = "4")]
        measured: Duration,
        #[arg(long, default_value_t = servers::flotilla::CACHE_BYTES)]
        cache_bytes: u64,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(options) => {
            interrupt::listen();
            run::run(&options)
        }
        Command::Push(options) => {
            interrupt::listen();
            push::run(&options)
        }
        Command::Load(options) => {
            interrupt::listen();
            single::load(&options)
        }
        Command::ServeEcho { address, answer_bytes } => servers::echo::serve(address, answer_bytes),
        Command::ServeStreams { address } => servers::streams::serve(address),
        Command::WriteSled { path, warm_up, measured, cache_bytes } => {
            servers::sled::write(&path, warm_up, measured, cache_bytes)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
