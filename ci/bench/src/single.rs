//! `flotilla-bench load`: one load on a server that runs already, for a profile or a first look.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::load::{Plan, Work, measure, shared_connections};
use crate::process::own_cpu_microseconds;
use crate::requests::BATCH_ROWS;
use crate::results::Unit;
use crate::servers::{echo, etcd, flotilla, redis};
use crate::table::number;

/// Where to and what.
#[derive(Args)]
pub(crate) struct Options {
    /// The server, such as 127.0.0.1:7400.
    address: SocketAddr,
    /// What to ask of it.
    #[arg(long, value_enum, default_value_t = Call::Put)]
    call: Call,
    /// Requests in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Seconds measured, after a warm-up of a quarter of it.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Call {
    /// PutRecord, 128 bytes, random ids of 1,000,000.
    Put,
    /// BatchWrite of 100 such records.
    Batch,
    /// GetRecord of what `put` and `batch` wrote; fails on an id that isn't there.
    Get,
    /// CreateUser, each with an address of its own.
    CreateUser,
    /// GetUser of random ones of the server's users, which are listed first.
    GetUser,
    /// The Echo of `serve-echo`.
    Echo,
    /// etcd's Put.
    EtcdPut,
    /// Redis's XADD.
    RedisXadd,
}

/// Puts the load on and prints what it measured.
pub(crate) fn load(options: &Options) -> Result<()> {
    if !(0.1..=86_400.0).contains(&options.seconds) {
        bail!("--seconds is 0.1 to 86,400");
    }
    let measured = Duration::from_secs_f64(options.seconds);
    let in_flight = options.in_flight as usize;
    let connections = shared_connections(in_flight);
    let plan = Plan { address: options.address, in_flight, connections, warm_up: measured / 4, measured };
    let work = work(options)?;
    eprintln!(
        "loading {} with {in_flight} in flight over {} connections for {:.1} s",
        options.address,
        connections,
        options.seconds * 1.25
    );
    let (measured, before, after) = measure(plan, work, own_cpu_microseconds)?;
    let time = |fraction| measured.microseconds(fraction).map(|time| number(time, Unit::Microseconds));
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", number(measured.rate(), Unit::PerSecond))?;
    if options.call == Call::Batch {
        writeln!(output, "{}", number(measured.rate() * f64::from(BATCH_ROWS), Unit::RowsPerSecond))?;
    }
    let cpu = (after - before) / measured.count() as f64;
    writeln!(output, "{} of the client's CPU for each", number(cpu, Unit::Microseconds))?;
    for (name, fraction) in [("p50", 0.50), ("p90", 0.90), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)] {
        writeln!(output, "{name:>5} {}", time(fraction).unwrap_or_default())?;
    }
    Ok(())
}

fn work(options: &Options) -> Result<Work> {
    Ok(match options.call {
        Call::Put => flotilla::put(),
        Call::Batch => flotilla::batch(),
        Call::Get => flotilla::get(),
        Call::CreateUser => flotilla::create_user(),
        Call::GetUser => flotilla::get_user(Arc::new(flotilla::list_users(options.address)?)),
        Call::Echo => echo::calls(28),
        Call::EtcdPut => etcd::put(),
        Call::RedisXadd => redis::xadd(),
    })
}
