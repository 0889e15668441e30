//! The servers that are measured: how each is started on loopback, when it is ready, and how its fsyncs are counted.
//!
//! Every one is started by this program, with its data under one folder, thus on one disk. None knows of the load.

pub(crate) mod echo;
pub(crate) mod etcd;
pub(crate) mod flotilla;
pub(crate) mod nats;
pub(crate) mod redis;
pub(crate) mod sled;
pub(crate) mod streams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{Process, metrics_sum, program};

/// How long a server may take to its first answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How fast the disk's flushes are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// As they are.
    OwnSpeed,
    /// Every fsync and fdatasync returns 4 ms later, by strace.
    Slower,
}

impl Disk {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Disk::OwnSpeed => "disk's own speed",
            Disk::Slower => "fsync + 4 ms",
        }
    }

    /// The program's command, under strace for a slower disk. strace stays in the background (`-D`), so that the
    /// child's id is the program's, and ends with it; seccomp spares all other system calls from being stopped.
    fn command(self, program: &Path) -> Result<Command> {
        if self == Disk::OwnSpeed {
            return Ok(Command::new(program));
        }
        let mut command = Command::new(need("strace")?);
        command.args(["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
        command.args(["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:delay_exit=4000"]);
        command.arg("--").arg(program);
        Ok(command)
    }
}

/// The path of a program, or the error that says how to get it.
pub(crate) fn need(name: &str) -> Result<PathBuf> {
    let tool = name.trim_end_matches("-server");
    program(name).with_context(|| format!("{name} is neither in .tools/bin nor in PATH: infra/bin/tools {tool}"))
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) fsyncs: Fsyncs,
}

/// How a server's fsyncs are counted.
pub(crate) enum Fsyncs {
    /// The sum of these of its Prometheus counters.
    Metrics { address: SocketAddr, names: &'static [&'static str] },
    /// Redis counts none, but an append-only file takes one write and one fdatasync a turn: they are the process's
    /// write calls (/proc/PID/io) less those to clients (total_writes_processed of INFO).
    RedisWrites,
    /// It has none.
    NotCounted,
}

impl Server {
    /// Its fsyncs so far. Exact only while nothing is asked of it.
    pub(crate) fn fsyncs(&self) -> Result<Option<u64>> {
        Ok(match &self.fsyncs {
            Fsyncs::Metrics { address, names } => Some(metrics_sum(*address, names)?),
            Fsyncs::RedisWrites => {
                let to_clients = redis::writes_to_clients(self.address)?;
                Some(self.process.write_calls()?.saturating_sub(to_clients))
            }
            Fsyncs::NotCounted => None,
        })
    }
}
