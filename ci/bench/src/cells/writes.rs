//! Acknowledged durable writes of 128 bytes, one a request, beside etcd and Redis Streams; on the disk as it is, and
//! with 4 ms added to every flush of all three.

use anyhow::{Result, anyhow};

use super::{Bench, Width};
use crate::interrupt;
use crate::load::Work;
use crate::results::{Key, Unit};
use crate::servers::{Disk, etcd, flotilla, redis};

const IN_FLIGHT: [usize; 3] = [1, 64, 1024];

/// The cell's name in the table.
pub(crate) fn cell(disk: Disk) -> String {
    format!("durable write, 128 bytes, {}", disk.name())
}

/// Redis as most of its clients use it: a connection carries one command at a time.
pub(crate) const REDIS_UNPIPELINED: &str = "redis unpipelined";

/// A way to write.
struct Writer {
    name: &'static str,
    /// Its place among the servers.
    server: usize,
    work: fn() -> Work,
    width: fn(usize) -> Width,
}

const WRITERS: [Writer; 4] = [
    Writer { name: "flotilla", server: 0, work: flotilla::put, width: Width::shared },
    Writer { name: "etcd", server: 1, work: etcd::put, width: Width::shared },
    Writer { name: "redis", server: 2, work: redis::xadd, width: Width::shared },
    Writer { name: REDIS_UNPIPELINED, server: 2, work: redis::xadd, width: Width::one_each },
];

/// Three numbers in flight for three servers, the writers taking turns, another one first in each round.
pub(crate) fn round(bench: &mut Bench, round: usize, disk: Disk) -> Result<()> {
    let folder = bench.fresh_folder("writes")?;
    let servers =
        [flotilla::start(&bench.flotilla, &folder, disk), etcd::start(&folder, disk), redis::start(&folder, disk)];
    for in_flight in IN_FLIGHT {
        for turn in 0..WRITERS.len() {
            let writer = &WRITERS[(round + turn) % WRITERS.len()];
            // One in flight is unpipelined anyway.
            if in_flight == 1 && writer.name == REDIS_UNPIPELINED {
                continue;
            }
            let key = Key::new(cell(disk), in_flight, writer.name);
            let measured = match &servers[writer.server] {
                Ok(server) => bench.load(server, (writer.width)(in_flight), (writer.work)()),
                Err(error) => Err(anyhow!("{error:#}")),
            };
            bench.record(key, Unit::PerSecond, round, measured);
            interrupt::check()?;
        }
    }
    for server in servers.into_iter().flatten() {
        server.process.stop()?;
    }
    Ok(())
}
