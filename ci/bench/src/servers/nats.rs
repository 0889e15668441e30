//! nats-server, by itself and with JetStream.
//!
//! Debian's version can't be told to sync each message (`sync_interval: always` came later), so JetStream gets a folder
//! whose files the file system writes through (`chattr +S`): its answer then means that the message is on disk.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Fsyncs, START_LIMIT, Server, need};
use crate::process::{Process, free_address};

/// What is posted to.
pub(crate) const POSTS: &str = "posts";
/// Where JetStream delivers what it has stored.
pub(crate) const STORED: &str = "stored";

const STREAM: &str = r#"{"name":"BENCH","subjects":["posts"],"storage":"file","retention":"limits",
    "num_replicas":1,"max_bytes":268435456,"discard":"old"}"#;
const CONSUMER: &str = r#"{"stream_name":"BENCH","config":{"durable_name":"push","deliver_subject":"stored",
    "ack_policy":"none","deliver_policy":"new","replay_policy":"instant"}}"#;

/// Starts it alone, and waits until it answers.
pub(crate) fn start(folder: &Path) -> Result<Server> {
    started("nats", folder, "")
}

/// Starts it with JetStream, a stream of all posts and a consumer that pushes them on.
pub(crate) fn start_jetstream(folder: &Path) -> Result<Server> {
    let store = folder.join("jetstream");
    std::fs::create_dir_all(&store)?;
    let through = Command::new("chattr").arg("+S").arg(&store).output().context("starting chattr")?;
    if !through.status.success() {
        bail!("chattr +S {}: {}", store.display(), String::from_utf8_lossy(&through.stderr).trim());
    }
    let server = started("jetstream", folder, &format!("jetstream {{ store_dir: {store:?} }}\n"))?;
    ask(server.address, "$JS.API.STREAM.CREATE.BENCH", STREAM)?;
    ask(server.address, "$JS.API.CONSUMER.DURABLE.CREATE.BENCH.push", CONSUMER)?;
    Ok(server)
}

fn started(name: &'static str, folder: &Path, more: &str) -> Result<Server> {
    let address = free_address()?;
    let config = folder.join(format!("{name}.conf"));
    // It drops clients that don't take 64 MiB in time; here none is to be dropped.
    let text = format!("host: 127.0.0.1\nport: {}\nmax_pending: 1GB\nwrite_deadline: \"60s\"\n{more}", address.port());
    std::fs::write(&config, text)?;
    let mut command = Command::new(need("nats-server")?);
    command.arg("-c").arg(&config);
    let mut process = Process::start(name, command, folder)?;
    process.wait_until(START_LIMIT, || Ok(TcpStream::connect(address)?))?;
    Ok(Server { process, address, fsyncs: Fsyncs::NotCounted })
}

/// One request on a connection of its own; fails on an answer that is an error.
fn ask(address: SocketAddr, subject: &str, request: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = request.len();
    let connect = "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB answer 1\r\n";
    stream.write_all(format!("{connect}PUB {subject} answer {length}\r\n{request}\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("nats closed the connection");
        }
        if let Some(message) = line.strip_prefix("MSG ") {
            let length = message.trim_end().rsplit(' ').next().unwrap_or_default().parse()?;
            let mut answer = vec![0; length];
            reader.read_exact(&mut answer)?;
            let answer = String::from_utf8_lossy(&answer);
            if answer.contains("\"error\"") {
                bail!("nats answered {answer} to {subject}");
            }
            return Ok(());
        }
    }
}
