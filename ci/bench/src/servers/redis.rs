//! Redis with `appendfsync always`; XADD to one stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Disk, Fsyncs, START_LIMIT, Server, need};
use crate::load::redis::command as encoded;
use crate::load::{Protocol, Requests, Work};
use crate::process::{Process, free_address};
use crate::requests::{Ids, VALUE_BYTES};

/// Starts it with its data in `folder/redis`, and waits until it answers.
pub(crate) fn start(folder: &Path, disk: Disk) -> Result<Server> {
    let address = free_address()?;
    let data = folder.join("redis");
    std::fs::create_dir_all(&data)?;
    let mut command = disk.command(&need("redis-server")?)?;
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.arg("--dir").arg(&data);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""]);

    let mut process = Process::start("redis", command, folder)?;
    process.wait_until(START_LIMIT, || ask(address, &[b"PING"]))?;
    Ok(Server { process, address, fsyncs: Fsyncs::RedisWrites })
}

/// Entries of a random id and 128 bytes.
pub(crate) fn xadd() -> Work {
    let requests = |slot| -> Requests {
        let mut ids = Ids::random(slot);
        Box::new(move || Some(encoded(&[b"XADD", b"bench", b"*", b"id", &ids.next(), b"value", &[b'v'; VALUE_BYTES]])))
    };
    Work { protocol: Protocol::Redis, requests: Box::new(requests) }
}

/// Writes to clients so far, as redis counts them.
pub(super) fn writes_to_clients(address: SocketAddr) -> Result<u64> {
    let info = ask(address, &[b"INFO", b"stats"])?;
    let value = info.lines().find_map(|line| line.strip_prefix("total_writes_processed:"));
    value.and_then(|value| value.trim().parse().ok()).context("no total_writes_processed in redis's INFO")
}

/// One command on a connection of its own; the text of a simple or bulk reply.
fn ask(address: SocketAddr, arguments: &[&[u8]]) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&encoded(arguments))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let Some(length) = line.strip_prefix('$') else {
        return Ok(line);
    };
    let mut text = vec![0; length.trim().parse()?];
    reader.read_exact(&mut text)?;
    Ok(String::from_utf8(text)?)
}
